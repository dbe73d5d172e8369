from typing import Any

import pytest

from pipelines.benchmarking.rate_search import CLOSE_ENOUGH, MAXIMUM_STEPS, best_rate, judge, next_rate
from pipelines.benchmarking.results import Counts, Generator, Latency, Measured, Rates, Step


def measured(*, p99: float | None = 5.0, answered: float = 100, intended: float = 100, failed: int = 0) -> Measured:
    latency = Latency(p50=p99, p90=p99, p99=p99, p99_9=p99, max=p99, mean=p99)
    return Measured(
        seconds=10.0,
        counts=Counts(requests=1000, answered=1000 - failed, failed=failed, not_sent=0),
        rates=Rates(intended=intended, answered=answered, rows=answered),
        latency_ms=latency,
        statuses={},
        failures=[],
        slots=[],
        timeline=[],
        curve=[],
        generator=Generator(cpu_share=0.1, cpu_us_per_request=10.0, late_ms_p99=0.0, warnings=[]),
        was_stopped=False,
    )


def search(capacity: float, first: float = 100.0, hiccups: tuple[int, ...] = ()) -> list[Step]:
    steps: list[Step] = []
    while (rate := next_rate(steps, first)) is not None:
        meets = rate <= capacity and len(steps) not in hiccups
        steps.append(judge(rate, measured(p99=5.0 if meets else 50.0, answered=rate, intended=rate), 10.0))
    return steps


@pytest.mark.parametrize("capacity", [3.0, 77.0, 100.0, 1234.0, 9_999.0])
def test_the_search_ends_close_below_the_capacity(capacity: float) -> None:
    steps = search(capacity)
    best = best_rate(steps)
    assert best is not None
    assert best <= capacity <= best * CLOSE_ENOUGH
    assert len(steps) <= MAXIMUM_STEPS


def test_one_hiccup_does_not_end_the_ramp() -> None:
    steps = search(1000.0, hiccups=(2,))
    assert [step.rate for step in steps[:5]] == [100, 200, 400, 400, 800]
    assert best_rate(steps) == pytest.approx(1000, rel=0.06)


def test_a_server_that_meets_nothing_has_no_best_rate() -> None:
    steps = search(0.0)
    assert best_rate(steps) is None
    assert min(step.rate for step in steps) >= 1


@pytest.mark.parametrize(
    ("found", "text"),
    [
        ({"p99": 11.0}, "p99 11.00 ms > 10 ms"),
        ({"p99": None}, "there is no p99 > 10 ms"),
        ({"failed": 2}, "failed 0.20% > 0.1%"),
        ({"answered": 90.0}, "answered 90 a second < 97% of 100"),
    ],
)
def test_each_reason_not_to_meet_the_objective_is_told(found: dict[str, Any], text: str) -> None:
    step = judge(100.0, measured(**found), 10.0)
    assert not step.meets
    assert step.reason == text


def test_a_rate_within_all_limits_meets_the_objective() -> None:
    step = judge(100.0, measured(failed=1), 10.0)
    assert step.meets
    assert step.reason == "p99 5.00 ms <= 10 ms"
