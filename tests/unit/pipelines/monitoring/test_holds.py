"""The one policy for retrains: by table, and by what holds for all pasts."""

from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.monitoring.holds import (
    TRIGGERS,
    Brought,
    HoldLimits,
    Past,
    PastRetrain,
    RetrainBudget,
    Trigger,
    back_off_days,
    rule,
)
from pipelines.monitoring.retrain_history import past_retrains

TODAY = date(2013, 7, 31)
PLENTY = 50_000


def _past(*retrains: tuple[int, str, Brought], rollout: str | None = None, new_labels: int | None = PLENTY) -> Past:
    """Retrains as (days ago, trigger, what it brought)."""
    told = (PastRetrain(as_of=TODAY - timedelta(days=ago), trigger=why, brought=what) for ago, why, what in retrains)
    return Past(retrains=tuple(told), rollout=rollout, new_labels=new_labels)


@pytest.mark.parametrize(
    ("trigger", "past", "held_by"),
    [
        ("schedule", _past(), []),
        ("schedule", _past((7, "schedule", "better")), []),
        ("schedule", _past((6, "drift", "better")), ["cooldown"]),
        ("drift", _past((6, "schedule", "better")), ["cooldown"]),
        ("drift", _past((7, "drift", "better")), []),
        ("drift", _past((7, "drift", "not_better")), ["back_off"]),
        ("drift", _past((14, "drift", "not_better")), []),
        ("drift", _past((20, "drift", "not_better"), (14, "drift", "failed")), ["back_off"]),
        ("drift", _past((20, "drift", "not_better"), (14, "drift", "better")), []),
        ("drift", _past((14, "drift", "not_better"), (13, "drift", "unknown")), ["back_off"]),
        ("performance", _past((8, "drift", "not_better")), []),
        ("schedule", _past((8, "schedule", "not_better")), []),
        ("drift", _past(new_labels=999), ["new_labels"]),
        ("drift", _past(new_labels=1000), []),
        ("drift", _past(new_labels=None), ["new_labels"]),
        ("drift", _past(rollout="flights-v3-1"), ["rollout"]),
        ("alert", _past((1, "schedule", "better"), rollout="flights-v3-1", new_labels=0), []),
        ("alert", _past((0, "alert", "unknown")), ["back_off"]),
        ("alert", _past((1, "alert", "unknown")), []),
        ("alert", _past((1, "alert", "not_better")), ["back_off"]),
        ("manual", _past((0, "manual", "failed"), rollout="flights-v3-1", new_labels=0), []),
    ],
)
def test_each_trigger_is_held_by_what_the_policy_says(trigger: Trigger, past: Past, held_by: list[str]) -> None:
    ruling = rule(trigger, TODAY, past, HoldLimits())
    assert [held.hold for held in ruling.held_by] == held_by
    assert ruling.due == (not held_by)


def test_what_a_person_or_an_alert_goes_past_is_named_with_its_numbers() -> None:
    ruling = rule("manual", TODAY, _past((2, "drift", "better"), new_labels=10), HoldLimits())
    assert ruling.due
    assert ruling.why == (
        "goes past the cool-down: 2 days since the last retrain (as of 2013-07-29, drift) < 7; "
        "too little to learn from: 10 new labels < 1,000"
    )
    held = rule("schedule", TODAY, _past((2, "drift", "better")), HoldLimits())
    assert not held.due
    assert rule("schedule", TODAY, _past((2, "drift", "better")), HoldLimits(), insists=True).due


def test_a_project_may_forbid_a_person_to_go_past_the_budget() -> None:
    limits = HoldLimits(budget=RetrainBudget(retrains=1), overrides={"manual": ("cooldown",)})
    ruling = rule("manual", TODAY, _past((3, "schedule", "better")), limits)
    assert [held.reason for held in ruling.held_by] == ["the budget: 1 retrains in 30 days >= 1"]
    assert [held.hold for held in ruling.overridden] == ["cooldown"]
    assert rule("manual", TODAY, _past((30, "schedule", "better")), limits).due


def test_processor_hours_are_a_budget_too() -> None:
    limits = HoldLimits(budget=RetrainBudget(cpu_hours=2.0), cooldown_days=0)
    spent = tuple(PastRetrain(as_of=TODAY - timedelta(days=d), trigger="drift", cpu_hours=1.0) for d in (20, 10))
    ruling = rule("schedule", TODAY, Past(retrains=spent, new_labels=PLENTY), limits)
    assert [held.reason for held in ruling.held_by] == ["the budget: 2.00 CPU hours in 30 days >= 2"]
    assert rule("schedule", TODAY, Past(retrains=spent[1:], new_labels=PLENTY), limits).due


def test_each_retrain_that_brought_nothing_doubles_the_cool_down_up_to_its_limit() -> None:
    rows: list[PastRetrain] = []
    found = []
    for _ in range(5):
        found.append(back_off_days("drift", rows, HoldLimits(back_off_maximum_days=50)))
        rows.append(PastRetrain(as_of=TODAY, trigger="drift", brought="not_better"))
    assert found == [7, 14, 28, 50, 50]


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"cooldown_days": -1}, "cooldown_days is at least 0, found -1"),
        ({"cooldown_days": 60}, "back_off_maximum_days is 56, less than a cool-down of 60 days"),
        ({"budget": {"days": 0}}, "budget.days is at least 1, found 0"),
        ({"budget": {"cpu_hours": -1}}, "budget.cpu_hours is at least 0, or null; found -1"),
        ({"overrides": {"nobody": []}}, "nobody"),
        ({"overrides": {"manual": ["gates"]}}, "gates"),
        ({"cool_down": 3}, "cool_down"),
    ],
)
def test_limits_without_a_meaning_are_refused_by_name(limits: dict[str, Any], message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.convert(limits, HoldLimits)


_ASKED = st.lists(st.tuples(st.integers(0, 3), st.sampled_from(TRIGGERS)), max_size=60)
_BROUGHT = st.sampled_from(["better", "not_better", "failed", "unknown"])


@given(asked=_ASKED, brought=st.lists(_BROUGHT, min_size=60, max_size=60))
def test_at_most_one_retrain_starts_in_a_cool_down_whoever_asks_but_those_who_may_go_past_it(
    asked: list[tuple[int, Trigger]], brought: list[Brought]
) -> None:
    limits, day, started = HoldLimits(), TODAY, list[PastRetrain]()
    for (later, trigger), came in zip(asked, brought, strict=False):
        day += timedelta(days=later)
        ruling = rule(trigger, day, Past(retrains=tuple(started), new_labels=PLENTY), limits)
        if not ruling.due:
            assert ruling.held_by
            assert ruling.why.startswith("held back by ")
            continue
        last = max((each.as_of for each in started), default=None)
        if last is not None and (day - last).days < limits.cooldown_days:
            assert trigger in ("manual", "alert")
            assert "cooldown" in [held.hold for held in ruling.overridden]
        recent = [each for each in started if (day - each.as_of).days < limits.budget.days]
        assert trigger == "manual" or len(recent) < (limits.budget.retrains or 0)
        started.append(PastRetrain(as_of=day, trigger=trigger, brought=came))


@dataclass
class Told:
    """An entry of the ledger."""

    id: int
    kind: str
    subject: str
    body: dict[str, Any] = field(default_factory=dict)


def _entries(*told: tuple[str, str, dict[str, Any]]) -> list[Told]:
    return [Told(number, *each) for number, each in enumerate(told, 1)]


STARTED = ("trigger", "2013-07-01", {"trigger": "drift"})
VALID = ("validation", "s1", {"passed": True})
GATES = ("gates", "b1", {"snapshot": "s1", "passed": True, "cpu_s": 1800.0})
REGISTERED = ("registered", "4", {"bundle": "b1"})
PROMOTED = ("release.ended", "r1", {"version": "4", "state": "promoted"})


@pytest.mark.parametrize(
    ("told", "brought"),
    [
        ([], "unknown"),
        ([("validation", "s1", {"passed": False})], "failed"),
        ([VALID, ("failure", "retrain/run1", {})], "failed"),
        ([VALID, ("failure", "watch/run1", {})], "unknown"),
        ([VALID, ("gates", "b1", {"snapshot": "s1", "passed": False})], "not_better"),
        ([VALID, GATES, REGISTERED], "unknown"),
        ([VALID, GATES, REGISTERED, PROMOTED], "better"),
        ([VALID, GATES, REGISTERED, ("release.ended", "r1", {"version": "4", "state": "rolled_back"})], "not_better"),
        ([VALID, GATES, REGISTERED, ("release.refused", "r1", {"version": "4", "reason": "older"})], "not_better"),
        ([VALID, GATES, REGISTERED, PROMOTED, ("rollback", "3", {"from": "4"})], "not_better"),
        ([VALID, GATES, REGISTERED, PROMOTED, ("rollback", "2", {"from": "3"})], "better"),
    ],
)
def test_what_a_retrain_brought_is_told_by_what_followed(
    told: list[tuple[str, str, dict[str, Any]]], brought: Brought
) -> None:
    assert past_retrains(_entries(STARTED, *told))[0].brought == brought


def test_the_next_retrain_does_not_change_what_the_last_one_brought() -> None:
    entries = _entries(STARTED, VALID, GATES, REGISTERED, ("trigger", "2013-07-09", {"trigger": "manual"}), PROMOTED)
    first, second = past_retrains(entries)
    assert (first.brought, first.cpu_hours) == ("better", 0.5)
    assert (second.brought, second.as_of, second.trigger) == ("unknown", date(2013, 7, 9), "manual")
