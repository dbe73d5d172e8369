"""What was put comes back byte for byte, also when a put was killed, and is kept once."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.governance.archive import Archive, ArchiveError, ArchiveRunsError
from pipelines.wiring import REPOSITORY

# a put in a process that dies at the n-th file that it would make visible
KILLED = """
import os, signal, sys
from pathlib import Path
from pipelines.governance.archive import Archive
replace, left = os.replace, [int(sys.argv[1])]
def dying(*arguments):
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    replace(*arguments)
os.replace = dying
Archive(Path(sys.argv[2])).put("snapshots", "s1", Path(sys.argv[3]))
"""


def folder_of(root: Path, name: str, rows: int, seed: int = 1) -> Path:
    """A snapshot's files: `rows` rows in groups of 1,000, and a manifest."""
    folder = root / name
    folder.mkdir(parents=True)
    numbers = np.random.default_rng(seed).normal(size=(20_000, 3))[:rows]
    table = pa.table({f"column_{position}": numbers[:, position] for position in range(3)})
    pq.write_table(table, folder / "data.parquet", row_group_size=1000, compression="zstd")
    (folder / "manifest.json").write_text(f'{{"rows": {rows}}}')
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def stored_bytes(archive: Path) -> int:
    return sum(path.stat().st_size for path in archive.rglob("*.zst"))


def test_a_folder_comes_back_byte_for_byte(tmp_path: Path) -> None:
    folder, archive = folder_of(tmp_path / "hot", "s1", 5000), Archive(tmp_path / "archive")
    assert not archive.has("snapshots", "s1")
    assert archive.put("snapshots", "s1", folder) == stored_bytes(tmp_path / "archive")
    assert archive.has("snapshots", "s1")
    restored = archive.restore("snapshots", "s1", tmp_path / "again")
    assert content(restored) == content(folder)
    assert archive.read("snapshots", "s1", "manifest.json") == b'{"rows": 5000}'
    assert archive.index("snapshots", "s1").bytes == sum(map(len, content(folder).values()))


def test_the_stored_pieces_are_what_the_zstd_tool_reads(tmp_path: Path) -> None:
    folder, archive = folder_of(tmp_path / "hot", "s1", 100), Archive(tmp_path / "archive")
    archive.put("snapshots", "s1", folder)
    (piece,) = archive.index("snapshots", "s1").files["manifest.json"].pieces
    stored = next((tmp_path / "archive").rglob(f"{piece.id}.zst"))
    assert pa.input_stream(str(stored), compression="zstd").read() == (folder / "manifest.json").read_bytes()


def test_what_is_put_twice_or_shared_is_kept_once(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "archive")
    whole = archive.put("snapshots", "s1", folder_of(tmp_path / "hot", "s1", 10_000))
    assert archive.put("snapshots", "s1", tmp_path / "hot" / "s1") == 0
    longer = folder_of(tmp_path / "hot", "s2", 12_000)
    assert archive.put("snapshots", "s2", longer) < whole / 3  # of twelve row groups two are new
    assert content(archive.restore("snapshots", "s2", tmp_path / "again")) == content(longer)


def test_a_put_that_is_killed_at_any_file_leaves_the_folder_and_is_finished_by_the_next(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "hot", "s1", 1000)
    before = content(folder)
    files = 1 + 3 + 1 + 1 + 1  # the start of the Parquet file, its columns, its end; the manifest, the index
    for number in range(files):
        root = tmp_path / f"archive-{number}"
        done = subprocess.run(
            [sys.executable, "-c", KILLED, str(number), str(root), str(folder)],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == -signal.SIGKILL, (number, done.stderr)
        archive = Archive(root)
        assert not archive.has("snapshots", "s1")
        assert content(folder) == before
        archive.put("snapshots", "s1", folder)
        assert content(archive.restore("snapshots", "s1", tmp_path / f"again-{number}")) == before
        assert [path.name[:7] for path in archive.unused_objects()] == [".draft-"]
    assert stored_bytes(tmp_path / "archive-0") == stored_bytes(tmp_path / "archive-6")


def test_a_damaged_piece_of_an_earlier_put_is_found_and_written_again_before_anything_goes(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "archive")
    archive.put("snapshots", "s1", folder_of(tmp_path / "hot", "s1", 3000))
    victim = max((tmp_path / "archive" / "objects").rglob("*.zst"), key=lambda path: path.stat().st_size)
    victim.write_bytes(b"damaged")
    assert str(victim) in str(archive.damage("snapshots", "s1"))
    with pytest.raises(ArchiveError, match=r"cannot be read"):
        archive.restore("snapshots", "s1", tmp_path / "again")
    assert list((tmp_path / "again").iterdir()) == []
    longer = folder_of(tmp_path / "hot", "s2", 4000)
    assert archive.put("snapshots", "s2", longer) > 0
    assert archive.damage("snapshots", "s1") is None
    assert content(archive.restore("snapshots", "s2", tmp_path / "again")) == content(longer)


def test_a_piece_that_is_another_is_found_by_its_hash(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "archive")
    archive.put("snapshots", "s1", folder_of(tmp_path / "hot", "s1", 10))
    (piece,) = archive.index("snapshots", "s1").files["manifest.json"].pieces
    other = pa.Codec("zstd").compress(b"x" * piece.bytes, asbytes=True)
    next((tmp_path / "archive").rglob(f"{piece.id}.zst")).write_bytes(other)
    with pytest.raises(ArchiveError, match="not what its name says"):
        archive.read("snapshots", "s1", "manifest.json")


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "archive")
    with pytest.raises(ArchiveError, match="no s9 among the archived snapshots"):
        archive.restore("snapshots", "s9", tmp_path / "again")
    archive.put("snapshots", "s1", folder_of(tmp_path / "hot", "s1", 10))
    with pytest.raises(ArchiveError, match=r"it has data\.parquet, manifest\.json"):
        archive.read("snapshots", "s1", "model.onnx")


def test_pieces_that_no_index_names_are_found(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "archive")
    archive.put("snapshots", "s1", folder_of(tmp_path / "hot", "s1", 2000))
    archive.put("snapshots", "s2", folder_of(tmp_path / "hot", "s2", 3000))
    assert archive.unused_objects() == []
    (tmp_path / "archive" / "snapshots" / "s2.json").unlink()
    unused = archive.unused_objects()
    assert unused
    for path in unused:
        path.unlink()
    assert archive.damage("snapshots", "s1") is None


def test_one_archives_at_a_time_and_a_removal_waits_for_who_is_about_to_use(tmp_path: Path) -> None:
    archive, other = Archive(tmp_path / "archive"), Archive(tmp_path / "archive")
    with archive.held(), pytest.raises(ArchiveRunsError), other.held():
        pass
    with other.held():
        pass
    entered = threading.Event()

    def remove() -> None:
        with other.removals_held():
            entered.set()

    thread = threading.Thread(target=remove)
    with archive.removals_held():
        thread.start()
        assert not entered.wait(0.1)
    assert entered.wait(10)
    thread.join(10)
