"""The runbook's pages are programs: each console is run by a test, or says why not; what it names is there."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.wiring import REPOSITORY
from tests.fixtures.console_pages import Block, Command, PageError, Sentence, read_page
from tests.fixtures.manifests import overlay
from tests.fixtures.runbook_alerts import ALERT_COMMANDS, ELSEWHERE
from tests.fixtures.runbook_sentences import SENTENCES

RUNBOOK = REPOSITORY / "docs" / "runbook"
PROCEDURES = sorted((RUNBOOK / "procedures").glob("*.md"))
ALERTS = sorted(RUNBOOK.glob("Paceline*.md"))
each_page = pytest.mark.parametrize("page", [*PROCEDURES, *ALERTS], ids=lambda page: page.stem)
KINDS = {
    "certificate": "Certificate",
    "deployment": "Deployment",
    "externalsecret": "ExternalSecret",
    "httproute": "HTTPRoute",
}
VERBS = {"annotate", "get", "logs", "patch", "rollout", "scale", "set"}


def _blocks(page: Path) -> list[Block]:
    return [part for part in read_page(page) if isinstance(part, Block)]


def _commands(program: str, *, also_inline: bool = False) -> Iterator[tuple[str, list[str]]]:
    """Where the pages have a command of `program`, and its arguments; `...` and capitals stand for values."""
    for page in (*PROCEDURES, *ALERTS):
        typed = [command.text for block in _blocks(page) for command in block.commands]
        if also_inline:
            typed += [" ".join(text.split()) for text in re.findall(r"`([^`\n]+(?:\n[^`\n]+)?)`", page.read_text())]
        for text in typed:
            for part in re.split(r"\|\||&&|(?<![A-Z])\||;|\$\((?=paceline)", text.replace(" > ", " ; ")):
                words = (
                    shlex.split(part.strip().removesuffix("&").replace(")", " "), posix=True) if program in part else []
                )
                if words and words[0] == program:
                    yield f"{page.name}: {text}", words[1:]


def test_what_is_to_be_done_beyond_one_alert_is_there() -> None:
    index = (RUNBOOK / "procedures" / "README.md").read_text()
    assert set(re.findall(r"\]\((\w+\.md)\)", index)) == {page.name for page in PROCEDURES} - {"README.md"}
    assert "procedures/README.md" in (RUNBOOK / "README.md").read_text()


@each_page
def test_every_console_is_run_or_says_why_not(page: Path) -> None:
    for block in _blocks(page):
        if page in ALERTS:
            assert block.not_run is not None, f"{page.name}:{block.line}: consoles are run on the procedures' pages"
        assert block.not_run is None or len(block.not_run) > 15, f"{page.name}:{block.line}"


def test_every_sentence_is_known_and_used() -> None:
    told = {(part.word, part.text) for page in PROCEDURES for part in read_page(page) if isinstance(part, Sentence)}
    assert told == set(SENTENCES)


def test_most_consoles_are_run_and_their_outcome_is_looked_at() -> None:
    parts = {page.stem: read_page(page) for page in PROCEDURES}
    run = [part for found in parts.values() for part in found if isinstance(part, Block) and part.not_run is None]
    printed = [command for block in run for command in block.commands if command.printed.strip(". \n")]
    looked = [part for found in parts.values() for part in found if isinstance(part, Sentence) and part.word == "then"]
    assert (len(run) > 25, len(printed) > 25, len(looked) > 15) == (True, True, True)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("```\n$ paceline status P\n```\n", "commands are in a fence `console`"),
        ("```bash\npaceline status P\n```\n", "commands are in a fence `console`"),
        ("Do:\n\n    paceline status P\n", "an indented block"),
        ("```console\nflight_delay: version 1 leads\n```\n", "comes before any command"),
        ("```console\n```\n", "a console without a command"),
        ("<!-- not run: it needs a cluster -->\n\nText.\n", "belongs to no block"),
    ],
)
def test_a_page_that_cannot_be_checked_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Page\n\n{text}")
    with pytest.raises(PageError, match=re.escape(complaint)):
        read_page(page)


def test_a_console_is_read_as_a_person_types_it(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- given: a\nserver -->\n\n```console\n$ echo 1 \\\n> 2\n1 2\n$ true\n```\n\n"
        "<!-- not run: no cluster here -->\n\n```console\n$ kubectl get pods\n```\n"
    )
    assert read_page(page) == [
        Sentence("given", "a server"),
        Block((Command("echo 1 \\\n2", "1 2", 5), Command("true", "", 8)), None, 4),
        Block((Command("kubectl get pods", "", 14),), "no cluster here", 13),
    ]


def test_a_command_of_paceline_that_a_page_shows_is_one_that_it_takes() -> None:
    from typer.main import get_command

    from pipelines.cli import app

    root: Any = get_command(app)
    found = list(_commands("paceline", also_inline=True))
    assert len(found) > 60
    for where, words in found:
        command: Any = root
        while words and hasattr(command, "commands") and not words[0].isupper():  # PROJECT: the default is meant
            assert words[0] in command.commands, f"{where}: there is no `{words[0]}`"
            command, words = command.commands[words[0]], words[1:]
        taken = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        options = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert options <= taken, f"{where}: {sorted(options - taken)}"


def test_every_command_of_an_alert_page_is_run_here_or_by_a_named_test() -> None:
    run = {" ".join(_verbs(words.split())) for words in ALERT_COMMANDS}
    alerts = {page.name for page in ALERTS}
    shown = {
        " ".join(_verbs(words))
        for where, words in _commands("paceline", also_inline=True)
        if where.partition(":")[0] in alerts
    }
    by_a_test = {words for words in shown if _is_typed(words)}
    missing = shown - run - set(ELSEWHERE) - by_a_test
    assert missing == set(), "no test types these: add one, or name it in ELSEWHERE of tests/fixtures/runbook_alerts.py"
    assert set(ELSEWHERE) <= shown
    for words, path in ELSEWHERE.items():
        assert words.split()[-1] in (REPOSITORY / path).read_text(), f"{path} does not run {words}"


def _is_typed(words: str) -> bool:
    """Whether a test gives these words to the command line, as `["skew", …]` or `"paceline", "skew"`."""
    listed = ", ".join(f'"{word}"' for word in words.split())
    typed = [f"{before}{listed}" for before in ("app, [", '"pipelines", ', '"paceline", ')]
    files = (REPOSITORY / "tests").rglob("*.py")
    return any(text in content for content in (file.read_text() for file in files) for text in typed)


def _verbs(words: list[str]) -> list[str]:
    """The words before the first value."""
    return words[: next((place for place, word in enumerate(words) if not word.islower() or word[0] == "-"), None)]


def test_a_command_of_kubectl_names_objects_that_the_manifests_have() -> None:
    there = {(each["kind"], each["metadata"]["name"]) for each in overlay("production")}
    (namespace,) = [name for kind, name in there if kind == "Namespace"]
    labels = {f"{key}={value}" for each in overlay("production") for key, value in _labels(each)}
    found = list(_commands("kubectl"))
    assert len(found) > 10
    for where, words in found:
        assert words[:2] == ["-n", namespace], where
        assert words[2] in VERBS, where
        named = re.findall(rf"\b({'|'.join(KINDS)})[ /]([a-z][a-z-]+)", " ".join(words))
        assert named or "-l" in words, f"{where}: it names nothing"
        assert {(KINDS[kind], name) for kind, name in named} <= there, where
        if "-l" in words:
            assert words[words.index("-l") + 1] in labels, where


def _labels(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield from (document["metadata"].get("labels") or {}).items()
    yield from document.get("spec", {}).get("template", {}).get("metadata", {}).get("labels", {}).items()


def test_the_patch_of_an_emergency_stop_is_one_that_the_api_takes_and_gives_the_champion_everything() -> None:
    import json

    from jsonpatch import JsonPatch

    from tests.fixtures.custom_resources import check_custom
    from tests.fixtures.manifests import find

    (text,) = [
        command.text
        for block in _blocks(RUNBOOK / "procedures" / "emergency_stop.md")
        for command in block.commands
        if "patch" in command.text
    ]
    operations = json.loads(text[text.index("'") + 1 : text.rindex("'")])
    route = find(overlay("production"), "HTTPRoute", "flight-delay")
    for backend, weight in zip(route["spec"]["rules"][0]["backendRefs"], (7500, 2500), strict=True):
        backend["weight"] = weight
    patched = JsonPatch(operations).apply(route)
    check_custom(patched)
    assert {each["name"]: each["weight"] for each in patched["spec"]["rules"][0]["backendRefs"]} == {
        "flight-delay-stable": 10000,
        "flight-delay-challenger": 0,
    }
