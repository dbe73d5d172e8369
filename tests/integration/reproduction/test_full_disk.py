"""A disk that is full in the middle of a write, as the kernel says it: a limit on the size of files."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.wiring import REPOSITORY

LIMITED = """
import resource, signal, sys
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
{setup}
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    {write}
except OSError as error:
    print("refused:", error.strerror)
"""
BUNDLE = """
from contracts.bundle import BASELINE, CARD, GOLDEN, MODEL, SCHEMA, Manifest, write_bundle
manifest = Manifest(project="p", trainer="t", optimization="fp32", parameters={}, snapshot="s", lock="l",
                    threshold=0.5, frameworks={})
files = {SCHEMA: b"{}", BASELINE: b"{}", GOLDEN: b"{}", MODEL: b"x" * 50_000, CARD: b""}
"""
FEATURES = """
import numpy as np
from pipelines.tasks.features import Part, _write
part = Part(np.zeros((100, 30), np.float32), np.zeros(100), np.zeros(100, np.int64))
"""


@pytest.mark.parametrize(
    ("setup", "write"),
    [
        (BUNDLE, "write_bundle(Path(sys.argv[1]), manifest, files)"),
        ("from pipelines.tasks.artifacts import keep", "keep(b'x' * 50_000)"),
        (FEATURES, "_write(Path(sys.argv[1]) / 'cache' / 'features.npz', part)"),
    ],
    ids=["a bundle", "an artefact", "encoded features"],
)
def test_a_full_disk_leaves_nothing_half(tmp_path: Path, setup: str, write: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED.format(setup=setup, write=write), str(tmp_path)],
        env={"PACELINE_HOME": str(tmp_path), "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "refused: File too large\n", done.stderr
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".draft")] == []


def test_the_same_writes_are_whole_where_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.tasks import artifacts

    monkeypatch.setenv("PACELINE_HOME", str(tmp_path))
    content = b"x" * 50_000
    kept = artifacts.keep(content)
    assert artifacts.keep(content) == kept
    assert artifacts.read(kept) == content
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [kept]


def test_a_folder_comes_back_as_it_was_without_what_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.tasks import artifacts

    monkeypatch.setenv("PACELINE_HOME", str(tmp_path / "home"))
    folder = tmp_path / "project"
    for name in ("project.yaml", "models/net.onnx", "__pycache__/source.pyc", ".editor/state"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    kept = artifacts.keep_folder(folder)
    (folder / "__pycache__" / "another.pyc").touch()
    assert artifacts.keep_folder(folder) == kept
    artifacts.write_folder(kept, tmp_path / "again")
    files = {path.relative_to(tmp_path / "again").as_posix(): path for path in (tmp_path / "again").rglob("*.*")}
    assert sorted(files) == ["models/net.onnx", "project.yaml"]
    assert files["models/net.onnx"].read_bytes() == b"models/net.onnx"
    (folder / "project.yaml").write_text("another")
    assert artifacts.keep_folder(folder) != kept
