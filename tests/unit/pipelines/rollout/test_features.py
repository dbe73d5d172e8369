import asyncio
from pathlib import Path

import pytest

from contracts.slots import HardLimits
from pipelines.ledger import Ledger
from pipelines.rollout.controller import Offer, Outcome, run_rollout
from pipelines.rollout.features import (
    CHALLENGERS,
    FEATURES,
    LATENCY,
    SCORES,
    SHADOW,
    needs,
    unknown_fields,
    unsupported,
)
from pipelines.rollout.plan import AlphaShares, Holdout, Plan, ShadowStep, Step
from pipelines.rollout.platforms.local import LocalPlatform
from tests.fixtures.platforms import SimulatedClock, SimulatedPlatform

OFFER = Offer(rollout="flights-v2-1", project="flights", version="2", bundle="b2", path="/b2", expected_champion="1")
SHORT = (Step(share=0.5, minimum_requests=20, minimum_s=1), Step(share=1.0, minimum_requests=20, minimum_s=1))


def test_every_field_of_a_plan_says_who_holds_it() -> None:
    assert unknown_fields() == frozenset(), "pipelines/rollout/features.py: what feature of the platform do they need?"


def test_a_plan_needs_only_what_it_asks_for() -> None:
    usual = needs(Plan())
    assert (usual["shadow"], usual["alpha_shares.slow_p99"]) == (SHADOW, LATENCY)
    nothing = AlphaShares(**dict.fromkeys(AlphaShares.__struct_fields__, 0.0))
    bare = Plan(shadow=None, steps=(Step(share=1.0),), alpha_shares=nothing, error_rate_margin=None, latency_floor_ms=0)
    assert set(needs(bare)) == {"lease_s", "hard_limits"}


EVERYTHING = Plan(shadow=ShadowStep(sample=0.5, slice_by="carrier"), holdout=Holdout(), slow_p99_rate_margin=0.1)


@pytest.mark.parametrize("missing", sorted(FEATURES))
def test_what_a_platform_does_not_support_is_named_with_its_field(missing: str) -> None:
    fields = [field for field, feature in needs(EVERYTHING).items() if feature == missing]
    assert fields, f"a plan that asks for everything asks for {missing}"
    lines = unsupported(EVERYTHING, FEATURES - {missing})
    assert lines == tuple(f"the plan's {field} needs the feature {missing!r}" for field in fields)
    assert unsupported(EVERYTHING, FEATURES) == ()


def test_the_local_platform_supports_all_that_a_plan_can_ask_for() -> None:
    supported = LocalPlatform("http://127.0.0.1:1").supports()
    assert unsupported(EVERYTHING, supported) == ()
    assert {f"hard_limits.{name}" for name in HardLimits.__struct_fields__} | FEATURES | {CHALLENGERS} == supported


def roll_out(platform: SimulatedPlatform, plan: Plan, folder: Path) -> Outcome:
    with Ledger.open(f"sqlite:///{folder}/ledger.db") as ledger:
        ledger.swap_champion("flights", None, "1", "b1", "bootstrap", "the first")
        clock = platform.clock
        return asyncio.run(run_rollout(platform, ledger, plan, OFFER, clock=clock, sleep=clock.sleep))


def test_a_rollout_whose_plan_is_not_supported_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    platform = SimulatedPlatform(SimulatedClock())
    platform.features = FEATURES - {SHADOW, SCORES}
    outcome = roll_out(platform, Plan(steps=SHORT), tmp_path)
    assert outcome.state == "refused"
    assert "the plan's shadow needs the feature 'shadow'; the plan's alpha_shares.scores needs" in outcome.reason
    assert "supports counts by entity, counts of slow answers" in outcome.reason
    assert (platform.challenger, platform.shares, platform.promotions) == (None, [], [])


def test_the_same_platform_takes_a_plan_that_does_not_ask_for_it(tmp_path: Path) -> None:
    platform = SimulatedPlatform(SimulatedClock())
    platform.features = FEATURES - {SHADOW, SCORES}
    plan = Plan(shadow=None, steps=SHORT, alpha_shares=AlphaShares(scores=0))
    assert roll_out(platform, plan, tmp_path).state == "promoted"


def test_a_hard_limit_that_a_platform_does_not_know_is_named() -> None:
    limited = Plan(hard_limits=HardLimits(memory_mb=500))
    assert unsupported(limited, FEATURES) == (
        "the plan's hard_limits.memory_mb needs the feature 'hard_limits.memory_mb'",
    )
    assert unsupported(limited, LocalPlatform("http://127.0.0.1:1").supports()) == ()
    assert unsupported(Plan(), FEATURES) == ()
