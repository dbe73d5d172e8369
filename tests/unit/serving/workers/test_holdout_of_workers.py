"""A holdout that several workers keep."""

import msgspec
import pytest

from contracts.slots import (
    Held,
    KeepHoldout,
    PromoteSlot,
    SlotCounts,
)
from serving.champion_file import RememberedHoldout, State
from serving.workers.messages import (
    EndHoldout,
    Follow,
    Followed,
    Look,
    Refusal,
    Seen,
)
from tests.fixtures.played_workers import ONE, TWO, Play


@pytest.fixture
def play() -> Play:
    made = Play()
    for worker in (0, 1):
        made.join(worker)
    return made


def hold_out(play: Play) -> None:
    """Version 2 leads, and 1 stays for a twentieth."""
    play.load()
    play.ask(0, "promote", PromoteSlot(version="2", expected="1", holdout=KeepHoldout(rollout="r1", share=0.05)))
    for worker in (0, 1):
        assert play.follow(worker).view.holdout == RememberedHoldout(model=ONE, rollout="r1", share=0.05)
    assert play.answer(0).observation is not None


def test_a_holdout_is_kept_in_all_workers_until_it_is_ended(play: Play) -> None:
    hold_out(play)
    assert play.remembered == [
        State(champion=TWO, holdout=RememberedHoldout(model=ONE, rollout="r1", share=0.05)),
    ]
    play.hub.leave(1, is_replaced=True)
    play.hub.join(1)
    view = play.took(1)[-1]
    assert isinstance(view, Follow)
    assert view.view.holdout is not None, "a worker that starts again holds what the others hold"
    play.ask(0, "end_holdout", EndHoldout(rollout="r1"), 2)
    assert play.follow(0).view.holdout is None
    observation = play.answer(0).observation
    assert observation is not None
    assert observation.holdout is None
    assert play.remembered[-1] == State(champion=TWO)


def test_counts_of_a_holdout_are_summed_over_workers(play: Play) -> None:
    hold_out(play)
    play.ask(0, "observe", number=2)
    for worker, requests in ((0, 3), (1, 4)):
        look = play.took(worker)[-1]
        assert isinstance(look, Look)
        counts = SlotCounts(version="1", requests=requests)
        seen = msgspec.structs.replace(play.slots.observe(), holdout=Held(rollout="r1", share=0.05, counts=counts))
        play.hub.receive(worker, Seen(round=look.round, observation=seen))
    observation = play.answer(0).observation
    assert observation is not None
    assert observation.holdout is not None
    assert observation.holdout.counts.requests == 7


def test_a_holdout_that_a_worker_cannot_hold_is_nobodys(play: Play) -> None:
    hold_out(play)
    play.hub.leave(1, is_replaced=True)
    play.hub.join(1)
    told = play.took(1)[-1]
    assert isinstance(told, Follow)
    refusal = Refusal(kind="model", text="the bundle is gone")
    refused = Followed(round=0, generation=told.view.generation, refusal=refusal, refused="holdout")
    play.hub.receive(1, refused)
    for worker in (0, 1):
        told = play.took(worker)[-1]
        assert isinstance(told, Follow)
        assert (told.view.champion, told.view.holdout) == (TWO, None)
