"""The hub with workers that are played by the test: what is asked of them, and what comes of it."""

import msgspec
import pytest

from contracts.slots import HardLimits, LoadSlot, PromoteSlot, RenewLease, SetShare, SlotCounts, Tripped
from serving.champion_file import State
from serving.workers.hub import LOAD_S, SCRAPE_S, SILENT_S
from serving.workers.messages import (
    Answer,
    DropChallenger,
    Family,
    Follow,
    Followed,
    Load,
    Loaded,
    Look,
    Open,
    Refusal,
    Scrape,
    Scraped,
    Seen,
)
from tests.fixtures.played_workers import LOAD_TWO, TWO, Play, seen


@pytest.fixture
def play() -> Play:
    made = Play()
    for worker in (0, 1):
        made.join(worker)
    return made


def test_a_load_is_answered_after_all_workers_hold_the_challenger(play: Play) -> None:
    play.ask(0, "load", LOAD_TWO)
    (first,), (second,) = play.took(0), play.took(1)
    assert isinstance(first, Load)
    assert isinstance(second, Load)
    play.hub.receive(1, Loaded(round=second.round))
    assert play.took(0) == play.took(1) == [], "nothing happens before both have it"
    play.hub.receive(0, Loaded(round=first.round))
    told = play.follow(0)
    assert told.view.challenger is not None
    assert told.view.challenger.name == TWO
    assert play.took(0) == []
    play.follow(1)
    assert play.answer(0).observation is not None


def test_a_bundle_that_one_worker_refuses_is_kept_by_none(play: Play) -> None:
    play.ask(0, "load", LOAD_TWO)
    (first,), (second,) = play.took(0), play.took(1)
    assert isinstance(first, Load)
    assert isinstance(second, Load)
    play.hub.receive(0, Loaded(round=first.round))
    play.hub.receive(1, Loaded(round=second.round, refusal=Refusal(kind="model", text="golden row 3")))
    for worker in (0, 1):
        assert play.follow(worker).view.challenger is None
    assert play.answer(0).refusal == Refusal(kind="model", text="golden row 3")
    assert play.slots.challenger is None


def test_commands_come_one_after_the_other(play: Play) -> None:
    play.ask(0, "load", LOAD_TWO)
    loads = [play.took(worker)[0] for worker in (0, 1)]
    play.ask(1, "drop", DropChallenger(rollout="r1"), 2)
    assert play.took(0) == play.took(1) == [], "it waits for the load"
    for worker, load in enumerate(loads):
        assert isinstance(load, Load)
        play.hub.receive(worker, Loaded(round=load.round))
    for worker in (0, 1):
        assert play.follow(worker).view.challenger is not None
    told = [play.took(worker) for worker in (0, 1)]
    assert isinstance(told[0][0], Answer)
    for worker in (0, 1):
        follow = told[worker][-1]
        assert isinstance(follow, Follow)
        assert follow.view.challenger is None
        play.sent[worker].append(follow)
        play.follow(worker)
    assert play.answer(1).observation is not None


def test_what_a_worker_of_another_version_asks_is_refused_and_the_hub_goes_on(play: Play) -> None:
    play.ask(0, "fault", RenewLease(rollout="r1"))
    refused = play.answer(0).refusal
    assert refused is not None
    assert refused.kind == "failed"
    play.ask(0, "observe", None, 2)
    assert isinstance(play.took(1)[-1], Look)


def test_a_renewal_is_on_the_board_at_once(play: Play) -> None:
    play.load()
    play.ask(0, "share", SetShare(rollout="r1", share=0.5, lease_s=15))
    for worker in (0, 1):
        play.follow(worker)
    play.answer(0)
    play.ask(0, "load", LoadSlot(version="9", bundle="b9", path="/b9"), 2)
    refused = play.answer(0).refusal
    assert refused is not None
    assert "holds the challenger slot" in refused.text
    play.now_s += 14
    play.ask(1, "renew", RenewLease(rollout="r1", lease_s=30), 3)
    assert play.board.lease_ends_s == play.now_s + 30
    for worker in (0, 1):
        look = play.took(worker)[-1]
        assert isinstance(look, Look)
        play.hub.receive(worker, Seen(round=look.round, observation=play.slots.observe()))
    observation = play.answer(1).observation
    assert observation is not None
    assert observation.lease_left_s == 30


def test_a_promotion_is_remembered_once_and_counts_begin_anew(play: Play) -> None:
    play.load()
    play.ask(0, "promote", PromoteSlot(version="2", expected="1"))
    play.ask(1, "promote", PromoteSlot(version="2", expected="1"), 7)
    for worker in (0, 1):
        assert play.follow(worker).view.champion == TWO
    told = play.took(0)
    assert isinstance(told[0], Answer)
    assert told[0].observation is not None
    play.sent[0].append(told[-1])
    for worker in (0, 1):
        play.follow(worker)
    second = play.answer(1).observation
    assert second is not None, "the same again is a success"
    assert second.champion == SlotCounts(version="2")
    assert play.remembered == [State(champion=TWO)]


def test_a_promotion_that_cannot_be_remembered_or_is_not_expected_changes_nothing(play: Play) -> None:
    play.load()
    play.ask(0, "promote", PromoteSlot(version="2", expected="9"))
    refused = play.answer(0).refusal
    assert refused is not None
    assert (refused.kind, "expected was 9" in refused.text) == ("conflict", True)
    play.refuses_to_remember = True
    play.ask(0, "promote", PromoteSlot(version="2", expected="1"), 2)
    refused = play.answer(0).refusal
    assert refused is not None
    assert refused.kind == "disk"
    assert play.took(1) == []
    assert play.slots.champion is not None
    assert play.slots.champion.model.version == "1"


def test_counts_are_summed_and_those_of_a_worker_that_ended_stay(play: Play) -> None:
    play.load()
    play.ask(0, "share", SetShare(rollout="r1", share=0.5))
    play.follow(0, requests=10, errors=1, champion=100)
    play.follow(1, requests=20, errors=2, champion=200)
    before = play.answer(0).observation
    assert before is not None
    assert before.challenger is not None
    assert before.champion is not None
    assert (before.challenger.requests, before.challenger.errors, before.champion.requests) == (30, 3, 300)
    play.hub.leave(1, is_replaced=True)
    play.hub.join(1)
    told = play.follow(1)
    assert told.view.challenger is not None, "it comes back in the state that the others are in"
    assert told.view.challenger.share == 0.5
    play.took(1)
    play.ask(0, "observe", None, 2)
    for worker in (0, 1):
        look = play.took(worker)[-1]
        assert isinstance(look, Look)
        counts = {"requests": 11, "errors": 1, "champion": 101} if worker == 0 else {"requests": 5, "champion": 7}
        play.hub.receive(worker, Seen(round=look.round, observation=seen(told, **counts)))
    after = play.answer(0).observation
    assert after is not None
    assert after.challenger is not None
    assert after.champion is not None
    assert (after.challenger.requests, after.challenger.errors, after.champion.requests) == (36, 3, 308)
    assert before.server != after.server


def test_a_worker_that_ends_in_a_round_is_not_waited_for_and_one_that_is_silent_is_ended(play: Play) -> None:
    play.ask(0, "load", LOAD_TWO)
    (load,) = play.took(0)
    assert isinstance(load, Load)
    play.hub.receive(0, Loaded(round=load.round))
    play.hub.leave(1, is_replaced=True)
    play.follow(0)
    assert play.answer(0).observation is not None
    play.join(1)
    play.ask(0, "share", SetShare(rollout="r1", share=0.5))
    play.follow(0)
    play.now_s += SILENT_S - 0.1
    play.hub.tick()
    assert play.ended == []
    play.now_s += 0.2
    play.hub.tick()
    assert play.ended == [1]
    assert play.answer(0).observation is not None


def test_a_worker_that_loads_may_be_silent_for_long(play: Play) -> None:
    play.ask(0, "load", LOAD_TWO)
    play.ask(1, "observe", None, 2)
    play.now_s += SILENT_S + 1
    play.hub.tick()
    assert play.ended == []
    play.now_s += LOAD_S
    play.hub.tick()
    assert sorted(set(play.ended)) == [0, 1]


def test_a_challenger_that_a_new_worker_cannot_hold_is_dropped_everywhere(play: Play) -> None:
    play.load()
    play.hub.leave(1, is_replaced=True)
    play.hub.join(1)
    (told,) = play.took(1)
    assert isinstance(told, Follow)
    refusal = Refusal(kind="model", text="gone from disk")
    play.hub.receive(1, Followed(round=0, generation=told.view.generation, refusal=refusal, refused="challenger"))
    for worker in (0, 1):
        assert play.follow(worker).view.challenger is None
    assert isinstance(play.took(1)[-1], Open)
    assert play.slots.observe().rollout is None


def test_a_champion_that_one_worker_cannot_hold_ends_that_worker_and_one_that_none_can_is_told() -> None:
    play = Play()
    refusal = Refusal(kind="model", text="a flipped byte")
    play.join(0)
    play.hub.join(1)
    play.took(1)
    play.hub.receive(1, Followed(round=0, generation=1, refusal=refusal))
    assert play.ended == [1]
    alone = Play()
    for worker in (0, 1):
        alone.hub.join(worker)
    for worker in (0, 1):
        alone.took(worker)
        alone.hub.receive(worker, Followed(round=0, generation=1, refusal=refusal))
    assert alone.ended == []
    for worker in (0, 1):
        told = alone.follow(worker)
        assert told.view.champion is None
        assert "version 1, cannot be loaded: a flipped byte" in (told.view.not_ready or "")
        assert isinstance(alone.took(worker)[-1], Open)


def test_a_trip_of_a_worker_is_counted_once_and_ends_the_rollout(play: Play) -> None:
    play.load()
    play.ask(0, "share", SetShare(rollout="r1", share=0.5))
    for worker in (0, 1):
        play.follow(worker)
    play.answer(0)
    for reason in ("first", "second"):
        play.board.trip(1, Tripped(cause="hard_limit", reason=reason))
    for _ in range(3):
        play.hub.tick()
    assert play.slots.trips == {"hard_limit": 1, "lease": 0}
    observed = play.slots.observe()
    assert observed.tripped == Tripped(cause="hard_limit", reason="first")
    play.ask(1, "renew", RenewLease(rollout="r1"), 2)
    refused = play.answer(1).refusal
    assert refused is not None
    assert "does not come back: first" in refused.text
    play.ask(1, "load", msgspec.structs.replace(LOAD_TWO, hard_limits=HardLimits()), 3)
    assert play.took(1)


def test_metrics_leave_out_who_does_not_answer_and_counters_do_not_go_back(play: Play) -> None:
    def told(value: float) -> list[Family]:
        return [Family(name="x", kind="counter", help="", samples=[("x_total", {}, value)])]

    def scrape(number: int, values: dict[int, float]) -> dict[str, float]:
        play.ask(0, "metrics", None, number)
        for worker in (0, 1):
            message = play.took(worker)[-1]
            assert isinstance(message, Scrape)
            if worker in values:
                play.hub.receive(worker, Scraped(round=message.round, metrics=told(values[worker])))
        play.now_s += SCRAPE_S
        play.hub.tick()
        metrics = play.answer(0).metrics
        assert metrics is not None
        return {name: value for family in metrics for name, _, value in family.samples}

    assert scrape(1, {0: 3.0, 1: 4.0})["x_total"] == 7
    second = scrape(2, {0: 5.0})
    assert (second["x_total"], second["paceline_worker_scrapes_missed_total"]) == (9, 1)
    play.hub.leave(1, is_replaced=True)
    play.join(1)
    third = scrape(3, {0: 5.0, 1: 1.0})
    assert (third["x_total"], third["paceline_worker_restarts_total"], third["paceline_workers"]) == (10, 1, 2)


@pytest.mark.parametrize(("crash", "ends"), [("SIGSEGV", 1), ("SIGABRT", 1), ("SIGKILL", 3), ("exit status 1", 3)])
def test_workers_that_end_while_they_hold_a_challenger_end_its_rollout(play: Play, crash: str, ends: int) -> None:
    """A bad memory access is native code's; of other ends, which may be somebody's hand, the third one."""
    play.load()
    play.ask(0, "share", SetShare(rollout="r1", share=0.5))
    for worker in (0, 1):
        play.follow(worker)
    play.answer(0)
    for end in range(1, ends + 1):
        assert play.slots.observe().tripped is None
        play.hub.leave(1, is_replaced=True, crash=crash)
        if end < ends:
            play.join(1)
            play.took(0)
    tripped = play.slots.observe().tripped
    assert tripped is not None
    assert tripped.reason == f"a worker that held the challenger has ended by {crash}"
    told = play.took(0)[-1]
    assert isinstance(told, Follow)
    assert told.view.challenger is not None
    assert (told.view.challenger.is_tripped, told.view.challenger.share) == (True, 0.0)


def test_a_worker_that_ends_while_no_challenger_is_asked_blames_nobody(play: Play) -> None:
    play.load()
    play.hub.leave(1, is_replaced=True, crash="SIGSEGV")
    assert play.slots.observe().tripped is None
