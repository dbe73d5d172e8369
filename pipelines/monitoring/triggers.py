"""Whether a retrain is due, and why. Pure.

Worse quality comes before drift: outcomes say that the model is worse, inputs only that it may be. A rule that cannot
be judged yet says so; "not known yet" starts nothing and is never taken for "all is well".
"""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Literal

import msgspec

from pipelines.monitoring.drift import Answer, DriftReport
from pipelines.monitoring.holds import Held, Hold, HoldLimits, Past, rule
from pipelines.monitoring.measures import Estimate, Quality


class TriggerPolicy(HoldLimits, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When drift or worse quality starts a retrain; null switches a rule off. What holds any retrain: `HoldLimits`.

    Quality is compared with the metrics in the bundle's baseline: `auc_drop_max` and `log_loss_rise_max` are absolute
    changes, `false_positive_rate_max` a rate at the project's threshold. A rule fires only when the whole confidence
    interval lies beyond its limit, on at least `minimum_labelled` labelled predictions.
    """

    on_drift: bool = True
    auc_drop_max: float | None = 0.03
    log_loss_rise_max: float | None = 0.05
    false_positive_rate_max: float | None = None
    minimum_labelled: int = 500

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("auc_drop_max", "false_positive_rate_max"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} lies between 0 and 1, or is null; found {value}")
        if self.log_loss_rise_max is not None and not self.log_loss_rise_max >= 0:
            raise ValueError(f"log_loss_rise_max is at least 0, or null; found {self.log_loss_rise_max}")
        if self.minimum_labelled < 1:
            raise ValueError(f"minimum_labelled is at least 1, found {self.minimum_labelled}")


class Watched(msgspec.Struct, frozen=True, kw_only=True):
    """What a watch run saw of the champion.

    `drift` and `quality` are None when it made no predictions. `baseline_metrics` are those in its bundle's baseline
    (`auc` and `log_loss` are read). `past` is what speaks for and against a retrain now, whoever asks for it.
    """

    as_of: date
    drift: DriftReport | None
    quality: Quality | None
    baseline_metrics: Mapping[str, float]
    past: Past


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One rule's answer: whether it asks for a retrain, and the numbers on both sides."""

    name: str
    answer: Literal["fired", "quiet", "no_data", "off"]
    reason: str


class TriggerDecision(msgspec.Struct, frozen=True, kw_only=True):
    """`trigger` is what to start a retrain with, None when none is due.

    `found` is what the rules found: when that is not None and `trigger` is, `suppressed_by` says what held it back
    first, and `held_by` all that did.
    `blind` is true when no rule that is on could be judged: that deserves an alert of its own.
    """

    trigger: Literal["drift", "performance"] | None
    reason: str
    found: Literal["drift", "performance"] | None = None
    suppressed_by: Hold | None = None
    held_by: tuple[Held, ...] = ()
    blind: bool = False
    rules: tuple[Rule, ...] = ()


def decide_trigger(watched: Watched, policy: TriggerPolicy) -> TriggerDecision:
    """Whether what was `watched` makes a retrain due under `policy`.

    >>> quiet = Watched(as_of=date(2013, 7, 1), drift=None, quality=None, baseline_metrics={}, past=Past())
    >>> decide_trigger(quiet, TriggerPolicy()).blind
    True
    """
    performance = _performance_rules(watched.quality, watched.baseline_metrics, policy)
    rules = (*performance, *_drift_rules(watched.drift, policy))
    fired = [rule for rule in rules if rule.answer == "fired"]
    if not fired:
        return _nothing_fired(rules)
    found: Literal["drift", "performance"] = "performance" if fired[0] in performance else "drift"
    why = "; ".join(rule.reason for rule in fired)
    ruled = rule(found, watched.as_of, watched.past, policy)
    if not ruled.due:
        first, reason = ruled.held_by[0].hold, f"{found}, but {ruled.why} ({why})"
        return TriggerDecision(
            trigger=None, found=found, suppressed_by=first, held_by=ruled.held_by, reason=reason, rules=rules
        )
    return TriggerDecision(trigger=found, found=found, reason=f"{found}: {why}", rules=rules)


def _nothing_fired(rules: Sequence[Rule]) -> TriggerDecision:
    on = [rule for rule in rules if rule.answer != "off"]
    blind = bool(on) and all(rule.answer == "no_data" for rule in on)
    said = "nothing can be judged" if blind else "no retrain is due"
    reasons = "; ".join(rule.reason for rule in on) or "every rule is switched off"
    return TriggerDecision(trigger=None, reason=f"{said}: {reasons}", blind=blind, rules=tuple(rules))


def _performance_rules(
    quality: Quality | None, baseline: Mapping[str, float], policy: TriggerPolicy
) -> tuple[Rule, Rule, Rule]:
    auc = quality.auc if quality else None
    log_loss = quality.log_loss if quality else None
    false_positives = quality.false_positive_rate if quality else None
    return (
        _rule("auc", auc, baseline.get("auc"), policy.auc_drop_max, -1, policy),
        _rule("log_loss", log_loss, baseline.get("log_loss"), policy.log_loss_rise_max, +1, policy),
        # an absolute limit: a change from zero
        _rule("false_positive_rate", false_positives, 0.0, policy.false_positive_rate_max, +1, policy),
    )


def _rule(
    name: str,
    found: Estimate | None,
    baseline: float | None,
    change: float | None,
    worse: Literal[-1, 1],
    policy: TriggerPolicy,
) -> Rule:
    """Fires when the whole interval of `found` is worse than `baseline` by more than `change`."""
    text = name.replace("_", " ")
    if change is None:
        return Rule(name=name, answer="off", reason=f"{text}: off")
    if baseline is None:
        return Rule(name=name, answer="no_data", reason=f"{text}: the bundle's baseline has none")
    if found is None:
        return Rule(name=name, answer="no_data", reason=f"{text}: not known yet")
    if found.n < policy.minimum_labelled:
        return Rule(name=name, answer="no_data", reason=f"{text}: {found.n:,} labelled < {policy.minimum_labelled:,}")
    if found.low is None or found.high is None:
        return Rule(name=name, answer="no_data", reason=f"{text}: {found}, too few blocks of time ({found.blocks})")
    limit = baseline + worse * change
    origin = f"{limit:.4f} = {baseline:.4f} {'+' if worse > 0 else '-'} {change:g}" if baseline else f"{limit:.4f}"
    nearest, fired = (found.low, found.low > limit) if worse > 0 else (found.high, found.high < limit)
    relation = {(1, True): ">", (1, False): "<=", (-1, True): "<", (-1, False): ">="}[worse, fired]
    reason = f"{text} {found}: {nearest:.4f} {relation} {origin}"
    return Rule(name=name, answer="fired" if fired else "quiet", reason=reason)


def _drift_rules(drift: DriftReport | None, policy: TriggerPolicy) -> tuple[Rule, ...]:
    if not policy.on_drift:
        return (Rule(name="drift", answer="off", reason="drift: off"),)
    if drift is None:
        return (Rule(name="drift", answer="no_data", reason="drift: no predictions"),)
    answers: dict[Answer, Literal["fired", "quiet", "no_data"]] = {
        "drift": "fired",
        "no_drift": "quiet",
        "no_data": "no_data",
    }
    return (
        Rule(name="input_drift", answer=answers[drift.inputs], reason=drift.reason),
        Rule(name="score_drift", answer=answers[drift.scores], reason=f"scores: {drift.score.reason}"),
        Rule(name="label_shift", answer=answers[drift.outcomes], reason=drift.outcomes_reason),
    )
