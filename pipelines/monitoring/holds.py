"""What holds a retrain back that somebody asks for: one policy for the schedule, drift, outcomes, alerts, people. Pure.

Whoever asks, the same questions are answered in the same order: is a rollout running, when was the last retrain, what
have retrains for the same reason brought, how much was spent, is there anything new to learn from. The first `no` is
the reason that a reader sees first; all of them are in the ruling. Some triggers may go past some holds, as the project
says: the ruling names what was gone past.
"""

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Literal

import msgspec

Trigger = Literal["schedule", "drift", "performance", "alert", "manual"]
Hold = Literal["rollout", "cooldown", "back_off", "budget", "new_labels"]
Brought = Literal["better", "not_better", "failed", "unknown"]
TRIGGERS: tuple[Trigger, ...] = ("schedule", "drift", "performance", "alert", "manual")
EVERY_HOLD: tuple[Hold, ...] = ("rollout", "cooldown", "back_off", "budget", "new_labels")


class RetrainBudget(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What retrains of a project may take in any `days` days: how many, and hours of processors; null is any."""

    days: int = 30
    retrains: int | None = 10
    cpu_hours: float | None = None

    def __post_init__(self) -> None:
        if self.days < 1:
            raise ValueError(f"budget.days is at least 1, found {self.days}")
        for name in ("retrains", "cpu_hours"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ValueError(f"budget.{name} is at least 0, or null; found {value}")


def _overrides() -> dict[Trigger, tuple[Hold, ...]]:
    return {"manual": EVERY_HOLD, "alert": ("rollout", "cooldown", "new_labels")}


class HoldLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When a retrain that was asked for is held back.

    No retrain within `cooldown_days` of the last one, nor before `minimum_new_labels` outcomes are known that it has
    not seen, nor beyond `budget`; none while a rollout runs, unless `while_rollout` is `allow`. Retrains for a reason
    in `back_off` that brought no champion double the cool-down of that reason each time, up to
    `back_off_maximum_days`; the cool-down of an alert begins at `alert_cooldown_days`. `overrides` says which trigger
    goes past which hold.
    """

    cooldown_days: int = 7
    alert_cooldown_days: int = 1
    minimum_new_labels: int = 1000
    back_off: tuple[Trigger, ...] = ("drift", "performance", "alert")
    back_off_maximum_days: int = 56
    budget: RetrainBudget = RetrainBudget()
    while_rollout: Literal["hold", "allow"] = "hold"
    overrides: dict[Trigger, tuple[Hold, ...]] = msgspec.field(default_factory=_overrides)

    def __post_init__(self) -> None:
        for name in ("cooldown_days", "alert_cooldown_days", "minimum_new_labels"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is at least 0, found {getattr(self, name)}")
        longest = max(self.cooldown_days, self.alert_cooldown_days)
        if self.back_off_maximum_days < longest:
            raise ValueError(
                f"back_off_maximum_days is {self.back_off_maximum_days}, less than a cool-down of {longest} days"
            )


class PastRetrain(msgspec.Struct, frozen=True, kw_only=True):
    """A retrain that was started: as of when, why, what came of it, and what its trials took (None: not known)."""

    as_of: date
    trigger: str
    brought: Brought = "unknown"
    cpu_hours: float | None = None


class Past(msgspec.Struct, frozen=True, kw_only=True):
    """What a ruling rests on. `new_labels` are known outcomes later than the last retrain's data, None where nobody has
    counted; `rollout` is the one that runs. Retrains are in the order in which they were started."""

    retrains: tuple[PastRetrain, ...] = ()
    new_labels: int | None = None
    rollout: str | None = None


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """One answer `no`, with the numbers on both sides."""

    hold: Hold
    reason: str


class Ruling(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the retrain may start. `held_by` is what speaks against it, `overridden` what it went past."""

    due: bool
    held_by: tuple[Held, ...] = ()
    overridden: tuple[Held, ...] = ()

    @property
    def why(self) -> str:
        """For people and the ledger; empty where nothing spoke against it."""
        if self.held_by:
            return "held back by " + "; ".join(held.reason for held in self.held_by)
        return "goes past " + "; ".join(held.reason for held in self.overridden) if self.overridden else ""


def rule(trigger: Trigger, as_of: date, past: Past, limits: HoldLimits, *, insists: bool = False) -> Ruling:
    """Whether a retrain for `trigger` as of a date may start after this `past`.

    Somebody who `insists` goes past what `limits.overrides` allows a person (`manual`), whatever the trigger.

    >>> earlier = Past(retrains=(PastRetrain(as_of=date(2013, 7, 1), trigger="schedule"),), new_labels=5000)
    >>> rule("drift", date(2013, 7, 3), earlier, HoldLimits()).why
    'held back by the cool-down: 2 days since the last retrain (as of 2013-07-01, schedule) < 7'
    >>> rule("manual", date(2013, 7, 3), earlier, HoldLimits()).due
    True
    """
    known = [retrain for retrain in past.retrains if retrain.as_of <= as_of]
    found = (
        _rollout(past, limits),
        _cooldown(trigger, as_of, known, limits),
        _back_off(trigger, as_of, known, limits),
        _budget(as_of, known, limits.budget),
        _new_labels(past, limits),
    )
    allowed = {*limits.overrides.get(trigger, ()), *(limits.overrides.get("manual", ()) if insists else ())}
    spoke = [held for held in found if held is not None]
    held_by = tuple(held for held in spoke if held.hold not in allowed)
    return Ruling(due=not held_by, held_by=held_by, overridden=tuple(held for held in spoke if held.hold in allowed))


def back_off_days(trigger: Trigger, retrains: Sequence[PastRetrain], limits: HoldLimits) -> int:
    """The cool-down of a reason, in days: doubled for each of its last retrains in a row that brought no champion.

    What is not known yet neither counts nor ends the row.
    """
    days = limits.alert_cooldown_days if trigger == "alert" else limits.cooldown_days
    if trigger not in limits.back_off:
        return days
    for retrain in reversed(retrains):
        if retrain.trigger != trigger or retrain.brought == "unknown":
            continue
        if retrain.brought == "better":
            break
        days = min(2 * days, limits.back_off_maximum_days)
    return days


def _rollout(past: Past, limits: HoldLimits) -> Held | None:
    if past.rollout is None or limits.while_rollout == "allow":
        return None
    return Held(hold="rollout", reason=f"the rollout {past.rollout}, which has not ended")


def _cooldown(trigger: Trigger, as_of: date, known: Sequence[PastRetrain], limits: HoldLimits) -> Held | None:
    """Since the last retrain of any reason: it has seen nearly the same data."""
    if not known:
        return None
    last = max(known, key=lambda retrain: retrain.as_of)
    days = (as_of - last.as_of).days
    if days >= limits.cooldown_days:
        return None
    since = f"{_days(days)} since the last retrain (as of {last.as_of}, {last.trigger})"
    return Held(hold="cooldown", reason=f"the cool-down: {since} < {limits.cooldown_days}")


def _back_off(trigger: Trigger, as_of: date, known: Sequence[PastRetrain], limits: HoldLimits) -> Held | None:
    """Since the last retrain of this reason, longer each time that it was no better. An alert's own cool-down too."""
    mine = [retrain for retrain in known if retrain.trigger == trigger]
    if not mine:
        return None
    needed, last = back_off_days(trigger, known, limits), max(mine, key=lambda retrain: retrain.as_of)
    days = (as_of - last.as_of).days
    usual = limits.alert_cooldown_days if trigger == "alert" else limits.cooldown_days
    if days >= needed or (trigger != "alert" and needed == usual):  # the cool-down itself says that
        return None
    brought = {"not_better": "no better", "failed": "failed", "unknown": "not known yet", "better": "better"}
    since = f"{_days(days)} since the last retrain for {trigger} (as of {last.as_of}, {brought[last.brought]})"
    return Held(hold="back_off", reason=f"what {trigger} brought: {since} < {needed}")


def _budget(as_of: date, known: Sequence[PastRetrain], budget: RetrainBudget) -> Held | None:
    recent = [retrain for retrain in known if as_of - retrain.as_of < timedelta(days=budget.days)]
    within = f"in {budget.days} days"
    if budget.retrains is not None and len(recent) >= budget.retrains:
        return Held(hold="budget", reason=f"the budget: {len(recent)} retrains {within} >= {budget.retrains}")
    spent = sum(retrain.cpu_hours or 0.0 for retrain in recent)
    if budget.cpu_hours is not None and spent >= budget.cpu_hours:
        return Held(hold="budget", reason=f"the budget: {spent:.2f} CPU hours {within} >= {budget.cpu_hours:g}")
    return None


def _new_labels(past: Past, limits: HoldLimits) -> Held | None:
    least = limits.minimum_new_labels
    if least == 0 or (past.new_labels is not None and past.new_labels >= least):
        return None
    counted = "nobody knows how many" if past.new_labels is None else f"{past.new_labels:,}"
    return Held(hold="new_labels", reason=f"too little to learn from: {counted} new labels < {least:,}")


def _days(days: int) -> str:
    return "1 day" if days == 1 else f"{days} days"


def needs_labels(trigger: Trigger, limits: HoldLimits) -> bool:
    """Whether a ruling can depend on how many labels are new: counting them reads the warehouse."""
    overrides: Mapping[Trigger, tuple[Hold, ...]] = limits.overrides
    return limits.minimum_new_labels > 0 and "new_labels" not in overrides.get(trigger, ())
