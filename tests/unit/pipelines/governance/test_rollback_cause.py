from typing import Any

import pytest

from pipelines.governance.rollback_cause import CAUSES, LIGHT, cause_of
from pipelines.rollout.judge import Memory, judge_shadow, judge_step
from pipelines.rollout.plan import Plan, ShadowStep


def finding(name: str, e_value: float, limit: float | None = 100.0) -> dict[str, Any]:
    return {"name": name, "what": name, "e_value": e_value, "limit": limit}


LOOKED = {"type": "Looked"}
SUPERSEDING = {"command": "abort", "by": "paceline", "reason": "superseded by version 3"}


@pytest.mark.parametrize(
    ("expected", "last", "tripped", "findings"),
    [
        ("errors", LOOKED, None, [finding("split", 1), finding("errors", 500)]),
        ("errors", LOOKED, None, [finding("errors in pairs", 500)]),
        ("latency", LOOKED, None, [finding("errors", 101), finding("slower than p95", 900)]),
        ("scores", LOOKED, None, [finding("score deciles", 900)]),
        ("flips", LOOKED, None, [finding("flips", 900)]),
        ("split", LOOKED, None, [finding("split", 101), finding("errors", 1e9)]),
        ("hard_limit", LOOKED, "hard_limit", []),
        ("lease", LOOKED, "lease", [finding("errors", 3, None)]),
        ("share_refused", {"type": "ShareRefused"}, None, []),
        ("load_refused", {"type": "LoadRefused"}, None, []),
        ("promotion_refused", {"type": "PromotionRefused"}, None, []),
        ("unreachable", {"type": "Unreachable"}, None, []),
        ("aborted", {"type": "Aborted", "by": "ada"}, None, []),
        ("aborted", {"type": "Commanded", "command": {"command": "abort"}}, None, []),
        ("operator", {"type": "Commanded", "command": {"command": "rollback"}}, None, []),
        ("operator", {"type": "Commanded", "command": {"command": "reject"}}, None, []),
        ("superseded", {"type": "Commanded", "command": SUPERSEDING}, None, []),
        ("traffic", LOOKED, None, [finding("errors", 2)]),
        ("lost", LOOKED, None, []),
        ("unknown", {}, None, []),
    ],
)
def test_a_cause_is_read_from_what_ended_the_rollout(
    expected: str, last: dict[str, Any], tripped: str | None, findings: list[dict[str, Any]]
) -> None:
    assert cause_of(last, tripped, findings).name == expected


def test_whatever_the_judge_asks_has_a_cause() -> None:
    plan, memory = Plan(), Memory.fresh(Plan())
    shadow = ShadowStep(slice_by="carrier")
    judgements = (judge_shadow(memory, shadow, plan, 0), judge_step(memory, plan.steps[0], plan, 0))
    names = [each.name for judgement in judgements for each in judgement.findings]
    assert len(set(names)) >= 12
    assert [name for name in names if cause_of(LOOKED, None, [finding(name, 500)]).name == "unknown"] == []


def test_every_cause_says_what_to_do_next() -> None:
    assert all(cause.steps and cause.title for cause in CAUSES.values())


def test_what_says_nothing_against_a_version_wakes_nobody() -> None:
    assert {CAUSES[name].severity for name in LIGHT} == {"notice"}


def test_a_rollout_that_waits_for_a_person_ends_for_that_unless_the_judge_found_something() -> None:
    assert cause_of(LOOKED, None, [], is_asked=True).name == "unanswered"
    assert cause_of(LOOKED, None, [], is_asked=True, is_paused=True).name == "paused"
    assert cause_of(LOOKED, None, [finding("errors", 500)], is_asked=True).name == "errors"
