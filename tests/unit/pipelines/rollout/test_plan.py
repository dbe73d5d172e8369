from typing import Any

import msgspec
import pytest

from pipelines.rollout.plan import Plan


def parse(text: str) -> Plan:
    return msgspec.yaml.decode(text, type=Plan)


def test_the_default_plan_ends_at_all_traffic() -> None:
    assert [step.share for step in Plan().steps] == [0.05, 0.1, 0.25, 0.5, 1.0]


def test_a_plan_is_read_as_people_write_it() -> None:
    plan = parse("{shadow: null, steps: [{share: 0.5, minimum_requests: 10}, {share: 1}], lease_s: 20}")
    assert (plan.shadow, plan.steps[0].minimum_requests, plan.steps[1].share, plan.lease_s) == (None, 10, 1.0, 20)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{steps: []}", "at least one step"),
        ("{steps: [{share: 0.5}]}", "last of steps has share 1.0, found 0.5"),
        ("{steps: [{share: 0.5}, {share: 0.5}, {share: 1}]}", "growing shares, found"),
        ("{steps: [{share: 0}]}", r"share lies in \(0, 1\], found 0"),
        ("{steps: [{share: 1.5}]}", "found 1.5"),
        ("{steps: [{share: 1, minimum_requests: 0}]}", "minimum_requests is at least 1, found 0"),
        ("{steps: [{share: 1, minimum_s: 9, maximum_s: 8}]}", "found 9.0 with maximum_s 8.0"),
        ("{steps: [{share: 1, minimum_request: 5}]}", "minimum_request"),
        ("{steps: [{share: 1, coverage: 0}]}", r"coverage lies in \(0, 1\] or is null, found 0"),
        ("{coverage: {time_zone: Mars/Olympus}}", "a name such as Europe/Berlin, found 'Mars/Olympus'"),
        ("{coverage: {minimum_per_cell: 0}}", "coverage.minimum_per_cell is at least 1, found 0"),
        ("{coverage: {reference_days: 3}}", "coverage.reference_days is at least 7, found 3"),
        ("{shadow: {maximum_flip_share: 0}}", "maximum_flip_share lies"),
        ("{shadow: {maximum_shift: null, slice_by: carrier}}", "need a shadow.maximum_shift"),
        ("{shadow: {sample: 0}}", r"shadow.sample is a share of the requests in \(0, 1\], found 0"),
        ("{shadow: {minimum_pairs: 0}}", "minimum_pairs is at least 1"),
        ("{alpha: 1}", "alpha lies in"),
        ("{score_margin: 0}", "score_margin is a difference of mean ranks in .0, 1., found 0"),
        ("{error_odds_margin: 0.5}", "error_odds_margin is an odds ratio of at least 1, found 0.5"),
        ("{slow_p99_rate_margin: 0}", r"slow_p99_rate_margin lies in \(0, 1\) or is null, found 0"),
        ("{slow_p99_rate_margin: 1}", r"slow_p99_rate_margin lies in \(0, 1\) or is null, found 1"),
        ("{latency_floor_ms: -1}", "latency_floor_ms is at least 0"),
        ("{look_every_s: 0}", "look_every_s is above 0"),
        ("{look_every_s: 10}", "lease_s is at least 3 times look_every_s"),
        ("{unreachable_s: 5}", "unreachable_s is at least lease_s"),
        ("{hard_limits: {errors: 30, window: 20}}", "errors 30 and window 20"),
    ],
)
def test_a_wrong_plan_is_refused_with_what_was_found(text: str, message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        parse(text)


def test_a_plan_is_the_same_after_a_trip_through_json() -> None:
    plan = Plan(shadow=None, alpha=0.05)
    encoded: Any = msgspec.json.encode(plan)
    assert msgspec.json.decode(encoded, type=Plan) == plan
