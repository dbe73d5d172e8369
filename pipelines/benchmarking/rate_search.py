"""Which rate to try next, and which is the largest that meets the objective. Pure: the measuring is elsewhere."""

from collections.abc import Sequence

from pipelines.benchmarking.results import Measured, Step

MAXIMUM_STEPS = 24
MAXIMUM_RATE = 200_000.0
MINIMUM_RATE = 1.0
RAMP = 2.0
CLOSE_ENOUGH = 1.05  # the smallest failing rate is at most so many times the best
FAILED_SHARE = 0.001
BEHIND_SHARE = 0.97


def judge(rate: float, measured: Measured, objective_p99_ms: float) -> Step:
    """Whether `measured` at `rate` meets the objective, with the reason."""
    counts, p99 = measured.counts, measured.latency_ms.p99
    failed = counts.failed / counts.requests if counts.requests else 1.0
    reasons = []
    if p99 is None or p99 > objective_p99_ms:
        shown = "there is no p99" if p99 is None else f"p99 {p99:.2f} ms"
        reasons.append(f"{shown} > {objective_p99_ms:g} ms")
    if failed > FAILED_SHARE:
        reasons.append(f"failed {failed:.2%} > {FAILED_SHARE:.1%}")
    intended = measured.rates.intended or rate
    if measured.rates.answered < BEHIND_SHARE * intended:
        reasons.append(f"answered {measured.rates.answered:,.0f} a second < {BEHIND_SHARE:.0%} of {intended:,.0f}")
    return Step(
        rate=rate,
        answered_rate=measured.rates.answered,
        p50_ms=measured.latency_ms.p50,
        p99_ms=p99,
        failed_share=failed,
        meets=not reasons,
        reason="; ".join(reasons) or f"p99 {p99:.2f} ms <= {objective_p99_ms:g} ms",
    )


def next_rate(steps: Sequence[Step], first: float) -> float | None:
    """The rate to try after `steps`; None when the search is over.

    It doubles until a rate fails (or halves until one meets), then halves the gap by ratio. A rate that fails is tried
    a second time before it counts, since one hiccup of a shared machine is no limit of the server.
    """
    if not steps:
        return first
    if len(steps) >= MAXIMUM_STEPS:
        return None
    last = steps[-1]
    if not last.meets and sum(step.rate == last.rate for step in steps) < 2:
        return last.rate
    best, failing = best_rate(steps), _smallest_failing(steps)
    if failing is None:
        return last.rate * RAMP if last.rate * RAMP <= MAXIMUM_RATE else None
    if best is None:
        return failing / RAMP if failing / RAMP >= MINIMUM_RATE else None
    return None if failing / best <= CLOSE_ENOUGH else float((failing * best) ** 0.5)


def best_rate(steps: Sequence[Step]) -> float | None:
    """The largest rate that met the objective, below every rate that failed twice."""
    failing = _smallest_failing(steps)
    good = [step.rate for step in steps if step.meets and (failing is None or step.rate < failing)]
    return max(good, default=None)


def _smallest_failing(steps: Sequence[Step]) -> float | None:
    met = {step.rate for step in steps if step.meets}
    return min((step.rate for step in steps if not step.meets and step.rate not in met), default=None)
