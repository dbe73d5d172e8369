"""What the command line does with outcomes, costs and deletions, on files that the real writer has written."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.monitoring.compaction import CompactionRunsError, locked
from pipelines.tasks import compacting, forgetting, labelling
from pipelines.wiring import REPOSITORY, home, open_ledger
from serving.prediction_writer import LoggedGroup
from tests.fixtures.bundles import TINY_SCHEMA, tiny_record
from tests.fixtures.prediction_log import tiny_group, write_segment

PROJECT = "flight_delay"
MASKED = msgspec.structs.replace(
    TINY_SCHEMA,
    fields=tuple(msgspec.structs.replace(each, personal=each.name == "tailnum") for each in TINY_SCHEMA.fields),
)
EVENT = "2013-08-01T08:30:00"


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PACELINE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PACELINE_PROJECTS", raising=False)
    monkeypatch.delenv("PACELINE_LEDGER_URL", raising=False)
    monkeypatch.delenv("PACELINE_SERVING_MASK_KEY", raising=False)
    return home().predictions(PROJECT)


@pytest.fixture
def personal(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project declares its entity as personal, and the server masks it by the key of the environment."""
    folder = tmp_path / "projects" / PROJECT
    folder.mkdir(parents=True)
    project = yaml.safe_load((REPOSITORY / "projects" / PROJECT / "project.yaml").read_text())
    project["schema"]["fields"][0]["personal"] = True
    (folder / "project.yaml").write_text(yaml.safe_dump(project))
    (folder / "source.py").write_text((REPOSITORY / "projects" / PROJECT / "source.py").read_text())
    monkeypatch.setenv("PACELINE_PROJECTS", str(folder.parent))
    monkeypatch.setenv("PACELINE_SERVING_MASK_KEY", "key")  # as tiny_writer has it
    return log


def _served(log: Path, rows: int = 3, **changes: Any) -> LoggedGroup:
    changes.setdefault("record", lambda row: tiny_record(row, tailnum=f"N{row}", scheduled=EVENT))
    group = tiny_group(rows, **changes)
    write_segment(log, group)
    return group


def _run(*arguments: str) -> tuple[int, Any]:
    found = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    return found.exit_code, json.loads(found.stdout)


def _told(tmp_path: Path, *rows: dict[str, Any], suffix: str = ".jsonl") -> str:
    path = tmp_path / f"told{suffix}"
    if suffix == ".csv":
        lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
        path.write_text("\n".join(lines))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_outcomes_of_a_file_are_told_shown_and_in_the_ledger(log: Path, tmp_path: Path, suffix: str) -> None:
    ids = _served(log).prediction_ids
    rows = [
        {"prediction_id": ids[0], "entity": "", "event_time": "", "value": 1, "known_at": "2013-08-02T09:00:00Z"},
        {"prediction_id": "", "entity": "N1", "event_time": EVENT, "value": 0, "known_at": "2013-08-02"},
        {"prediction_id": "", "entity": "N1", "event_time": EVENT, "value": 9, "known_at": ""},
    ]
    code, added = _run("outcomes", "add", PROJECT, _told(tmp_path, *rows, suffix=suffix))
    assert code == 0
    assert (added["accepted"], added["quarantined"]) == (2, {"impossible_value": 1})
    assert "2 outcomes taken" in labelling.added_text(added)
    _, shown = _run("outcomes", "show", PROJECT, ids[0])
    assert [(each["value"], each["known_at"][:19]) for each in shown["told"]] == [(1, "2013-08-02T09:00:00")]
    _, quarantine = _run("outcomes", "quarantine", PROJECT)
    assert quarantine["counts"] == {"impossible_value": 1}
    assert "impossible_value: N1 at 2013" in labelling.quarantine_text(quarantine)
    (entry,) = open_ledger().entries(PROJECT, ("outcomes.added",))
    assert (entry.body["accepted"], entry.body["file"]) == (2, f"told{suffix}")


def test_the_inbox_is_taken_once_and_a_file_that_cannot_be_read_is_named_and_stays(log: Path) -> None:
    ids = _served(log).prediction_ids
    inbox = home().outcomes(PROJECT) / "inbox"
    inbox.mkdir(parents=True)
    (inbox / "a.csv").write_text(f"prediction_id,value\n{ids[0]},1\n")
    (inbox / "b.jsonl").write_text(json.dumps({"prediction_id": ids[1], "value": 1}) + "\n{broken\n")
    (inbox / "c.csv").write_text(f"prediction_id,valeu\n{ids[2]},1\n")
    with pytest.raises(ValueError, match=r"2 files in .*b\.jsonl, line 2.*c\.csv: row 1 has valeu"):
        labelling.take_inbox(PROJECT)
    assert sorted(path.name for path in inbox.iterdir()) == ["b.jsonl", "c.csv", "taken"]
    assert labelling.history(PROJECT, ids[0])["told"] != []
    assert labelling.history(PROJECT, ids[1])["told"] == [], "of a file that was refused nothing is taken"
    for name in ("b.jsonl", "c.csv"):
        (inbox / name).unlink()
    assert labelling.take_inbox(PROJECT)["files"] == []


def test_a_personal_entity_is_told_in_clear_and_kept_masked(personal: Path, tmp_path: Path) -> None:
    _served(personal, schema=MASKED, bundle="personal")
    told = _told(
        tmp_path, {"entity": "N1", "event_time": EVENT, "value": 1}, {"entity": "N7", "event_time": EVENT, "value": 1}
    )
    _, added = _run("outcomes", "add", PROJECT, told)
    assert (added["accepted"], added["quarantined"]) == (1, {"unknown_prediction": 1})
    files = [path for path in home().root.rglob("*") if path.is_file()]
    assert not any(b"N1" in path.read_bytes() or b"N7" in path.read_bytes() for path in files)


def test_a_person_is_forgotten_everywhere_and_the_ledger_has_counts_and_a_hash(personal: Path, tmp_path: Path) -> None:
    ids = _served(personal, schema=MASKED, bundle="personal").prediction_ids
    told = _told(
        tmp_path,
        {"prediction_id": ids[1], "value": 1},
        {"entity": "N1", "event_time": EVENT, "value": 1},
        {"entity": "N1", "event_time": EVENT, "value": 5},
        {"entity": "N2", "event_time": EVENT, "value": 1},
    )
    _run("outcomes", "add", PROJECT, told)
    code, done = _run("log", "forget", PROJECT, "--entity", "N1", "--by", "dpo", "--reason", "request 12")
    assert code == 0
    assert (done["rows"], done["outcomes"], done["quarantined"], done["state"]) == (1, 2, 1, "done")
    masked = labelling.masked_entity(labelling.find_project(PROJECT), "N1")
    held = [path for path in home().root.rglob("*") if path.is_file() and not path.name.startswith("ledger.db")]
    assert not any(masked.encode() in path.read_bytes() for path in held)
    (entry,) = open_ledger().entries(PROJECT, ("entity.forgotten",))
    assert (entry.subject, entry.body["by"], entry.body["rows"]) == (entry.body["entity_hash"], "dpo", 1)
    assert not any(each in str(entry.body) + entry.subject for each in ("N1", masked, ids[1]))
    assert "1 predictions of 2013-08-01 to 2013-08-01 have gone from 1 files" in forgetting.forgotten_text(done)
    _, again = _run("log", "forget", PROJECT, "--entity", masked, "--by", "dpo", "--reason", "once more")
    assert (again["rows"], again["outcomes"]) == (0, 0)


def test_the_hash_of_an_entity_that_is_not_personal_is_not_the_entity(log: Path) -> None:
    _served(log)
    forgetting.forget(PROJECT, "N1", by="dpo", reason="request 13")
    (entry,) = open_ledger().entries(PROJECT, ("entity.forgotten",))
    assert "N1" not in str(entry.body) + entry.subject


def test_nobody_is_forgotten_without_a_name_and_a_reason_or_while_a_compaction_works(log: Path) -> None:
    _served(log)
    with pytest.raises(ValueError, match="who asks for it and why"):
        forgetting.forget(PROJECT, "N1", by=" ", reason="request 14")
    with locked(log), pytest.raises(CompactionRunsError):
        forgetting.forget(PROJECT, "N1", by="dpo", reason="request 14")


def test_a_personal_entity_without_a_key_is_refused(personal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PACELINE_SERVING_MASK_KEY")
    with pytest.raises(LookupError, match="there is no key for its mask"):
        forgetting.forget(PROJECT, "N1", by="dpo", reason="request 15")


def test_the_nightly_compaction_ends_what_a_deletion_had_to_leave(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _served(log)
    monkeypatch.setattr("pipelines.monitoring.forgetting.is_held", lambda path: True)
    done = forgetting.forget(PROJECT, "N1", by="dpo", reason="request 16")
    assert (done["state"], len(done["held"])) == ("pending", 1)
    assert "hidden, and gone with the next compaction" in forgetting.forgotten_text(done)
    monkeypatch.undo()
    monkeypatch.setenv("PACELINE_HOME", str(log.parents[1]))
    found = compacting.compact(PROJECT)
    assert found["to_forget"] == 1, "it is hidden for two hours more, for what was not yet written"
    assert not any(b"N1" in path.read_bytes() for path in log.rglob("*") if path.is_file())


def test_the_cost_of_the_log_is_told_by_month_and_priced_where_a_price_is_named(log: Path) -> None:
    _served(log, 200)
    _, found = _run("log", "cost", PROJECT, "--rate", "1000", "--price", "0.02", "--months", "6")
    assert [month["month"] for month in found["months"]] == [1, 2, 3, 6]
    assert found["rows_per_day"] == 86_400_000
    text = compacting.cost_text(found)
    assert "written in a day" in text
    assert "of fewer than 10,000 rows" in text
    assert "for that month" in text
    _, unpriced = _run("log", "cost", PROJECT)
    assert "for that month" not in compacting.cost_text(unpriced)
