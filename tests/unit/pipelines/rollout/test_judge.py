import itertools
import re
from bisect import bisect_left
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from contracts.slots import LATENCY_EDGES_S, SCORE_BINS, Observation, ShadowCounts, SlotCounts
from pipelines.rollout.judge import ALPHA_SHARES, Judgement, Memory, Tally, judge_shadow, judge_step, learn
from pipelines.rollout.plan import Plan, ShadowStep, Step

PLAN = Plan()
STEP = Step(share=0.25, minimum_requests=200, minimum_s=10, maximum_s=100)


class Traffic:
    """Two slots whose requests are drawn; latencies are gamma distributed, scores beta distributed."""

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.champion, self.challenger, self.shadowed = SlotCounts(version="1"), SlotCounts(version="2"), ShadowCounts()

    def serve(
        self,
        counts: SlotCounts,
        requests: int,
        *,
        error_rate: float = 0.0,
        latency_ms: float = 20.0,
        scores: tuple[float, float] = (2, 5),
    ) -> None:
        errors = int(self.random.binomial(requests, error_rate))
        answers = requests - errors
        counts.requests += requests
        counts.errors += errors
        for seconds in self.random.gamma(8, latency_ms / 8000, answers):
            counts.latency[bisect_left(LATENCY_EDGES_S, seconds)] += 1
        for score in self.random.beta(*scores, answers):
            counts.scores[min(int(score * SCORE_BINS), SCORE_BINS - 1)] += 1

    def observe(self) -> Observation:
        return Observation(
            server="s", clock_s=0, rollout="r", share=0.25, shadow=False, lease_left_s=9, champion=self.champion,
            challenger=self.challenger, shadowed=self.shadowed,
        )  # fmt: skip


def looks(
    traffic: Traffic,
    count: int,
    *,
    share: float = 0.25,
    requests: int = 80,
    challenger: dict[str, Any] | None = None,
    champion: dict[str, Any] | None = None,
) -> Iterator[tuple[Memory, Judgement]]:
    """The memory and the judgement after each of `count` looks, a second apart."""
    memory = learn(Memory.fresh(PLAN), traffic.observe(), PLAN)
    for second in range(1, count + 1):
        taken = int(traffic.random.binomial(requests, share))
        traffic.serve(traffic.champion, requests - taken, **(champion or {}))
        traffic.serve(traffic.challenger, taken, **(challenger or {}))
        memory = learn(memory, traffic.observe(), PLAN)
        yield memory, judge_step(memory, STEP, PLAN, second)


def evidence(memory: Memory) -> tuple[object, ...]:
    return memory.errors, memory.slow, memory.scores


def first_rollback(judgements: Iterator[tuple[Memory, Judgement]]) -> Judgement | None:
    return next((judgement for _, judgement in judgements if judgement.verdict == "rollback"), None)


def test_an_equal_challenger_advances_as_soon_as_it_has_the_requests_and_the_time() -> None:
    verdicts = [judgement for _, judgement in looks(Traffic(), 14)]
    assert [judgement.verdict for judgement in verdicts[:9]] == ["wait"] * 9
    advanced = next(judgement for judgement in verdicts if judgement.verdict == "advance")
    assert "of 200 requests in 1" in advanced.reason
    assert "errors 0 of" in advanced.reason


def test_requests_without_the_minimum_time_wait() -> None:
    memory, judgement = list(looks(Traffic(), 5, requests=1000))[-1]
    assert memory.phase_requests > 200
    assert (judgement.verdict, judgement.reason.endswith("at least 10 s")) == ("wait", True)


def test_no_data_waits_and_is_no_verdict_on_the_challenger() -> None:
    judgement = list(looks(Traffic(), 20, requests=0))[-1][1]
    assert judgement.verdict == "wait"
    assert judgement.reason == "0 of 200 requests in 20.0 s, 0 of 20 champion requests to compare with"


def test_too_little_traffic_in_the_maximum_time_rolls_back_and_says_so() -> None:
    judgement = list(looks(Traffic(), 100, requests=2))[-1][1]
    assert judgement.verdict == "rollback"
    assert "at most 100 s: too little traffic to judge by" in judgement.reason


def test_a_step_that_compares_needs_a_champion_to_compare_with() -> None:
    memory, judgement = list(looks(Traffic(), 12, share=1.0))[-1]
    assert judgement.verdict == "wait"
    assert "0 of 20 champion requests to compare with" in judgement.reason
    whole = Step(share=1.0, minimum_requests=200, minimum_s=10, maximum_s=100)
    assert judge_step(memory, whole, PLAN, 12).verdict == "advance"


def test_a_challenger_with_more_errors_is_rolled_back_with_both_sides_and_n() -> None:
    judgement = first_rollback(looks(Traffic(), 60, challenger={"error_rate": 0.1}, champion={"error_rate": 0.01}))
    assert judgement is not None
    finding = judgement.findings[0]
    assert (finding.name, finding.exceeded, finding.limit) == ("errors", True, 1 / (0.01 * 0.4))
    assert re.match(r"errors \d+ of \d+ against \d+ of \d+: e-value ", judgement.reason)
    assert judgement.reason.endswith("> 250")


def test_errors_that_both_sides_have_are_no_reason() -> None:
    both = {"error_rate": 0.2}
    assert first_rollback(looks(Traffic(), 60, challenger=both, champion=both)) is None


def test_a_slow_challenger_is_rolled_back() -> None:
    judgement = first_rollback(looks(Traffic(), 60, challenger={"latency_ms": 45}))
    assert judgement is not None
    assert judgement.reason.startswith("slow answers ")


def test_a_challenger_that_is_slower_below_the_floor_is_not_slow() -> None:
    fast = looks(Traffic(), 60, champion={"latency_ms": 1}, challenger={"latency_ms": 3})
    assert first_rollback(fast) is None


@pytest.mark.parametrize(("scores", "side"), [((40, 4), "higher"), ((1, 40), "lower")])
def test_a_challenger_with_other_scores_is_rolled_back_with_both_means(scores: tuple[float, float], side: str) -> None:
    champion = {"scores": (4, 4)}
    judgement = first_rollback(looks(Traffic(), 60, challenger={"scores": scores}, champion=champion))
    assert judgement is not None
    assert re.match(rf"mean score 0\.\d\d \(n = \d+\) against 0\.\d\d .*, more than 0\.3 {side}: ", judgement.reason)


def test_a_retrained_challenger_with_somewhat_other_scores_is_not() -> None:
    champion = {"scores": (4, 4)}
    assert first_rollback(looks(Traffic(), 60, challenger={"scores": (6, 4)}, champion=champion)) is None


def test_a_champion_request_is_counted_once_in_the_shadow() -> None:
    traffic = Traffic()
    memory = learn(Memory.fresh(PLAN), traffic.observe(), PLAN)
    traffic.serve(traffic.champion, 100)
    traffic.shadowed.pairs = 90
    memory = learn(memory, traffic.observe(), PLAN)
    assert (memory.errors.n, memory.errors.reference_n) == (90, 100)


def test_a_look_with_shadowed_and_answered_requests_compares_them_with_the_champion_once() -> None:
    traffic = Traffic()
    memory = learn(Memory.fresh(PLAN), traffic.observe(), PLAN)
    traffic.champion.requests, traffic.champion.errors = 80, 2  # the look after the shadow phase: both have come in
    traffic.shadowed.pairs, traffic.shadowed.errors = 37, 3
    traffic.challenger.requests, traffic.challenger.errors = 5, 1
    errors = learn(memory, traffic.observe(), PLAN).errors
    assert (errors.happened, errors.n, errors.reference_happened, errors.reference_n) == (4, 45, 2, 80)
    assert errors.evidence == memory.errors.evidence.after(failures=4, n=45, reference_failures=2, reference_n=80)


def test_cuts_come_from_the_champions_earlier_looks_only() -> None:
    generator = looks(Traffic(), 2, requests=400)
    first, _ = next(generator)  # nothing was known of the champion before it
    assert first.slow.n == 0
    second, _ = next(generator)
    assert second.slow.n > 0


def test_equal_slots_are_rarely_told_apart_over_many_rollouts() -> None:
    rolled_back = sum(
        first_rollback(looks(Traffic(seed), 40, challenger={"error_rate": 0.03}, champion={"error_rate": 0.03}))
        is not None
        for seed in range(60)
    )
    assert rolled_back <= 4  # 1 % of 60 is 0.6; more than 4 has a probability below 1 in 1,000


def test_the_whole_alpha_is_split() -> None:
    assert sum(ALPHA_SHARES.values()) == pytest.approx(1)


def test_counts_of_another_version_are_refused() -> None:
    traffic = Traffic()
    memory = learn(Memory.fresh(PLAN), traffic.observe(), PLAN)
    traffic.challenger = SlotCounts(version="3")
    with pytest.raises(ValueError, match="version 3 cannot be compared with those of 2"):
        learn(memory, traffic.observe(), PLAN)


def test_counts_that_start_anew_compare_nothing_at_that_look() -> None:
    traffic = Traffic()
    memory = list(looks(traffic, 3))[-1][0]
    traffic.champion = SlotCounts(version="1")
    traffic.serve(traffic.challenger, 50, error_rate=1)
    again = learn(memory, traffic.observe(), PLAN)
    assert evidence(again) == evidence(memory)
    assert again.phase_requests == memory.phase_requests
    assert again.champion == Tally.of(traffic.champion)


def test_counts_that_contradict_each_other_compare_nothing() -> None:
    traffic = Traffic()
    memory = list(looks(traffic, 3))[-1][0]
    traffic.challenger.errors += 5
    assert evidence(learn(memory, traffic.observe(), PLAN)) == evidence(memory)


def shadow_looks(
    count: int, *, flips: float = 0.05, errors: float = 0.0, requests: int = 50
) -> Iterator[tuple[float, Judgement]]:
    traffic, shadow = Traffic(), ShadowStep(minimum_pairs=200, minimum_s=5, maximum_s=60)
    memory = learn(Memory.fresh(PLAN), traffic.observe(), PLAN)
    for second in itertools.count(1):
        traffic.serve(traffic.champion, requests)
        failed = int(traffic.random.binomial(requests, errors))
        traffic.shadowed.pairs += requests - failed
        traffic.shadowed.errors += failed
        traffic.shadowed.flips += int(traffic.random.binomial(requests - failed, flips))
        memory = learn(memory, traffic.observe(), PLAN)
        yield second, judge_shadow(memory, shadow, PLAN, second)
        if second == count:
            return


def test_a_shadow_that_agrees_advances() -> None:
    verdicts = [judgement.verdict for _, judgement in shadow_looks(6)]
    assert verdicts == ["wait"] * 4 + ["advance"] * 2


def test_a_shadow_that_turns_too_many_decisions_over_is_rolled_back() -> None:
    rolled_back = [judgement for _, judgement in shadow_looks(6, flips=0.6) if judgement.verdict == "rollback"]
    assert rolled_back[0].reason.startswith("flips ")
    assert "more than 35%" in rolled_back[0].reason


def test_a_shadow_that_fails_is_rolled_back() -> None:
    second, judgement = next(found for found in shadow_looks(20, errors=0.2) if found[1].verdict == "rollback")
    assert judgement.reason.startswith("errors ")
    assert second <= 3


def test_a_shadow_without_traffic_waits_and_then_gives_up() -> None:
    judgements = list(shadow_looks(60, requests=0))
    assert {judgement.verdict for _, judgement in judgements[:-1]} == {"wait"}
    assert "0 of 200 pairs in 60.0 s, at most 60 s" in judgements[-1][1].reason
