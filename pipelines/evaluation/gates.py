"""The gates: checks before any traffic, pass or fail, each with the numbers it rests on. Pure."""

import msgspec

from pipelines.evaluation.comparison import Comparison, Difference
from pipelines.evaluation.gate import Area, Gate
from pipelines.evaluation.latency import LatencyComparison
from pipelines.inference import Latency


class GateLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a challenger must show on the test rows.

    Against a champion it must not be worse: the 95 % interval of each paired difference must lie on the right side of
    its margin (`log_loss_margin`, `brier_margin`, `calibration_error_margin` and, for the p50 of one row,
    `latency_us_margin` upwards, `auc_margin` downwards). `improvement` is how much lower
    its log loss must be at least, as a point estimate; 0 asks for none, a negative number allows to be worse by it.
    The margins are for test windows of two weeks: days differ, and intervals over 14 of them are about ±0.01 wide.
    Without a champion only the absolute limits hold: better than the base rate's log loss, `auc_min`,
    `calibration_error_max` (expected calibration error), `latency_us_p99_max` (one row, µs) and `minimum_test_rows`.
    """

    log_loss_margin: float = 0.012
    auc_margin: float = 0.03
    brier_margin: float = 0.005
    improvement: float = -0.002
    auc_min: float = 0.55
    calibration_error_max: float = 0.15
    calibration_error_margin: float = 0.05
    latency_us_p99_max: float = 2000.0
    latency_us_margin: float = 500.0
    minimum_test_rows: int = 500

    def __post_init__(self) -> None:
        for key in (
            "log_loss_margin",
            "auc_margin",
            "brier_margin",
            "calibration_error_margin",
            "calibration_error_max",
        ):
            if not 0 < (found := getattr(self, key)) <= 1:
                raise ValueError(f"{key}: found {found}, expected a number above 0 and at most 1")
        if not -1 <= self.improvement <= 1:
            raise ValueError(f"improvement: found {self.improvement}, expected a number from -1 to 1")
        if not 0 <= self.auc_min < 1:
            raise ValueError(f"auc_min: found {self.auc_min}, expected from 0 to below 1")
        for key in ("latency_us_p99_max", "latency_us_margin"):
            if (found := getattr(self, key)) <= 0:
                raise ValueError(f"{key}: found {found}, expected microseconds above 0")
        if self.minimum_test_rows < 1:
            raise ValueError(f"minimum_test_rows: found {self.minimum_test_rows}, expected at least 1")


def quality_gates(comparison: Comparison, limits: GateLimits) -> tuple[Gate, ...]:
    """The gates on quality, in the order in which they are read: absolute limits, then those against the champion."""
    found, rows = comparison.challenger, comparison.rows
    always = (
        _at_least("test rows", f"{rows:,} test rows", rows, limits.minimum_test_rows, "minimum {:,}"),
        _better_than_the_base_rate(found),
        _at_least("AUC", f"AUC {found['auc']:.4f}", found["auc"], limits.auc_min, "minimum {:g}"),
        _at_most(
            "calibration",
            f"calibration error {found['calibration_error']:.4f} (n = {rows:,})",
            found["calibration_error"],
            limits.calibration_error_max,
        ),
    )
    if comparison.champion is None:
        return always
    return (
        *always,
        _not_worse(comparison, "log_loss", "log loss", limits.log_loss_margin),
        _not_worse(comparison, "brier", "Brier score", limits.brier_margin),
        _not_worse(comparison, "auc", "AUC", limits.auc_margin, higher_is_better=True),
        _not_worse(comparison, "calibration_error", "calibration error", limits.calibration_error_margin),
        _improvement(comparison, limits.improvement),
    )


def latency_gates(measured: LatencyComparison, limits: GateLimits) -> tuple[Gate, ...]:
    """The gates on latency: p99 of one row, and its p50 beside the champion's where that was measured.

    Raises:
        ValueError: there is no measurement of one row at a time.
    """
    return (
        _latency(measured.challenger, limits),
        *_latency_against(measured.difference_us_p50, limits.latency_us_margin),
    )


def _at_least(name: str, what: str, value: float, limit: float, shown: str) -> Gate:
    passed = value >= limit
    return Gate(name=name, passed=passed, reason=f"{what} {'>=' if passed else '<'} {shown.format(limit)}")


def _at_most(name: str, what: str, value: float, limit: float, area: Area = "quality") -> Gate:
    passed = value <= limit
    return Gate(name=name, passed=passed, reason=f"{what} {'<=' if passed else '>'} limit {limit:g}", area=area)


def _better_than_the_base_rate(found: dict[str, float]) -> Gate:
    value, constant = found["log_loss"], found["base_rate_log_loss"]
    passed = value < constant
    return Gate(
        name="better than the base rate",
        passed=passed,
        reason=f"log loss {value:.4f} {'<' if passed else '>='} {constant:.4f}, "
        f"that of always saying {found['base_rate']:.3f}",
    )


def _latency(latency: tuple[Latency, ...], limits: GateLimits) -> Gate:
    single = next((measured for measured in latency if measured.rows == 1), None)
    if single is None:
        sizes = [measured.rows for measured in latency]
        raise ValueError(f"latency was measured for {sizes} rows at a time: measure one row, the gate is about it")
    what = f"p99 of one row {single.us_p99:,.0f} µs (n = {single.runs:,})"
    return _at_most("latency", what, single.us_p99, limits.latency_us_p99_max, "latency")


def _latency_against(difference: Difference | None, margin_us: float) -> tuple[Gate, ...]:
    if difference is None:
        return ()
    passed = difference.high <= margin_us
    interval = f"(95 % {difference.low:+.1f} … {difference.high:+.1f})"
    reason = (
        f"p50 of one row differs by {difference.estimate:+.1f} µs {interval}, upper bound "
        f"{'<=' if passed else '>'} margin {margin_us:+g} µs"
    )
    return (Gate(name="latency against the champion", passed=passed, reason=reason, area="latency"),)


def _not_worse(
    comparison: Comparison, metric: str, title: str, margin: float, *, higher_is_better: bool = False
) -> Gate:
    """Non-inferiority: the whole 95 % interval of the difference must lie on the good side of the margin."""
    difference = comparison.differences[metric]
    if higher_is_better:
        passed, sign, edge = difference.low >= -margin, (">=" if difference.low >= -margin else "<"), -margin
    else:
        passed, sign, edge = difference.high <= margin, ("<=" if difference.high <= margin else ">"), margin
    side = "lower" if higher_is_better else "upper"
    return Gate(
        name=f"{title} against the champion",
        passed=passed,
        reason=f"{_both(comparison, metric, title)} "
        f"(95 % {difference.low:+.4f} … {difference.high:+.4f}, {comparison.blocks} days), "
        f"{side} bound {sign} margin {edge:+g}",
    )


def _improvement(comparison: Comparison, improvement: float) -> Gate:
    gained = -comparison.differences["log_loss"].estimate
    passed = gained >= improvement
    return Gate(
        name="improvement",
        passed=passed,
        reason=f"{_both(comparison, 'log_loss', 'log loss')}, "
        f"gained {gained:+.4f} {'>=' if passed else '<'} {improvement:+g} asked for",
    )


def _both(comparison: Comparison, metric: str, title: str) -> str:
    champion = comparison.champion
    if champion is None:
        raise ValueError(f"{title} is compared with a champion, and there is none")
    estimate = comparison.differences[metric].estimate
    return f"{title} {comparison.challenger[metric]:.4f} vs {champion[metric]:.4f}: difference {estimate:+.4f}"
