"""A backup is whole while everything is in use, says what is damaged, and has nothing that the home has not."""

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from contracts.bundle import read_bundle
from pipelines.ledger import Ledger
from pipelines.tasks.backing_up import NOTE, BackupError, back_up, backed_up_text
from pipelines.wiring import home, open_ledger
from tests.fixtures.bundles import tiny_bundle

PROJECT = "flight_delay"


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home with a ledger, a bundle and a file of the log."""
    monkeypatch.setenv("PACELINE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PACELINE_LEDGER_URL", raising=False)
    monkeypatch.delenv("PACELINE_MLFLOW_URI", raising=False)
    bundle = tiny_bundle(home().bundles)
    open_ledger().swap_champion(PROJECT, None, "1", bundle.id, "bootstrap", "the first")
    segment = home().predictions(PROJECT) / "day=2013-08-01" / "a.arrows"
    segment.parent.mkdir(parents=True)
    segment.write_bytes(b"rows")
    (home().cache / "x").parent.mkdir()
    (home().cache / "x").write_bytes(b"made again")


def test_a_backup_has_the_ledger_the_bundles_and_the_log_and_not_what_is_made_again(tmp_path: Path) -> None:
    done = back_up(tmp_path / "backup")
    assert (done["databases"], done["bundles"], done["not_included"]) == (["ledger.db"], 1, [])
    copy = tmp_path / "backup"
    with Ledger.open(f"sqlite:///{copy}/ledger.db", creates=False) as ledger:
        assert ledger.reigns(PROJECT) == ["1"]
    (folder,) = (copy / "bundles").iterdir()
    assert read_bundle(folder, folder.name).id == folder.name
    assert (copy / "predictions" / PROJECT / "day=2013-08-01" / "a.arrows").read_bytes() == b"rows"
    assert not (copy / "cache").exists()
    assert "bundles, verified by their hashes: 1" in backed_up_text(done)


def test_a_ledger_is_copied_as_of_one_instant_while_it_is_written(tmp_path: Path) -> None:
    ended = threading.Event()

    def write() -> None:
        ledger, number = open_ledger(), 0
        while not ended.is_set():
            number += 1
            ledger.append(PROJECT, "note", f"{number}", {"text": "x" * 2000}, key=f"{number}/first")
            ledger.append(PROJECT, "note", f"{number}", {"text": "x" * 2000}, key=f"{number}/second")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(5):
            back_up(tmp_path / "backup")
            with Ledger.open(f"sqlite:///{tmp_path}/backup/ledger.db", creates=False) as copy:
                numbers = [int(entry.subject) for entry in copy.entries(PROJECT, ("note",), limit=None)]
            # nothing is missing in between, and the second of a pair never comes without the first
            assert sorted(numbers) == sorted([*range(1, max(numbers, default=0) + 1)] * 2)[: len(numbers)]
    finally:
        ended.set()
        writer.join(30)


def test_a_backup_is_brought_up_to_date_and_forgets_what_the_home_has_forgotten(tmp_path: Path) -> None:
    back_up(tmp_path / "backup")
    (home().predictions(PROJECT) / "day=2013-08-01" / "a.arrows").unlink()
    (home().predictions(PROJECT) / "day=2013-08-01" / "b.parquet").write_bytes(b"fewer rows")
    done = back_up(tmp_path / "backup")
    day = tmp_path / "backup" / "predictions" / PROJECT / "day=2013-08-01"
    assert ([path.name for path in day.iterdir()], done["removed"]) == (["b.parquet"], 1)


def test_a_damaged_ledger_is_named_and_the_copy_before_is_kept(tmp_path: Path) -> None:
    back_up(tmp_path / "backup")
    before = (tmp_path / "backup" / "ledger.db").read_bytes()
    with closing(sqlite3.connect(home().root / "ledger.db")) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with (home().root / "ledger.db").open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 4096)
    with pytest.raises(BackupError, match=r"ledger\.db is damaged"):
        back_up(tmp_path / "backup")
    assert (tmp_path / "backup" / "ledger.db").read_bytes() == before


def test_a_damaged_bundle_is_named(tmp_path: Path) -> None:
    (folder,) = home().bundles.iterdir()
    (folder / "model.onnx").write_bytes(b"something else")
    with pytest.raises(BackupError, match="a bundle is damaged"):
        back_up(tmp_path / "backup")


def test_what_is_no_backup_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"mine")
    with pytest.raises(BackupError, match="that is no backup"):
        back_up(tmp_path / "photos")
    with pytest.raises(BackupError, match="inside of what is copied"):
        back_up(home().root / "backup")
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["a.jpg"]


def test_a_ledger_elsewhere_is_named_without_its_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACELINE_LEDGER_URL", "postgresql://paceline:secret@db/ledger")
    done = back_up(tmp_path / "backup")
    assert done["not_included"] == ["ledger: postgresql://paceline:***@db/ledger"]
    assert (tmp_path / "backup" / NOTE).is_file()
