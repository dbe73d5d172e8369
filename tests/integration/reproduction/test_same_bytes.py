"""The same snapshot and parameters give the same bundle, wherever and whenever they are trained."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipelines.wiring import REPOSITORY
from tests.fixtures.small_installation import PROJECT
from tests.integration.reproduction.conftest import Installation

# all that a process gets from where and how it was started, each as unlike the other as it can be
SOMEWHERE = {"PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "1", "TZ": "Asia/Tokyo", "LC_ALL": "C", "COLUMNS": "80"}
ELSEWHERE = {"PYTHONHASHSEED": "77", "OMP_NUM_THREADS": "4", "TZ": "America/New_York", "LC_ALL": "C.UTF-8"}
TRIALS: list[tuple[str, dict[str, Any], str]] = [
    ("neural_net", {"epochs": 1, "hidden": [32, 16]}, "pruned_units_50_int8"),
]


@pytest.mark.parametrize(("trainer", "parameters", "form"), TRIALS, ids=[f"{t[0]} {t[2]}" for t in TRIALS])
def test_two_processes_that_share_nothing_but_the_content_make_the_same_bundle(
    installation: Installation, tmp_path: Path, trainer: str, parameters: dict[str, Any], form: str
) -> None:
    request = {
        "format": 1,
        "project": PROJECT,
        "snapshot": installation.snapshot,
        "trainer": trainer,
        "optimization": form,
        "parameters": {"seed": 7, **parameters},
    }
    processes = [
        _start(installation, tmp_path / "one", Path("/"), SOMEWHERE, request),
        _start(installation, tmp_path / "another", tmp_path, ELSEWHERE, request),
    ]
    made = [_bundle(process) for process in processes]
    assert made[0] == made[1]
    bundles = [tmp_path / name / "bundles" / made[0] for name in ("one", "another")]
    files = [{path.name: path.read_bytes() for path in bundle.iterdir()} for bundle in bundles]
    assert len(files[0]) == 7
    assert files[0] == files[1]


def _start(
    installation: Installation, home: Path, folder: Path, environment: dict[str, str], request: dict[str, Any]
) -> subprocess.Popen[str]:
    """A fresh process that makes a bundle in an empty `home`."""
    shutil.copytree(installation.home / "snapshots", home / "snapshots")
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.tasks.rebuilding"],
        cwd=folder,
        env={**os.environ, **environment, "PACELINE_HOME": str(home), "PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(request))
    process.stdin.close()
    process.stdin = None
    return process


def _bundle(process: subprocess.Popen[str]) -> str:
    answer, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    bundle: str = json.loads(answer)["bundle"]
    return bundle
