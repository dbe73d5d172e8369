from statistics import median
from typing import Any

import msgspec
import numpy as np
import pytest

from pipelines.rollout.coverage import Pattern
from pipelines.rollout.plan import AlphaShares, Coverage, Plan, ShadowStep, Step
from pipelines.rollout.preflight import Forecast, Need, Traffic, duration, forecast
from pipelines.rollout.simulation.traffic import World
from pipelines.rollout.simulation.trial import run_trial

MIDNIGHT = 1_772_928_000.0  # 2026-03-08T00:00:00Z
HOUR = 3600.0
STEADY = Traffic(requests_per_s=10, entities_per_s=10, failure_rate=0.005, source="drawn")
DAYTIME = tuple(1 / 12 if 8 <= hour < 20 else 0.0 for hour in range(24))


def needs(found: Forecast, criterion: str) -> list[Need]:
    return [need for need in found.needs if need.criterion == criterion]


def seconds(found: Forecast, criterion: str) -> list[Any]:
    return [None if need.seconds is None else round(need.seconds) for need in needs(found, criterion)]


def plan(**changes: Any) -> Plan:
    steps = (Step(share=0.1, minimum_requests=200), Step(share=1.0, minimum_requests=200))
    return Plan(**{"shadow": ShadowStep(minimum_pairs=100), "steps": steps, "error_rate_margin": None, **changes})


def test_requests_take_their_time_by_share() -> None:
    found = forecast(plan(), STEADY, MIDNIGHT, None)
    assert (seconds(found, "pairs"), seconds(found, "requests")) == ([10], [200, 20])
    assert found.problems == ()
    assert round(found.seconds) == 230
    sampled = plan(shadow=ShadowStep(minimum_pairs=100, sample=0.25))
    assert seconds(forecast(sampled, STEADY, MIDNIGHT, None), "pairs") == [40]


def test_each_of_several_challengers_has_its_part_of_the_traffic() -> None:
    alone, three = (forecast(plan().among(n) if n > 1 else plan(), STEADY, MIDNIGHT, None) for n in (1, 3))
    for one, lane in zip(seconds(alone, "requests"), seconds(three, "requests"), strict=True):
        assert lane == pytest.approx(3 * one, rel=0.01)
    assert three.traffic.source == "drawn; one of 3 lanes"


def test_a_phase_that_gets_too_little_in_its_time_is_a_problem_with_both_sides() -> None:
    thin = msgspec.structs.replace(STEADY, requests_per_s=0.1, entities_per_s=0.1)
    found = forecast(plan(), thin, MIDNIGHT, None)
    assert found.problems == (
        "10 %: 200 requests of the challenger take 5.6 h at 0.1 requests a second, at most 60.0 min",
    )
    assert seconds(found, "requests") == [20_000, 2000]


def test_without_traffic_nothing_is_reached() -> None:
    found = forecast(plan(), Traffic(requests_per_s=0, entities_per_s=0, failure_rate=0, source=""), MIDNIGHT, None)
    assert [need.is_reached for need in found.needs] == [False] * 3
    assert "shadow: 100 pairs take more than four weeks at 0 requests a second" in found.problems[0]


def test_a_rollout_that_begins_at_night_waits_for_the_morning() -> None:
    daytime = msgspec.structs.replace(STEADY, by_hour=DAYTIME)  # 20 requests a second from 8 to 20 h
    begun = forecast(plan(shadow=None), daytime, MIDNIGHT + 9 * HOUR, None)
    assert seconds(begun, "requests") == [100, 10]
    late = forecast(plan(shadow=None), daytime, MIDNIGHT + 20 * HOUR, None)
    assert seconds(late, "requests") == [12 * HOUR + 100, 11 * HOUR + 10]  # the second begins when the first timed out
    assert late.problems == (
        "10 %: 200 requests of the challenger take 12.0 h at 10 requests a second, at most 60.0 min",
        "100 %: 200 requests of the challenger take 11.0 h at 10 requests a second, at most 60.0 min",
    )


def test_the_margin_of_failures_takes_as_long_as_the_judge_takes_to_show_it() -> None:
    wanted = plan(shadow=None, error_rate_margin=0.02, steps=(Step(share=0.5, minimum_requests=20), Step(share=1.0)))
    (half, _) = seconds(forecast(wanted, STEADY, MIDNIGHT, None), "error_rate_margin")
    world = World(failure_rate=0.005, requests_per_s=10, entities=100_000)
    took = [
        run_trial(world, plan(shadow=None, error_rate_margin=0.02, steps=wanted.steps), seed, 1.0) for seed in range(9)
    ]
    # a trial goes through both steps, and the second one takes 20 s for its 200 requests
    usual = median(trial.seconds for trial in took if trial.end == "promoted") - 20
    assert half / 1.6 < usual < half * 1.6


def test_the_margin_of_slow_answers_takes_as_long_as_the_judge_takes_to_show_it() -> None:
    steps = (Step(share=0.5, minimum_requests=20), Step(share=1.0, minimum_requests=20))
    wanted = plan(shadow=None, slow_p99_rate_margin=0.05, steps=steps)
    found = forecast(wanted, STEADY, MIDNIGHT, None)
    (shown,) = needs(found, "slow_p99_rate_margin")  # at 100 % there is no champion to be slower than
    assert shown.needs.endswith("entities, to show that answers slower than p99 are at most 0.05 above the champion's")
    world = World(failure_rate=0.005, requests_per_s=10, entities=100_000)
    took = [run_trial(world, wanted, seed, 1.0) for seed in range(9)]
    usual = median(trial.seconds for trial in took if trial.end == "promoted") - 10  # the second step's minimum
    assert shown.seconds is not None
    assert shown.seconds / 1.6 < usual < shown.seconds * 1.6


def test_what_was_shown_in_one_step_need_not_be_shown_again() -> None:
    steps = (Step(share=0.5, minimum_requests=5000), Step(share=1.0, minimum_requests=10))
    found = forecast(plan(shadow=None, error_rate_margin=0.05, steps=steps), STEADY, MIDNIGHT, None)
    assert seconds(found, "error_rate_margin")[1] == 0


def test_a_few_busy_entities_show_less_than_many() -> None:
    few = msgspec.structs.replace(STEADY, entities_per_s=1)
    asked = plan(shadow=None, error_rate_margin=0.05)
    many_s, few_s = (seconds(forecast(asked, each, MIDNIGHT, None), "error_rate_margin")[0] for each in (STEADY, few))
    assert few_s == pytest.approx(10 * many_s, rel=0.02)


WEEK = Pattern.of({(hour, ""): 100 for hour in range(8, 20)}, days=7)


def covering(by: Any = "served", asked: float = 0.8, **policy: Any) -> Plan:
    steps = (Step(share=0.5, minimum_requests=20), Step(share=1.0, maximum_s=100_000, coverage=asked))
    return plan(shadow=None, steps=steps, coverage=Coverage(by=by, **policy))


def test_coverage_takes_until_the_hours_have_come() -> None:
    daytime = msgspec.structs.replace(STEADY, by_hour=DAYTIME)
    found = forecast(covering(), daytime, MIDNIGHT + 8 * HOUR, WEEK)
    # 0.8 of twelve hours are ten of them, and the last one is seen within its first minutes
    assert 9 * HOUR - 60 <= needs(found, "coverage")[0].seconds <= 9 * HOUR + 300  # type: ignore[operator]
    assert found.problems == ()
    # at 8 UTC it is 4 in New York: four hours more
    west = forecast(covering(time_zone="America/New_York"), STEADY, MIDNIGHT + 8 * HOUR, WEEK)
    assert needs(west, "coverage")[0].seconds == pytest.approx(13 * HOUR, abs=300)


def test_a_step_that_is_too_short_for_the_evening_is_a_problem() -> None:
    short = covering()
    short = msgspec.structs.replace(
        short, steps=(short.steps[0], msgspec.structs.replace(short.steps[1], maximum_s=3600))
    )
    (problem,) = forecast(short, STEADY, MIDNIGHT + 8 * HOUR, WEEK).problems
    assert problem == (
        "100 %: hours that make 0.80 of the usual traffic take 9.0 h at 10 requests a second, at most 60.0 min"
    )


def test_coverage_of_event_hours_comes_at_any_time() -> None:
    found = forecast(covering(by="event"), STEADY, MIDNIGHT, WEEK)
    assert needs(found, "coverage")[0].seconds <= 300  # type: ignore[operator]
    rare = Pattern.of({(8, "AA"): 8999, (9, "HA"): 1001}, days=7)
    thin = msgspec.structs.replace(STEADY, requests_per_s=0.01)
    found = forecast(covering(by="event", asked=0.95), thin, MIDNIGHT, rare)
    # a request of HA comes every 1,000 s; the first step has seen 2 of the 5 in its 4,000 s, at half of the traffic
    assert needs(found, "coverage")[0].seconds == pytest.approx(3000, abs=300)


def test_without_a_pattern_no_step_waits_for_it() -> None:
    for pattern in (None, Pattern()):
        assert needs(forecast(covering(), STEADY, MIDNIGHT, pattern), "coverage") == []


def test_a_harm_is_seen_about_as_soon_as_the_judge_sees_it() -> None:
    first = (Step(share=0.05, minimum_requests=10**9, maximum_s=10**9), Step(share=1.0))
    endless = Plan(shadow=None, steps=first)
    told = forecast(
        endless, msgspec.structs.replace(STEADY, requests_per_s=100, entities_per_s=100), MIDNIGHT, None
    ).harm
    assert told.startswith("failures of 5.00% in place of 0.50% are seen after about 93 requests of the challenger")
    assert told.endswith("at 5 % in 19 s")
    odds = 0.05 / 0.95 / (0.005 / 0.995)
    world = World(failure_rate=0.005, requests_per_s=100, odds=odds, entities=100_000)
    found = [run_trial(world, endless, seed, 1.0, maximum_s=600.0) for seed in range(15)]
    assert {trial.end for trial in found} <= {"rolled_back", "hard_limit"}
    assert 93 / 2 < np.median([trial.challenger_requests for trial in found]) < 93 * 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"failure_rate": 0.1}, "the champion fails at 10.00% itself: 5.00% is no harm"),
        ({"requests_per_s": 0.0, "entities_per_s": 0.0}, "in more than four weeks"),
    ],
)
def test_what_cannot_be_seen_is_said(changes: dict[str, float], words: str) -> None:
    assert words in forecast(plan(), msgspec.structs.replace(STEADY, **changes), MIDNIGHT, None).harm


def test_a_plan_without_alpha_for_errors_sees_none() -> None:
    assert "no share of alpha" in forecast(plan(alpha_shares=AlphaShares(errors=0)), STEADY, MIDNIGHT, None).harm


@pytest.mark.parametrize(
    ("found", "words"), [(0, "0 s"), (119, "119 s"), (600, "10.0 min"), (9 * HOUR, "9.0 h"), (86_400 * 3, "3.0 days")]
)
def test_a_duration_is_said_as_people_do(found: float, words: str) -> None:
    assert duration(found) == words
