"""Takes the rows of one entity out of the prediction log, while servers write to it and others read it.

First the entity is on the list of `forgotten`: from then on no reader sees a row of it that was served before. Then
each file that has some is written again without them, by one rename, as a compaction does it. A segment that a server
still writes cannot be: it stays on the list until it is closed, and the next compaction, or the same request, ends it.
"""

import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.monitoring.compaction import replace, replacement_name
from pipelines.monitoring.forgotten import Forgotten, forget, read_forgotten, write_forgotten
from pipelines.monitoring.predictions import connected, refusal
from pipelines.monitoring.retention import count_also
from pipelines.monitoring.segments import (
    COMPACTED,
    SAMPLED,
    SAMPLING,
    DamagedSegment,
    Files,
    days_of,
    is_held,
    list_files,
)

KEPT_LISTED_S = 7200.0  # what a server has answered and not yet written comes within this, or its disk is full


@dataclass
class Removed:
    """Rows that have gone, from how many files, and the ids they had; `held` segments still have some.

    `damaged` files cannot be written again without losing what else is in them: somebody has to look at those.
    """

    rows: int = 0
    files: int = 0
    days: list[str] = field(default_factory=list)
    prediction_ids: list[str] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    damaged: list[DamagedSegment] = field(default_factory=list)

    @property
    def is_done(self) -> bool:
        """Whether nothing of the entity is left on the disk."""
        return not self.held and not self.damaged


def forget_entity(root: Path, entity: str, now: datetime) -> Removed:
    """Removes the rows of `entity` (as logged) that were served before `now`; call it within the compaction's lock.

    Safe to repeat after a crash.

    Raises:
        OSError: the disk refuses; the rows are hidden, and the files are as they were.
        CompactionError: a new file is not what it should be; nothing was replaced by it.
    """
    root.mkdir(parents=True, exist_ok=True)
    wanted = forget(entity, now)
    write_forgotten(root, (*read_forgotten(root), wanted))
    return _remove_rows(root, wanted)


def finish_forgetting(root: Path, now: datetime) -> int:
    """Goes on with what could not be ended, and says how many entities are still on the list. As `forget_entity`."""
    listed = read_forgotten(root)
    if not listed:
        return 0
    open_still = tuple(
        each for each in listed if not _remove_rows(root, each).is_done or each.age_s(now) < KEPT_LISTED_S
    )
    if open_still != listed:
        write_forgotten(root, open_still)
    return len(open_still)


def _remove_rows(root: Path, wanted: Forgotten) -> Removed:
    removed = Removed()
    last = (datetime.fromisoformat(wanted.before) + timedelta(days=2)).date().isoformat()  # clocks may be ahead
    for day in days_of(root, lambda day: day <= last):
        files = list_files(root, lambda each, day=day: each == day)  # type: ignore[misc]
        removed.damaged += files.damaged
        for path in files.replaced:  # left behind by a crash, and may have rows of anybody
            path.unlink(missing_ok=True)
        for path in files.all:
            _remove_from(root, day, path, wanted, removed)
    return removed


def _remove_from(root: Path, day: str, path: Path, wanted: Forgotten, removed: Removed) -> None:
    name = path.relative_to(root).as_posix()
    held = path.suffix == ".arrows" and is_held(path)  # asked before it is read: once let go, it never grows again
    damaged: list[DamagedSegment] = []
    try:
        with connected(root, _only(path), damaged, hidden=()) as connection:
            query = f"SELECT prediction_id, {wanted.condition} AS wanted FROM predictions"
            rows = connection.sql(query).to_arrow_table()
    except duckdb.Error:
        if (reason := refusal(path)) is None:
            raise
        removed.damaged.append(DamagedSegment(name, reason))
        return
    ids = rows.filter(rows["wanted"])["prediction_id"].to_pylist()
    removed.damaged += damaged  # what comes after the damage may be of anybody
    if not ids or damaged:
        return
    if held:
        removed.held.append(name)
        return
    rest = rows.num_rows - len(ids)
    is_sample = path.name.startswith(SAMPLED)
    prefix = SAMPLED if is_sample else COMPACTED
    metadata = {SAMPLING: _sampling(path, rest)} if is_sample else {}
    count_also(root, day, path.name, replacement_name(prefix, [path.name]))
    replace(root, path.parent, prefix, _only(path), rows=rest, metadata=metadata, hidden=(wanted,))
    removed.rows += len(ids)
    removed.files += 1
    removed.prediction_ids += ids
    if day not in removed.days:
        removed.days.append(day)


def _only(path: Path) -> Files:
    is_stream = path.suffix == ".arrows"
    return Files((path,) if is_stream else (), () if is_stream else (path,), (), ())


def _sampling(path: Path, kept_rows: int) -> object:
    try:
        found = json.loads((pq.read_schema(path).metadata or {})[SAMPLING.encode()])
    except (KeyError, pa.ArrowException):
        return {"kept_rows": kept_rows}
    return found | {"kept_rows": kept_rows}
