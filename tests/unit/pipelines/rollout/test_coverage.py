import asyncio
from pathlib import Path
from threading import Event as ThreadEvent

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.slots import Observation, SlotCounts
from pipelines.ledger import Ledger
from pipelines.rollout.controller import Offer, Outcome, run_rollout
from pipelines.rollout.coverage import MAXIMUM_SEGMENTS, OTHER, Cell, Covered, Pattern, covered
from pipelines.rollout.coverage_reading import ReadCoverage
from pipelines.rollout.judge import Judgement, Memory, judge_step, learn
from pipelines.rollout.machine import Looked, State
from pipelines.rollout.plan import Coverage, Plan, Step
from pipelines.rollout.story import lengthen, shorten
from tests.fixtures.platforms import SimulatedClock, SimulatedPlatform

# requests by hour: mornings of two carriers, an evening, and one flight of HA at noon
USUAL = {(hour, "AA"): 300 for hour in range(6, 12)} | {(hour, "UA"): 200 for hour in range(6, 12)}
EVENING = {(hour, "UA"): 400 for hour in range(17, 22)}
DAY = Pattern.of({**USUAL, **EVENING, (11, "HA"): 100}, days=7)  # 3,000 + 2,000 + 100


def seen_all(*parts: dict[Cell, int]) -> dict[Cell, int]:
    return {cell: 50 for part in parts for cell in part}


def test_a_morning_covers_the_mornings_share_and_says_what_is_missing() -> None:
    found = covered(seen_all(USUAL), DAY, minimum_per_cell=5)
    assert found.share == pytest.approx(3000 / 5100)
    assert found.words == "missing 17–22 h (0.39), HA (0.02)"


def test_a_cell_with_too_few_requests_was_not_seen() -> None:
    seen = seen_all(USUAL, EVENING, {(11, "HA"): 1}) | {(6, "AA"): 4}  # of 500 at that hour 300 are missing
    found = covered(seen, DAY, minimum_per_cell=5)
    assert found.share == pytest.approx(1 - 300 / 5100)
    assert found.words == "missing 6–7 h (0.06)"


def test_all_of_it_is_1_and_nothing_is_missing() -> None:
    assert covered(seen_all(USUAL, EVENING, {(11, "HA"): 1}), DAY, 5) == Covered(share=1.0, words="nothing is missing")


def test_nothing_seen_covers_nothing() -> None:
    found = covered({}, DAY, 1)
    assert (found.share, found.words) == (0.0, "missing 6–12 h (0.61), 17–22 h (0.39)")


def test_a_night_is_one_span_over_midnight() -> None:
    nights = {(hour, ""): 10 for hour in (0, 1, 22, 23)}
    pattern = Pattern.of({**nights, (12, ""): 60}, days=7)
    assert covered({(12, ""): 9}, pattern, 5).words == "missing 22–2 h (0.40)"
    whole = Pattern.of({(hour, ""): 1 for hour in range(24)}, days=7)
    assert covered({}, whole, 1).words == "missing 0–24 h (1.00)"


def test_many_spans_and_segments_are_summed_up() -> None:
    scattered = Pattern.of({(hour, ""): 1 for hour in range(0, 20, 2)}, days=7)
    assert covered({}, scattered, 1).words == "missing 0–1 h (0.10), 10–11 h (0.10), 12–13 h (0.10), more (0.70)"


def test_segments_beyond_the_largest_are_one_and_unknown_ones_belong_to_it() -> None:
    pattern = Pattern.of({(8, f"S{number:02d}"): 100 - number for number in range(40)}, days=7)
    assert len(pattern.segments) == MAXIMUM_SEGMENTS + 1
    rest = sum(100 - number for number in range(30, 40))
    seen = {(8, "new"): 3, (8, "S35"): 2}
    assert covered(seen, pattern, 5).share == pytest.approx(rest / pattern.requests)
    assert (8, OTHER, rest / pattern.requests) in pattern.cells


CELLS = st.dictionaries(st.tuples(st.integers(0, 23), st.sampled_from(["", "A", "B"])), st.integers(1, 99), min_size=1)


@given(CELLS, CELLS, CELLS, st.integers(1, 50))
def test_more_traffic_never_covers_less_and_the_usual_traffic_itself_covers_all(
    usual: dict[Cell, int], seen: dict[Cell, int], more: dict[Cell, int], minimum: int
) -> None:
    pattern = Pattern.of(usual, days=7)
    before, after = covered(seen, pattern, minimum), covered(_sum(seen, more), pattern, minimum)
    assert before.share is not None
    assert after.share is not None
    assert 0 <= before.share <= after.share <= 1
    assert covered(usual, pattern, 1).share == pytest.approx(1)


def _sum(one: dict[Cell, int], other: dict[Cell, int]) -> dict[Cell, int]:
    return {cell: one.get(cell, 0) + other.get(cell, 0) for cell in {*one, *other}}


STEP = Step(share=0.5, minimum_requests=50, minimum_s=0, maximum_s=100, coverage=0.8)
PLAN = Plan(shadow=None, error_rate_margin=None)


def judged(found: Covered | None, step: Step = STEP, plan: Plan = PLAN, seconds: float = 10, n: int = 100) -> Judgement:
    memory = Memory.fresh(plan)
    for requests in (0, n):
        observation = Observation(
            server="s", clock_s=0, rollout="r", share=0.5, shadow=False, lease_left_s=9,
            champion=SlotCounts(version="1", requests=requests), challenger=SlotCounts(version="2", requests=requests),
            shadowed=None,
        )  # fmt: skip
        memory = learn(memory, observation, plan)
    return judge_step(msgspec.structs.replace(memory, coverage=found), step, plan, seconds)


MORNING = covered(seen_all(USUAL), DAY, 5)


def test_a_step_that_lacks_coverage_waits_with_what_is_missing() -> None:
    judgement = judged(MORNING)
    assert judgement.verdict == "wait"
    assert "covers 0.59 of the usual traffic, asked 0.80: missing 17–22 h (0.39), HA (0.02)" in judgement.reason


def test_a_step_with_its_coverage_advances_and_says_so() -> None:
    judgement = judged(covered(seen_all(USUAL, EVENING), DAY, 5))
    assert judgement.verdict == "advance"
    assert "covers 0.98 of the usual traffic" in judgement.reason


def test_a_step_that_asks_for_none_does_not_mind() -> None:
    assert judged(None, msgspec.structs.replace(STEP, coverage=None)).verdict == "advance"


@pytest.mark.parametrize(("on_timeout", "verdict"), [("wait", "wait"), ("advance", "wait"), ("rollback", "rollback")])
def test_a_step_that_lacks_coverage_never_advances_by_time_alone(on_timeout: str, verdict: str) -> None:
    step = msgspec.structs.replace(STEP, on_timeout=on_timeout)
    for found in (None, MORNING, Covered(share=None, words="it cannot be read")):
        assert judged(found, step, seconds=101).verdict == verdict


def test_without_a_reference_the_plan_says_whether_to_wait() -> None:
    nothing = Covered(share=None, words="no reference: the log has 2 days", without_reference=True)
    waiting = judged(nothing)
    assert waiting.verdict == "wait"
    assert "coverage is not known, asked 0.80: no reference: the log has 2 days" in waiting.reason
    ignoring = msgspec.structs.replace(PLAN, coverage=Coverage(without_reference="ignore"))
    assert judged(nothing, plan=ignoring).verdict == "advance"
    assert "which the plan ignores" in judged(nothing, plan=ignoring).reason
    assert judged(Covered(share=None, words="it cannot be read"), plan=ignoring).verdict == "wait"
    assert judged(None, plan=ignoring).verdict == "wait"


def test_a_look_with_coverage_is_the_same_after_a_trip_through_the_ledger() -> None:
    observation = Observation(
        server="s", clock_s=0, rollout="r", share=0, shadow=False, lease_left_s=9, champion=None, challenger=None,
        shadowed=None,
    )  # fmt: skip
    event = Looked(observation=observation, at_s=3, coverage=MORNING)
    assert lengthen(msgspec.json.decode(msgspec.json.encode(shorten(event)))) == event


OFFER = Offer(rollout="flights-v2-1", project="flights", version="2", bundle="b2", path="/b2", expected_champion="1")
WHOLE = Plan(
    shadow=None,
    steps=(
        Step(share=0.5, minimum_requests=20, minimum_s=1),
        Step(share=1.0, minimum_requests=20, minimum_s=1, maximum_s=1e6, coverage=0.8),
    ),
    coverage=Coverage(read_every_s=10),
)


def roll_out(folder: Path, read: ReadCoverage | None, looks: list[Observation] | None = None) -> Outcome:
    platform = SimulatedPlatform(SimulatedClock(), requests_per_s=50)
    on_look = None if looks is None else looks.append
    with Ledger.open(f"sqlite:///{folder}/ledger.db") as ledger:
        ledger.swap_champion("flights", None, "1", "b1", "bootstrap", "the first")
        clock = platform.clock
        return asyncio.run(
            run_rollout(platform, ledger, WHOLE, OFFER, clock=clock, sleep=clock.sleep, coverage=read, on_look=on_look)
        )


def test_a_rollout_that_began_in_the_morning_is_at_100_percent_only_after_the_evening(tmp_path: Path) -> None:
    asked: list[State] = []

    def read(state: State) -> Covered:
        asked.append(state)
        evening = EVENING if len(asked) > 3 else {}
        return covered(seen_all(USUAL, evening), DAY, WHOLE.coverage.minimum_per_cell)

    outcome = roll_out(tmp_path, read)
    assert outcome.state == "promoted"
    assert "covers 0.98 of the usual traffic" in outcome.steps[-1].reason
    assert outcome.steps[0].seconds < 30 <= outcome.steps[1].seconds
    assert len(asked) == 4
    assert {state.step for state in asked} == {1}, "only the step that asks is read for"


def test_a_reading_that_takes_long_keeps_no_look_waiting(tmp_path: Path) -> None:
    looks: list[Observation] = []
    may_end = ThreadEvent()

    def read(state: State) -> Covered:
        assert may_end.wait(30), "the looks did not go on"
        return Covered(share=1.0, words="nothing is missing")

    class Looks(list[Observation]):
        def append(self, look: Observation) -> None:
            super().append(look)
            if len(self) == 40:
                may_end.set()

    looks = Looks()
    assert roll_out(tmp_path, read, looks).state == "promoted"
    assert len(looks) > 40


def test_a_reading_that_fails_is_told_and_tried_again(tmp_path: Path) -> None:
    attempts: list[int] = []

    def read(state: State) -> Covered:
        attempts.append(1)
        if len(attempts) < 3:
            raise OSError("no such disk")
        assert state.memory is not None
        assert state.memory.coverage == Covered(share=None, words="it cannot be read: no such disk")
        return Covered(share=0.9)

    assert roll_out(tmp_path, read).state == "promoted"
    assert len(attempts) == 3


def test_a_plan_that_asks_for_coverage_is_refused_where_nobody_reads_it(tmp_path: Path) -> None:
    outcome = roll_out(tmp_path, None)
    assert outcome.state == "refused"
    assert "the plan's steps.coverage needs the feature 'coverage'" in outcome.reason
