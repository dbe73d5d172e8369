import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.cli.console import this_user
from pipelines.ledger import Ledger
from tests.fixtures.small_installation import free_port

COMMANDS = {
    "ingest",
    "snapshot",
    "train",
    "evaluate",
    "retrain",
    "release",
    "rollback",
    "serve",
    "replay",
    "watch",
    "status",
    "lineage",
    "card",
    "report",
    "demo",
}


def paceline(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipelines", *words],
        env={**os.environ, "PACELINE_HOME": str(home), "NO_COLOR": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_help_lists_every_command() -> None:
    shown = CliRunner().invoke(app, ["--help"], env={"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "120"})
    assert shown.exit_code == 0
    assert set(re.findall(r"^│ (\w+) ", shown.stdout, re.MULTILINE)) >= COMMANDS


@pytest.mark.parametrize("command", sorted(COMMANDS - {"demo", "report"} | {"report evaluation", "report weekly"}))
def test_every_command_prints_json_when_asked(command: str) -> None:
    shown = CliRunner().invoke(
        app, [*command.split(), "--help"], env={"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "120"}
    )
    assert "--json" in shown.stdout


def test_an_unknown_project_is_one_line_that_names_the_known_ones(tmp_path: Path) -> None:
    ended = paceline(tmp_path, "status", "flight_delays")
    assert ended.returncode == 1
    assert "no project 'flight_delays'" in ended.stderr
    assert "flight_delay" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


def test_a_project_without_a_champion_says_so(tmp_path: Path) -> None:
    assert "no champion yet" in paceline(tmp_path, "status", "flight_delay").stdout
    assert json.loads(paceline(tmp_path, "status", "flight_delay", "--json").stdout)["champion"] is None


def test_before_anything_has_run_nothing_is_made_by_reading(tmp_path: Path) -> None:
    for words in (("status", "flight_delay"), ("investigation", "list", "flight_delay")):
        ended = paceline(tmp_path, *words)
        assert (ended.returncode, ended.stderr.count("there is no ledger at")) == (0, 1), ended.stderr
        assert "paceline ingest PROJECT" in " ".join(ended.stderr.split())
    assert list(tmp_path.iterdir()) == []


def test_a_registry_that_does_not_answer_hides_nobody_who_has_led(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PACELINE_MLFLOW_URI", f"http://127.0.0.1:{free_port()}")
    with Ledger.open(f"sqlite:///{tmp_path}/ledger.db") as ledger:
        ledger.swap_champion("flight_delay", None, "1", "a" * 64, subject="bootstrap", reason="the first")
    found = paceline(tmp_path, "status", "flight_delay", "--json")
    told = json.loads(found.stdout)
    assert told["versions"] == [{"version": "1", "bundle": "a" * 64, "aliases": [], "as_of": None}]
    assert "does not answer" in told["registry_away"]
    refused = paceline(tmp_path, "rollback", "flight_delay", "--version", "2", "--reason", "errors")
    assert (refused.returncode, "RegistryAwayError: the registry at http" in refused.stderr) == (1, True), (
        refused.stderr
    )
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("status", "flight_delay"),
        ("rollout", "show", "flight_delay"),
        ("rollout", "pause", "flight_delay", "--reason", "looks odd"),
        ("rollout", "share", "flight_delay", "0.05", "--reason", "few servers"),
        ("investigation", "list", "flight_delay"),
        ("lineage", "flight_delay:1"),
        ("card", "flight_delay"),
        ("report", "evaluation", "flight_delay"),
        ("review", "list", "flight_delay"),
        ("quality", "flight_delay"),
    ],
)
def test_a_ledger_that_is_gone_is_not_replaced_by_an_empty_one(tmp_path: Path, words: tuple[str, ...]) -> None:
    (tmp_path / "bundles").mkdir()
    ended = paceline(tmp_path, *words)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert f"there is no ledger at {tmp_path}/ledger.db: is its folder mounted?" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not list(tmp_path.glob("ledger*"))


def test_a_snapshot_before_the_ingest_says_what_to_do(tmp_path: Path) -> None:
    ended = paceline(tmp_path, "snapshot", "flight_delay", "--as-of", "2013-04-01")
    assert ended.returncode == 1
    assert "ingest" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_wrong_date_is_refused(tmp_path: Path) -> None:
    ended = paceline(tmp_path, "retrain", "flight_delay", "--as-of", "soon")
    assert ended.returncode == 2
    assert "found 'soon', expected a date such as 2013-07-01" in ended.stderr


def test_an_unknown_prediction_is_an_error(tmp_path: Path) -> None:
    ended = paceline(tmp_path, "lineage", "0192aaaa-0000-7000-8000-000000000000")
    assert ended.returncode == 1
    assert "nothing is known by the id" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_without_a_version_there_is_no_card(tmp_path: Path) -> None:
    ended = paceline(tmp_path, "card", "flight_delay")
    assert ended.returncode == 1
    assert "flight_delay has neither champion nor challenger" in ended.stderr
    assert "paceline retrain flight_delay" in ended.stderr
    assert ended.stdout == ""


def test_a_person_who_has_no_name_in_a_container_is_named_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2_000_000_007)  # of whom no passwd file knows
    assert this_user() == "user 2000000007"
    monkeypatch.setenv("USER", "ada")
    assert this_user() == "ada"
