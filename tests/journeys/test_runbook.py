"""The runbook, typed as a person would: each page of the procedures on an installation of its own, in order."""

from pathlib import Path

import pytest

from pipelines.wiring import REPOSITORY, open_ledger
from tests.fixtures.console_pages import Block, Command, Sentence, read_page, shell
from tests.fixtures.runbook_alerts import ALERT_COMMANDS
from tests.fixtures.runbook_installation import installation
from tests.fixtures.runbook_sentences import SENTENCES
from tests.fixtures.small_installation import PROJECT

PAGES = sorted((REPOSITORY / "docs" / "runbook" / "procedures").glob("*.md"))
RUN = [page for page in PAGES if any(isinstance(part, Block) and part.not_run is None for part in read_page(page))]


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_a_procedure_does_what_its_page_says(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with installation(tmp_path, monkeypatch) as at, shell(at.environment, at.folder) as typed:
        at.shell = typed
        for part in read_page(page):
            if isinstance(part, Sentence):
                SENTENCES[part.word, part.text](at)
            elif part.not_run is None:
                for command in part.commands:
                    typed.run(command)


@pytest.mark.slow
def test_the_commands_of_the_alert_pages_do_what_they_are_there_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with installation(tmp_path, monkeypatch) as at, shell(at.environment, at.folder) as typed:
        at.shell = typed
        SENTENCES["given", "the model server runs with version 1, and clients ask"](at)
        SENTENCES["given", "version 2 leads"](at)
        champion = open_ledger().champion(PROJECT)
        assert champion is not None
        at.export("ROLLOUT", f"{PROJECT}-back-to-v1-{champion.since_entry}")
        at.export("PACELINE_SERVING_KEYS", str(at.keys))
        for words, printed in ALERT_COMMANDS.items():
            typed.run(
                Command(f"paceline {words}".replace("PROJECT", "$PROJECT").replace("ROLLOUT", "$ROLLOUT"), printed, 0)
            )
        SENTENCES["then", "version 1 answers everything"](at)
        SENTENCES["then", "no request has failed"](at)
