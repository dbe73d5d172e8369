import numpy as np
import pytest

from benchmarks.capacity.__main__ import MEASURED, REPLICAS_AT_BASE, SPIKE_FROM_S
from benchmarks.capacity.settings import FOUND_DOWN, autoscalers, found
from pipelines.capacity.autoscaler import Autoscaler
from pipelines.capacity.measured import read_measured
from pipelines.capacity.simulation import Replica, simulate
from pipelines.capacity.traffic_shapes import day, sawtooth, spike

REPLICA = Replica(saturation_per_s=900.0, objective_s=0.02, start_s=1.5)
BASE = 6300.0


def beyond(name_starts: str, seeds: int = 6) -> float:
    settings = next(each for each in autoscalers(REPLICA) if each.name.startswith(name_starts))
    return float(np.mean([simulate(spike(BASE), REPLICA, settings, seed=seed).outcome.beyond for seed in range(seeds)]))


def test_at_a_threefold_spike_a_queue_leaves_at_most_a_tenth_of_cpus_late_requests() -> None:
    ours = np.mean([simulate(spike(BASE), REPLICA, found(REPLICA), seed=seed).outcome.beyond for seed in range(6)])
    assert ours <= beyond("CPU 65 %") / 10
    assert ours <= beyond("CPU 60 %, tuned") / 10


def test_for_the_same_replica_hours_a_queue_leaves_fewer_late_requests_than_tuned_cpu_and_scales_half_as_often() -> (
    None
):
    measured = read_measured(MEASURED)
    replica = Replica(
        saturation_per_s=measured.saturation_per_s, objective_s=measured.objective_ms / 1e3, start_s=measured.start_s
    )
    base = REPLICAS_AT_BASE * measured.saturation_per_s
    (cpu,) = [each for each in autoscalers(replica) if each.name == "CPU 55 %, tuned"]

    def mean(autoscaler: Autoscaler, what: str) -> float:
        played = [
            simulate(spike(base), replica, autoscaler, seed=seed, from_s=SPIKE_FROM_S).outcome for seed in range(10)
        ]
        return float(np.mean([getattr(each, what) for each in played]))

    assert mean(found(replica), "replica_hours") == pytest.approx(mean(cpu, "replica_hours"), rel=0.05)
    assert mean(found(replica), "beyond") < 0.9 * mean(cpu, "beyond")
    ours, theirs = (
        np.mean([simulate(sawtooth(base), replica, each, seed=seed).outcome.scale_events for seed in range(4)])
        for each in (found(replica), cpu)
    )
    assert ours < theirs / 2


def test_a_sawtooth_hour_has_at_most_four_scale_events() -> None:
    for base in (BASE, 12_000.0):
        played = [simulate(sawtooth(base), REPLICA, found(REPLICA), seed=seed).outcome for seed in range(4)]
        assert max(each.scale_events for each in played) <= 4


def test_the_same_seed_plays_the_same_course() -> None:
    first, again, other = (simulate(sawtooth(BASE), REPLICA, found(REPLICA), seed=seed) for seed in (3, 3, 4))
    assert first.outcome == again.outcome
    assert first.outcome != other.outcome


def test_enough_replicas_leave_hardly_any_request_beyond_the_objective_and_too_few_most() -> None:
    steady = np.full(600, 900.0)
    for count, low, high in ((1, 0.005, 0.03), (2, 0.0, 1e-6)):
        still = Autoscaler(name="still", signal="cpu", target=0.6, fewest=count, most=count, down=FOUND_DOWN)
        share = simulate(steady, REPLICA, still, seed=1, begins=count).outcome.share_beyond
        assert low <= share <= high
    overload = np.full(600, 3000.0)
    still = Autoscaler(name="still", signal="cpu", target=0.6, fewest=1, most=1)
    outcome = simulate(overload, REPLICA, still, seed=1, begins=1).outcome
    assert outcome.share_beyond > 0.95
    assert (outcome.scale_events, outcome.most_replicas) == (0, 1)
    assert outcome.replica_hours == pytest.approx(600 / 3600)


def test_a_new_replica_serves_after_its_pod_and_its_process_have_started() -> None:
    slow = Replica(saturation_per_s=900.0, objective_s=0.02, start_s=30, schedule_s=5)
    course = simulate(spike(BASE, rise_s=0, before_s=120, after_s=240), slow, found(slow), seed=2)
    first = int(np.argmax(course.ready > course.ready[0]))
    assert 120 + 35 <= first <= 120 + 35 + 20  # a scrape of 5 s and a round of 15 s come before


def test_the_shapes_are_what_they_say() -> None:
    risen = spike(100, 3, rise_s=60, before_s=10, after_s=10)
    assert (risen[9], risen[10], risen[70], len(risen)) == (100, 100, 300, 80)
    teeth = sawtooth(100, 2, 600, 1800)
    assert (teeth.min(), round(teeth.max())) == (100, 200)
    assert teeth[599] > 199
    assert teeth[600] == 100
    flown = day([1] * 12 + [4] + [1] * 11, 80)
    assert flown[12 * 3600 + 1800] == pytest.approx(80)
    assert flown[0] == pytest.approx(20)


@pytest.mark.parametrize("hours", [[1] * 23, [0] * 24, [-1] + [1] * 23])
def test_a_day_that_is_none_is_refused(hours: list[int]) -> None:
    with pytest.raises(ValueError, match="expected the counts of 24 hours"):
        day(hours, 10)
