import itertools
from types import ModuleType
from typing import Any

import pytest

from contracts.slots import HardLimits, LoadSlot, PromoteSlot, RenewLease, SetShare
from serving.champion_file import Remembered, State
from serving.engine import Model, load_model
from serving.slots import SlotConflictError, SlotMessageError, Slots

ENTITIES = map(str, itertools.count())  # another at each error: a limit counts entities


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture(scope="module")
def models(bundles: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    root = tmp_path_factory.mktemp("bundles")
    made = {str(number): bundles.tiny_bundle(root, bias=number / 10) for number in (1, 2, 3)}
    return {version: load_model(each.path, each.id, version, "flight_delay") for version, each in made.items()}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def slots(models: dict[str, Model], clock: Clock) -> Slots:
    made = Slots(server="a", clock=clock)
    made.place(message(models["1"], None), models["1"])
    made.promote(PromoteSlot(version="1", expected=None), nothing)
    return made


def message(model: Model, rollout: str | None, **more: Any) -> LoadSlot:
    return LoadSlot(version=model.version, bundle=model.bundle.id, path=str(model.bundle.path), rollout=rollout, **more)


def nothing(_: State) -> None:
    pass


def start(slots: Slots, model: Model, rollout: str = "r1", *, share: float = 0.5, **more: Any) -> None:
    slots.place(message(model, rollout, **more), model)
    slots.set_share(SetShare(rollout=rollout, share=share, lease_s=15))


def test_a_challenger_without_a_lease_gets_no_traffic(slots: Slots, models: dict[str, Model]) -> None:
    slots.place(message(models["2"], "r1"), models["2"])
    assert slots.sharing() is None
    assert slots.shadowing() is None


def test_a_share_ends_with_its_lease_and_does_not_come_back(
    slots: Slots, models: dict[str, Model], clock: Clock
) -> None:
    start(slots, models["2"])
    clock.now_s += 14.9
    assert slots.sharing() is not None
    slots.renew(RenewLease(rollout="r1", lease_s=15))
    clock.now_s += 14.9
    assert slots.sharing() is not None
    clock.now_s += 0.1
    assert slots.sharing() is None
    tripped = slots.observe().tripped
    assert tripped is not None
    assert tripped.cause == "lease"
    assert "its share of 0.5" in tripped.reason
    with pytest.raises(SlotConflictError, match="tripped"):
        slots.renew(RenewLease(rollout="r1"))
    with pytest.raises(SlotConflictError, match="tripped"):
        slots.set_share(SetShare(rollout="r1", share=0.1))
    with pytest.raises(SlotConflictError, match="tripped"):
        slots.promote(PromoteSlot(version="2", expected="1"), nothing)
    slots.drop("r1")
    with pytest.raises(SlotConflictError, match="does not come back"):
        slots.place(message(models["2"], "r1"), models["2"])


def test_a_shadow_ends_with_its_lease(slots: Slots, models: dict[str, Model], clock: Clock) -> None:
    slots.place(message(models["2"], "r1"), models["2"])
    slots.set_share(SetShare(rollout="r1", share=0, shadow=True, lease_s=1))
    assert slots.shadowing() is not None
    assert slots.sharing() is None
    clock.now_s += 1
    assert slots.shadowing() is None


def test_the_hard_limit_takes_the_share_at_once_and_says_the_numbers(
    slots: Slots, models: dict[str, Model], clock: Clock
) -> None:
    start(slots, models["2"], hard_limits=HardLimits(errors=3, window=5))
    challenger = slots.challenger
    assert challenger is not None
    slots.count_challenger_answer(challenger, 0.001, 0.5)
    slots.count_challenger_error(challenger, next(ENTITIES))
    for _ in range(2):
        clock.now_s += 1
        slots.count_challenger_answer(challenger, 0.001, 0.5)
        slots.count_challenger_error(challenger, next(ENTITIES))
    assert slots.sharing() is None
    tripped = slots.observe().tripped
    assert tripped is not None
    assert tripped.cause == "hard_limit"
    assert tripped.reason == "errors for 3 entities in the last 5 challenger requests >= limit 3"
    assert tripped.seconds_since_first_error == 2
    assert tripped.challenger_requests_since_first_error == 5
    assert slots.trips == {"hard_limit": 1, "lease": 0}


def test_one_client_that_always_fails_does_not_trip_alone_unless_nothing_else_comes(
    slots: Slots, models: dict[str, Model]
) -> None:
    start(slots, models["2"], hard_limits=HardLimits(errors=3, window=5))
    challenger = slots.challenger
    assert challenger is not None
    for _ in range(10):
        slots.count_challenger_error(challenger, "the heavy one")
        slots.count_challenger_answer(challenger, 0.001, 0.5)
    assert slots.sharing() is challenger
    for _ in range(5):
        slots.count_challenger_error(challenger, "the heavy one")
    assert slots.sharing() is None
    tripped = slots.observe().tripped
    assert tripped is not None
    assert tripped.reason == "an error in each of the last 5 challenger requests"


def test_a_request_that_the_champion_fails_on_as_well_does_not_count(slots: Slots, models: dict[str, Model]) -> None:
    start(slots, models["2"], hard_limits=HardLimits(errors=3, window=5))
    challenger = slots.challenger
    assert challenger is not None
    for entity in map(str, range(30)):
        slots.count_challenger_error(challenger, entity)
        slots.forgive(challenger, entity)
    assert slots.sharing() is challenger


def test_strata_count_each_failing_entity_once_and_keep_the_share_apart(
    slots: Slots, models: dict[str, Model], clock: Clock
) -> None:
    start(slots, models["2"])
    challenger = slots.challenger
    assert challenger is not None
    for second in range(3):
        for entity in ("a", "b"):
            slots.gather_answers(challenger, 0, [entity], 0.001, [0.5])
        slots.gather_answers(challenger, 1, ["c"], 0.001, [0.5])
        slots.gather_failure(challenger, 1, "d")
        assert len(slots.observe().strata) == second, "the present one is still open"
        clock.now_s += 1
    slots.set_share(SetShare(rollout="r1", share=0.9, lease_s=9))
    slots.gather_failure(challenger, 1, "d")
    clock.now_s += 1
    strata = slots.observe().strata
    assert [stratum.number for stratum in strata] == [1, 2, 3, 4]
    errors = [stratum.challenger.rollout["errors"] for stratum in strata]
    assert [(each.at_risk, each.happened) for each in errors] == [(2, 1), (1, 0), (1, 0), (0, 0)]
    again = strata[-1].challenger.phase["errors"]
    assert (again.at_risk, again.happened) == (1, 1), "a phase begins anew"
    assert [(s.champion.new, s.challenger.new) for s in strata] == [(2, 2), (0, 0), (0, 0), (0, 0)]
    assert (strata[0].champion.version, strata[0].challenger.version) == ("1", "2")


def test_errors_that_have_left_the_window_do_not_trip(slots: Slots, models: dict[str, Model]) -> None:
    start(slots, models["2"], hard_limits=HardLimits(errors=2, window=3))
    challenger = slots.challenger
    assert challenger is not None
    for _ in range(10):
        slots.count_challenger_error(challenger, next(ENTITIES))
        for _ in range(2):
            slots.count_challenger_answer(challenger, 0.001, 0.5)
    assert slots.sharing() is challenger
    assert (challenger.counts.requests, challenger.counts.errors) == (30, 10)
    assert sum(challenger.counts.latency) == sum(challenger.counts.scores) == 20


def test_hard_limits_that_could_never_trip_are_refused() -> None:
    with pytest.raises(ValueError, match="errors 6 and window 5"):
        HardLimits(errors=6, window=5)


def test_one_promotion_wins_and_the_same_again_is_a_success(slots: Slots, models: dict[str, Model]) -> None:
    start(slots, models["2"])
    with pytest.raises(SlotConflictError, match="the champion is 1, expected was 3"):
        slots.promote(PromoteSlot(version="2", expected="3"), nothing)
    with pytest.raises(SlotConflictError, match="the challenger is 2"):
        slots.promote(PromoteSlot(version="3", expected="1"), nothing)
    remembered: list[State] = []
    slots.promote(PromoteSlot(version="2", expected="1"), remembered.append)
    slots.promote(PromoteSlot(version="2", expected="1"), remembered.append)
    assert [each.champion.version for each in remembered] == ["2"]
    observed = slots.observe()
    assert observed.champion is not None
    assert (observed.champion.version, observed.champion.requests) == ("2", 0)
    assert (observed.challenger, observed.rollout, observed.share) == (None, None, 0.0)


def test_a_promotion_that_cannot_be_remembered_changes_nothing(slots: Slots, models: dict[str, Model]) -> None:
    def refuse(_: State) -> None:
        raise OSError("disk full")

    start(slots, models["2"])
    with pytest.raises(OSError, match="disk full"):
        slots.promote(PromoteSlot(version="2", expected="1"), refuse)
    assert slots.champion is not None
    assert slots.champion.model.version == "1"
    assert slots.sharing() is not None


def test_who_has_read_less_of_the_ledger_than_was_obeyed_gives_no_share(slots: Slots, models: dict[str, Model]) -> None:
    slots.place(message(models["2"], "r1"), models["2"])
    slots.set_share(SetShare(rollout="r1", share=0.3, fence=11))
    slots.renew(RenewLease(rollout="r1", fence=12))
    slots.set_share(SetShare(rollout="r1", share=0.3, fence=12))
    with pytest.raises(SlotConflictError, match="goes by entry 12 of the ledger, this was asked by entry 11"):
        slots.set_share(SetShare(rollout="r1", share=0.1, fence=11))
    with pytest.raises(SlotConflictError, match="read the ledger again"):
        slots.renew(RenewLease(rollout="r1", fence=11))
    assert slots.observe().share == 0.3
    slots.set_share(SetShare(rollout="r1", share=0.2))  # by hand
    assert slots.observe().share == 0.2


def test_a_promotion_of_an_earlier_reign_is_refused_also_after_a_restart(
    slots: Slots, models: dict[str, Model], clock: Clock
) -> None:
    states: list[State] = []
    start(slots, models["2"])
    slots.promote(PromoteSlot(version="2", expected="1", fence=30), states.append)
    slots.promote(PromoteSlot(version="2", expected="2", fence=50), states.append)  # it leads again: nothing changes
    assert [(state.champion.version, state.fence) for state in states] == [("2", 30), ("2", 50)]
    again = Slots(server="b", clock=clock, remembered=states[-1])
    again.install_champion(models["2"])
    start(again, models["1"], "r2")
    assert again.observe().fence == 50
    with pytest.raises(SlotConflictError, match="the champion goes by entry 50 of the ledger"):
        again.promote(PromoteSlot(version="1", expected="2", fence=40), states.append)
    again.promote(PromoteSlot(version="1", expected="2", fence=60), states.append)
    assert (again.observe().fence, states[-1].champion.version) == (60, "1")


def test_a_slot_that_is_held_is_refused_to_another_rollout(slots: Slots, models: dict[str, Model]) -> None:
    start(slots, models["2"])
    with pytest.raises(SlotConflictError, match="'r1' holds the challenger slot with version 2"):
        slots.place(message(models["3"], "r2"), models["3"])
    with pytest.raises(SlotConflictError, match="a rollout has one version"):
        slots.place(message(models["3"], "r1"), models["3"])
    assert slots.is_in_place(message(models["2"], "r1"))
    assert not slots.drop("r2")
    assert slots.drop("r1")
    assert not slots.drop("r1")
    slots.place(message(models["3"], "r2"), models["3"])


def test_a_tripped_rollout_gives_its_slot_to_the_next(slots: Slots, models: dict[str, Model], clock: Clock) -> None:
    start(slots, models["2"])
    clock.now_s += 16
    start(slots, models["3"], "r2")
    assert slots.observe().rollout == "r2"
    assert slots.observe().tripped is None


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"share": 1.5}, "share is 1.5"),
        ({"share": float("nan")}, "share is nan"),
        ({"lease_s": 0}, "lease_s is 0"),
        ({"share": 0.1, "shadow": True}, "shadows or has a share"),
    ],
)
def test_values_that_no_state_allows_are_refused(
    slots: Slots, models: dict[str, Model], changes: dict[str, Any], text: str
) -> None:
    slots.place(message(models["2"], "r1"), models["2"])
    with pytest.raises(SlotMessageError, match=text):
        slots.set_share(SetShare(**{"rollout": "r1", "share": 0.0, **changes}))
    assert slots.sharing() is None


def test_there_is_no_share_without_a_champion_to_fall_back_on(models: dict[str, Model], clock: Clock) -> None:
    slots = Slots(server="a", clock=clock)
    slots.place(message(models["1"], "r1"), models["1"])
    with pytest.raises(SlotConflictError, match="no champion"):
        slots.set_share(SetShare(rollout="r1", share=0.1))


def test_a_remembered_champion_that_could_not_be_loaded_may_be_replaced(models: dict[str, Model], clock: Clock) -> None:
    remembered = State(champion=Remembered(version="1", bundle="b", path="/gone"))
    for expected, is_allowed in (("1", True), (None, True), ("7", False)):
        slots = Slots(server="a", clock=clock, remembered=remembered)
        slots.place(message(models["2"], None), models["2"])
        if is_allowed:
            slots.promote(PromoteSlot(version="2", expected=expected), nothing)
        else:
            with pytest.raises(SlotConflictError, match="expected was 7"):
                slots.promote(PromoteSlot(version="2", expected=expected), nothing)


def test_a_challenger_is_asked_until_it_trips_or_leaves_its_slot(slots: Slots, models: dict[str, Model]) -> None:
    start(slots, models["2"], hard_limits=HardLimits(errors=1, window=1))
    challenger = slots.challenger
    assert challenger is not None
    assert slots.is_asked(challenger)
    slots.count_challenger_error(challenger, next(ENTITIES))
    assert not slots.is_asked(challenger)
    slots.drop("r1")
    start(slots, models["3"], "r2")
    other = slots.challenger
    assert other is not None
    assert slots.is_asked(other)
    slots.drop("r2")
    assert not slots.is_asked(other)
