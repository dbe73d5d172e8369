"""Deletion on request: all rows of one entity leave the prediction log, the outcomes and the review queue."""

import logging
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any

import msgspec

from pipelines.monitoring.compaction import locked
from pipelines.monitoring.forgetting import forget_entity
from pipelines.tasks import reviewing
from pipelines.tasks.labelling import masked_entity, open_store
from pipelines.wiring import find_mask, find_project, home, open_ledger

FORGOTTEN = "entity.forgotten"
logger = logging.getLogger("paceline")


def forget(project: str, entity: str, *, by: str, reason: str) -> dict[str, Any]:
    """Removes what was logged, told and queued of `entity` (in clear, or as the log has it) up to now.

    From its first moment no reader sees a row of it. What cannot go yet, a segment that a server writes, goes with the
    next nightly compaction. The ledger has the counts and a hash of the entity. Safe to repeat.

    Raises:
        ValueError: no entity, or nobody who asks for it.
        LookupError: no such project; the entity is personal, and there is no key of its mask.
        CompactionRunsError: a compaction of this log is at work.
    """
    found = find_project(project)
    if not entity.strip() or not by.strip() or not reason.strip():
        raise ValueError("whom to forget, who asks for it and why must be told: --entity, --by, --reason")
    logged, now = masked_entity(found, entity.strip()), datetime.now(UTC)
    root = home().predictions(project)
    with locked(root):
        removed = forget_entity(root, logged, now)
    outcomes, quarantined = open_store(project).forget(logged, removed.prediction_ids)
    reviewed = reviewing.forget_rows(project, logged, removed.prediction_ids)
    body: dict[str, Any] = {
        "project": project,
        "entity_hash": _hash(project, logged),
        "by": by.strip(),
        "reason": reason.strip(),
        "state": "done" if removed.is_done else "pending",
        "rows": removed.rows,
        "files": removed.files,
        "days": sorted(removed.days),
        "outcomes": outcomes,
        "quarantined": quarantined,
        "reviewed": reviewed,
        "held": removed.held,
        "damaged": [msgspec.to_builtins(each) for each in removed.damaged],
    }
    open_ledger().append(project, FORGOTTEN, body["entity_hash"], body)
    logger.info("%s rows of one entity of %s have gone", removed.rows, project)
    return body


def forgotten_text(done: dict[str, Any]) -> str:
    """What `forget` did, as lines for a terminal."""
    days = f" of {done['days'][0]} to {done['days'][-1]}" if done["days"] else ""
    lines = [
        f"{done['project']}: {done['rows']:,} predictions{days} have gone from {done['files']:,} files, "
        f"{done['outcomes']:,} outcomes, {done['quarantined']:,} rows in quarantine, "
        f"{done['reviewed']:,} in the review queue"
    ]
    lines += [f"  hidden, and gone with the next compaction: {path} is still being written" for path in done["held"]]
    lines += [
        f"  hidden, but still there: {each['path']} is damaged and cannot be written again ({each['reason']}); "
        "look at it, and remove it by hand"
        for each in done["damaged"]
    ]
    return "\n".join(lines)


def _hash(project: str, logged: str) -> str:
    """By the key of the project's masks, so that nobody without it can try entities; without one, a plain hash."""
    mask = find_mask(project)
    if mask is not None:
        return mask.value(logged)
    return "blake2b:" + blake2b(f"{project}\n{logged}".encode(), digest_size=16).hexdigest()
