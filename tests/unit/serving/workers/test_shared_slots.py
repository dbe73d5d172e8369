"""The slots of two workers and their supervisor, in one process, on one board."""

import itertools
from types import ModuleType

import pytest

from contracts.slots import HardLimits, LoadSlot, SetShare
from serving.champion_file import Remembered
from serving.engine import Model, load_model
from serving.held import name_of
from serving.slots import SlotConflictError
from serving.workers.board import Board
from serving.workers.shared_slots import SharedSlots, named

ENTITIES = map(str, itertools.count())  # another at each error: a limit counts entities


class Crew:
    """A supervisor and two workers, who follow when they are told."""

    def __init__(self, models: dict[Remembered, Model]) -> None:
        self.now_s = 100.0
        self.models = models
        self.board = Board(2)
        self.hub = self.slots(None)
        self.workers = [self.slots(0), self.slots(1)]
        self.generation = 0

    def slots(self, worker: int | None) -> SharedSlots:
        return SharedSlots(server="s", board=self.board, worker=worker, clock=lambda: self.now_s)

    def tell(self) -> None:
        self.generation += 1
        view = self.hub.view(self.generation, None)
        for worker in self.workers:
            worker.follow(view, self.models)


@pytest.fixture(scope="module")
def models(bundles: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[Remembered, Model]:
    root = tmp_path_factory.mktemp("bundles")
    made = [bundles.tiny_bundle(root, bias=number / 10) for number in (1, 2, 3)]
    loaded = [load_model(each.path, each.id, str(place + 1), "flight_delay") for place, each in enumerate(made)]
    return {name_of(model): model for model in loaded}


@pytest.fixture
def crew(models: dict[Remembered, Model]) -> Crew:
    made = Crew(models)
    one, two, _ = models
    made.hub.install_champion(named(one))
    load = LoadSlot(
        version=two.version,
        bundle=two.bundle,
        path=two.path,
        rollout="r1",
        hard_limits=HardLimits(errors=3, window=10),
    )
    made.hub.place(load, named(two))
    made.hub.set_share(SetShare(rollout="r1", share=0.5, lease_s=15))
    made.tell()
    return made


def test_errors_in_any_worker_trip_all_of_them_at_once_with_one_reason(crew: Crew) -> None:
    one, other = crew.workers
    for slots in (one, other, one):
        challenger = slots.sharing()
        assert challenger is not None
        slots.count_challenger_answer(challenger, 0.001, 0.5)
        crew.now_s += 1
        slots.count_challenger_error(challenger, next(ENTITIES))
    assert one.sharing() is other.sharing() is crew.hub.sharing() is None
    observed = [slots.observe().tripped for slots in (one, other, crew.hub)]
    assert observed[0] is not None
    assert observed[0] == observed[1] == observed[2]
    assert observed[0].reason == "errors for 3 entities in the last 6 challenger requests >= limit 3"
    assert (observed[0].seconds_since_first_error, observed[0].challenger_requests_since_first_error) == (2, 5)
    assert [slots.trips["hard_limit"] for slots in (one, other, crew.hub)] == [0, 0, 1]
    with pytest.raises(SlotConflictError, match="does not come back"):
        crew.hub.set_share(SetShare(rollout="r1", share=0.5))
    crew.tell()
    assert one.sharing() is None


def test_a_view_from_before_a_trip_does_not_give_the_share_back(crew: Crew) -> None:
    one, other = crew.workers
    stale = crew.hub.view(2, None)
    challenger = other.challenger
    assert challenger is not None
    for _ in range(3):
        other.count_challenger_error(challenger, next(ENTITIES))
    one.follow(stale, crew.models)
    assert one.sharing() is None
    assert one.challenger is not None
    assert not one.is_asked(one.challenger)


def test_a_lease_runs_out_everywhere_in_the_same_instant_unless_it_is_renewed(crew: Crew) -> None:
    crew.now_s += 14.9
    crew.board.renew(1, crew.now_s + 15)
    crew.now_s += 14.9
    assert all(worker.sharing() for worker in crew.workers), "the renewal came without a message"
    crew.now_s += 0.1
    assert crew.workers[1].sharing() is None
    assert crew.workers[0].sharing() is None
    assert crew.hub.sharing() is None
    reasons = {slots.observe().tripped for slots in (*crew.workers, crew.hub)}
    assert len(reasons) == 1
    assert crew.hub.trips == {"hard_limit": 0, "lease": 1}


def test_counts_stay_with_what_stays_in_its_slot(crew: Crew, models: dict[Remembered, Model]) -> None:
    one = crew.workers[0]
    challenger = one.challenger
    assert challenger is not None
    one.count_challenger_answer(challenger, 0.001, 0.5)
    crew.hub.set_share(SetShare(rollout="r1", share=1.0, lease_s=15))
    crew.tell()
    assert one.challenger is challenger
    assert (challenger.share, challenger.counts.requests) == (1.0, 1)
    crew.hub.drop("r1")
    crew.tell()
    assert not one.is_asked(challenger)
    three = list(models)[2]
    load = LoadSlot(version=three.version, bundle=three.bundle, path=three.path, rollout="r2")
    crew.hub.place(load, named(three))
    crew.tell()
    assert one.challenger is not None
    assert (one.challenger.model.version, one.challenger.counts.requests, crew.board.requests(2)) == ("3", 0, 0)


def test_a_worker_that_takes_a_dead_ones_place_holds_what_was_lost(crew: Crew) -> None:
    challenger = crew.workers[0].challenger
    assert challenger is not None
    for _ in range(2):
        crew.workers[0].count_challenger_error(challenger, next(ENTITIES))
    crew.workers[0] = crew.slots(0)
    crew.tell()
    again = crew.workers[0].sharing()
    assert again is not None
    crew.workers[0].count_challenger_error(again, next(ENTITIES))
    assert crew.workers[1].sharing() is None, "two errors of the dead one and one of the new one"


def test_the_supervisor_answers_no_requests(crew: Crew) -> None:
    challenger = crew.hub.challenger
    assert challenger is not None
    with pytest.raises(RuntimeError, match="answers no requests"):
        crew.hub.count_challenger_error(challenger, next(ENTITIES))
