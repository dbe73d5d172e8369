"""Whether the inputs and the scores of live predictions drifted away from the bundle's baseline. Pure.

Each encoded column is compared with the training rows, the scores with those of the test rows. A change counts only
when it is large (a distance above its limit), unlikely to be chance (false-discovery control over all columns that
count), and seen on enough rows: an alarm on every p-value is an alarm that people switch off. Too few rows are an
answer of their own, and never "no drift".
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from contracts.bundle import Baseline, CategoryBaseline, NumberBaseline
from contracts.input_schema import InputSchema
from pipelines.monitoring.day_summaries import Days, Layout, baseline_counts, layout_of, summarise
from pipelines.monitoring.drift_limits import DriftLimits
from pipelines.statistics.distances import (
    homogeneity_p_value,
    jensen_shannon_divergence,
    population_stability_index,
)
from pipelines.statistics.false_discovery import adjusted_p_values

Answer = Literal["drift", "no_drift", "no_data"]


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """Moments and quartiles of a number column, over the rows that have a value."""

    mean: float
    standard_deviation: float
    quartiles: tuple[float, float, float]


class ColumnDrift(msgspec.Struct, frozen=True, kw_only=True):
    """One column against its baseline. `distance` is beyond what chance alone gives; None where nothing was compared.

    `adjusted_p_value` is that of the values, `missing_adjusted_p_value` that of the missing share, both after
    false-discovery control; None for columns that do not count.
    """

    column: str
    answer: Answer
    counts: bool
    reason: str
    rows: int
    measure: Literal["population_stability_index", "jensen_shannon_divergence"]
    distance: float | None = None
    limit: float
    adjusted_p_value: float | None = None
    missing_share: float | None = None
    baseline_missing_share: float | None = None
    missing_adjusted_p_value: float | None = None
    baseline: Summary | None = None
    current: Summary | None = None


class DriftReport(msgspec.Struct, frozen=True, kw_only=True):
    """All columns and the scores. `inputs`, `scores` and `outcomes` are the answers, `reason` says why for inputs."""

    rows: int
    inputs: Answer
    scores: Answer
    reason: str
    columns: tuple[ColumnDrift, ...]
    score: ColumnDrift
    outcomes: Answer = "no_data"
    outcomes_reason: str = "outcomes: not looked at"

    @property
    def drifted(self) -> tuple[str, ...]:
        """The columns that drifted and count, the largest distance in units of its limit first."""
        return tuple(column.column for column in _drifted(self.columns))


class _Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a column before the p-values of all columns are adjusted together."""

    column: str
    counts: bool
    rows: int
    distance: float | None
    p_value: float | None
    missing_share: float | None
    baseline_missing_share: float | None
    missing_p_value: float | None
    numeric: bool
    limit: float
    why_not: str = ""
    baseline: Summary | None = None
    current: Summary | None = None


def find_drift(
    baseline: Baseline,
    schema: InputSchema,
    rows: NDArray[np.float32],
    scores: NDArray[np.float32],
    limits: DriftLimits,
) -> DriftReport:
    """Compares live predictions of one version with the baseline of its bundle.

    Args:
        baseline: of the bundle that made the predictions.
        schema: of the same bundle.
        rows: their encoded inputs, of shape (n, columns); personal fields, which are masked in the log, are all NaN.
        scores: of shape (n,), in [0, 1].

    Raises:
        ValueError: the shapes do not fit the schema or each other, or `limits.ignored` names no field or column.
    """
    if rows.ndim != 2 or rows.shape[1] != len(schema.columns):
        raise ValueError(f"rows of {len(schema.columns)} columns are needed, found the shape {rows.shape}")
    if scores.shape != rows.shape[:1]:
        raise ValueError(f"one score a row is needed, found {scores.shape[0]} scores and {rows.shape[0]} rows")
    layout = layout_of(baseline, schema)
    total = summarise(layout, rows, scores, np.zeros(len(rows), dtype=np.int64))
    return compare(baseline, schema, layout, total, limits)


def compare(baseline: Baseline, schema: InputSchema, layout: Layout, total: Days, limits: DriftLimits) -> DriftReport:
    """`find_drift` of live predictions that are summarised already: `total` has all of them as one, or none.

    Raises:
        ValueError: `limits.ignored` names no field or column.
    """
    ignored = columns_named(limits.ignored, schema)
    masked = {column for field in schema.fields if field.personal for column in field.columns}
    before = baseline_counts(baseline, layout)
    rows = int(total.rows.sum())
    measured = [
        _measure(column, place, before[place], baseline, total, limits, column in ignored, column in masked)
        for place, column in enumerate(schema.columns)
    ]
    score = _measure_scores(total, baseline, limits)
    adjusted = _adjust([*measured, score])
    columns = tuple(_answer(item, adjusted, limits, baseline.rows) for item in measured)
    score_drift = _answer(score, adjusted, limits, sum(baseline.score_counts))
    inputs = _overall(columns, limits)
    return DriftReport(
        rows=rows,
        inputs=inputs,
        scores=score_drift.answer,
        reason=_reason(inputs, columns, rows, limits),
        columns=columns,
        score=score_drift,
    )


def bin_scores(scores: NDArray[np.float32], bins: int) -> list[int]:
    """How many scores lie in each of `bins` parts of equal width of [0, 1]; what is no number is left out."""
    known = scores[np.isfinite(scores)]
    places = np.clip((known * bins).astype(np.int64), 0, bins - 1)
    counts: list[int] = np.bincount(places, minlength=bins).tolist()
    return counts


def columns_named(names: Sequence[str], schema: InputSchema) -> frozenset[str]:
    """The columns that `names` of fields or columns stand for. Raises ValueError for a name that is neither."""
    parts = {field.name: field.columns for field in schema.fields}
    found: set[str] = set()
    for name in names:
        if name in schema.columns:
            found.add(name)
        elif name in parts:
            found.update(parts[name])
        else:
            raise ValueError(f"ignored names {name!r}, which is no field or column; fields: {', '.join(parts)}")
    return frozenset(found)


def _measure(
    column: str,
    place: int,
    before: NDArray[np.int64],
    baseline: Baseline,
    total: Days,
    limits: DriftLimits,
    ignored: bool,
    masked: bool,
) -> _Measured:
    reference = baseline.categories.get(column) or baseline.numbers.get(column)
    numeric = not isinstance(reference, CategoryBaseline)
    rows, missing = int(total.rows.sum()), int(total.missing[:, place].sum())
    nothing = _Measured(
        column=column,
        counts=not ignored and not masked,
        rows=rows,
        distance=None,
        p_value=None,
        missing_share=None,
        baseline_missing_share=None,
        missing_p_value=None,
        numeric=numeric,
        limit=limits.psi_minimum if numeric else limits.jensen_shannon_minimum,
    )
    if masked:
        return msgspec.structs.replace(nothing, why_not="a personal field, which is masked in the log")
    if reference is None:
        return msgspec.structs.replace(nothing, why_not="the bundle has no baseline for it")
    if rows < limits.minimum_rows:
        return msgspec.structs.replace(nothing, why_not=f"{rows:,} rows < {limits.minimum_rows:,}")
    if _is_one_wide_cell(reference):
        return msgspec.structs.replace(nothing, why_not="the bundle's baseline has one cell for all its values")
    cells = before.tolist(), total.counts[place].sum(axis=0).tolist()
    shares = [reference.missing, sum(cells[0])], [missing, rows - missing]
    comparable = sum(cells[0]) > 0 and rows - missing >= limits.minimum_rows
    distance = population_stability_index if numeric else jensen_shannon_divergence
    return msgspec.structs.replace(
        nothing,
        distance=distance(*cells) if comparable else None,
        p_value=homogeneity_p_value(*cells) if comparable else None,
        missing_share=missing / rows,
        baseline_missing_share=reference.missing / sum(shares[0]) if sum(shares[0]) else None,
        missing_p_value=homogeneity_p_value(*shares) if sum(shares[0]) else None,
        why_not="" if comparable else f"{rows - missing:,} rows with a value < {limits.minimum_rows:,}",
        baseline=_summary_of(reference),
        current=_summarise(total, place) if numeric and rows > missing else None,
    )


def _measure_scores(total: Days, baseline: Baseline, limits: DriftLimits) -> _Measured:
    before, after = list(baseline.score_counts), total.score_counts.sum(axis=0).tolist()
    comparable = sum(before) > 0 and sum(after) >= limits.minimum_rows
    why_not = f"{sum(after):,} rows < {limits.minimum_rows:,}" if sum(before) else "the bundle has no baseline for it"
    return _Measured(
        column="score",
        counts=True,
        rows=int(total.rows.sum()),
        distance=population_stability_index(before, after) if comparable else None,
        p_value=homogeneity_p_value(before, after) if comparable else None,
        missing_share=None,
        baseline_missing_share=None,
        missing_p_value=None,
        numeric=True,
        limit=limits.score_psi_minimum,
        why_not="" if comparable else why_not,
        current=_summarise(total, -1) if comparable else None,
    )


def _is_one_wide_cell(reference: NumberBaseline | CategoryBaseline) -> bool:
    """Whether the baseline keeps several values in one cell, so that nothing within it can be seen to change."""
    return (
        isinstance(reference, NumberBaseline)
        and len(reference.counts) == 1
        and bool(reference.edges[1] > np.nextafter(reference.edges[0], np.inf))
    )


def _summary_of(reference: NumberBaseline | CategoryBaseline) -> Summary | None:
    if isinstance(reference, CategoryBaseline):
        return None
    return Summary(mean=reference.mean, standard_deviation=reference.standard_deviation, quartiles=reference.quartiles)


def _summarise(total: Days, place: int) -> Summary:
    """Mean and deviation are exact; quartiles are those of the sample, as are all of the scores (place -1)."""
    known = total.values(place)
    low, middle, high = np.quantile(known, [0.25, 0.5, 0.75]).tolist()
    mean, spread = float(known.mean()), float(known.std())
    if place >= 0:
        count = int((total.rows - total.missing[:, place]).sum())
        mean = float(total.sums[:, place].sum()) / count
        spread = max(0.0, float(total.squares[:, place].sum()) / count - mean**2) ** 0.5
    return Summary(mean=mean, standard_deviation=spread, quartiles=(low, middle, high))


def _adjust(measured: Sequence[_Measured]) -> dict[tuple[str, str], float]:
    """The adjusted p-value of each test, by column and what was tested; columns that do not count make no family."""
    tests = [
        ((item.column, what), p_value)
        for item in measured
        if item.counts
        for what, p_value in (("values", item.p_value), ("missing", item.missing_p_value))
        if p_value is not None
    ]
    return dict(zip([key for key, _ in tests], adjusted_p_values([p for _, p in tests]), strict=True))


def _answer(
    item: _Measured, adjusted: Mapping[tuple[str, str], float], limits: DriftLimits, baseline_rows: int
) -> ColumnDrift:
    # a column that does not count is judged by its own p-value: it is shown, and nothing rests on it
    p_value = adjusted.get((item.column, "values"), item.p_value)
    missing_p_value = adjusted.get((item.column, "missing"), item.missing_p_value)
    answer, reason = _judge(item, p_value, missing_p_value, limits)
    if answer != "no_data":
        reason = f"{reason} (n = {item.rows:,} against {baseline_rows:,})"
    return ColumnDrift(
        column=item.column,
        answer=answer,
        counts=item.counts,
        reason=reason,
        rows=item.rows,
        measure="population_stability_index" if item.numeric else "jensen_shannon_divergence",
        distance=item.distance,
        limit=item.limit,
        adjusted_p_value=p_value if item.counts else None,
        missing_share=item.missing_share,
        baseline_missing_share=item.baseline_missing_share,
        missing_adjusted_p_value=missing_p_value if item.counts else None,
        baseline=item.baseline,
        current=item.current,
    )


def _judge(
    item: _Measured, p_value: float | None, missing_p_value: float | None, limits: DriftLimits
) -> tuple[Answer, str]:
    name = "PSI" if item.numeric else "JS divergence"
    found: list[str] = []
    unlikely = p_value is not None and p_value <= limits.false_discovery
    if item.distance is not None and item.distance > item.limit and unlikely:
        found.append(f"{name} {item.distance:.3f} > {item.limit:g}")
    if item.missing_share is not None and item.baseline_missing_share is not None and missing_p_value is not None:
        change = abs(item.missing_share - item.baseline_missing_share)
        if change > limits.missing_share_minimum and missing_p_value <= limits.false_discovery:
            shares = f"{item.missing_share:.3f} against {item.baseline_missing_share:.3f}"
            found.append(f"missing share {shares}: change {change:.3f} > {limits.missing_share_minimum:g}")
    if found:
        return "drift", "; ".join(found)
    if item.distance is None:
        return "no_data", item.why_not
    if item.distance > item.limit:
        return "no_drift", f"{name} {item.distance:.3f} > {item.limit:g}, which may be chance: p {p_value:.3f}"
    return "no_drift", f"{name} {item.distance:.3f} <= {item.limit:g}"


def _drifted(columns: Sequence[ColumnDrift]) -> list[ColumnDrift]:
    found = [column for column in columns if column.counts and column.answer == "drift"]
    return sorted(found, key=lambda column: -(column.distance or 0.0) / column.limit)


def _overall(columns: Sequence[ColumnDrift], limits: DriftLimits) -> Answer:
    counting = [column for column in columns if column.counts]
    if sum(column.answer == "drift" for column in counting) >= limits.minimum_columns:
        return "drift"
    return "no_drift" if any(column.answer == "no_drift" for column in counting) else "no_data"


def _reason(inputs: Answer, columns: Sequence[ColumnDrift], rows: int, limits: DriftLimits) -> str:
    counting = [column for column in columns if column.counts]
    drifted = _drifted(columns)
    if inputs == "no_data":
        text = f"inputs: no data ({rows:,} rows, {limits.minimum_rows:,} are needed)"
    else:
        relation = ">=" if inputs == "drift" else "<"
        text = (
            f"inputs: {len(drifted)} of {len(counting)} columns that count drifted {relation} {limits.minimum_columns}"
        )
    for column in drifted[:3]:
        text += f"; {column.column}: {column.reason}"
    return text
