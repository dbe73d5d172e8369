"""The gates on quality and latency: checks before any traffic, pass or fail, with the numbers they rest on. Pure."""

from collections.abc import Iterable

from pipelines.evaluation.comparison import Comparison, Difference
from pipelines.evaluation.gate import Area, Gate
from pipelines.evaluation.latency import LatencyComparison
from pipelines.evaluation.limits import GateLimits
from pipelines.evaluation.metrics import TITLES
from pipelines.inference import Latency

__all__ = ["GateLimits", "better", "both_sides", "latency_gates", "quality_gates"]


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
        *_where_asked("cost", found.get("cost"), limits.cost_max),
        *_where_asked("false_positive_rate", found.get("false_positive_rate"), limits.false_positive_rate_max),
    )
    if comparison.champion is None:
        return always
    return (*always, *_not_worse(comparison, limits), _improvement(comparison, limits.improvement))


def latency_gates(measured: LatencyComparison, limits: GateLimits) -> tuple[Gate, ...]:
    """The gates on latency: p99 of one row (and of 32), and its p50 beside the champion's where that was measured.

    Raises:
        ValueError: there is no measurement of a number of rows that has a limit.
    """
    many = limits.latency_us_p99_max_32_rows
    return (
        _latency("latency", measured.challenger, 1, limits.latency_us_p99_max),
        *(() if many is None else [_latency("latency of 32 rows", measured.challenger, 32, many)]),
        *_latency_against(measured.difference_us_p50, limits.latency_us_margin),
    )


def better(comparison: Comparison, metric: str) -> bool:
    """Whether the challenger is shown to be better: the whole interval of the difference is on the good side of 0."""
    difference = comparison.differences[metric]
    return difference.low > 0 if TITLES[metric].higher_is_better else difference.high < 0


def both_sides(comparison: Comparison, metric: str) -> str:
    """The metric of both versions, their difference and its interval: what a reason says."""
    champion, difference = comparison.champion, comparison.differences.get(metric)
    if champion is None or difference is None:
        raise ValueError(f"{TITLES[metric].text} is compared with a champion, and there is none")
    return (
        f"{TITLES[metric].text} {comparison.challenger[metric]:.4f} vs {champion[metric]:.4f}: "
        f"difference {difference.estimate:+.4f} "
        f"(95 % {difference.low:+.4f} … {difference.high:+.4f}, {comparison.blocks} days)"
    )


def _at_least(name: str, what: str, value: float, limit: float, shown: str) -> Gate:
    passed = value >= limit
    return Gate(name=name, passed=passed, reason=f"{what} {'>=' if passed else '<'} {shown.format(limit)}")


def _at_most(name: str, what: str, value: float, limit: float, area: Area = "quality") -> Gate:
    passed = value <= limit
    return Gate(name=name, passed=passed, reason=f"{what} {'<=' if passed else '>'} limit {limit:g}", area=area)


def _where_asked(metric: str, value: float | None, limit: float | None) -> tuple[Gate, ...]:
    if limit is None:
        return ()
    title = TITLES[metric].text
    if value is None:
        return (
            Gate(name=title, passed=False, reason=f"{title} is not defined on these rows, and has the limit {limit:g}"),
        )
    return (_at_most(title, f"{title} {value:.4f}", value, limit),)


def _better_than_the_base_rate(found: dict[str, float]) -> Gate:
    value, constant = found["log_loss"], found["base_rate_log_loss"]
    passed = value < constant
    return Gate(
        name="better than the base rate",
        passed=passed,
        reason=f"log loss {value:.4f} {'<' if passed else '>='} {constant:.4f}, "
        f"that of always saying {found['base_rate']:.3f}",
    )


def _latency(name: str, latency: tuple[Latency, ...], rows: int, limit_us: float) -> Gate:
    found = next((measured for measured in latency if measured.rows == rows), None)
    if found is None:
        sizes = [measured.rows for measured in latency]
        wanted = "one row" if rows == 1 else f"{rows} rows"
        raise ValueError(f"latency was measured for {sizes} rows at a time: measure {wanted}, the gate is about it")
    what = f"p99 of {'one row' if rows == 1 else f'{rows} rows'} {found.us_p99:,.0f} µs (n = {found.runs:,})"
    return _at_most(name, what, found.us_p99, limit_us, "latency")


def _latency_against(difference: Difference | None, margin_us: float) -> tuple[Gate, ...]:
    if difference is None:
        return ()
    passed = difference.high <= margin_us
    interval = f"(95 % {difference.low:+.1f} … {difference.high:+.1f})"
    reason = (
        f"p50 of one row differs by {difference.estimate:+.1f} µs {interval}, upper bound "
        f"{'<=' if passed else '>'} margin {margin_us:+g} µs"
    )
    return (
        Gate(name="latency against the champion", passed=passed, reason=reason, area="latency", against="champion"),
    )


def _not_worse(comparison: Comparison, limits: GateLimits) -> Iterable[Gate]:
    """Non-inferiority: the whole 95 % interval of each difference must lie on the good side of its margin."""
    for metric, title in TITLES.items():
        margin = limits.margin(metric)
        if margin is None:
            continue
        difference = comparison.differences[metric]
        if title.higher_is_better:
            passed, side, edge = difference.low >= -margin, "lower", -margin
            sign = ">=" if passed else "<"
        else:
            passed, side, edge = difference.high <= margin, "upper", margin
            sign = "<=" if passed else ">"
        yield Gate(
            name=f"{title.text} against the champion",
            passed=passed,
            reason=f"{both_sides(comparison, metric)}, {side} bound {sign} margin {edge:+g}",
            against="champion",
        )


def _improvement(comparison: Comparison, improvement: float) -> Gate:
    gained = -comparison.differences["log_loss"].estimate
    passed = gained >= improvement
    return Gate(
        name="improvement",
        passed=passed,
        reason=f"{both_sides(comparison, 'log_loss')}, gained {gained:+.4f} "
        f"{'>=' if passed else '<'} {improvement:+g} asked for",
        against="champion",
    )
