"""Slices: parts of the test rows on which a challenger may be worse than its average says.

Declared fields are looked at group by group. Beyond them, all slices of one and of two features are looked at:
categories by word, numbers between quantiles of the training rows. What is compared is the log loss, paired with the
champion's (or, where there is none, with that of always saying the base rate), by `pipelines.statistics.clustered`.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.gate import Gate
from pipelines.evaluation.groups import Grouping
from pipelines.evaluation.slice_search import Differences, search_one, search_two
from pipelines.statistics.classification import auc, log_losses

WORST = 20
FAMILIES = 2  # slices of one feature and those of two are tested apart, each at its part of the level
_NAMED = 5
Floats = NDArray[np.float64]
Verdict = Literal["worse", "may be worse", "not worse", "too few rows"]
Reference = Literal["champion", "base rate"]


class SliceLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which parts of the test rows are looked at, and how much worse the challenger may be there.

    `fields` are declared slices: each word of a category, each range of a number (between the training rows'
    quantiles). With at least `minimum_rows` on `minimum_days` days, the upper 95 % bound of the difference in log loss
    must be at most `log_loss_margin` there, and the mean score must not be shown to be further than
    `calibration_gap_max` from the share of label 1. `find` looks at all slices of one and two features; one fails the
    gate where its difference is shown to be above `found_log_loss_margin`, controlled at `level` for how many were
    looked at.
    """

    fields: tuple[str, ...] = ()
    find: bool = True
    minimum_rows: int = 300
    minimum_days: int = 5
    log_loss_margin: float = 0.05
    found_log_loss_margin: float = 0.02
    calibration_gap_max: float = 0.15
    level: float = 0.05

    def __post_init__(self) -> None:
        for key in ("log_loss_margin", "found_log_loss_margin", "calibration_gap_max"):
            if not 0 < (found := getattr(self, key)) <= 1:
                raise ValueError(f"{key}: found {found}, expected a number above 0 and at most 1")
        if not 0 < self.level <= 0.5:
            raise ValueError(f"level: found {self.level}, expected a number above 0 and at most 0.5")
        if self.minimum_rows < 30:
            raise ValueError(f"minimum_rows: found {self.minimum_rows}, expected at least 30: fewer say nothing")
        if self.minimum_days < 2:
            raise ValueError(f"minimum_days: found {self.minimum_days}, expected at least 2")
        if len(set(self.fields)) != len(self.fields):
            raise ValueError("fields: one is named twice")


class Slice(msgspec.Struct, frozen=True, kw_only=True):
    """One part of the test rows. `difference` is the challenger's log loss minus the reference's, with its 95 %
    interval.

    `worse` is one whose difference is shown to be above the margin: by the lower bound where it was declared, by the
    p-value, adjusted for how many slices were looked at, where it was found. `not worse`: the upper bound is at most
    the margin. `calibration_gap` is the 95 % interval of mean score minus label share. The AUC is None with one class
    only; with too few rows or days only the counts are there.
    """

    name: str
    rows: int
    days: int
    label_share: float
    verdict: Verdict
    mean_score: float | None = None
    log_loss: float | None = None
    reference_log_loss: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    auc: float | None = None
    reference_auc: float | None = None
    calibration_gap: tuple[float, float] | None = None


class Slices(msgspec.Struct, frozen=True, kw_only=True):
    """What was looked at: every declared slice, and the worst of those found, among how many."""

    reference: Reference
    looked_at_one: int
    looked_at_two: int
    declared: tuple[Slice, ...]
    worst: tuple[Slice, ...]


class SliceRows(NamedTuple):
    """The test rows: labels, days and the scores of both sides (`rival` is None without a champion), all (rows,)."""

    labels: Floats
    days: NDArray[np.int64]
    scores: Floats
    rival: Floats | None


def measure_slices(
    rows: SliceRows,
    declared: Sequence[Grouping],
    fine: Sequence[Grouping],
    coarse: Sequence[Grouping],
    limits: SliceLimits,
) -> Slices:
    """Every slice of the `declared` groupings, and the worst among those of one (`fine`) and of two (`coarse`)
    features.

    Raises:
        ValueError: a grouping has another number of rows than the labels.
    """
    for grouping in (*declared, *fine, *coarse):
        if len(grouping.codes) != len(rows.labels):
            raise ValueError(f"{grouping.field} groups {len(grouping.codes)} rows, there are {len(rows.labels)} labels")
    measured = _Measured(rows)
    asked = (limits.minimum_rows, limits.minimum_days, limits.found_log_loss_margin)
    one = search_one(measured.differences, fine if limits.find else (), *asked)
    two = search_two(measured.differences, coarse if limits.find else (), *asked)
    by_evidence = sorted((*one, *two), key=lambda found: (found.p_value, -found.t, found.name))
    return Slices(
        reference="base rate" if rows.rival is None else "champion",
        looked_at_one=len(one),
        looked_at_two=len(two),
        declared=tuple(
            measured.describe(grouping.title(code), grouping.codes == code, limits)
            for grouping in declared
            for code in np.unique(grouping.codes).tolist()
        ),
        worst=tuple(
            measured.describe(found.name, found.rows(), limits, found.p_value) for found in by_evidence[:WORST]
        ),
    )


def slice_gates(found: Slices, limits: SliceLimits) -> tuple[Gate, ...]:
    """The gates on slices: those declared, their calibration, and those found, as far as they were asked for."""
    gates = []
    if found.declared:
        gates += [_declared_gate(found, limits), _calibration_gate(found, limits)]
    if limits.find:
        gates.append(_found_gate(found, limits))
    return tuple(gates)


def _declared_gate(found: Slices, limits: SliceLimits) -> Gate:
    """With a champion, each must be shown to be not worse; without, none may be shown to be worse than a constant."""
    judged = [part for part in found.declared if part.verdict != "too few rows"]
    strict = found.reference == "champion"
    failed = [part for part in judged if part.verdict == "worse" or (strict and part.verdict == "may be worse")]
    side = "upper" if strict else "lower"
    worst = sorted(failed or judged, key=lambda part: -_bound(part, strict))
    listed = "; ".join(f"{_shown(part)}" for part in worst[: _NAMED if failed else 1])
    small = len(found.declared) - len(judged)
    counted = f"{len(judged)} declared slices with enough rows, {small} with too few"
    said = f"{len(failed)} of {counted}: {listed}: {side} bound > margin {limits.log_loss_margin:+g}"
    passed = f"{counted}; worst {listed}: {side} bound <= margin {limits.log_loss_margin:+g}" if judged else counted
    return Gate(
        name=f"declared slices against the {found.reference}",
        passed=not failed,
        reason=said if failed else passed,
        area="slices",
        against="champion" if strict else "limit",
    )


def _calibration_gate(found: Slices, limits: SliceLimits) -> Gate:
    """None of the declared slices may be shown to have a mean score further from its label share than allowed."""
    judged = [part for part in found.declared if part.calibration_gap is not None]
    worst = sorted(judged, key=lambda part: -_gap(part))
    failed = [part for part in worst if _gap(part) > limits.calibration_gap_max]
    listed = "; ".join(
        f"{part.name} mean score {part.mean_score:.3f}, label share {part.label_share:.3f}, "
        f"off by at least {_gap(part):.3f}"
        for part in (failed[:_NAMED] or worst[:1])
    )
    sign = ">" if failed else "<="
    return Gate(
        name="calibration on declared slices",
        passed=not failed,
        reason=f"{listed} {sign} limit {limits.calibration_gap_max:g}"
        if judged
        else "no declared slice has enough rows",
        area="slices",
    )


def _found_gate(found: Slices, limits: SliceLimits) -> Gate:
    looked = found.looked_at_one + found.looked_at_two
    failed = [part for part in found.worst if part.verdict == "worse"]
    counted = f"{looked:,} slices looked at ({found.looked_at_one:,} of one feature, {found.looked_at_two:,} of two)"
    listed = "; ".join(f"{_shown(part)}, adjusted p {part.p_value:.2g}" for part in (failed or found.worst)[:_NAMED])
    margin = f"{limits.found_log_loss_margin:+g} at level {limits.level:g}"
    said = f"shown to be worse than the {found.reference} by more than {margin}"
    worst = f"; nearest {listed.split('; ')[0]}" if found.worst else ""
    more = "" if len(failed) <= _NAMED else f" and {len(failed) - _NAMED} more"
    return Gate(
        name=f"found slices against the {found.reference}",
        passed=not failed,
        reason=f"{counted}; {said}: {listed}{more}" if failed else f"{counted}, none {said}{worst}",
        area="slices",
        against="champion" if found.reference == "champion" else "limit",
    )


def _shown(part: Slice) -> str:
    return (
        f"{part.name} (n = {part.rows:,}, {part.days} days) log loss {part.log_loss:.4f} vs "
        f"{part.reference_log_loss:.4f}: difference {part.difference:+.4f} (95 % {part.low:+.4f} … {part.high:+.4f})"
    )


def _bound(part: Slice, upper: bool) -> float:
    bound = part.high if upper else part.low
    return -np.inf if bound is None else bound


def _gap(part: Slice) -> float:
    """How far the mean score is from the label share at least, by the interval; 0 where the interval holds 0."""
    low, high = part.calibration_gap or (0.0, 0.0)
    return max(low, -high, 0.0)


class _Measured:
    """Log losses of both sides on all rows, from which slices are described."""

    def __init__(self, rows: SliceRows) -> None:
        self._rows = rows
        constant = np.full(len(rows.labels), rows.labels.mean())
        self._reference_scores = constant if rows.rival is None else rows.rival
        self._losses = log_losses(rows.labels, rows.scores)
        self._reference_losses = log_losses(rows.labels, self._reference_scores)
        self.differences = Differences(self._losses - self._reference_losses, rows.days)
        self._gaps = Differences(rows.scores - rows.labels, rows.days)

    def describe(
        self, name: str, chosen: NDArray[np.bool_], limits: SliceLimits, p_value: float | None = None
    ) -> Slice:
        """The numbers of the `chosen` rows; `p_value` is that of a slice that was found."""
        labels = self._rows.labels[chosen]
        days = len(np.unique(self._rows.days[chosen]))
        counted = Slice(
            name=name, rows=len(labels), days=days, label_share=float(labels.mean()), verdict="too few rows"
        )
        if len(labels) < limits.minimum_rows or days < limits.minimum_days:
            return counted
        cells, one = chosen.astype(np.int64), np.array([1])
        means = self.differences.means(cells, 2, one)
        (low,), (high,) = means.bounds()
        (gap_low,), (gap_high,) = self._gaps.means(cells, 2, one).bounds()
        margin = limits.log_loss_margin if p_value is None else limits.found_log_loss_margin
        shown = low > margin if p_value is None else p_value <= limits.level / FAMILIES
        return msgspec.structs.replace(
            counted,
            verdict="worse" if shown else "may be worse" if high > margin else "not worse",
            mean_score=float(self._rows.scores[chosen].mean()),
            log_loss=float(self._losses[chosen].mean()),
            reference_log_loss=float(self._reference_losses[chosen].mean()),
            difference=float(means.mean[0]),
            low=float(low),
            high=float(high),
            p_value=p_value,
            auc=auc(labels, self._rows.scores[chosen]),
            reference_auc=auc(labels, self._reference_scores[chosen]),
            calibration_gap=(float(gap_low), float(gap_high)),
        )
