"""What a plan asks of the platform that carries it out. Pure.

A field that a platform does not support is an error and never ignored: who wrote `shadow` into a plan believes that
there was one. A platform says what it supports by the names of `FEATURES`.
"""

from collections.abc import Callable, Set
from typing import Any

from pipelines.rollout.plan import Plan

SHADOW, SHARE, LEASE, HARD_LIMITS = "shadow", "share", "lease", "hard_limits"
ENTITIES, LATENCY, SCORES, HOLDOUT = "counts by entity", "counts of slow answers", "counts of scores", "holdout"
SAMPLE, SLICES = "sampled shadow", "pairs by slice"
PAIRS = "pairs of answers"
CHALLENGERS = "several challengers"  # a platform says so by itself: it is no part of what each has to be able to do
COVERAGE = "coverage"  # of whoever runs the rollout and can read the prediction log, and of no platform

OUTCOMES = "outcomes"  # the same, of who can read the outcome store as well

_Asks = Callable[[Plan], Any]
_SLOW = ("slow_p50", "slow_p95", "slow_p99")
# field of the plan, the feature that it needs, and whether this plan asks for it
_NEEDS: tuple[tuple[str, str, _Asks], ...] = (
    ("shadow", SHADOW, lambda plan: plan.shadow is not None),
    ("shadow.sample", SAMPLE, lambda plan: plan.shadow is not None and plan.shadow.sample < 1),
    ("shadow.slice_by", SLICES, lambda plan: plan.shadow is not None and plan.shadow.slice_by is not None),
    ("shadow.maximum_flip_share", PAIRS, lambda plan: plan.shadow is not None and plan.alpha_shares.flips),
    ("shadow.maximum_shift", PAIRS, lambda plan: _compares_scores(plan)),
    ("steps", SHARE, lambda plan: any(step.share < 1 for step in plan.steps)),
    ("steps.coverage", COVERAGE, lambda plan: any(step.coverage is not None for step in plan.steps)),
    ("quality", OUTCOMES, lambda plan: plan.quality is not None),
    ("quality.loss", PAIRS, lambda plan: plan.quality is not None),  # the log says which rows are of the rollout
    ("challengers", CHALLENGERS, lambda plan: plan.challengers > 1),
    ("lease_s", LEASE, lambda plan: True),
    ("hard_limits", HARD_LIMITS, lambda plan: True),
    ("alpha_shares.errors", ENTITIES, lambda plan: plan.alpha_shares.errors),
    ("alpha_shares.split", ENTITIES, lambda plan: plan.alpha_shares.split),
    ("alpha_shares.scores", SCORES, lambda plan: plan.alpha_shares.scores),
    *((f"alpha_shares.{name}", LATENCY, lambda plan, name=name: getattr(plan.alpha_shares, name)) for name in _SLOW),
    ("error_rate_margin", ENTITIES, lambda plan: plan.error_rate_margin is not None),
    ("slow_p99_rate_margin", LATENCY, lambda plan: plan.slow_p99_rate_margin is not None),
    ("holdout", HOLDOUT, lambda plan: plan.holdout is not None),
    ("latency_floor_ms", LATENCY, lambda plan: plan.latency_floor_ms > 0),
)
FEATURES = frozenset(feature for _, feature, _ in _NEEDS) - {COVERAGE, OUTCOMES, CHALLENGERS}
# what the machine, the judge and the controller do by themselves, whatever the platform
_HELD_HERE = frozenset(
    {
        "alpha", "alpha_shares", "error_odds_margin", "latency_odds_margin", "score_margin", "score_odds_margin",
        "look_every_s", "bootstrap", "unreachable_s", "coverage", "preflight", "approvals",
        "maximum_pause_s", "when_busy",
    }
)  # fmt: skip
_OF_FEATURES = frozenset(field.split(".")[0] for field, _, _ in _NEEDS)


def _compares_scores(plan: Plan) -> bool:
    return plan.shadow is not None and plan.shadow.maximum_shift is not None and plan.alpha_shares.scores > 0


def needs(plan: Plan) -> dict[str, str]:
    """The feature that each field of `plan` needs of its platform, by the field's name.

    A hard limit beyond errors and window is a feature of its own (`hard_limits.memory_mb`), needed where it is set.
    """
    found = {field: feature for field, feature, is_asked in _NEEDS if is_asked(plan)}
    limits = plan.hard_limits
    for name in limits.__struct_fields__:
        if name not in ("errors", "window") and getattr(limits, name) is not None:
            found[f"hard_limits.{name}"] = f"hard_limits.{name}"
    return found


def unsupported(plan: Plan, features: Set[str]) -> tuple[str, ...]:
    """What `plan` asks for in vain on a platform with these features, a line in words each; none where all is well."""
    return tuple(
        f"the plan's {field} needs the feature {feature!r}" for field, feature in needs(plan).items()
        if feature not in features
    )  # fmt: skip


def unknown_fields() -> frozenset[str]:
    """The fields of a plan of which this module does not say who holds them; a test finds it empty."""
    return frozenset(Plan.__struct_fields__) - _HELD_HERE - _OF_FEATURES


def refusal(plan: Plan, features: Set[str]) -> str | None:
    """Why a platform with these features does not take `plan`, and what to do; None: it does."""
    if not (lines := unsupported(plan, features)):
        return None
    listed = ", ".join(sorted(features)) or "nothing"
    return f"{'; '.join(lines)}: the platform supports {listed}. Take it out of the plan, or choose another platform"
