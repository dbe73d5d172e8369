import re
from typing import Any

import msgspec
import numpy as np
import pytest
from scipy.stats import binom

from contracts.slots import Observation, ShadowCounts, SlotCounts
from contracts.strata import DIFFERENCE_BINS, UNIT_METRICS, Exposure, PairCounts, SlicePairs, Stratum, UnitCounts
from pipelines.rollout.judge import Judgement, Memory, Tally, judge_shadow, judge_step, learn
from pipelines.rollout.plan import AlphaShares, Plan, ShadowStep, Step

PLAN = Plan()
STEP = Step(share=0.25, minimum_requests=200, minimum_s=10, maximum_s=100)


class Traffic:
    """Two versions whose entities are drawn anew in each second; what happens to them is given by rates."""

    def __init__(self, seed: int = 0, share: float = 0.25, entities: int = 80) -> None:
        self.random = np.random.default_rng(seed)
        self.share, self.entities = share, entities
        self.champion, self.challenger = SlotCounts(version="1"), SlotCounts(version="2")
        self.strata: list[Stratum] = []
        self.phase = 1

    def second(
        self,
        *,
        champion: dict[str, float] | None = None,
        challenger: dict[str, float] | None = None,
        bins: list[float] | None = None,
        split: float | None = None,
        version: str = "2",
    ) -> None:
        """One more stratum. `bins` are the challenger's shares of the champion's deciles."""
        n = int(self.random.binomial(self.entities, self.share if split is None else split))
        arms = []
        for counts, entities, rates, scores in (
            (self.champion, self.entities - n, champion or {}, [0.1] * 10),
            (self.challenger, n, challenger or {}, bins or [0.1] * 10),
        ):
            happened = {metric: int(self.random.binomial(entities, rates.get(metric, 0.0))) for metric in UNIT_METRICS}
            counts.requests += entities
            counts.errors += happened["errors"]
            exposures = {metric: Exposure(at_risk=entities, happened=count) for metric, count in happened.items()}
            arms.append(
                UnitCounts(
                    version=counts.version,
                    entities=entities,
                    new=entities,
                    requests=entities,
                    rollout=exposures,
                    phase=exposures,
                    scores=tuple(self.random.multinomial(entities, scores).tolist()),
                )
            )
        self.strata.append(
            Stratum(
                number=len(self.strata) + 1,
                closed_s=len(self.strata),
                seconds=1,
                rollout="r",
                share=self.share,
                phase=self.phase,
                champion=arms[0],
                challenger=msgspec.structs.replace(arms[1], version=version),
            )
        )

    def observe(self, server: str = "s", **more: Any) -> Observation:
        return Observation(
            server=server, clock_s=0, rollout="r", share=self.share, shadow=False, lease_left_s=9,
            champion=self.champion, challenger=self.challenger, shadowed=ShadowCounts(),
            strata=tuple(self.strata[-120:]), **more,
        )  # fmt: skip


def after(traffic: Traffic, seconds: int, plan: Plan = PLAN, step: Step = STEP, **rates: Any) -> Judgement:
    """The first verdict that is no `wait` within `seconds` looks, or the last."""
    memory = learn(Memory.fresh(plan), traffic.observe(), plan)
    for second in range(seconds):
        traffic.second(**rates)
        memory = learn(memory, traffic.observe(), plan)
        judgement = judge_step(memory, step, plan, second + 1)
        if judgement.verdict != "wait":
            return judgement
    return judgement


def test_an_equal_challenger_advances_when_it_has_seen_enough_and_is_shown_to_fail_no_more() -> None:
    judgement = after(Traffic(), 60, champion={"errors": 0.01}, challenger={"errors": 0.01})
    assert judgement.verdict == "advance"
    assert "of 200 requests in" in judgement.reason
    assert "errors for" in judgement.reason


def test_enough_requests_and_no_time_wait_and_enough_time_and_no_requests_wait() -> None:
    assert "at least 90 s" in after(Traffic(), 60, step=msgspec.structs.replace(STEP, minimum_s=90)).reason
    many = msgspec.structs.replace(STEP, minimum_requests=10_000)
    assert after(Traffic(), 60, step=many).verdict == "wait"


@pytest.mark.parametrize(
    ("metric", "name"),
    [("errors", "errors"), ("slow_p50", "slower than p50"), ("slow_p95", "slower than p95"), ("slow_p99", "slower")],
)
def test_each_metric_that_turns_bad_rolls_back_by_its_name(metric: str, name: str) -> None:
    usual = {"errors": 0.01, "slow_p50": 0.5, "slow_p95": 0.05, "slow_p99": 0.01}
    bad = after(Traffic(), 100, champion=usual, challenger={**usual, metric: min(0.98, usual[metric] * 20)})
    assert bad.verdict == "rollback"
    assert bad.reason.startswith(name)
    assert after(Traffic(), 100, champion=usual, challenger=usual).verdict == "advance"


def test_a_latency_within_the_margin_is_borne() -> None:
    slightly = after(Traffic(), 100, champion={"slow_p95": 0.05}, challenger={"slow_p95": 0.07})
    assert slightly.verdict == "advance"


def test_scores_that_crowd_in_a_decile_roll_back_and_others_do_not() -> None:
    constant = after(Traffic(), 100, bins=[0, 0, 0, 1.0, 0, 0, 0, 0, 0, 0])
    assert constant.verdict == "rollback"
    assert "decile 4 of the champion's" in constant.reason
    shifted = after(Traffic(), 100, bins=[0, 0, 0, 0, 0, 0, 0, 0, 0.2, 0.8])
    assert shifted.verdict == "rollback"
    assert "higher" in shifted.reason or "decile" in shifted.reason
    retrained = after(Traffic(), 100, bins=[0.05, 0.05, 0.05, 0.1, 0.1, 0.1, 0.1, 0.15, 0.15, 0.15])
    assert retrained.verdict == "advance"


def test_where_entities_are_not_divided_as_configured_nothing_else_is_believed() -> None:
    judgement = after(Traffic(), 100, split=0.5, challenger={"errors": 0.9})
    assert judgement.verdict == "rollback"
    assert judgement.reason.startswith("split: ")
    assert judgement.reason.endswith("nothing else was believed")


def test_one_client_whose_own_requests_always_fail_is_one_failure_however_long_it_asks() -> None:
    """Its entity is at risk no more after the first failure: the server counts it so."""
    traffic = Traffic()
    traffic.second()
    last = traffic.strata[-1]
    failing = Exposure(at_risk=last.challenger.entities, happened=1)
    traffic.strata[-1] = msgspec.structs.replace(
        last,
        challenger=msgspec.structs.replace(last.challenger, rollout={"errors": failing}, phase={"errors": failing}),
    )
    memory = learn(Memory.fresh(PLAN), traffic.observe(), PLAN)
    for second in range(300):
        traffic.challenger.errors += 20  # the requests of that client
        traffic.challenger.requests += 20
        traffic.second()
        memory = learn(memory, traffic.observe(), PLAN)
        assert judge_step(memory, STEP, PLAN, second).verdict != "rollback"
    assert memory.errors.happened == 1


def test_a_failure_rate_that_is_not_shown_to_be_near_the_champions_does_not_advance() -> None:
    few = msgspec.structs.replace(STEP, minimum_requests=20)
    judgement = after(Traffic(), 3, step=msgspec.structs.replace(few, minimum_s=0))
    assert (judgement.verdict, "not shown yet" in judgement.reason) == ("wait", True)
    proof_is_not_asked = Plan(error_rate_margin=None)
    assert after(Traffic(), 60, plan=proof_is_not_asked, step=few).verdict == "advance"


PROVING = Plan(slow_p99_rate_margin=0.1, alpha_shares=AlphaShares(slow_p50=0, slow_p95=0, slow_p99=0))


def test_a_challenger_advances_when_its_slow_answers_are_shown_to_be_within_the_margin() -> None:
    equal = after(Traffic(), 100, plan=PROVING, champion={"slow_p99": 0.01}, challenger={"slow_p99": 0.01})
    a_little = after(Traffic(), 100, plan=PROVING, champion={"slow_p99": 0.01}, challenger={"slow_p99": 0.05})
    assert (equal.verdict, a_little.verdict) == ("advance", "advance")


@pytest.mark.parametrize("policy", ["wait", "advance", "rollback"])
def test_slow_answers_beyond_the_margin_wait_and_at_the_end_of_the_steps_time_follow_the_plan(policy: Any) -> None:
    step = msgspec.structs.replace(STEP, on_timeout=policy)
    slow = {"champion": {"slow_p99": 0.01}, "challenger": {"slow_p99": 0.12}}
    before = after(Traffic(), 99, plan=PROVING, step=step, **slow)
    assert before.verdict == "wait"
    shown = re.search(r"answers slower than p99 at most (.+)% above the champion's > 10.00%: not shown", before.reason)
    assert shown is not None
    assert float(shown[1]) > 11
    assert after(Traffic(), 100, plan=PROVING, step=step, **slow).verdict == policy
    unasked = msgspec.structs.replace(PROVING, slow_p99_rate_margin=None)
    assert after(Traffic(), 99, plan=unasked, step=step, **slow).verdict == "advance"


def test_slow_answers_that_were_not_counted_are_no_proof() -> None:
    traffic = Traffic()
    memory = learn(Memory.fresh(PROVING), traffic.observe(), PROVING)
    for _ in range(60):  # the champion has not answered enough yet to tell its quantiles
        traffic.second()
        last = traffic.strata[-1]
        arms = (last.champion, last.challenger)
        champion, challenger = (
            msgspec.structs.replace(arm, rollout={"errors": arm.rollout["errors"]}, phase={}) for arm in arms
        )
        traffic.strata[-1] = msgspec.structs.replace(last, champion=champion, challenger=challenger)
        memory = learn(memory, traffic.observe(), PROVING)
    judgement = judge_step(memory, STEP, PROVING, 60)
    assert judgement.verdict == "wait"
    assert "at most 100.00% above" in judgement.reason


def test_at_all_traffic_no_champion_says_any_more_what_is_slow() -> None:
    alone = msgspec.structs.replace(STEP, share=1.0)
    traffic = Traffic(share=1.0)
    judgement = after(traffic, 60, plan=PROVING, step=alone, challenger={"slow_p99": 0.2})
    assert judgement.verdict == "advance"


@pytest.mark.parametrize(("policy", "verdict"), [("wait", "wait"), ("advance", "advance"), ("rollback", "rollback")])
def test_when_a_steps_time_has_passed_the_plan_says_what_that_means(policy: Any, verdict: str) -> None:
    step = Step(share=0.25, minimum_requests=100_000, minimum_s=0, maximum_s=5, on_timeout=policy)
    assert after(Traffic(), 20, step=step).verdict == verdict


def test_no_data_never_advances() -> None:
    step = Step(share=0.25, minimum_requests=1, minimum_s=0, maximum_s=5, on_timeout="advance")
    assert after(Traffic(entities=0), 20, step=step).verdict == "wait"


def test_a_stratum_of_another_version_is_refused() -> None:
    with pytest.raises(ValueError, match="counts of version 2 cannot be compared with those of 7"):
        after(Traffic(), 1, version="7")


def test_a_stratum_is_learnt_once_and_those_of_a_restarted_server_begin_anew() -> None:
    traffic = Traffic()
    traffic.second()
    memory = learn(Memory.fresh(PLAN), traffic.observe(), PLAN)
    assert learn(memory, traffic.observe(), PLAN).errors == memory.errors
    again = learn(memory, traffic.observe(server="restarted"), PLAN)
    assert again.errors.reference_n == 2 * memory.errors.reference_n


def test_equal_versions_are_rarely_rolled_back_whatever_the_base_rate_does() -> None:
    plan = Plan(alpha=0.05, error_rate_margin=None)
    forever = Step(share=0.25, minimum_requests=10**9, minimum_s=0, maximum_s=10**9)
    rolled_back = 0
    for seed in range(150):
        traffic = Traffic(seed, entities=60)
        memory = learn(Memory.fresh(plan), traffic.observe(), plan)
        for second in range(40):
            rate = {"errors": 0.02 if second % 20 < 10 else 0.12, "slow_p95": 0.05}
            traffic.second(champion=rate, challenger=rate)
            memory = learn(memory, traffic.observe(), plan)
            if judge_step(memory, forever, plan, second).verdict == "rollback":
                rolled_back += 1
                break
    assert rolled_back <= binom.ppf(0.999, 150, plan.alpha)


def test_a_version_that_turns_bad_when_many_have_failed_once_is_seen_by_the_evidence_of_the_phase() -> None:
    plan, traffic = Plan(error_rate_margin=None), Traffic(entities=200)
    memory = learn(Memory.fresh(plan), traffic.observe(), plan)
    traffic.phase = 2
    for _ in range(20):
        traffic.second(challenger={"errors": 0.1})
        last = traffic.strata[-1]  # over the whole rollout nobody is at risk any more
        exhausted = {"rollout": {"errors": Exposure()}}
        traffic.strata[-1] = msgspec.structs.replace(
            last,
            champion=msgspec.structs.replace(last.champion, **exhausted),
            challenger=msgspec.structs.replace(last.challenger, **exhausted),
        )
        memory = learn(memory, traffic.observe(), plan)
    judgement = judge_step(memory, STEP, plan, 20)
    assert judgement.verdict == "rollback"
    assert "in this phase" in judgement.reason


def test_a_phase_that_the_plan_does_not_have_asks_nothing_anew_and_keeps_the_evidence_of_the_whole() -> None:
    crowded = [0, 0, 0, 1.0, 0, 0, 0, 0, 0, 0]
    plan, traffic = Plan(shadow=None, steps=(Step(share=0.2), Step(share=1.0))), Traffic()
    memory = learn(Memory.fresh(plan), traffic.observe(), plan)
    for phase in (1, 2):
        traffic.phase = phase
        traffic.second()
    traffic.phase = 3  # somebody has set another `sticky_by`
    for _ in range(60):
        traffic.second(bins=crowded)
        memory = learn(memory, traffic.observe(), plan)
    findings = {each.name: each for each in judge_step(memory, STEP, plan, 60).findings}
    assert str(findings["score deciles"]).endswith("not asked")
    assert "in this phase" not in findings["errors"].what
    for _ in range(60):
        traffic.second(challenger={"errors": 0.3})
        memory = learn(memory, traffic.observe(), plan)
    assert judge_step(memory, STEP, plan, 120).reason.startswith("errors for")


def test_alpha_is_shared_out_and_a_share_of_zero_asks_nothing() -> None:
    with pytest.raises(ValueError, match="at most 1 together"):
        AlphaShares(errors=0.9)
    blind = Plan(alpha_shares=AlphaShares(errors=0, split=0.5), error_rate_margin=None)
    assert after(Traffic(), 60, plan=blind, challenger={"errors": 0.9}).verdict == "advance"


SHADOW = ShadowStep(minimum_pairs=100, minimum_s=5, maximum_s=50, maximum_flip_share=0.3)


def shadowed(
    pairs: int,
    flips: int = 0,
    mine: int = 0,
    theirs: int = 0,
    seconds: float = 10,
    shift: float = 0,
    shadow: ShadowStep = SHADOW,
    latency_bucket: int = 0,
    champion_latency_bucket: int = 0,
) -> Judgement:
    traffic = Traffic()
    memory = learn(Memory.fresh(PLAN), traffic.observe(), PLAN)
    differences = [0] * DIFFERENCE_BINS
    differences[int((shift + 1) / 2 * DIFFERENCE_BINS)] = pairs
    found = PairCounts(
        challenger_only={"errors": mine}, champion_only={"errors": theirs}, differences=tuple(differences)
    )
    observation = traffic.observe(pairs=found)
    counts = ShadowCounts(pairs=pairs, flips=flips, errors=mine)
    counts.latency[latency_bucket] = counts.champion_latency[champion_latency_bucket] = pairs
    memory = learn(memory, msgspec.structs.replace(observation, shadowed=counts), PLAN)
    return judge_shadow(memory, shadow, PLAN, seconds)


def test_the_shadow_advances_after_its_pairs_and_waits_before() -> None:
    assert shadowed(100).verdict == "advance"
    assert shadowed(99).verdict == "wait"
    assert shadowed(100, seconds=4).verdict == "wait"
    assert shadowed(99, seconds=50).verdict == "rollback"


def test_pairs_that_only_the_challenger_fails_roll_back_and_those_of_both_sides_do_not() -> None:
    bad = shadowed(200, mine=20)
    assert (bad.verdict, bad.reason.startswith("errors of one version alone: 20")) == ("rollback", True)
    assert shadowed(200, mine=20, theirs=19).verdict == "advance"


def test_decisions_that_turn_over_too_often_roll_back() -> None:
    assert shadowed(200, flips=150).verdict == "rollback"
    assert shadowed(200, flips=55).verdict == "advance"


@pytest.mark.parametrize(("shift", "name"), [(0.4, "higher"), (-0.4, "lower")])
def test_scores_of_the_same_requests_that_shift_roll_back_after_a_few_pairs(shift: float, name: str) -> None:
    bad = shadowed(40, shift=shift)
    assert bad.verdict == "rollback"
    assert re.fullmatch(rf"scores of the same 40 requests differ by .0.\d+, more than 0.2 {name}: .*", bad.reason)
    assert shadowed(400, shift=shift / 4).verdict == "advance"


def test_how_long_the_same_requests_took_is_told_and_rolls_nobody_back() -> None:
    slow = shadowed(100, latency_bucket=40, champion_latency_bucket=16)
    told = next(each for each in slow.findings if each.name == "slower in pairs")
    assert str(told) == (
        "answers to the same 100 requests took 51.2, 51.2 and 51.2 ms against 0.8, 0.8 and 0.8 ms (p50, p95, p99): "
        "not asked"
    )
    assert slow.verdict == "advance"


def test_a_shadow_without_a_maximum_shift_leaves_scores_to_the_steps() -> None:
    unpaired = msgspec.structs.replace(SHADOW, maximum_shift=None)
    assert shadowed(400, shift=0.4, shadow=unpaired).verdict == "advance"
    assert shadowed(400, shift=0.4, mine=40, shadow=unpaired).verdict == "rollback"


def sliced(**slices: SlicePairs) -> Judgement:
    traffic = Traffic()
    memory = learn(Memory.fresh(PLAN), traffic.observe(), PLAN)
    observation = traffic.observe(pairs=PairCounts(slices=slices))
    memory = learn(memory, msgspec.structs.replace(observation, shadowed=ShadowCounts(pairs=2000)), PLAN)
    return judge_shadow(memory, msgspec.structs.replace(SHADOW, slice_by="carrier"), PLAN, 10)


def pairs_of(n: int, shift: float = 0, flips: int = 0) -> SlicePairs:
    differences = [0] * DIFFERENCE_BINS
    differences[int((shift + 1) / 2 * DIFFERENCE_BINS)] = n
    return SlicePairs(pairs=n, flips=flips, differences=tuple(differences))


def test_a_version_that_is_good_on_average_and_wrong_for_one_carrier_is_rolled_back_by_that_slice() -> None:
    good = pairs_of(900, flips=90)
    for wrong in (pairs_of(60, shift=-0.5), pairs_of(60, flips=55)):
        found = sliced(AA=good, HA=wrong, UA=good)
        assert (found.verdict, found.reason.startswith("carrier HA: flips ")) == ("rollback", True)
    assert sliced(AA=good, HA=pairs_of(60, shift=0.1, flips=18), UA=good).verdict == "advance"
    assert sliced().verdict == "advance"


def test_counts_that_started_anew_compare_nothing() -> None:
    earlier = Tally.of(SlotCounts(version="1", requests=10))
    assert Tally.of(SlotCounts(version="1", requests=3)).since(earlier) is None
    with pytest.raises(ValueError, match="version 2"):
        Tally.of(SlotCounts(version="2")).since(earlier)
