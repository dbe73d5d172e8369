"""A user trains in a clone, and has the version made again from what is on record."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.governance.archive import Archive, Kind
from pipelines.tasks import reproducing
from pipelines.wiring import MADE_OF, REPOSITORY, open_ledger, open_registry
from tests.fixtures.small_installation import PROJECT
from tests.integration.reproduction.conftest import Installation

USER = ("-c", "user.name=Somebody", "-c", "user.email=somebody@example.org", "-c", "commit.gpgsign=false")
# all that a process gets from where it was started, unlike what the reproduction gets
ELSEWHERE = {"PYTHONHASHSEED": "77", "OMP_NUM_THREADS": "4", "TZ": "Asia/Tokyo", "LC_ALL": "C", "COLUMNS": "77"}
# a champion is there, so that what depends on it would be seen; gates may fail, a small model is none to be proud of
TRAIN = """
import sys
from pipelines.tasks import judging, optimising, retraining, searching
from pipelines.wiring import open_ledger
planned = retraining.plan_trials("flight_delay", sys.argv[1], ["boosted_trees"])
outcomes = [searching.run_trial("flight_delay", trial) for trial in planned]
candidate = optimising.optimise("flight_delay", searching.best_of("flight_delay", planned, outcomes))
alone = judging.build_bundle("flight_delay", candidate)
open_ledger().swap_champion("flight_delay", None, "0", alone.id, "by hand", "so that there is one")
evaluation = {**judging.evaluate("flight_delay", candidate), "passed": True}
print(judging.register("flight_delay", evaluation)["version"])
"""


@pytest.fixture(scope="module")
def user_clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of the code as it is here, committed, with an older commit that had fewer golden rows."""
    clone = tmp_path_factory.mktemp("clone")
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *MADE_OF]
    names = subprocess.run(listed, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        if (REPOSITORY / name).exists():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, clone / name)
    (clone / ".gitignore").write_text("__pycache__/\nvar/\n")
    bundling = clone / "pipelines" / "tasks" / "bundling.py"
    now = bundling.read_text()
    assert "GOLDEN_ROWS = 32" in now
    _git(clone, "init", "-q")
    for message, text in (("older", now.replace("GOLDEN_ROWS = 32", "GOLDEN_ROWS = 31")), ("now", now)):
        bundling.write_text(text)
        _git(clone, "add", "--all")
        _git(clone, *USER, "commit", "-q", "-m", message)
    return clone


@pytest.fixture(scope="module")
def version(installation: Installation, user_clone: Path) -> str:
    """A version that was trained in the clone, by a project folder that is not in it."""
    done = _python(user_clone, "-c", TRAIN, installation.snapshot, **ELSEWHERE)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[-1]


@pytest.fixture(autouse=True)
def _its_commits(user_clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACELINE_REPOSITORY", str(user_clone))


def test_a_version_is_made_again_byte_for_byte_twice_also_from_the_archive_and_nothing_but_the_ledger_knows(
    installation: Installation, user_clone: Path, version: str
) -> None:
    registered, bundles = open_registry().versions(PROJECT), sorted((installation.home / "bundles").iterdir())
    assert registered[-1].tags["commit"] == _git(user_clone, "rev-parse", "HEAD").strip()
    hot: list[tuple[Kind, Path]] = [
        ("bundles", installation.home / "bundles" / registered[-1].bundle),
        ("snapshots", installation.home / "snapshots" / installation.snapshot),
    ]
    _reproduced(version, registered[-1].bundle)
    for kind, folder in hot:
        Archive(installation.home / "archive").put(kind, folder.name, folder)
        folder.rename(folder.with_name(f".away-{folder.name}"))
    try:
        _reproduced(version, registered[-1].bundle)
        assert [folder for _, folder in hot if folder.exists()] == []
    finally:
        for _, folder in hot:
            folder.with_name(f".away-{folder.name}").rename(folder)
    entries = open_ledger().entries(project=PROJECT, kinds=("reproduction",))
    assert [(entry.subject, entry.body["outcome"]) for entry in entries] == [(version, "equal")] * 2
    assert open_registry().versions(PROJECT) == registered
    assert sorted((installation.home / "bundles").iterdir()) == bundles
    assert list((installation.home / "cache" / "reproductions").iterdir()) == []
    assert _git(user_clone, "worktree", "list").count("\n") == 1


def test_another_commit_makes_another_bundle_and_the_file_that_differs_is_named(
    installation: Installation, user_clone: Path, version: str
) -> None:
    found = open_registry().version(PROJECT, version)
    assert found is not None
    try:
        _tag(version, _git(user_clone, "rev-parse", "HEAD~1").strip())
        done = _paceline("reproduce", PROJECT, version, "--json")
    finally:
        _tag(version, found.tags["commit"])
    assert done.exit_code == 2, done.output
    result = json.loads(done.stdout)
    assert [file["name"] for file in result["files"]] == ["golden.json"]
    assert result["files"][0]["where"].startswith("records[1].") or "items" in result["files"][0]["where"]
    assert result["scores"]["different"] == 0
    assert "nothing excuses it" in result["reason"]


@pytest.mark.parametrize(
    ("commit", "complaint"),
    [
        ("unknown", "outside of a git clone"),
        ("0" * 40, "git fetch origin " + "0" * 40),
        ("{head}-dirty", "--accept-dirty"),
    ],
    ids=["no commit", "a commit that is not in the clone", "changes that were not committed"],
)
def test_what_is_not_on_record_is_said_before_anything_is_trained(
    installation: Installation, version: str, commit: str, complaint: str
) -> None:
    found = open_registry().version(PROJECT, version)
    assert found is not None
    try:
        _tag(version, commit.format(head=found.tags["commit"]))
        with pytest.raises(LookupError, match=complaint):
            reproducing.reproduce(PROJECT, version)
    finally:
        _tag(version, found.tags["commit"])
    assert list((installation.home / "cache" / "reproductions").iterdir()) == []


def test_changed_files_make_the_commit_dirty_only_where_a_model_is_made_of_them(user_clone: Path) -> None:
    head = _git(user_clone, "rev-parse", "HEAD").strip()

    def commit() -> str:
        return _python(user_clone, "-c", "from pipelines.wiring import commit; print(commit())").stdout.strip()

    (user_clone / "README.md").write_text("of no consequence")
    assert commit() == head
    trainer = user_clone / "pipelines" / "training" / "forgotten.py"
    trainer.touch()
    assert commit() == f"{head}-dirty"
    trainer.unlink()
    assert commit() == head


def test_code_that_lies_inside_of_another_clone_has_no_commit_of_its_own(user_clone: Path, tmp_path: Path) -> None:
    inside = user_clone / "var" / "site-packages"
    shutil.copytree(user_clone / "pipelines", inside / "pipelines")
    shutil.copytree(user_clone / "contracts", inside / "contracts")
    assert _python(inside, "-c", "from pipelines.wiring import commit; print(commit())").stdout.strip() == "unknown"
    shutil.rmtree(inside)


def _reproduced(version: str, bundle: str) -> None:
    done = _paceline("reproduce", PROJECT, version, "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert (result["outcome"], result["made"]) == ("equal", bundle)


def _tag(version: str, commit: str) -> None:
    open_registry().set_tags(PROJECT, version, {"commit": commit})


def _paceline(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def _python(code: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PACELINE_COMMIT"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd="/",
        env={**environment, **more, "PYTHONPATH": str(code)},
        capture_output=True,
        text=True,
        timeout=300,
    )


def _git(clone: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=clone, capture_output=True, text=True, check=True).stdout
