"""The judge of a holdout, by rules and by holdouts that never happened."""

from collections import Counter
from typing import Any

import msgspec
import numpy as np
import pytest

from pipelines.rollout.holdout import HoldoutJudgement, Side, judge_holdout, losses
from pipelines.rollout.plan import Holdout, Plan, Step

PLAN = Holdout(share=0.05, margin=0.1, minimum_outcomes=30, maximum_days=10, alpha=0.1)


def side(version: str, n: int, loss: float, *, spread: float = 0.05, entities: int | None = None) -> Side:
    """`n` entities with an outcome, whose losses lie around `loss`."""
    drawn = np.random.default_rng(n).normal(loss, spread, n)
    return Side(version, n if entities is None else entities, np.clip(drawn, 0, 1))


def test_a_version_that_is_shown_to_be_within_the_margin_stays() -> None:
    found = judge_holdout(PLAN, side("2", 3800, 0.2), side("1", 200, 0.2), days=3)
    assert found.verdict == "keep"
    assert "at most 0.1 worse: e-value" in found.reason
    assert "on version 2 (n = 3,800) against" in found.reason
    assert (found.entities, found.with_outcome) == ((3800, 200), (3800, 200))


def test_a_version_that_is_shown_to_be_worse_goes_however_few_the_outcomes() -> None:
    found = judge_holdout(PLAN, side("2", 475, 0.6), side("1", 25, 0.2), days=1)
    assert found.verdict == "rollback"
    assert found.reason.startswith("mean Brier score of an entity 0.")
    assert found.with_outcome[1] < PLAN.minimum_outcomes


def test_worse_by_less_than_the_margin_allows_stays() -> None:
    found = judge_holdout(PLAN, side("2", 7600, 0.22, spread=0.01), side("1", 400, 0.2, spread=0.01), days=2)
    assert [each.exceeded for each in found.findings] == [False, True, True]
    assert found.verdict == "keep"


def test_without_enough_outcomes_nothing_stays_and_without_any_nothing_is_said() -> None:
    few = judge_holdout(PLAN, side("2", 380, 0.2, spread=0), side("1", 20, 0.2, spread=0), days=2)
    assert few.verdict == "wait"
    assert "20 of 30 entities on the smaller side have an outcome, after 2 days" in few.reason
    none = judge_holdout(PLAN, side("2", 0, 0.0, entities=950), side("1", 0, 0.0, entities=50), days=2)
    assert none.verdict == "wait"
    assert none.mean_loss == (None, None)
    nobody = judge_holdout(PLAN, side("2", 0, 0.0), side("1", 0, 0.0), days=0)
    assert nobody.verdict == "wait"


@pytest.mark.parametrize("on_timeout", ["keep", "rollback"])
def test_when_the_days_are_over_the_plan_says_what_that_means(on_timeout: Any) -> None:
    plan = msgspec.structs.replace(PLAN, on_timeout=on_timeout)
    few = (side("2", 95, 0.2), side("1", 5, 0.2))
    assert judge_holdout(plan, *few, days=9).verdict == "wait"
    over = judge_holdout(plan, *few, days=10)
    assert over.verdict == on_timeout
    assert over.reason.startswith(f"10 days are over, and the plan says {on_timeout} then")


def test_entities_that_are_not_divided_as_configured_make_all_else_worthless() -> None:
    found = judge_holdout(PLAN, side("2", 3000, 0.6), side("1", 1000, 0.2), days=3)
    assert found.verdict == "wait"
    assert "1,000 entities stayed on the old champion, expected 200.0" in found.reason
    assert "nothing else was believed" in found.reason


def test_losses_are_bounded_whatever_the_score() -> None:
    scores, outcomes = np.array([0.0, 0.0, 1.0 + 1e-6, 0.25]), np.array([0.0, 1.0, 0.0, 1.0])
    assert losses(scores, outcomes, PLAN).tolist() == [0.0, 1.0, 1.0, 0.5625]
    by_log = losses(scores, outcomes, msgspec.structs.replace(PLAN, loss="log_loss"))
    assert by_log[1] == by_log[2] == 1.0
    assert by_log[3] == pytest.approx(np.log(4) / np.log(100))


# -- holdouts that never happened --------------------------------------------------------------------------------------


def live_through(
    plan: Holdout, seed: int, *, entities: int = 1000, swapped: bool = False, worse: float = 0.0
) -> HoldoutJudgement:
    """A holdout of entities with habits of their own, some of them heavy, with storms; asked every day."""
    random = np.random.default_rng(seed)
    is_held = random.random(entities) < plan.share
    risk = np.log(1 / random.beta(1.5, 4, entities) - 1) * -1
    rate = np.minimum(random.pareto(1.5, entities) + 0.3, 20)
    sums, counts = np.zeros(entities), np.zeros(entities)
    for day in range(1, plan.maximum_days + 1):
        who = np.repeat(np.arange(entities), random.poisson(rate))
        log_odds = risk[who] + random.normal(0, 0.7, who.size) + random.normal(0, 0.5)
        outcomes = random.random(who.size) < 1 / (1 + np.exp(-log_odds))
        scores = 1 / (1 + np.exp(-log_odds - random.normal(0, 0.4, who.size)))
        is_new = ~is_held[who]
        if swapped:
            scores = np.where(is_new, 1 - scores, scores)
        found = losses(scores, outcomes.astype(float), plan)
        sums += np.bincount(who, np.clip(found + worse * is_new, 0, 1), entities)
        counts += np.bincount(who, minlength=entities)
        seen = counts > 0
        new, old = (
            Side(version, int(mine.sum()), sums[mine] / counts[mine])
            for version, mine in (("2", seen & ~is_held), ("1", seen & is_held))
        )
        judgement = judge_holdout(plan, new, old, day)
        if judgement.verdict != "wait":
            return judgement
    raise AssertionError("the days were over, and it waits")


def test_equal_versions_are_rolled_back_no_more_often_than_alpha_says() -> None:
    verdicts = Counter(live_through(PLAN, seed).verdict for seed in range(200))
    assert verdicts["rollback"] <= 20 + 13, "10 % of 200, and three standard deviations"
    assert verdicts["keep"] >= 170


def test_a_version_that_is_worse_by_the_margin_is_proven_good_no_more_often_than_alpha_says() -> None:
    found = [live_through(PLAN, seed, worse=0.13) for seed in range(100)]  # of clipped losses: above the margin
    wrongly = sum(each.verdict == "keep" and "days are over" not in each.reason for each in found)
    assert wrongly <= 10 + 9


@pytest.mark.parametrize(("loss", "entities", "needed"), [("brier", 1000, 50), ("log_loss", 4000, 150)])
def test_swapped_labels_are_found_with_some_dozens_of_entities_on_the_old_champion(
    loss: Any, entities: int, needed: int
) -> None:
    plan = Holdout(loss=loss, alpha=0.01)
    found = [live_through(plan, seed, entities=entities, swapped=True) for seed in range(40)]
    assert {each.verdict for each in found} == {"rollback"}
    assert all("days are over" not in each.reason for each in found)
    assert np.median([each.with_outcome[1] for each in found]) <= needed
    assert max(each.days for each in found) <= 10


# -- the plan ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"share": 0.06}, r"holdout.share lies in \(0, 0.05\], found 0.06"),
        ({"share": 0}, "holdout.share"),
        ({"margin": 0}, "holdout.margin"),
        ({"alpha": 1}, "holdout.alpha"),
        ({"minimum_outcomes": 0}, "holdout.minimum_outcomes is at least 1"),
        ({"maximum_days": 0}, "holdout.maximum_days is at least 1"),
    ],
)
def test_a_holdout_that_cannot_be_is_refused(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Holdout(**fields)


def test_steps_leave_the_holdout_its_share() -> None:
    steps = (Step(share=0.96), Step(share=1.0))
    with pytest.raises(ValueError, match=r"steps before the last leave the holdout's share of 0\.05, found 0\.96"):
        Plan(steps=steps, holdout=Holdout())
