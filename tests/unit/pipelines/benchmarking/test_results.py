"""The numbers of a recording that is made by hand."""

import numpy as np
import pytest

from pipelines.benchmarking.load import NOT_SENT, LoadResult
from pipelines.benchmarking.recording import MAXIMUM_LABELS, Label, Recording
from pipelines.benchmarking.results import Measured, measure

CHAMPION = Label(200, "champion", "1")
CHALLENGER = Label(200, "challenger", "2")


def load(recording: Recording, *, seconds: float = 10.0, cpu_s: float = 1.0, was_stopped: bool = False) -> LoadResult:
    return LoadResult(recording, len(recording), seconds, cpu_s, was_stopped)


def made(recording: Recording, *, warmup_s: float = 0.0, rows: int = 1, **more: float) -> Measured:
    due = np.sort(recording.due_s)
    return measure(load(recording, **more), due_s=due, rows=rows, warmup_s=warmup_s, seconds=10.0 - warmup_s)


def test_percentiles_are_exact_and_by_slot() -> None:
    recording = Recording()
    for number in range(1000):
        label = CHALLENGER if number % 10 == 0 else CHAMPION
        recording.add(number / 100, (number + 1) / 1000, label)
    measured = made(recording, rows=3)
    assert measured.latency_ms.max == pytest.approx(1000)
    assert measured.latency_ms.p50 == pytest.approx(500.5)
    assert measured.latency_ms.p99 == pytest.approx(990.01)
    assert [(slot.slot, slot.requests, slot.share) for slot in measured.slots] == [
        ("challenger", 100, 0.1),
        ("champion", 900, 0.9),
    ]
    assert measured.rates.answered == pytest.approx(100)
    assert measured.rates.rows == pytest.approx(300)
    assert [point.percentile for point in measured.curve][-1] == 99.9, "a thousand requests show no more nines"


def test_the_warm_up_does_not_count() -> None:
    recording = Recording()
    for number in range(100):
        recording.add(number / 10, 9.0 if number < 20 else 0.001, CHAMPION)
    measured = made(recording, warmup_s=2.0)
    assert measured.counts.requests == 80
    assert measured.latency_ms.max == pytest.approx(1)
    assert measured.timeline[0].second == 0


def test_what_was_given_up_counts_as_latency_and_what_was_refused_does_not() -> None:
    recording = Recording()
    recording.add(0.0, 0.001, CHAMPION)
    recording.add(0.1, 5.0, Label(0, error=NOT_SENT, given_up=True))
    recording.add(0.2, 0.002, Label(429, error="HTTP 429"), "slow down")
    recording.add(0.3, 0.002, Label(429, error="HTTP 429"), "and again")
    measured = made(recording)
    assert measured.latency_ms.max == pytest.approx(5000)
    assert measured.latency_ms.mean == pytest.approx(2500.5)
    assert (measured.counts.answered, measured.counts.failed, measured.counts.not_sent) == (1, 3, 1)
    assert measured.statuses == {"200": 1, "429": 2, "no answer": 1}
    assert [(each.cause, each.requests, each.example) for each in measured.failures] == [
        ("HTTP 429", 2, "slow down"),
        (NOT_SENT, 1, ""),
    ]


def test_a_run_without_any_answer_has_no_percentiles() -> None:
    measured = made(Recording())
    assert measured.latency_ms.p50 is None
    assert (measured.curve, measured.slots) == ([], [])


def test_a_generator_that_was_the_limit_says_so_and_one_that_was_not_does_not() -> None:
    recording = Recording()
    recording.add(0.0, 0.001, CHAMPION)
    recording.late(0.0001)
    assert made(recording).generator.warnings == []
    assert "busy for 95% of a core" in made(recording, cpu_s=9.5).generator.warnings[0]
    recording.late(0.5)
    assert "late" in made(recording).generator.warnings[0]


def test_rates_of_a_run_that_was_stopped_are_of_its_own_time() -> None:
    recording = Recording()
    for number in range(20):
        recording.add(number / 10, 0.001, CHAMPION)
    measured = made(recording, seconds=2.0, was_stopped=True)
    assert measured.seconds == pytest.approx(2.0)
    assert measured.rates.answered == pytest.approx(10)


def test_answers_that_all_differ_do_not_fill_the_memory() -> None:
    recording = Recording()
    for number in range(MAXIMUM_LABELS):
        recording.add(0.0, 0.0, Label(200, "champion", str(number)))
    with pytest.raises(RuntimeError, match="differ in more than"):
        recording.add(0.0, 0.0, Label(200, "champion", "one more"))
