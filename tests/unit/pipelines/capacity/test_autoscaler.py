"""The algorithm as Kubernetes documents it, rule by rule."""

from typing import Any

import pytest

from pipelines.capacity.autoscaler import Autoscaler, Behavior, Controller, ScalingPolicy, Seen

FREE = Behavior(stabilization_s=0, policies=(ScalingPolicy(type="Percent", value=1000),))


def controller(replicas: int, **changes: Any) -> Controller:
    values: dict[str, Any] = {
        "name": "test", "signal": "cpu", "target": 0.5, "fewest": 1, "most": 100, "up": FREE, "down": FREE,
    }  # fmt: skip
    return Controller(Autoscaler(**values | changes), replicas)


def cpu(replicas: int, each: float, known: int | None = None) -> Seen:
    known = replicas if known is None else known
    return Seen(replicas, known, known * each)


def test_twice_the_target_doubles_and_half_of_it_halves() -> None:
    assert controller(4).sync(0, cpu(4, 1.0)) == 8
    assert controller(4).sync(0, cpu(4, 0.25)) == 2
    assert controller(5).sync(0, cpu(5, 0.61)) == 7, "6.1 are rounded up"


@pytest.mark.parametrize(("each", "wanted"), [(0.549, 10), (0.56, 12), (0.451, 10), (0.44, 9)])
def test_a_tenth_around_the_target_is_tolerated(each: float, wanted: int) -> None:
    assert controller(10).sync(0, cpu(10, each)) == wanted


def test_pods_whose_cpu_is_not_known_count_as_idle_when_the_others_ask_for_more() -> None:
    assert controller(8).sync(0, cpu(8, 1.0, known=6)) == 12, "(6 × 100 % + 2 × 0 %) / 50 %"
    assert controller(8).sync(0, cpu(8, 1.0, known=4)) == 8, "within the tolerance after all"
    assert controller(8).sync(0, cpu(8, 1.0, known=2)) == 8, "the direction would turn"


def test_pods_whose_cpu_is_not_known_count_as_at_the_target_when_the_others_ask_for_fewer() -> None:
    assert controller(8).sync(0, cpu(8, 0.25, known=4)) == 6


def test_without_any_value_nothing_is_done() -> None:
    assert controller(8).sync(0, Seen(8, 0, 0.0)) == 8


def test_a_queue_is_held_against_all_replicas_at_once() -> None:
    asked = controller(4, signal="queue", target=2.0)
    assert asked.sync(0, Seen(4, 2, 30.0)) == 15
    assert controller(4, signal="queue", target=2.0).sync(0, Seen(4, 4, 8.5)) == 4


def test_the_bounds_hold() -> None:
    assert controller(4, most=6).sync(0, cpu(4, 5.0)) == 6
    assert controller(4, fewest=3).sync(0, cpu(4, 0.0)) == 3


def test_fewer_wait_until_the_highest_recommendation_of_the_window_is_gone() -> None:
    down = Behavior(stabilization_s=300, policies=FREE.policies)
    asked = controller(10, down=down)
    assert asked.sync(0, cpu(10, 0.5)) == 10
    assert asked.sync(15, cpu(10, 0.2)) == 10
    assert asked.sync(300, cpu(10, 0.1)) == 10
    assert asked.sync(301, cpu(10, 0.1)) == 4, "what was recommended at 15 s is the highest now"


def test_more_wait_until_the_lowest_recommendation_of_the_window_is_gone() -> None:
    asked = controller(10, up=Behavior(stabilization_s=60, policies=FREE.policies))
    assert asked.sync(0, cpu(10, 0.5)) == 10
    assert asked.sync(30, cpu(10, 1.0)) == 10
    assert asked.sync(61, cpu(10, 1.0)) == 20


def test_the_most_permissive_policy_counts_and_a_period_is_used_up_once() -> None:
    up = Behavior(
        stabilization_s=0, policies=(ScalingPolicy(type="Percent", value=100), ScalingPolicy(type="Pods", value=4))
    )
    asked = controller(2, up=up)
    assert asked.sync(0, cpu(2, 50.0)) == 6, "four pods are more than twice"
    assert asked.sync(10, cpu(6, 50.0)) == 6, "the period of 15 s is used up"
    assert asked.sync(15, cpu(6, 50.0)) == 12


def test_a_policy_slows_the_way_down() -> None:
    down = Behavior(stabilization_s=0, policies=(ScalingPolicy(type="Percent", value=10, period_s=60),))
    asked = controller(50, down=down)
    assert asked.sync(0, cpu(50, 0.0)) == 45
    assert asked.sync(30, cpu(45, 0.0)) == 45
    assert asked.sync(60, cpu(45, 0.0)) == 40


def test_bounds_the_wrong_way_round_are_refused() -> None:
    with pytest.raises(ValueError, match="found most 2, expected at least fewest, 3"):
        controller(3, fewest=3, most=2)
