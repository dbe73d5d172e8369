"""The sceptic's part of the evaluation: references, signs of leaks, disturbed inputs, membership inference.

All randomness comes from the project's training seed, and all fits run on one thread: the same candidate on the same
snapshot is judged by the same numbers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipelines.tasks.cases import Case, Section
from pipelines.tasks.features import Part, encoded

if TYPE_CHECKING:
    import pyarrow as pa

    from pipelines.evaluation.references import Name

logger = logging.getLogger("paceline")
PARTS = ("train", "validation", "test")


def scrutinise(case: Case) -> list[Section]:
    """The sections "references", "sanity", "robustness" and "privacy" of a candidate's evaluation, with their gates.

    Membership inference is run for projects that are marked `sensitive` only; the section says when it was not.

    Raises:
        ValueError: the test rows have one class only, or lie on one day.
    """
    import sklearn.ensemble  # noqa: F401 (limits reach only libraries that are loaded)
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    parts = {part: encoded(case.project, case.snapshot, case.schema, part) for part in PARTS}
    with threadpool_limits(limits=1):
        return [_references(case, parts), _sanity(case, parts), _robustness(case), _privacy(case, parts)]


def _references(case: Case, parts: dict[str, Part]) -> Section:
    from pipelines.evaluation import references

    features, labels = _fitted(parts)
    scores: dict[Name, NDArray[Any]] = {
        "constant": references.constant_scores(labels, len(case.scores)),
        "simple model": references.simple_model_scores(case.schema, features, labels, case.test.features),
    }
    if case.rival_scores is not None:
        scores["champion"] = case.rival_scores
    seed = case.project.training.seed
    found = references.compare_with_references(case.scores, scores, case.test.labels, case.test.days, seed)
    gates = references.reference_gates(found, case.project.gates.references)
    logger.info("the challenger is %s", references.simple_model_verdict(found))
    return Section("references", msgspec.to_builtins(found), gates)


def _sanity(case: Case, parts: dict[str, Part]) -> Section:
    from pipelines.evaluation import leaks, sanity

    train, seed, limits = parts["train"], case.project.training.seed, case.project.gates.sanity
    table = case.snapshot.table()
    keys, rows = _row_bytes(case, parts, table)
    found = sanity.Sanity(
        parts=tuple(leaks.part_span(part, rows.labels, rows.days) for part, rows in parts.items()),
        fields=tuple(field.name for field in case.schema.fields),
        later=_later(case, table),
        alone=leaks.features_alone(case.schema, *train),
        missing=leaks.missing_tells(case.schema, *train, seed),
        duplicates=leaks.duplicates(keys, rows),
        shuffled=leaks.shuffled_target(leaks.quick_trees, train[:2], case.test[:2], seed),
    )
    return Section("sanity", msgspec.to_builtins(found), sanity.sanity_gates(found, limits))


def _robustness(case: Case) -> Section:
    from pipelines.evaluation import robustness

    limits = case.project.gates.robustness
    found = robustness.measure_robustness(
        unchecked_scorer(case.graph), case.schema, case.test, limits, case.project.training.seed
    )
    return Section("robustness", msgspec.to_builtins(found), robustness.robustness_gates(found, limits))


def _privacy(case: Case, parts: dict[str, Part]) -> Section:
    from pipelines.evaluation import privacy

    if not case.project.sensitive:
        reason = "the project is not marked sensitive: membership inference was not tried"
        return Section("privacy", {"ran": False, "reason": reason}, ())
    limits = case.project.gates.privacy
    sides = privacy.Sides(fitted=_fitted(parts), unseen=case.test[:2])
    seed = case.project.training.seed
    found = privacy.attack(unchecked_scorer(case.graph), sides, seed, limits.minimum_rows)
    content = {"ran": True, **msgspec.to_builtins(found)}
    return Section("privacy", content, privacy.privacy_gates(found, limits))


def unchecked_scorer(graph: bytes) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """What scores rows as the graph does, also where a score is no probability: the gates must see that one."""
    from pipelines.inference import INPUT, OUTPUT, open_session

    session = open_session(graph)

    def score(rows: NDArray[np.float32]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = session.run([OUTPUT], {INPUT: np.ascontiguousarray(rows)})[0].reshape(-1)
        return found

    return score


def _fitted(parts: dict[str, Part]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """The rows of the final fit, which has seen the validation rows too."""
    seen = (parts["train"], parts["validation"])
    return np.concatenate([part.features for part in seen]), np.concatenate([part.labels for part in seen])


def _later(case: Case, table: pa.Table) -> dict[str, float]:
    """For each timestamp field but the event's own: the share of rows in which it lies after the event."""
    moment = _moments(table, case.schema.time)
    others = [
        field.name for field in case.schema.fields if field.kind == "timestamp" and field.name != case.schema.time
    ]
    return {name: float((_moments(table, name) > moment).mean()) for name in others}


def _moments(table: pa.Table, name: str) -> NDArray[np.datetime64]:
    return np.asarray(table.column(name).to_numpy(zero_copy_only=False), dtype="datetime64[us]")


def _row_bytes(
    case: Case, parts: dict[str, Part], table: pa.Table
) -> tuple[dict[str, list[bytes]], dict[str, list[bytes]]]:
    """For each part the bytes of each row's key, and of all its fields but the time, with the label."""
    from pipelines.data.schema import PART_COLUMN
    from pipelines.evaluation.leaks import row_bytes

    part_of = np.asarray(table.column(PART_COLUMN).to_pylist())
    codes = {name: _codes(table, name) for name in _compared_as_they_are(case)}
    time_columns = {case.schema.columns.index(f"{case.schema.time}.{part}") for part in _time_parts(case)}
    kept = [position for position in range(len(case.schema.columns)) if position not in time_columns]
    identifiers = [field.name for field in case.schema.fields if field.kind == "identifier"]
    keys, rows = {}, {}
    for part, encoded_part in parts.items():
        mine = part_of == part
        keys[part] = row_bytes([codes[name][mine] for name in case.schema.key])
        rows[part] = row_bytes(
            [encoded_part.features[:, kept], encoded_part.labels, *(codes[name][mine] for name in identifiers)]
        )
    return keys, rows


def _compared_as_they_are(case: Case) -> set[str]:
    """Fields whose raw values tell rows apart: the key's, and identifiers, which no encoded column holds."""
    return {*case.schema.key, *(field.name for field in case.schema.fields if field.kind == "identifier")}


def _time_parts(case: Case) -> tuple[str, ...]:
    return next(field.parts for field in case.schema.fields if field.name == case.schema.time)


def _codes(table: pa.Table, name: str) -> NDArray[np.int32]:
    """A number for each distinct value of a column, the same in all parts; missing is -1."""
    import pyarrow.compute as pc

    indices = table.column(name).combine_chunks().dictionary_encode().indices
    return np.asarray(pc.fill_null(indices, -1).to_numpy(zero_copy_only=False), dtype=np.int32)
