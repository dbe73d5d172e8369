"""Outcomes that arrive within the rollout: what the judge makes of them, and how the controller comes by them."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from contracts.slots import Observation, SlotCounts
from pipelines.ledger import Ledger
from pipelines.rollout.comparisons import NEVER
from pipelines.rollout.controller import Offer, Outcome, run_rollout
from pipelines.rollout.course import Course, retell
from pipelines.rollout.judge import Judgement, Memory, judge_shadow, judge_step, learn
from pipelines.rollout.machine import State
from pipelines.rollout.outcome_reading import ReadOutcomes
from pipelines.rollout.plan import AlphaShares, Plan, Quality, ShadowStep, Step
from pipelines.rollout.quality import NAME, Graded, Outcomes, graded
from pipelines.rollout.story import EVENT, lengthen
from pipelines.statistics.betting import Floats
from tests.fixtures.platforms import SimulatedClock, SimulatedPlatform

SHARES = AlphaShares(errors=0.25, quality=0.2)
STEP = Step(share=0.5, minimum_requests=50, minimum_s=1, maximum_s=100)
POLICY = Quality(margin=0.1, every_s=10)
PLAN = Plan(shadow=None, steps=(STEP, Step(share=1.0)), alpha_shares=SHARES, quality=POLICY, error_rate_margin=None)
SEVERE = msgspec.structs.replace(PLAN, alpha=0.5)  # of which equal versions may use a tenth, and then it would be seen


def judged(*readings: Graded, plan: Plan = PLAN, step: Step = STEP, seconds: float = 10.0) -> Judgement:
    """The verdict after `readings`, on a step that has all else that it needs."""
    memory = Memory.fresh(plan)
    for requests in (0, 100):
        observation = Observation(
            server="s", clock_s=0, rollout="r", share=0.5, shadow=False, lease_left_s=9,
            champion=SlotCounts(version="1", requests=requests), challenger=SlotCounts(version="2", requests=requests),
            shadowed=None,
        )  # fmt: skip
        memory = learn(memory, observation, plan)
    outcomes = memory.outcomes
    for each in readings:
        outcomes = outcomes.after(each)
    return judge_step(msgspec.structs.replace(memory, outcomes=outcomes), step, plan, seconds)


def losses(n: int, mean: float, seed: int = 0) -> Floats:
    return np.clip(np.random.default_rng(seed).normal(mean, 0.1, n), 0, 1)


def read(n: int, mine: float, theirs: float) -> Graded:
    """Entities that came to either version by chance, with losses around these means."""
    return graded(POLICY, 0.5, losses(n, mine, 1), losses(n, theirs, 2), in_pairs=False)


def test_a_challenger_that_is_right_as_often_advances_once_that_is_shown() -> None:
    early, later = judged(read(12, 0.2, 0.2)), judged(read(12, 0.2, 0.2), read(800, 0.2, 0.2))
    assert early.verdict == "wait"
    assert "at most 0.1 worse: not shown yet" in early.reason
    assert later.verdict == "advance"


def test_a_challenger_that_is_wrong_more_often_is_rolled_back_by_its_outcomes() -> None:
    found = judged(read(200, 0.6, 0.2))
    assert found.verdict == "rollback"
    assert found.reason.startswith("mean Brier score of an entity 0.59")
    assert [each.name for each in found.findings if each.exceeded] == [NAME]


def test_what_is_shown_to_be_within_the_margin_stays_although_it_is_shown_to_be_worse() -> None:
    found = judged(read(20_000, 0.21, 0.2))
    evidence = found.findings[-1]
    assert evidence.e_value > 1e6, "it is worse"
    assert evidence.limit == NEVER
    assert "shown to be at most 0.1 worse" in str(evidence)
    assert found.verdict == "advance"


@pytest.mark.parametrize(("on_timeout", "verdict"), [("wait", "wait"), ("advance", "wait"), ("rollback", "rollback")])
@pytest.mark.parametrize("known", [(), (Graded(share=0.5),), (Graded(share=0.5, entities=(9, 400)),)])
def test_without_outcomes_a_step_waits_and_time_alone_does_not_advance_it(
    known: tuple[Graded, ...], on_timeout: Any, verdict: str
) -> None:
    step = msgspec.structs.replace(STEP, on_timeout=on_timeout)
    assert judged(*known, step=step).verdict == "wait"
    over = judged(*known, step=step, seconds=101)
    assert over.verdict == verdict
    assert not any(each.exceeded for each in over.findings)


def test_when_the_steps_time_has_passed_without_the_proof_the_plan_says_what_that_means() -> None:
    undecided = (read(12, 0.2, 0.2),)
    for on_timeout in ("wait", "advance", "rollback"):
        step = msgspec.structs.replace(STEP, on_timeout=on_timeout)
        assert judged(*undecided, step=step, seconds=101).verdict == on_timeout


def test_a_reading_that_failed_is_not_known_and_advances_nothing_until_the_next_one() -> None:
    good, lost = read(800, 0.2, 0.2), Graded(share=0.5, unknown="they cannot be read: the disk is gone")
    patient = msgspec.structs.replace(STEP, on_timeout="advance")
    waiting = judged(good, lost, step=patient, seconds=101)
    assert waiting.verdict == "wait"
    assert "outcomes: not known, they cannot be read: the disk is gone" in waiting.reason
    assert judged(good, lost, good).verdict == "advance"
    assert str(judged(lost).findings[-1]).startswith("outcomes: not known, they cannot be read")


def test_at_100_percent_nobody_is_left_to_compare_with_and_a_plan_without_quality_asks_for_none() -> None:
    whole = Step(share=1.0, minimum_requests=50, minimum_s=1)
    assert judged(step=whole).verdict == "advance"
    silent = msgspec.structs.replace(PLAN, quality=None)
    assert judged(read(200, 0.6, 0.2), plan=silent).verdict == "advance"
    assert NAME not in [each.name for each in judged(plan=silent).findings]


def test_in_the_shadow_the_same_requests_are_compared() -> None:
    shadow = ShadowStep(minimum_pairs=1, minimum_s=1, maximum_s=100)
    plan = msgspec.structs.replace(PLAN, shadow=shadow)
    theirs = losses(300, 0.5)

    def after(mine: Floats | None, seconds: float = 10) -> Judgement:
        outcomes = Outcomes()
        if mine is not None:
            outcomes = outcomes.after(graded(POLICY, 0.0, mine, theirs, in_pairs=True))
        memory = msgspec.structs.replace(Memory.fresh(plan), outcomes=outcomes, phase_pairs=300)
        return judge_shadow(memory, shadow, plan, seconds)

    assert after(None).verdict == "wait"
    assert after(None, seconds=101).verdict == "rollback"
    assert after(theirs).verdict == "advance", "of pairs some hundreds are enough: they differ in nothing"
    worse = after(np.clip(theirs + 0.2, 0, 1))
    assert worse.verdict == "rollback"
    assert worse.reason.startswith("mean Brier score")


def test_a_log_loss_is_told_in_its_own_units_and_its_margin_as_well() -> None:
    policy = Quality(loss="log_loss", margin=0.5)
    found = graded(policy, 0.5, losses(400, 0.2, 1), losses(400, 0.2, 2), in_pairs=False)
    assert found.mean_loss[0] == pytest.approx(0.2 * np.log(100), abs=0.05)
    assert Outcomes().after(found).is_within()


# -- rollouts that never happened --------------------------------------------------------------------------------------


def live_through(seed: int, *, swapped: bool, in_pairs: bool = False, plan: Plan = SEVERE) -> Judgement:
    """A phase read forty times: heavy and light entities with habits of their own, storms, outcomes that come late."""
    random = np.random.default_rng(seed)
    entities, looks = 1200, 40
    is_mine = random.random(entities) < 0.25
    risk = np.log(1 / random.beta(1.5, 4, entities) - 1) * -1
    rate = np.minimum(random.pareto(1.5, entities) + 0.1, 20) / 20
    known_at, who, pairs = [np.empty(0)], [np.empty(0, int)], [np.empty((2, 0))]
    outcomes, step = Outcomes(), msgspec.structs.replace(STEP, on_timeout="wait")
    for look in range(looks):
        now = np.repeat(np.arange(entities), random.poisson(rate))
        log_odds = risk[now] + random.normal(0, 0.7, now.size) + random.normal(0, 0.8)
        late = random.random(now.size) < 1 / (1 + np.exp(-log_odds))
        scores = [1 / (1 + np.exp(-log_odds - random.normal(0, 0.4, now.size))) for _ in range(2)]
        if swapped:
            scores[0] = 1 - scores[0]
        pairs.append(np.array([(score - late) ** 2 for score in scores]))
        who.append(now)
        known_at.append(look + random.exponential(2, now.size))
        is_known = np.concatenate(known_at) <= look
        by, found = np.concatenate(who)[is_known], np.concatenate(pairs, axis=1)[:, is_known]
        counts = np.bincount(by, minlength=entities)
        means = [np.bincount(by, side, entities) / np.maximum(counts, 1) for side in found]
        mine, theirs = (counts > 0) & (is_mine | in_pairs), (counts > 0) & (~is_mine | in_pairs)
        outcomes = outcomes.after(graded(POLICY, 0.5, means[0][mine], means[1][theirs], in_pairs=in_pairs))
        memory = msgspec.structs.replace(Memory.fresh(plan), outcomes=outcomes)
        if (judgement := judge_step(memory, step, plan, look)).verdict == "rollback":
            return judgement
    return msgspec.structs.replace(judgement, verdict="advance" if outcomes.is_within() else "wait")


@pytest.mark.parametrize("in_pairs", [False, True])
def test_equal_versions_are_rolled_back_no_more_often_than_alpha_says(in_pairs: bool) -> None:
    verdicts = [live_through(seed, swapped=False, in_pairs=in_pairs).verdict for seed in range(200)]
    assert verdicts.count("rollback") <= 10 + 9, "5 % (a phase of two, a fifth of 50 %) of 200, and three deviations"
    assert verdicts.count("advance") >= 150


@pytest.mark.parametrize("in_pairs", [False, True])
def test_swapped_labels_are_always_rolled_back(in_pairs: bool) -> None:
    assert {live_through(seed, swapped=True, in_pairs=in_pairs, plan=PLAN).verdict for seed in range(30)} == {
        "rollback"
    }


# -- beside the looks --------------------------------------------------------------------------------------------------

OFFER = Offer(rollout="r", project="p", version="2", bundle="b2", path="/b2", expected_champion="1")
WHOLE = msgspec.structs.replace(
    PLAN,
    shadow=ShadowStep(minimum_pairs=20, minimum_s=1),
    steps=tuple(Step(share=share, minimum_requests=20, minimum_s=1) for share in (0.5, 1.0)),
)


def roll_out(folder: Path, read_outcomes: ReadOutcomes | None) -> tuple[Outcome, Course]:
    clock = SimulatedClock()
    with Ledger.open(f"sqlite:///{folder}/ledger.db") as ledger:
        ledger.swap_champion("p", None, "1", "b1", "bootstrap", "the first")
        platform = SimulatedPlatform(clock)
        run = run_rollout(platform, ledger, WHOLE, OFFER, clock=clock, sleep=clock.sleep, outcomes=read_outcomes)
        outcome = asyncio.run(run)
        return outcome, retell([lengthen(entry.body) for entry in ledger.entries("p", (EVENT,), "r")])


def of_phase(state: State, mine: float) -> Graded:
    return graded(POLICY, state.share, losses(800, mine, 1), losses(800, 0.2, 2), in_pairs=False)


def test_each_phase_waits_for_outcomes_of_its_own_and_an_equal_challenger_is_promoted(tmp_path: Path) -> None:
    asked: list[State] = []

    def reading(state: State) -> Graded:
        asked.append(state)
        return of_phase(state, 0.2)

    outcome, course = roll_out(tmp_path, reading)
    assert outcome.state == "promoted"
    assert {0.0, 0.5} <= {state.share for state in asked}
    told = [[each.what for each in record.findings if each.name == NAME] for record in outcome.steps]
    assert all("shown to be at most 0.1 worse" in what for (what,) in told[:2])
    assert course.state.records == outcome.steps, "the ledger's events tell the same"


def test_a_challenger_that_turns_out_wrong_in_a_step_is_rolled_back_there(tmp_path: Path) -> None:
    outcome, course = roll_out(tmp_path, lambda state: of_phase(state, 0.2 if state.is_shadowing else 0.6))
    assert outcome.state == "rolled_back"
    assert outcome.reason.startswith("mean Brier score of an entity 0.59")
    assert [record.name for record in outcome.steps] == ["shadow", "50 %"]
    assert any(each.name == NAME and each.exceeded for each in course.looks[-1].findings)


def test_a_reading_that_cannot_be_made_ends_no_look_and_the_next_one_counts(tmp_path: Path) -> None:
    asked: list[State] = []

    def reading(state: State) -> Graded:
        asked.append(state)
        if len(asked) == 1:
            raise OSError("the disk is gone")
        return of_phase(state, 0.2)

    outcome, course = roll_out(tmp_path, reading)
    assert outcome.state == "promoted"
    told = [each.what for look in course.looks for each in look.findings if each.name == NAME]
    assert "outcomes: not known, they cannot be read: the disk is gone" in told


def test_who_cannot_read_outcomes_refuses_a_plan_that_asks_for_them(tmp_path: Path) -> None:
    outcome, _ = roll_out(tmp_path, None)
    assert outcome.state == "refused"
    assert "the plan's quality needs the feature 'outcomes'" in outcome.reason


# -- the plan ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"quality": {"margin": 0}}, r"quality.margin lies in \(0, 1\), found 0"),
        ({"quality": {"every_s": 0.5}}, "quality.every_s is at least 1"),
        ({"quality": {}, "alpha_shares": {}}, "quality needs a part of alpha: give alpha_shares.quality"),
        ({"quality": {}, "challengers": 2}, "quality compares one challenger"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused_with_its_key(fields: dict[str, Any], text: str) -> None:
    body = {"alpha_shares": {"errors": 0.4, "quality": 0.05}, **fields}
    with pytest.raises(msgspec.ValidationError, match=text):
        msgspec.convert(body, Plan)
