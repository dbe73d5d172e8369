"""The settings that the simulation found are those of the manifests; the goals are judged as they say."""

from typing import Any

import pytest
import yaml

from benchmarks.capacity.__main__ import MEASURED, _replica, hours_of, reached, text_of
from benchmarks.capacity.settings import autoscalers, found
from pipelines.capacity.measured import read_measured
from pipelines.capacity.simulation import Outcome
from pipelines.wiring import REPOSITORY

SCALING = REPOSITORY / "deploy" / "kubernetes" / "flight-delay" / "scaling.yaml"


def outcome(beyond: float, events: int = 2) -> Outcome:
    return Outcome(
        requests=1000, beyond=beyond, scale_events=events, worst_hour_events=events, replica_hours=1, most_replicas=9
    )


@pytest.mark.parametrize(("beyond", "events", "expected"), [(9.0, 4, True), (11.0, 4, False), (9.0, 5, False)])
def test_a_goal_that_is_missed_is_not_reached(beyond: float, events: int, expected: bool) -> None:
    results = {
        ("spike", "CPU, defaults"): [outcome(100)],
        ("spike", "CPU, tuned"): [outcome(20)],
        ("spike", "queue"): [outcome(beyond)],
        ("sawtooth", "CPU, defaults"): [outcome(0, 20)],
        ("sawtooth", "CPU, tuned"): [outcome(0, 20)],
        ("sawtooth", "queue"): [outcome(0), outcome(0, events)],
    }
    assert reached(results) is expected
    said = text_of(read_measured(MEASURED), results, 2)
    assert ("Goals reached." in said) is expected


def test_the_settings_found_are_the_last_that_are_compared() -> None:
    replica = _replica(read_measured(MEASURED))
    assert autoscalers(replica)[-1] == found(replica)
    assert [each.target for each in autoscalers(replica) if each.signal == "cpu"] == [0.65, 0.6, 0.55]


def test_the_day_is_that_of_the_flights(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACELINE_HOME", str(tmp_path))
    by_hour = hours_of("2013-07-18")
    assert 900 < sum(by_hour) < 1100
    assert max(by_hour) > 50 > by_hour[3] == 0


def test_the_manifests_scale_as_the_simulation_found() -> None:
    settings = found(_replica(read_measured(MEASURED)))
    for hpa in yaml.safe_load_all(SCALING.read_text()):
        if hpa["kind"] != "HorizontalPodAutoscaler":
            continue
        queue = hpa["spec"]["metrics"][0]["pods"]["target"]["averageValue"]
        assert float(queue.removesuffix("m")) / 1000 == pytest.approx(settings.target, rel=0.05)
        behavior = hpa["spec"]["behavior"]
        for direction, ours in (("scaleUp", settings.up), ("scaleDown", settings.down)):
            theirs = behavior[direction]
            assert theirs["stabilizationWindowSeconds"] == ours.stabilization_s
            assert theirs["selectPolicy"] == "Max"
            assert theirs["tolerance"] == f"{settings.tolerance * 1000:.0f}m"
            assert [(each["type"], each["value"], each["periodSeconds"]) for each in theirs["policies"]] == [
                (each.type, each.value, each.period_s) for each in ours.policies
            ]
