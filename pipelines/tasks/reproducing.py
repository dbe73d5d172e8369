"""A registered version made again, from its snapshot, its commit and its lock, and compared with what is on record.

Everything is made in a scratch home: the registry, the aliases and the user's own folders are only read, and the ledger
gets the one entry `reproduction`.
"""

import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from contracts.bundle import MANIFEST, Bundle, read_bundle
from contracts.hashing import file_id
from pipelines.data.snapshots import Snapshot, read_snapshot
from pipelines.governance import reproduction
from pipelines.governance.archive import Archive, Kind
from pipelines.governance.commits import checked_out
from pipelines.governance.environments import environment_of
from pipelines.registry.port import Version
from pipelines.tasks import artifacts
from pipelines.wiring import DIRTY, LOCK, clone, find_project, home, machine, open_ledger, open_registry

__all__ = ["NotReproducibleError", "reproduce", "reproduced_text"]
logger = logging.getLogger("paceline")
REBUILDING = "pipelines.tasks.rebuilding"
_OURS = ("PACELINE_", "MLFLOW_", "AIRFLOW", "PYTHON")  # of the environment: nothing of this home is reached from there
_LINES_KEPT = 20
Progress = Callable[[str], None]


class NotReproducibleError(LookupError):
    """A version of which something is not on record: what, and what can be done."""


def reproduce(
    project: str,
    version: str,
    *,
    tolerance: float = reproduction.DEFAULT_TOLERANCE,
    accept_dirty: bool = False,
    progress: Progress = logger.info,
) -> dict[str, Any]:
    """Trains `version` (a number or an alias) again and compares the bundles; the outcome is `equal`, `close` or
    `different`, see `pipelines.governance.reproduction`.

    `tolerance` is of a score, and counts only where the hardware makes equal bytes impossible. `accept_dirty` tries the
    commit also where changes on top of it were never committed.

    Raises:
        LookupError: there is no such version, or its commit, snapshot, bundle or configuration cannot be had.
        RuntimeError: its lock cannot be installed, or its training failed; the message has the last lines.
    """
    find_project(project)
    if not 0 <= tolerance <= 1:
        raise ValueError(f"tolerance: found {tolerance}, expected a difference of scores from 0 to 1")
    found = open_registry().version(project, version)
    if found is None:
        known = ", ".join(each.version for each in open_registry().versions(project)) or "none"
        raise LookupError(f"{project} has no version {version}; registered are: {known}")
    commit, notes = _commit_of(found, accept_dirty)
    started = time.monotonic()
    with _scratch() as scratch:
        progress(f"version {found.version}: bundle {found.bundle[:12]} and its snapshot")
        recorded = read_bundle(_at_hand("bundles", found.bundle, scratch / "recorded"), found.bundle)
        _at_hand("snapshots", recorded.manifest.snapshot, scratch / "home" / "snapshots")
        snapshot = read_snapshot(scratch / "home" / "snapshots", recorded.manifest.snapshot)
        progress(f"commit {commit[:12]}")
        with checked_out(clone(), commit, scratch) as code:
            made = _make(recorded, found, code, scratch, progress)
        progress("comparing")
        compared = _compare(recorded, made, snapshot, found, tolerance)
    result: dict[str, Any] = {
        **msgspec.to_builtins(compared),
        "version": found.version,
        "bundle": recorded.id,
        "snapshot": recorded.manifest.snapshot,
        "commit": found.tags["commit"],
        "lock": recorded.manifest.lock,
        "notes": notes,
        "seconds": round(time.monotonic() - started, 1),
    }
    open_ledger().append(project, "reproduction", found.version, result)
    return result


def reproduced_text(result: dict[str, Any]) -> str:
    """What `reproduce` found, as lines for a terminal."""
    lines = [f"version {result['version']}: {result['outcome']} ({result['seconds']:g} s)", f"  {result['reason']}"]
    lines += [f"  commit {result['commit']}, snapshot {result['snapshot'][:12]}, lock {result['lock'][:12]}"]
    for file in result["files"]:
        sizes = f"{file['bytes_recorded']} bytes on record, {file['bytes_made']} now"
        lines.append(f"  {file['name']}: {sizes}, {file['where']}")
    return "\n".join([*lines, *(f"  note: {note}" for note in result["notes"])])


def _commit_of(version: Version, accept_dirty: bool) -> tuple[str, list[str]]:
    """The commit to check out, and what must be known about it."""
    tagged = version.tags.get("commit", "")
    if tagged in ("", "unknown"):
        raise NotReproducibleError(
            f"version {version.version} was trained by code outside of a git clone, so its commit is not on record: "
            "train in a clone, or set PACELINE_COMMIT where the code is installed from one"
        )
    commit = tagged.removesuffix(DIRTY)
    if commit == tagged:
        return commit, []
    if not accept_dirty:
        raise NotReproducibleError(
            f"version {version.version} was trained with changes on top of {commit} that were never committed: nothing "
            "on record has that code. Commit and retrain; or compare with the commit itself: --accept-dirty"
        )
    return commit, ["trained with changes that were never committed; this is what their commit gives without them"]


@contextmanager
def _scratch() -> Iterator[Path]:
    below = home().cache / "reproductions"
    below.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=below))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _at_hand(kind: Kind, name: str, root: Path) -> Path:
    """A copy of the bundle or snapshot `name` below `root`, from where it is hot, or else from the archive."""
    hot = home().root / kind / name
    try:
        return Path(shutil.copytree(hot, root / name))
    except FileNotFoundError as error:
        archive = Archive(home().archive)
        shutil.rmtree(root / name, ignore_errors=True)  # it went in the middle of the copy
        if archive.has(kind, name):
            return archive.restore(kind, name, root)
        raise NotReproducibleError(f"{name} is neither in {hot.parent} nor in {home().archive}") from error


def _make(recorded: Bundle, version: Version, code: Path, scratch: Path, progress: Progress) -> Bundle:
    """Runs the commit's own code on what is on record, in the scratch home, and returns what it made."""
    manifest = recorded.manifest
    if not (code / f"{REBUILDING.replace('.', '/')}.py").exists():
        raise NotReproducibleError(
            f"the commit of version {version.version} is older than reproduction: it has no {REBUILDING}"
        )
    interpreter = _interpreter(manifest.lock, code, version, progress)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)} | {
        "PACELINE_HOME": str(scratch / "home"),
        "PACELINE_PROJECTS": str(_configuration(version, code, scratch)),
        "PACELINE_COMMIT": version.tags["commit"],
        "PYTHONPATH": str(code),
    }
    request = {
        "format": 1,
        "project": manifest.project,
        "snapshot": manifest.snapshot,
        "trainer": manifest.trainer,
        "optimization": manifest.optimization,
        "parameters": manifest.parameters,
    }
    (scratch / "request.json").write_text(json.dumps(request))
    answer = _run([interpreter, "-m", REBUILDING], code, environment, scratch / "request.json", progress)
    made: str = json.loads(answer.splitlines()[-1])["bundle"]
    return read_bundle(scratch / "home" / "bundles" / made, made)


def _interpreter(lock: str, code: Path, version: Version, progress: Progress) -> str:
    """The present one where the lock is the present one, or else that of an environment made from the commit's lock."""
    its_lock = code / LOCK.name
    if not its_lock.exists() or (found := file_id(its_lock)) != lock:
        named = "none" if not its_lock.exists() else found
        raise NotReproducibleError(
            f"version {version.version} was trained with the lock {lock}, and its commit has {named}: it was changed "
            "without a commit"
        )
    if file_id(LOCK) == lock:
        return sys.executable
    minor = ".".join(version.tags.get("python", "").split(".")[:2])
    python = shutil.which(f"python{minor}") if minor else None
    return str(environment_of(its_lock, home().cache / "environments", progress, python))


def _configuration(version: Version, code: Path, scratch: Path) -> Path:
    """The projects folder with the project as it was when the version was registered, wherever that folder was."""
    kept = version.tags.get("configuration")
    if kept is None:
        return code / "projects"
    artifacts.write_folder(kept, scratch / "projects" / version.project)
    return scratch / "projects"


def _run(command: list[str], folder: Path, environment: dict[str, str], request: Path, progress: Progress) -> str:
    """What `command` wrote to standard output; what it says on standard error is shown line by line."""
    said: list[str] = []
    with (
        request.open() as asked,
        tempfile.TemporaryFile("w+") as written,
        subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=asked,
            stdout=written,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        assert process.stderr is not None
        try:
            for line in process.stderr:
                said = [*said, line.rstrip()][-_LINES_KEPT:]
                progress(said[-1][:160])
            process.wait()
        except BaseException:
            process.kill()
            raise
        if process.returncode:
            raise RuntimeError(f"the training ended with {process.returncode}: " + "\n".join(said))
        written.seek(0)
        return written.read()


def _compare(
    recorded: Bundle, made: Bundle, snapshot: Snapshot, version: Version, tolerance: float
) -> reproduction.Reproduction:
    excuse = reproduction.excuse(version.tags, machine())
    if recorded.id == made.id:
        return reproduction.judge(recorded.id, made.id, (), None, excuse, tolerance)
    files = reproduction.compare_files(_files(recorded), _files(made))
    return reproduction.judge(recorded.id, made.id, files, _score_both(recorded, made, snapshot), excuse, tolerance)


def _files(bundle: Bundle) -> dict[str, bytes]:
    """All files; of the manifest only what it says itself: the hashes of the others would repeat them."""
    own = msgspec.structs.replace(bundle.manifest, files={})
    return {name: (bundle.path / name).read_bytes() for name in bundle.manifest.files} | {
        MANIFEST: msgspec.json.encode(own, order="deterministic")
    }


def _score_both(recorded: Bundle, made: Bundle, snapshot: Snapshot) -> reproduction.ScoreDifference | None:
    from contracts.encoder import Encoder
    from pipelines.inference import score

    if recorded.manifest.files == made.manifest.files:
        return None
    scores = []
    for bundle in (recorded, made):
        records = snapshot.records("test", tuple(field.name for field in bundle.schema.fields))
        scores.append(score(bundle.model_path, Encoder(bundle.schema).encode_rows(records)))
    return reproduction.compare_scores(scores[0], scores[1])
