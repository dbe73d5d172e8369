"""Fairness: whether decisions at the threshold differ between groups of people (or of anything else that is declared).

Measured are the selection rate (called positive), the true- and the false-positive rate of each group, and over all
groups the demographic parity difference and ratio and the equalised odds difference, as fairlearn defines them: the
largest difference between two groups, the larger one of that in true- and in false-positive rates. Hardt, Price and
Srebro, "Equality of Opportunity in Supervised Learning", NeurIPS 2016.

The intervals are block bootstraps over days. A largest difference is pushed up by noise, in the sample and once more in
each resample, so its interval is the basic one, 2 · estimate - quantile, which takes that bias back instead of doubling
it: Davison and Hinkley, "Bootstrap Methods and their Application", 1997, section 5.2.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.comparison import RESAMPLES, Interval
from pipelines.evaluation.gate import Gate
from pipelines.evaluation.groups import Grouping
from pipelines.statistics.bootstrap import Blocks, Floats, divide, interval_where_known

Status = Literal["measured", "too few outcomes", "too few rows"]
JudgedBy = Literal["bound", "estimate"]


class GroupField(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A field whose values make groups: each word by itself, or numbers below, between and from the `edges` on.

    It may be any declared field, also an identifier or a personal one that the model does not see.
    """

    field: str
    edges: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if any(low >= high for low, high in pairwise(self.edges)):
            raise ValueError(f"edges: found {self.edges}, expected ascending numbers")


class FairnessLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Between which `groups` decisions are compared, and how much they may differ.

    A limit of None asks for nothing; the numbers are reported all the same. `judged_by: bound` fails a challenger that
    is shown to be unfair: the lower 95 % bound of a difference is above its limit, or the upper bound of the ratio
    below its. It is the default, since a largest difference between small groups is pushed up by noise. `judged_by:
    estimate` holds the estimate itself against the limit, as the four-fifths rule is usually read: stricter, and to be
    had with large groups. Groups with fewer than `minimum_group_rows` rows are listed and not judged; those with fewer
    than `minimum_group_outcomes` rows of either label count for the selection rate alone. Where a limit was asked for
    and fewer than two groups can be judged, the gate fails: unmeasured is not fair.
    """

    groups: tuple[GroupField, ...] = ()
    equalized_odds_difference_max: float | None = None
    demographic_parity_difference_max: float | None = None
    selection_rate_ratio_min: float | None = None
    judged_by: JudgedBy = "bound"
    minimum_group_rows: int = 100
    minimum_group_outcomes: int = 20

    def __post_init__(self) -> None:
        for key in ("equalized_odds_difference_max", "demographic_parity_difference_max", "selection_rate_ratio_min"):
            if (found := getattr(self, key)) is not None and not 0 < found <= 1:
                raise ValueError(f"{key}: found {found}, expected a number above 0 and at most 1")
        for key in ("minimum_group_rows", "minimum_group_outcomes"):
            if (found := getattr(self, key)) < 1:
                raise ValueError(f"{key}: found {found}, expected at least 1")
        names = [group.field for group in self.groups]
        if len(set(names)) != len(names):
            raise ValueError(f"groups: found {', '.join(names)}, expected each field once")


class Rate(msgspec.Struct, frozen=True, kw_only=True):
    """A rate of one group with its 95 % interval; without bounds where the group lies in too few days."""

    estimate: float
    low: float | None
    high: float | None


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """The decisions on one group; rates are None where the group is too small for them, as `status` says."""

    name: str
    rows: int
    positives: int
    status: Status
    selection_rate: Rate | None = None
    true_positive_rate: Rate | None = None
    false_positive_rate: Rate | None = None


class GroupFairness(msgspec.Struct, frozen=True, kw_only=True):
    """The groups of one field, and the largest differences between them; None where fewer than two can be compared."""

    field: str
    groups: tuple[Group, ...]
    demographic_parity_difference: Interval | None
    selection_rate_ratio: Interval | None
    equalized_odds_difference: Interval | None


def measure_fairness(
    labels: Floats,
    scores: Floats,
    days: NDArray[np.int64],
    groupings: Sequence[Grouping],
    threshold: float,
    limits: FairnessLimits,
    seed: int,
    resamples: int = RESAMPLES,
) -> tuple[GroupFairness, ...]:
    """The fairness of the decisions `scores >= threshold` for each of the `groupings`; all arrays have shape (rows,).

    Raises:
        ValueError: there are fewer than two days.
    """
    if not groupings:
        return ()
    blocks = Blocks(days, resamples=resamples, seed=seed)
    called = (scores >= threshold).astype(np.float64)
    return tuple(_fairness(blocks, grouping, labels, called, limits) for grouping in groupings)


def fairness_gates(found: Sequence[GroupFairness], limits: FairnessLimits) -> tuple[Gate, ...]:
    """One gate for each limit and field."""
    gates = []
    for fairness in found:
        for title, measured, limit in (
            ("equalised odds", fairness.equalized_odds_difference, limits.equalized_odds_difference_max),
            ("demographic parity", fairness.demographic_parity_difference, limits.demographic_parity_difference_max),
        ):
            if limit is not None:
                gates.append(_at_most(fairness, f"{title} difference", measured, limit, limits.judged_by))
        if limits.selection_rate_ratio_min is not None:
            ratio = fairness.selection_rate_ratio
            gates.append(
                _at_least(fairness, "selection rate ratio", ratio, limits.selection_rate_ratio_min, limits.judged_by)
            )
    return tuple(gates)


def _fairness(
    blocks: Blocks, grouping: Grouping, labels: Floats, called: Floats, limits: FairnessLimits
) -> GroupFairness:
    count = len(grouping.names)
    rows = np.bincount(grouping.codes, minlength=count)
    positives = np.bincount(grouping.codes, labels, minlength=count).astype(np.int64)
    sized = rows >= limits.minimum_group_rows
    full = sized & (np.minimum(positives, rows - positives) >= limits.minimum_group_outcomes)
    rates = _resampled_rates(blocks, grouping, labels, called)
    exact = _estimates(grouping, labels, called)
    groups = []
    for code in np.flatnonzero(rows).tolist():
        status: Status = "measured" if full[code] else "too few outcomes" if sized[code] else "too few rows"
        known = {
            name: _rate(exact[name][code], values[:, code], blocks)
            for name, values in rates.items()
            if full[code] or (sized[code] and name == "selection_rate")
        }
        title, n = grouping.title(code), int(rows[code])
        groups.append(Group(name=title, rows=n, positives=int(positives[code]), status=status, **known))
    selected = rates["selection_rate"][:, sized]
    odds = np.maximum(_spread(rates["true_positive_rate"][:, full]), _spread(rates["false_positive_rate"][:, full]))
    measured = _largest_by_fairlearn(grouping, labels, called, sized, full)
    return GroupFairness(
        field=grouping.field,
        groups=tuple(groups),
        demographic_parity_difference=_basic(measured["demographic_parity_difference"], _spread(selected), blocks),
        selection_rate_ratio=_basic(measured["selection_rate_ratio"], _ratio(selected), blocks),
        equalized_odds_difference=_basic(measured["equalized_odds_difference"], odds, blocks),
    )


def _resampled_rates(blocks: Blocks, grouping: Grouping, labels: Floats, called: Floats) -> dict[str, Floats]:
    """The rates of each group in the sample and in each resample, (1 + resamples, groups); NaN where it has no row."""
    count = len(grouping.names)

    def rate(among: Floats) -> Floats:
        above = blocks.per_cell(grouping.codes, count, called * among)
        below = blocks.per_cell(grouping.codes, count, among)
        return blocks.resampled(lambda weights: divide(weights @ above.T, weights @ below.T))

    return {
        "selection_rate": rate(np.ones(len(labels))),
        "true_positive_rate": rate(labels),
        "false_positive_rate": rate(1 - labels),
    }


class _Cells(NamedTuple):
    """The rows counted by group, label and decision: fairlearn takes counts as weights, and is slow on rows."""

    groups: NDArray[np.int64]
    labels: NDArray[np.int64]
    called: NDArray[np.int64]
    counts: NDArray[np.int64]

    def among(self, chosen: NDArray[np.bool_]) -> "_Cells":
        kept = chosen[self.groups]
        return _Cells(*(values[kept] for values in self))


def _cells(grouping: Grouping, labels: Floats, called: Floats) -> _Cells:
    codes = grouping.codes * 4 + (2 * labels + called).astype(np.int64)
    counts = np.bincount(codes)
    found = np.flatnonzero(counts)
    return _Cells(found // 4, found // 2 % 2, found % 2, counts[found])


def _estimates(grouping: Grouping, labels: Floats, called: Floats) -> dict[str, dict[int, float]]:
    """The rates of each group, by fairlearn."""
    from fairlearn.metrics import MetricFrame, false_positive_rate, selection_rate, true_positive_rate

    cells = _cells(grouping, labels, called)
    metrics = {
        "selection_rate": selection_rate,
        "true_positive_rate": true_positive_rate,
        "false_positive_rate": false_positive_rate,
    }
    frame = MetricFrame(
        metrics=metrics,
        y_true=cells.labels,
        y_pred=cells.called,
        sensitive_features=cells.groups,
        sample_params={name: {"sample_weight": cells.counts} for name in metrics},
    )
    found: dict[str, dict[int, float]] = frame.by_group.to_dict()
    return found


def _largest_by_fairlearn(
    grouping: Grouping, labels: Floats, called: Floats, sized: NDArray[np.bool_], full: NDArray[np.bool_]
) -> dict[str, float | None]:
    from fairlearn.metrics import (
        demographic_parity_difference,
        demographic_parity_ratio,
        equalized_odds_difference,
    )

    cells = _cells(grouping, labels, called)
    found: dict[str, float | None] = {}
    for name, metric, chosen in (
        ("demographic_parity_difference", demographic_parity_difference, sized),
        ("selection_rate_ratio", demographic_parity_ratio, sized),
        ("equalized_odds_difference", equalized_odds_difference, full),
    ):
        some = cells.among(chosen)
        if chosen.sum() < 2:
            found[name] = None
            continue
        found[name] = float(metric(some.labels, some.called, sensitive_features=some.groups, sample_weight=some.counts))
    return found


def _spread(rates: Floats) -> Floats:
    """The largest difference between two groups, in each resample."""
    if not rates.shape[1]:
        return np.full(len(rates), np.nan)
    difference: Floats = rates.max(axis=1) - rates.min(axis=1)
    return difference


def _ratio(rates: Floats) -> Floats:
    if not rates.shape[1]:
        return np.full(len(rates), np.nan)
    return divide(rates.min(axis=1), rates.max(axis=1))


def _rate(estimate: float, values: Floats, blocks: Blocks) -> Rate:
    low, high = interval_where_known(values, blocks.count) or (None, None)
    return Rate(estimate=float(estimate), low=low, high=high)


def _basic(estimate: float | None, values: Floats, blocks: Blocks) -> Interval | None:
    """The basic bootstrap interval within 0 and 1; None where fewer than two groups can be compared.

    Where too many resamples miss a group, it says that nothing is known: from 0 to 1.
    """
    if estimate is None or not np.isfinite(estimate):
        return None
    found = interval_where_known(values, blocks.count)
    if found is None:
        return Interval(estimate=estimate, low=0.0, high=1.0)
    low, high = (min(max(2 * estimate - bound, 0.0), 1.0) for bound in (found[1], found[0]))
    return Interval(estimate=estimate, low=low, high=high)


def _at_most(found: GroupFairness, title: str, measured: Interval | None, limit: float, judged_by: JudgedBy) -> Gate:
    if measured is None:
        return _unmeasured(found, title)
    value, what = (measured.low, "lower bound") if judged_by == "bound" else (measured.estimate, "estimate")
    passed = value <= limit
    reason = f"{_numbers(title, measured)}, {what} {'<=' if passed else '>'} limit {limit:g}{_between(found)}"
    return Gate(name=f"{title}: {found.field}", passed=passed, reason=reason, area="fairness")


def _at_least(found: GroupFairness, title: str, measured: Interval | None, limit: float, judged_by: JudgedBy) -> Gate:
    if measured is None:
        return _unmeasured(found, title)
    value, what = (measured.high, "upper bound") if judged_by == "bound" else (measured.estimate, "estimate")
    passed = value >= limit
    reason = f"{_numbers(title, measured)}, {what} {'>=' if passed else '<'} limit {limit:g}{_between(found)}"
    return Gate(name=f"{title}: {found.field}", passed=passed, reason=reason, area="fairness")


def _unmeasured(found: GroupFairness, title: str) -> Gate:
    reason = (
        f"{title} cannot be measured: fewer than two groups of {found.field} have enough rows{_between(found)}: take a "
        "longer test window, coarser groups or a lower minimum"
    )
    return Gate(name=f"{title}: {found.field}", passed=False, reason=reason, area="fairness")


def _numbers(title: str, measured: Interval) -> str:
    return f"{title} {measured.estimate:.3f} (95 % {measured.low:.3f} … {measured.high:.3f})"


def _between(found: GroupFairness) -> str:
    """The groups that were compared, and those that were not."""
    judged = [f"{group.name} n = {group.rows:,}" for group in found.groups if group.status != "too few rows"]
    small = [f"{group.name} n = {group.rows:,}" for group in found.groups if group.status == "too few rows"]
    return f" ({'; '.join(judged) or 'none'}{'; too few rows: ' + '; '.join(small) if small else ''})"
