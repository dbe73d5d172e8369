"""Old versions go to the archive and come back; what somebody refers to stays; a run that dies loses nothing."""

import json
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import ibis
import msgspec
import pytest
from typer.testing import CliRunner

from contracts.bundle import Bundle, write_bundle
from contracts.input_schema import Field
from pipelines import views
from pipelines.cli import app
from pipelines.data.schema import DeclaredSchema, Label
from pipelines.data.snapshots import Snapshot, take_snapshot
from pipelines.data.windows import SplitRule, choose_windows
from pipelines.ledger import Ledger
from pipelines.tasks import archiving, artifacts, releasing
from pipelines.wiring import REPOSITORY, home, open_ledger, open_registry
from tests.fixtures.bundles import tiny_bundle, tiny_record
from tests.fixtures.model_servers import ModelServerProcess
from tests.fixtures.prediction_log import tiny_group, write_segment

PROJECT = "flight_delay"
LONG_AGO = datetime.now(UTC) - timedelta(days=60)
CHAMPIONS, CHALLENGER, FORGOTTEN = ("1", "2", "3", "4", "5", "6"), "7", "8"
SCHEMA = DeclaredSchema(
    version=1,
    entity="tailnum",
    time="scheduled",
    key=("tailnum", "scheduled"),
    fields=(
        Field(name="tailnum", kind="identifier"),
        Field(name="scheduled", kind="timestamp"),
        Field(name="distance", kind="number"),
    ),
)


class KilledError(BaseException):
    """The process is gone: nothing after this runs."""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six versions have led, of which the first two share a snapshot; the seventh is the challenger; the eighth never
    led, was registered two months ago, and has a snapshot alone. One bundle failed its gates then, another yesterday.
    """
    folder = tmp_path_factory.mktemp("prepared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PACELINE_HOME", str(folder))
        registry = open_registry()
        snapshots = {name: _snapshot(folder, days) for name, days in (("old", 40), ("new", 50), ("alone", 45))}
        for number in range(1, 9):
            snapshot = snapshots["old" if number < 3 else "alone" if number == 8 else "new"]
            bundle = _bundle(folder, snapshot, number)
            tags = {"snapshot": snapshot.id, "as_of": f"2013-0{number}-01"}
            made = registry.register(PROJECT, bundle, metrics={}, parameters={}, tags=tags)
            with Ledger.open(f"sqlite:///{folder}/ledger.db", clock=lambda: LONG_AGO) as ledger:
                ledger.append(PROJECT, "registered", made.version, {"bundle": bundle.id})
                if made.version in CHAMPIONS:
                    before = None if number == 1 else str(number - 1)
                    assert ledger.swap_champion(PROJECT, before, made.version, bundle.id, f"r{number}", "better")
        registry.set_aliases(PROJECT, {"champion": "6", "previous": "5", "challenger": CHALLENGER})
        for number, is_old in ((20, True), (21, False)):
            _bundle(folder, snapshots["new"], number)
            if is_old:
                _grow_old(_failed_bundles(folder)[0].parent / _bundle(folder, snapshots["new"], number).id)
    return folder


@pytest.fixture
def installation(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it; the environment points there."""
    copy = tmp_path / "home"
    shutil.copytree(prepared, copy)
    monkeypatch.setenv("PACELINE_HOME", str(copy))
    monkeypatch.setenv("PACELINE_PROJECTS", str(REPOSITORY / "projects"))
    return copy


def test_a_dry_run_says_what_would_go_and_why_the_rest_stays_and_changes_nothing(installation: Path) -> None:
    before, entries = _tree(installation), open_ledger().entries()
    shown = CliRunner().invoke(app, ["archive", PROJECT, "--dry-run"])
    assert shown.exit_code == 0, shown.output
    lines = {line.strip().split(" (")[0]: line for line in shown.output.splitlines()}
    assert "it is the champion" in lines["version 6 stays"]
    assert "the champion before this one" in lines["version 5 stays"]
    assert "among the last 5" in lines["version 2 stays"]
    assert "alias challenger" in lines["version 7 stays"]
    assert "6 versions have led" in lines["version 1 would go to the archive"]
    assert "never led" in lines["version 8 would go to the archive"]
    assert "would be freed" in shown.output
    assert _tree(installation) == before
    assert open_ledger().entries() == entries


def test_what_is_old_goes_to_the_archive_and_comes_back_byte_for_byte(installation: Path) -> None:
    versions = {version.version: version for version in open_registry().versions(PROJECT)}
    before = {name: _content(version) for name, version in versions.items()}
    result = archiving.archive(PROJECT)
    going = {(row["kind"], row["name"]) for row in result["rows"] if row["action"] != "keep"}
    alone = versions["8"].tags["snapshot"]
    failed = next(name for kind, name in going if kind == "bundles")
    assert going == {("versions", "1"), ("versions", "8"), ("snapshots", alone), ("bundles", failed)}
    gone = [home().bundles / versions["1"].bundle, home().bundles / versions["8"].bundle, home().snapshots / alone]
    assert [path for path in (*gone, home().bundles / failed) if path.exists()] == []
    assert (home().snapshots / versions["1"].tags["snapshot"]).exists()  # version 2 needs it too
    assert _archived() == {"1", "8"}
    assert sorted(entry.subject for entry in open_ledger().entries(kinds=("archived",))) == ["1", "8"]

    shown = CliRunner().invoke(app, ["restore", PROJECT, "8", "--json"])
    assert shown.exit_code == 0, shown.output
    assert {each["kind"] for each in json.loads(shown.stdout)["restored"]} == {"bundles", "snapshots"}
    assert archiving.restore(PROJECT, "8")["restored"] == []
    assert _content(versions["8"]) == before["8"]
    assert _archived() == {"1"}
    assert len(open_ledger().entries(kinds=("restored",))) == 1


def test_a_second_run_has_nothing_to_do_and_a_restored_version_stays_for_a_while(installation: Path) -> None:
    archiving.archive(PROJECT)
    entries, tree = open_ledger().entries(), _tree(installation)
    again = archiving.archive(PROJECT)
    assert {row["action"] for row in again["rows"]} == {"keep"}
    assert {row["name"]: row["reason"] for row in again["rows"]}["8"].startswith("in the archive")
    assert (open_ledger().entries(), _tree(installation)) == (entries, tree)
    archiving.restore(PROJECT, "1")
    kept = {row["name"]: row["reason"] for row in archiving.archive(PROJECT)["rows"]}
    assert "restored 0 days ago" in kept["1"]


def test_a_restored_version_goes_again_when_it_was_not_needed(
    installation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archiving.archive(PROJECT)
    with (
        Ledger.open(f"sqlite:///{installation}/ledger.db", clock=lambda: LONG_AGO) as ledger,
        monkeypatch.context() as patch,
    ):
        patch.setattr(archiving, "open_ledger", lambda creates: ledger)
        archiving.restore(PROJECT, "1")
    assert _archived() == {"8"}
    archiving.archive(PROJECT)
    assert _archived() == {"1", "8"}
    assert [entry.subject for entry in open_ledger().entries(kinds=("archived",))].count("1") == 2


def test_a_version_whose_predictions_are_kept_stays(installation: Path) -> None:
    write_segment(home().predictions(PROJECT), tiny_group(3, version="1"), tiny_group(2, version="6"))
    rows = {row["name"]: row for row in archiving.archive(PROJECT)["rows"]}
    assert rows["1"]["reason"] == "3 predictions refer to it, of days that the log keeps whole"
    assert _archived() == {"8"}


def test_a_version_that_a_rollout_offers_stays_and_an_archived_one_is_restored_for_it(installation: Path) -> None:
    archiving.archive(PROJECT)
    assert _archived() == {"1", "8"}
    opened = releasing.open_rollout(PROJECT, "8", note="it deserves another look", by="ann")
    assert opened.offer is not None, opened.reason
    assert Path(opened.offer["path"]).exists()
    assert _archived() == {"1"}
    open_ledger().append(PROJECT, "restored", "8", {})
    kept = {row["name"]: row["reason"] for row in archiving.archive(PROJECT)["rows"]}
    assert opened.offer["rollout"] in kept["8"]


def test_a_rollout_that_opens_while_the_archive_is_at_work_keeps_its_version(
    installation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = archiving.Archive.put

    def put_while_a_rollout_opens(self: Any, kind: Any, name: str, folder: Path) -> int:
        added = put(self, kind, name, folder)
        open_ledger().append(PROJECT, "release.opened", "r9", {"version": "8"}, key="opened:r9")
        return added

    monkeypatch.setattr(archiving.Archive, "put", put_while_a_rollout_opens)
    archiving.archive(PROJECT)
    assert _archived() == {"1"}
    found = open_registry().version(PROJECT, "8")
    assert found is not None
    assert (home().bundles / found.bundle).exists()
    assert (home().snapshots / found.tags["snapshot"]).exists()


def test_a_rollback_to_an_archived_version_restores_it_and_clients_are_answered_by_it(
    installation: Path,
    model_servers: Callable[..., ModelServerProcess],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    archiving.archive(PROJECT)
    champion = open_registry().version(PROJECT, "6")
    assert champion is not None
    server = model_servers()
    server.install(_read(champion.bundle), "6")
    monkeypatch.setenv("PACELINE_SERVER_URL", server.url)
    assert releasing.roll_back(PROJECT, "1", by="ada")["version"] == "1"
    assert server.predict(tiny_record()).json()["model_version"] == "1"
    assert _archived() == {"8"}


@pytest.mark.parametrize("moment", ["put", "before it goes", "halfway gone", "before the ledger", "before the tag"])
def test_a_run_that_dies_loses_nothing_and_the_next_one_finishes(
    installation: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    versions = open_registry().versions(PROJECT)
    before = {version.version: _content(version) for version in versions}
    with monkeypatch.context() as patch:
        _die(patch, moment)
        with pytest.raises(KilledError):
            archiving.archive(PROJECT)
    kept = shutil.copytree(installation, installation.parent / "as it was left")
    with monkeypatch.context() as patch:
        patch.setenv("PACELINE_HOME", str(kept))
        for version in versions:
            if version.version in ("1", "8"):
                archiving.restore(PROJECT, version.version)
            assert _content(version) == before[version.version]
    archiving.archive(PROJECT)
    assert _archived() == {"1", "8"}
    assert len(open_ledger().entries(kinds=("archived",))) == 2
    assert list(installation.rglob(".gone-*")) == []
    assert {row["action"] for row in archiving.archive(PROJECT)["rows"]} == {"keep"}


def test_a_damaged_version_stays_where_it_is_and_does_not_stop_the_others(installation: Path) -> None:
    found = open_registry().version(PROJECT, "1")
    assert found is not None
    (home().bundles / found.bundle / "model.onnx").write_bytes(b"damaged")
    with pytest.raises(archiving.ArchiveError, match=r"model\.onnx has the hash"):
        archiving.archive(PROJECT)
    assert (home().bundles / found.bundle / "model.onnx").read_bytes() == b"damaged"
    assert _archived() == {"8"}


def test_artifacts_that_nobody_names_go_when_they_are_old_and_caches_when_they_were_not_used(
    installation: Path,
) -> None:
    inner = artifacts.keep(b"a plot")
    named = artifacts.keep_json({"plots": [inner]})
    forgotten, young = artifacts.keep(b"forgotten"), artifacts.keep(b"young")
    open_ledger().append(PROJECT, "gates", "b1", {"evidence": named})
    cached = [home().cache / "features" / name for name in ("old.npz", "used.npz")]
    draft = home().bundles / ".draft-of-a-killed-run"
    for path in (*cached, draft):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    for path in (*(next(home().artifacts.rglob(each)) for each in (inner, named, forgotten)), cached[0], draft):
        _grow_old(path)
    rows = {row["name"]: row for row in archiving.archive(PROJECT)["rows"]}
    gone = {name for name, row in rows.items() if row["action"] == "delete" and row["kind"] != "bundles"}
    assert gone == {forgotten, "old.npz", draft.name}
    assert [artifacts.read(each) for each in (inner, young)] == [b"a plot", b"young"]
    assert (cached[0].exists(), cached[1].exists(), draft.exists()) == (False, True, False)
    with pytest.raises(LookupError):
        artifacts.read(forgotten)


def test_an_artifact_that_is_made_again_is_young_again(installation: Path) -> None:
    kept = artifacts.keep(b"made again")
    _grow_old(next(home().artifacts.rglob(kept)))
    artifacts.keep(b"made again")
    archiving.archive(PROJECT)
    assert artifacts.read(kept) == b"made again"


def test_what_is_nowhere_is_said_and_cannot_be_restored(installation: Path) -> None:
    found = open_registry().version(PROJECT, "1")
    assert found is not None
    shutil.rmtree(home().bundles / found.bundle)
    rows = {row["name"]: row["reason"] for row in archiving.archive(PROJECT, is_dry_run=True)["rows"]}
    assert rows["1"].startswith("NOWHERE")
    with pytest.raises(archiving.ArchiveError, match="among the archived bundles"):
        archiving.restore(PROJECT, "1")


def test_a_day_in_the_past_makes_nothing_old(installation: Path) -> None:
    rows = archiving.archive(PROJECT, today="2013-07-01")["rows"]
    assert {row["name"] for row in rows if row["action"] != "keep"} == {"1"}


def test_the_lineage_of_an_archived_version_is_as_whole_as_before(installation: Path) -> None:
    before = views.trace(f"{PROJECT}:8")
    archiving.archive(PROJECT)
    after = views.trace(f"{PROJECT}:8")
    assert after["gaps"] == before["gaps"]
    assert [node["state"] for node in after["nodes"]] == [node["state"] for node in before["nodes"]]
    found = open_registry().version(PROJECT, "8")
    assert found is not None
    shutil.rmtree(home().archive / "objects")
    damaged = views.trace(f"{PROJECT}:8")["gaps"]
    assert len(damaged) > len(before["gaps"])


def _die(patch: pytest.MonkeyPatch, moment: str) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise KilledError

    def half(folder: Path, **_: Any) -> None:
        next(Path(folder).iterdir()).unlink()
        raise KilledError

    if moment == "put":
        patch.setattr(archiving.Archive, "damage", killed)
    elif moment == "before it goes":
        patch.setattr(archiving, "_remove", killed)
    elif moment == "halfway gone":
        patch.setattr("pipelines.tasks.archiving.shutil.rmtree", half)
    elif moment == "before the ledger":
        patch.setattr(archiving, "_note_archived", killed)
    else:
        patch.setattr("pipelines.registry.mlflow_registry.MlflowRegistry.set_tags", killed)


def _snapshot(folder: Path, days: int) -> Snapshot:
    rows = [
        {
            "tailnum": f"N{number}",
            "scheduled": datetime(2013, 1, 1) + timedelta(days=day, hours=number),
            "distance": float(number),
            "late": number % 2 == 0,
        }
        for day in range(days)
        for number in range(5)
    ]
    label = Label(column="late", delay_days=1)
    rule = SplitRule(train_days=300, validation_days=5, test_days=5, minimum_train_days=5)
    as_of = (datetime(2013, 1, 1) + timedelta(days=days)).date()
    windows = choose_windows(as_of, label, rule, datetime(2013, 1, 1).date())
    return take_snapshot(folder / "snapshots", ibis.memtable(rows), windows, SCHEMA, label, PROJECT)


def _bundle(folder: Path, snapshot: Snapshot, number: int) -> Bundle:
    made = tiny_bundle(folder / "drafts", bias=number / 10)
    files = {name: (made.path / name).read_bytes() for name in made.manifest.files}
    manifest = msgspec.structs.replace(made.manifest, snapshot=snapshot.id, files={})
    return write_bundle(folder / "bundles", manifest, files)


def _failed_bundles(folder: Path) -> list[Path]:
    registered = {version.bundle for version in open_registry().versions(PROJECT)}
    return [path for path in (folder / "bundles").iterdir() if path.name not in registered]


def _grow_old(path: Path) -> None:
    os.utime(path, (LONG_AGO.timestamp(), LONG_AGO.timestamp()))


def _read(bundle: str) -> Bundle:
    from contracts.bundle import read_bundle

    return read_bundle(home().bundles / bundle, bundle)


def _archived() -> set[str]:
    return {version.version for version in open_registry().versions(PROJECT) if "archived" in version.tags}


def _content(version: Any) -> dict[str, bytes]:
    folders = (home().bundles / version.bundle, home().snapshots / version.tags["snapshot"])
    return {f"{folder.name}/{path.name}": path.read_bytes() for folder in folders for path in folder.iterdir()}


def _tree(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): path.stat().st_size
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(("ledger.db", "mlflow.db", ".archiving", ".removing"))
    }
