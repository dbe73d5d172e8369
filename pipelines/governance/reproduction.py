"""Whether a version that was made again is the version: file by file, score by score, and what follows from it.

Equal is byte for byte. Where the processor is another, or a GPU did the sums, bytes cannot be asked for: then scores
within a stated tolerance are an outcome of its own, `close`. On the same kind of processor nothing excuses a
difference.
"""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

Outcome = Literal["equal", "close", "different"]
DEFAULT_TOLERANCE = 0.01  # of a score, on the worst test row
_SHOWN_CHARACTERS = 60


class FileDifference(msgspec.Struct, frozen=True, kw_only=True):
    """A file of the bundle that came out otherwise: its sizes in bytes (None: there is none), and where it differs.

    `first_byte` counts from 0; `where` names the place in words: a path with both values in JSON, a line of text.
    """

    name: str
    bytes_recorded: int | None
    bytes_made: int | None
    first_byte: int | None
    where: str


class ScoreDifference(msgspec.Struct, frozen=True, kw_only=True):
    """How far the scores of the two bundles are apart on the test rows: how many differ at all, worst, and mean."""

    rows: int
    different: int
    worst: float
    mean: float


class Reproduction(msgspec.Struct, frozen=True, kw_only=True):
    """The answer: `recorded` and `made` are bundle ids; `excuse` is what makes equal bytes impossible, if anything."""

    outcome: Outcome
    reason: str
    recorded: str
    made: str
    files: tuple[FileDifference, ...] = ()
    scores: ScoreDifference | None = None
    excuse: str | None = None
    tolerance: float = DEFAULT_TOLERANCE


def judge(
    recorded: str,
    made: str,
    files: tuple[FileDifference, ...],
    scores: ScoreDifference | None,
    excuse: str | None,
    tolerance: float = DEFAULT_TOLERANCE,
) -> Reproduction:
    """The outcome. `scores` is None where the bundles are equal, or where they cannot score the same rows."""
    if recorded == made:
        outcome: Outcome = "equal"
        reason = f"the bundle has the same hash, {made}"
    else:
        names = ", ".join(file.name for file in files) or "the manifest"
        apart = "the scores cannot be compared" if scores is None else _apart(scores)
        within = scores is not None and scores.worst <= tolerance
        outcome = "close" if excuse is not None and within else "different"
        bound = "" if scores is None else f", {'within' if within else 'beyond'} the tolerance of {tolerance:g}"
        excused = "nothing excuses it" if excuse is None else f"equal bytes are impossible here: {excuse}"
        reason = f"{names} differ; {apart}{bound}; {excused}"
    return Reproduction(
        outcome=outcome,
        reason=reason,
        recorded=recorded,
        made=made,
        files=files,
        scores=scores,
        excuse=excuse,
        tolerance=tolerance,
    )


def excuse(tags: Mapping[str, str], machine: str) -> str | None:
    """What makes equal bytes impossible: another kind of processor, or sums on a GPU; None where nothing does.

    `tags` are those of the registered version, `machine` is the present one.
    """
    device = tags.get("device", "cpu")
    if not device.startswith("cpu"):
        return f"it was trained on {device}, whose sums have no fixed order"
    trained_on = tags.get("machine")
    if trained_on is not None and trained_on != machine:
        return f"it was trained on {trained_on}, and this is {machine}"
    return None


def compare_files(recorded: Mapping[str, bytes], made: Mapping[str, bytes]) -> tuple[FileDifference, ...]:
    """The files that differ, or that only one of the two has, by name."""
    names = sorted(recorded.keys() | made.keys())
    return tuple(
        _difference(name, recorded.get(name), made.get(name)) for name in names if recorded.get(name) != made.get(name)
    )


def compare_scores(recorded: NDArray[np.float32], made: NDArray[np.float32]) -> ScoreDifference:
    """How far the scores for the same rows, each of shape (rows,), are apart.

    Raises:
        ValueError: not as many scores, or none.
    """
    if recorded.shape != made.shape or not len(recorded):
        raise ValueError(f"found scores of the shapes {recorded.shape} and {made.shape}, expected the same rows")
    apart = np.abs(recorded.astype(np.float64) - made.astype(np.float64))
    return ScoreDifference(
        rows=len(apart), different=int((apart > 0).sum()), worst=float(apart.max()), mean=float(apart.mean())
    )


def _apart(scores: ScoreDifference) -> str:
    if not scores.different:
        return f"all {scores.rows:,} test rows have the same score"
    return f"{scores.different:,} of {scores.rows:,} test rows have another score, by {scores.worst:.2e} at worst"


def _difference(name: str, recorded: bytes | None, made: bytes | None) -> FileDifference:
    first: int | None = None
    if recorded is None or made is None:
        where = f"only the bundle {'made now' if recorded is None else 'on record'} has it"
    else:
        first = _first_byte(recorded, made)
        where = _where(name, recorded, made, first)
    return FileDifference(
        name=name,
        bytes_recorded=None if recorded is None else len(recorded),
        bytes_made=None if made is None else len(made),
        first_byte=first,
        where=where,
    )


def _first_byte(one: bytes, other: bytes) -> int:
    common = min(len(one), len(other))
    differing = np.frombuffer(one[:common], np.uint8) != np.frombuffer(other[:common], np.uint8)
    return int(np.argmax(differing)) if differing.any() else common


def _where(name: str, recorded: bytes, made: bytes, first: int) -> str:
    if name.endswith(".json"):
        found = _json_path(msgspec.json.decode(recorded), msgspec.json.decode(made), "")
        return found or "the same values, written otherwise"
    if name.endswith((".md", ".html", ".txt")):
        return f"line {recorded[:first].count(10) + 1}"
    return f"byte {first:,}"


def _json_path(recorded: Any, made: Any, path: str) -> str | None:
    """The first place where two JSON values differ, with both values; None where they are equal."""
    if isinstance(recorded, dict) and isinstance(made, dict):
        for key in sorted(recorded.keys() | made.keys()):
            where = f"{path}.{key}" if path else key
            if key not in made or key not in recorded:
                return f"{where}: only on {'record' if key in recorded else 'what was made now'}"
            if (found := _json_path(recorded[key], made[key], where)) is not None:
                return found
        return None
    if isinstance(recorded, list) and isinstance(made, list):
        for position, (one, other) in enumerate(zip(recorded, made, strict=False)):
            if (found := _json_path(one, other, f"{path}[{position}]")) is not None:
                return found
        return None if len(recorded) == len(made) else f"{path}: {len(recorded)} items on record, {len(made)} now"
    return None if recorded == made else f"{path}: {_shown(recorded)} on record, {_shown(made)} now"


def _shown(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"
