"""What is on record after a rollback, and what a person adds: real controller, ledger, bundles, registry and log."""

import json
import re
import shutil
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from contracts.bundle import Bundle
from contracts.hashing import file_id
from pipelines import views
from pipelines.cli import app
from pipelines.governance.investigation import CLOSED, EVIDENCE, OPENED
from pipelines.tasks import investigating, releasing
from pipelines.wiring import home, open_ledger
from tests.fixtures.rollbacks import PROJECT, point_at, rolled_back, two_versions

ROLLOUT = f"{PROJECT}-v2-1"
FAILING = {"1": 0.005, "2": 0.5}


@pytest.fixture(scope="module")
def challenger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bundle]:
    """Version 2 of an installation that all tests share: each ends rollouts of its own."""
    with pytest.MonkeyPatch.context() as patch:
        point_at(tmp_path_factory.mktemp("investigations"), patch)
        yield two_versions()[1]


@pytest.fixture(scope="module")
def failed(challenger: Bundle) -> dict[str, Any]:
    """The outcome of a rollout that the server's hard limit ended at 25 %, settled."""
    return releasing.settle(PROJECT, rolled_back(challenger, FAILING, name=ROLLOUT, bad_from_share=0.25))


def ended(challenger: Bundle, name: str) -> None:
    """A rollout that the judge ends in the shadow."""
    releasing.settle(PROJECT, rolled_back(challenger, FAILING, name=name))


def evidence(rollout: str = ROLLOUT) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((investigating.investigation_folder(PROJECT, rollout) / EVIDENCE).read_text())
    return found


def test_a_rollback_opens_an_investigation_with_a_page_and_evidence_named_by_its_content(
    failed: dict[str, Any],
) -> None:
    (entry,) = open_ledger().entries(PROJECT, (OPENED,), ROLLOUT)
    body = entry.body
    assert (body["version"], body["champion"], body["state"], body["cause"]) == ("2", "1", "rolled_back", "hard_limit")
    assert (body["phase"], body["severity"], body["reason"]) == ("25 %", "page", failed["reason"])
    page = home().root / body["page"]
    assert body["evidence"] == file_id(page.with_name(EVIDENCE))
    assert body["evidence"] in page.read_text()
    assert "No client saw a failure" in body["affected"]


def test_the_evidence_has_the_verdict_the_timeline_the_requests_and_the_differences(failed: dict[str, Any]) -> None:
    found = evidence()
    assert {each["name"] for each in found["findings"]} >= {"split", "errors", "slower than p95", "score deciles"}
    told = [moment["what"] for moment in found["timeline"]]
    order = ["offered", "shadow", "step of 5 %", "step of 25 %", "its first failure", "rolled back"]
    assert [what for what in told if what in order] == order
    assert found["tripped"]["cause"] == "hard_limit"
    failures = found["rows"]["failures"]
    assert {each["version"] for each in failures[:8]} == {"2"}
    assert {each["answered_by"] for each in failures[:8]} == {"1"}
    assert found["slices"][0]["field"] == "carrier"
    assert found["slices"][0]["value"] == "UA"
    differing = {(each["area"], each["name"]): (each["challenger"], each["champion"]) for each in found["differences"]}
    assert differing[("Model", "threshold")] == ("0.6", "0.55")
    assert differing[("Data", "as of")] == ("2013-07-01", "2013-06-01")
    assert differing[("Code", "commit")] == ("2" * 12, "1" * 12)
    assert [look["phase"] for look in found["looks"]][-1] == "25 %"


def test_nothing_about_persons_is_in_the_evidence_or_on_the_page(failed: dict[str, Any]) -> None:
    folder = investigating.investigation_folder(PROJECT, ROLLOUT)
    for name in (EVIDENCE, "index.html"):
        text = (folder / name).read_text()
        assert "Lovelace" not in text
        assert "masked:" in text
    assert evidence()["personal"] == ["passenger"]


def test_a_record_that_the_server_logged_in_clear_is_masked_by_the_schema() -> None:
    record = '{"carrier":"UA","passenger":"Ada Lovelace","age":null}'
    assert json.loads(investigating.masked(record, ("passenger", "age")) or "") == {
        "carrier": "UA",
        "passenger": "masked",
        "age": None,
    }
    assert investigating.masked("no json", ()) is None


def test_the_page_loads_nothing_and_says_what_to_do(failed: dict[str, Any]) -> None:
    page = (investigating.investigation_folder(PROJECT, ROLLOUT) / "index.html").read_text()
    assert re.findall(r'(?:src|href)="(?!#)', page) == []
    for said in ("What to do next", "Evidence", "Timeline", "Both versions", "Where it went wrong most"):
        assert f"<h2>{said}" in page
    assert f"paceline investigation close {PROJECT} {ROLLOUT}" in page


def test_settling_twice_opens_one_investigation_and_changes_no_file(failed: dict[str, Any]) -> None:
    page = investigating.investigation_folder(PROJECT, ROLLOUT) / "index.html"
    before = page.stat().st_mtime_ns
    releasing.settle(PROJECT, failed)
    assert len(open_ledger().entries(PROJECT, (OPENED,), ROLLOUT)) == 1
    assert page.stat().st_mtime_ns == before


def test_the_same_ledger_and_log_give_the_same_evidence(failed: dict[str, Any]) -> None:
    first = evidence()
    again = investigating.gather(PROJECT, ROLLOUT)
    assert again is not None
    assert json.loads(msgspec.json.encode(again)) == first


def test_a_version_is_offered_again_once_its_last_investigation_is_closed_or_with_a_note(challenger: Bundle) -> None:
    first, second = f"{PROJECT}-v2-first", f"{PROJECT}-v2-second"
    ended(challenger, first)
    refused = releasing.open_rollout(PROJECT, "2")
    assert refused.offer is None
    assert "close its investigation" in refused.reason
    investigating.close_investigation(PROJECT, first, note="carrier UA sent feet, not miles", by="ada")
    offered = releasing.open_rollout(PROJECT, "2")
    assert offered.offer is not None
    ended_now = {"rollout": offered.offer["rollout"], "version": "2", "state": "promoted", "reason": "by the test"}
    releasing.settle(PROJECT, ended_now)

    ended(challenger, second)  # what was found before says nothing about this one
    assert releasing.open_rollout(PROJECT, "2").offer is None
    with_note = releasing.open_rollout(PROJECT, "2", note="another host", by="ann")
    assert with_note.offer is not None
    releasing.settle(PROJECT, {**ended_now, "rollout": with_note.offer["rollout"]})


def test_a_person_who_ends_a_rollout_is_named_and_the_version_is_not_searched(challenger: Bundle) -> None:
    name = f"{PROJECT}-v2-stopped"
    releasing.settle(PROJECT, rolled_back(challenger, {}, name=name, stop_after_s=10))
    found = evidence(name)
    assert (found["cause"]["name"], found["cause"]["severity"], found["by"]) == ("aborted", "notice", "request")
    assert (found["rows"]["rows"], found["slices"]) == (0, [])
    assert found["findings"] != []  # the judge's last numbers


def test_a_champion_whose_holdout_showed_worse_outcomes_is_told_from_one_that_a_person_took_back(
    challenger: Bundle,
) -> None:
    ledger, rollout = open_ledger(), f"{PROJECT}-v2-held"
    told = {"version": "1", "from": "2", "reason": "losses are higher", "seconds": 0.1, "aliases": {}}
    finding = {"name": "worse", "what": "mean loss 0.31 against 0.22", "e_value": 4e3, "limit": 1e3}
    for name, request in (("by-holdout", f"holdout/{rollout}"), ("by-hand", None)):
        subject = f"{PROJECT}-back-{name}"
        ledger.append(PROJECT, "rollback.begun", subject, {"request": request, "by": "judge" if request else "ada"})
        ledger.append(PROJECT, "holdout.verdict", rollout, {"reason": "worse", "findings": [finding]})
        ledger.append(PROJECT, "rollback", "1", told, key=subject)
        opened = investigating.investigate(PROJECT, subject)
        assert opened is not None
        assert (opened["cause"], opened["by"]) == (("quality", None) if request else ("by_hand", "ada"))
        assert evidence(subject)["findings"] == ([finding] if request else [])


def test_a_promoted_version_is_not_investigated(challenger: Bundle) -> None:
    name = f"{PROJECT}-v2-promoted"
    promoted = {"rollout": name, "version": "2", "state": "promoted", "reason": "by the test"}
    releasing.settle(PROJECT, promoted)
    assert open_ledger().entries(PROJECT, (OPENED,), name) == []
    assert investigating.investigate(PROJECT, name) is None
    assert investigating.investigate(PROJECT, "flight_delay-v9-1") is None


@pytest.mark.parametrize("commits", [1, 4])
def test_rows_that_the_server_commits_after_the_end_are_in_the_evidence(
    challenger: Bundle, monkeypatch: pytest.MonkeyPatch, commits: int
) -> None:
    name = f"{PROJECT}-v2-late-{commits}"
    outcome = rolled_back(challenger, FAILING, name=name, bad_from_share=0.05)
    log, kept = home().predictions(PROJECT), home().root / f"kept-{commits}"
    shutil.copytree(log, kept)
    for path in log.glob("day=*/*"):
        path.unlink()
    waited: list[float] = []

    def commit(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == commits:
            shutil.copytree(kept, log, dirs_exist_ok=True)

    monkeypatch.setattr(investigating.time, "sleep", commit)
    releasing.settle(PROJECT, outcome)
    assert len(waited) == commits
    assert {each["version"] for each in evidence(name)["rows"]["failures"]} >= {"2"}


def test_a_log_without_the_rollouts_rows_is_named_as_a_gap(challenger: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(investigating.time, "sleep", lambda _: None)
    name = f"{PROJECT}-v2-unlogged"
    releasing.settle(PROJECT, rolled_back(challenger, FAILING, name=name, bad_from_share=0.05, is_logged=False))
    assert any("no row of this rollout" in gap for gap in evidence(name)["gaps"])
    assert "failed" in open_ledger().entries(PROJECT, (OPENED,), name)[0].body["affected"]  # by the judge's counts


def test_what_keeps_an_investigation_from_being_opened_does_not_keep_a_rollout_from_being_settled(
    challenger: Bundle,
) -> None:
    name = f"{PROJECT}-v2-blocked"
    folder = investigating.investigation_folder(PROJECT, name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text("a file where the folder belongs")
    ended(challenger, name)
    assert [entry.subject for entry in open_ledger().entries(PROJECT, ("release.ended",), name)] == [name]
    (failure,) = open_ledger().entries(PROJECT, ("investigation.failed",), name)
    assert "Error" in failure.body["error"]
    folder.unlink()
    assert investigating.investigate(PROJECT, name) is not None


def test_a_ledger_that_is_away_keeps_no_rollout_from_being_settled(
    challenger: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PACELINE_LEDGER_URL", "oracle://away")
    assert investigating.try_to_investigate(PROJECT, ROLLOUT) is None
    assert "is not in the ledger" in caplog.text


def test_closing_asks_for_a_note_and_a_name_and_happens_once(challenger: Bundle) -> None:
    name = f"{PROJECT}-v2-closed"
    ended(challenger, name)
    with pytest.raises(LookupError, match=f"there are: .*{name}"):
        investigating.close_investigation(PROJECT, "another", note="n", by="ada")
    for note, by in ((" ", "ada"), ("found it", "")):
        with pytest.raises(ValueError, match="found an empty one"):
            investigating.close_investigation(PROJECT, name, note=note, by=by)
    investigating.close_investigation(PROJECT, name, note="found it", by="ada")
    investigating.close_investigation(PROJECT, name, note="found it", by="ada")  # the same again is no change
    with pytest.raises(ValueError, match=r"closed by ada on .*: found it"):
        investigating.close_investigation(PROJECT, name, note="something else", by="bob")
    assert len(open_ledger().entries(PROJECT, (CLOSED,), name)) == 1


def test_the_command_lists_shows_and_closes(challenger: Bundle) -> None:
    def run(*words: str) -> str:
        result = CliRunner().invoke(app, ["investigation", *words])
        assert result.exit_code == 0, result.output
        return result.stdout

    name = f"{PROJECT}-v2-commanded"
    ended(challenger, name)
    assert f"{name}: version 2, it failed for more entities than the champion; open" in run("list", PROJECT)
    shown = json.loads(run("show", PROJECT, name, "--json"))
    assert (shown["files"], shown["closed"], shown["told"]) == ("as it was", None, [])
    assert "found it" in run("close", PROJECT, name, "--note", "found it", "--by", "ada")
    assert name not in [each["rollout"] for each in json.loads(run("list", PROJECT, "--open", "--json"))]
    assert "closed by ada" in run("show", PROJECT, name)
    (investigating.investigation_folder(PROJECT, name) / EVIDENCE).write_text("{}")
    assert views.investigation(PROJECT, name)["files"] == "altered"


@pytest.mark.parametrize("what", ["rollback", "abort", "pause"])
def test_what_a_person_does_to_a_rollout_is_the_cause_and_is_on_the_timeline(challenger: Bundle, what: str) -> None:
    name = f"{PROJECT}-v2-{what}"
    command = {"command": what, "by": "ada", "reason": "the desk saw something", "phase": None}
    outcome = rolled_back(challenger, {}, name=name, command=command)
    releasing.settle(PROJECT, outcome)
    found = evidence(name)
    expected = {"rollback": ("operator", "page", "ada"), "abort": ("aborted", "notice", "ada")}
    expected["pause"] = ("paused", "notice", None)
    assert (found["cause"]["name"], found["cause"]["severity"], found["by"]) == expected[what]
    told = [f"{moment['what']}: {moment['detail']}" for moment in found["timeline"]]
    assert f"a person asked: {what} by ada: the desk saw something" in told
