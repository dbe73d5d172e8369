"""Several challengers at a time in the slots of one server: lanes, leases, hard limits, and the way to all entities."""

import itertools
from collections import Counter
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.assignment import lane_of, position
from contracts.flags import Flags, FlagsInForce
from contracts.slots import HardLimits, InjectFault, Lane, LoadSlot, PromoteSlot, RenewLease, SetShare
from serving.assigned import Assigned, assign, is_for
from serving.engine import Model, load_model
from serving.slots import SlotConflictError, Slots
from tests.unit.serving.test_slots import Clock, nothing

EXPERIMENT = "flights-x1"
MANY = [f"N{number}" for number in range(3000)]


def lane(place: int, of: int = 3) -> Lane:
    return Lane(experiment=EXPERIMENT, place=place, of=of)


def name(place: int) -> str:
    return f"r{place}"


@pytest.fixture(scope="module")
def models(bundles: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    root = tmp_path_factory.mktemp("bundles")
    made = {str(number): bundles.tiny_bundle(root, bias=number / 10) for number in range(1, 6)}
    return {version: load_model(each.path, each.id, version, "flight_delay") for version, each in made.items()}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def slots(models: dict[str, Model], clock: Clock) -> Slots:
    """Version 1 leads; versions 2, 3 and 4 are challengers of one experiment, without a share."""
    made = Slots(server="a", clock=clock)
    load(made, models["1"], None)
    made.promote(PromoteSlot(version="1", expected=None), nothing)
    for place in range(3):
        load(made, models[str(place + 2)], name(place), lane=lane(place))
    return made


def load(slots: Slots, model: Model, rollout: str | None, **more: Any) -> None:
    bundle = model.bundle
    message = LoadSlot(version=model.version, bundle=bundle.id, path=str(bundle.path), rollout=rollout, **more)
    slots.place(message, model)


def give(slots: Slots, place: int, share: float, lease_s: float = 15.0, **more: Any) -> None:
    slots.set_share(SetShare(rollout=name(place), share=share, lease_s=lease_s, lane=lane(place), **more))


def answered_by(slots: Slots, keys: list[str]) -> dict[str, str]:
    """The version that answers each of `keys`, as a request with all of them is assigned."""
    assigned = assign(slots, [{} for _ in keys], keys, None, {})
    found = {}
    for rows, part in assigned.parts or ((range(len(keys)), assigned),):
        for row, key in zip(rows, part.keys, strict=True):
            assert keys[row] == key
            challenger = part.challenger
            found[key] = challenger.model.version if challenger is not None and is_for(challenger, key) else "1"
    return found


def test_each_challenger_has_its_share_of_its_own_lane(slots: Slots) -> None:
    for place in range(3):
        give(slots, place, 0.3)
    found = answered_by(slots, MANY)
    assert {key: int(version) for key, version in found.items() if version != "1"} == {
        key: lane_of(EXPERIMENT, key, 3) + 2 for key in MANY if position(name(lane_of(EXPERIMENT, key, 3)), key) < 0.3
    }
    counts = Counter(found.values())
    assert all(240 < counts[version] < 360 for version in "234"), counts


def test_one_lease_that_expires_takes_only_its_own_share(slots: Slots, clock: Clock) -> None:
    give(slots, 0, 0.5, lease_s=10)
    give(slots, 1, 0.5, lease_s=20)
    give(slots, 2, 0.5, lease_s=20)
    before = answered_by(slots, MANY)
    clock.now_s += 10
    after = answered_by(slots, MANY)
    assert after == {key: "1" if version == "2" else version for key, version in before.items()}
    found = slots.observe("r0").tripped
    assert found is not None
    assert found.cause == "lease"
    assert slots.observe("r1").tripped is None
    with pytest.raises(SlotConflictError, match="does not come back"):
        slots.renew(RenewLease(rollout="r0"))
    slots.renew(RenewLease(rollout="r1", lease_s=30))
    clock.now_s += 10
    assert set(answered_by(slots, MANY).values()) == {"1", "3"}, "version 4 has lost its lease as well, 3 has not"


def test_one_that_fails_trips_alone(slots: Slots, models: dict[str, Model]) -> None:
    slots.drop("r2")
    load(slots, models["4"], "r2", lane=lane(2), hard_limits=HardLimits(errors=3, window=5))
    for place in range(3):
        give(slots, place, 0.5)
    bad = slots.in_lane(2)
    assert bad is not None
    for entity in itertools.islice(map(str, itertools.count()), 3):
        slots.count_challenger_error(bad, entity)
    assert set(answered_by(slots, MANY).values()) == {"1", "2", "3"}
    assert not slots.is_asked(bad)
    assert [each.tripped is not None for each in slots.observe("r0").beside] == [False, True]


def test_all_that_were_there_when_the_memory_grew_trip(slots: Slots) -> None:
    for challenger in slots.challengers:
        challenger.hard_limits = HardLimits(memory_mb=100)
    for resident_mb in (500, 550, 700):
        slots.check_memory(resident_mb)
    assert [each.tripped is not None for each in slots.challengers] == [True, True, True]


def test_a_shadow_of_several_asks_each_in_its_own_lane(slots: Slots) -> None:
    for place in range(3):
        give(slots, place, 0.0, shadow=True)
    for key in MANY[:50]:
        assigned = assign(slots, [{}], [key], None, {})
        assert assigned.challenger is None
        assert assigned.shadow is slots.in_lane(lane_of(EXPERIMENT, key, 3))
    assert slots.shadowing() is slots.sharing() is None, "nobody has the shadow of all entities"


def test_the_only_one_left_comes_from_its_lane_to_all_entities_and_keeps_its_own(slots: Slots) -> None:
    for place in range(3):
        give(slots, place, 0.5)
    before = answered_by(slots, MANY)
    alone = SetShare(rollout="r1", share=0.5)
    with pytest.raises(SlotConflictError, match=r"cannot have all entities while .* 'r0' \(version 2\), 'r2'"):
        slots.set_share(alone)
    assert slots.drop("r0")
    assert slots.drop("r2")
    phase = slots.challengers[0].phase
    slots.set_share(alone)
    assert slots.challengers[0].phase > phase, "another part of the entities is another phase"
    after = answered_by(slots, MANY)
    assert {key for key, version in before.items() if version == "3"} < {
        key for key, version in after.items() if version == "3"
    }
    assert 1350 < Counter(after.values())["3"] < 1650
    assert slots.lanes is None
    with pytest.raises(SlotConflictError, match="keeps the lane that it was loaded with"):
        give(slots, 1, 0.5)


def test_one_that_has_tripped_does_not_keep_the_last_one_from_all_entities(slots: Slots, clock: Clock) -> None:
    give(slots, 0, 0.5, lease_s=1)
    give(slots, 1, 0.5)
    slots.drop("r2")
    clock.now_s += 1
    slots.set_share(SetShare(rollout="r1", share=0.5))
    assert [each.rollout for each in slots.challengers] == ["r1"]
    with pytest.raises(SlotConflictError, match="does not come back"):
        slots.is_in_place(LoadSlot(version="2", bundle="b", path="/b", rollout="r0", lane=lane(0)))


def test_who_is_not_of_the_experiment_is_not_loaded_beside_it(slots: Slots, models: dict[str, Model]) -> None:
    give(slots, 0, 0.1)
    five = models["5"]

    def refused(**more: Any) -> str:
        with pytest.raises(SlotConflictError) as found:
            load(slots, five, "new", **more)
        return str(found.value)

    assert "rollout 'r0' holds the challenger slot with version 2" in refused()
    assert "rollout 'r0' holds" in refused(lane=lane(0))
    assert "rollout 'r0' holds" in refused(lane=Lane(experiment="another", place=1, of=3))
    assert "rollout 'r0' holds" in refused(lane=lane(1, of=2))
    with pytest.raises(SlotConflictError, match="of the same experiment has version 2 already"):
        load(slots, models["2"], "again", lane=lane(1))


def test_a_promotion_ends_the_experiment(slots: Slots) -> None:
    for place in range(3):
        give(slots, place, 0.2)
    slots.promote(PromoteSlot(version="3", expected="1"), nothing)
    assert (slots.challengers, slots.lanes) == ((), None)
    with pytest.raises(SlotConflictError, match="the challenger is nobody"):
        slots.promote(PromoteSlot(version="4", expected="3"), nothing)


def test_a_lane_is_said_as_it_was_loaded(slots: Slots) -> None:
    with pytest.raises(SlotConflictError, match="has lane 0 of 3, asked for was lane 1 of 3"):
        slots.set_share(SetShare(rollout="r0", share=0.1, lane=lane(1)))
    with pytest.raises(ValueError, match="found place 3 of 3"):
        lane(3)


def test_a_fault_is_of_one_that_is_named(slots: Slots) -> None:
    with pytest.raises(SlotConflictError, match="Name the rollout of one of: 'r0', 'r1', 'r2'"):
        slots.inject_fault(InjectFault(error_share=0.5))
    slots.inject_fault(InjectFault(error_share=0.5, rollout="r1"))
    assert [each.fault_share for each in slots.challengers] == [0, 0.5, 0]


def test_flags_hold_in_every_lane(slots: Slots) -> None:
    for place in range(3):
        give(slots, place, 0.1)
    flags = Flags(deny=("away",), pins={"tester": "challenger"}, sticky_by="client")
    slots.adopt_flags(FlagsInForce(flags=flags, revision=1, by="a", reason="b"))

    def assigned(client: str) -> Assigned:
        return assign(slots, [{}, {}], ["N1", "N2"], client, {})

    denied, pinned = assigned("away"), assigned("tester")
    assert (denied.challenger, denied.uncounted, denied.parts) == (None, "denied", ())
    assert pinned.challenger is slots.in_lane(lane_of(EXPERIMENT, "tester", 3)), "by what sticks: the client"
    assert (pinned.is_pinned, pinned.uncounted) == (True, "pinned")
    slots.drop(pinned.challenger.rollout or "")
    assert assigned("tester").challenger is None


@settings(max_examples=60, deadline=None)
@given(
    lanes=st.integers(2, 8),
    shares=st.lists(st.tuples(st.integers(0, 7), st.floats(0.0, 1.0)), min_size=1, max_size=30),
    keys=st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=60, unique=True),
)
def test_arms_never_overlap_and_whoever_saw_one_sees_it_at_every_larger_share(
    models: dict[str, Model], lanes: int, shares: list[tuple[int, float]], keys: list[str]
) -> None:
    slots = Slots(server="a", clock=Clock())
    load(slots, models["1"], None)
    slots.promote(PromoteSlot(version="1", expected=None), nothing)
    for place in range(lanes):
        bundle = models["2"].bundle
        message = LoadSlot(version=f"v{place}", bundle=bundle.id, path="", rollout=name(place), lane=lane(place, lanes))
        slots.place(message, models["2"])
    share = dict.fromkeys(range(lanes), 0.0)
    seen: dict[str, tuple[int, float]] = {}  # by whom, and at what share first
    for place, given_share in shares:
        place %= lanes
        share[place] = given_share
        slots.set_share(SetShare(rollout=name(place), share=given_share, lane=lane(place, lanes)))
        for key in keys:
            asked = [
                each
                for each in range(lanes)
                if (arm := slots.in_lane(each)) is not None
                and assign(slots, [{}], [key], None, {}).challenger is arm
                and is_for(arm, key)
            ]
            assert len(asked) <= 1, "arms are disjoint"
            if asked:
                first, at = seen.setdefault(key, (asked[0], share[asked[0]]))
                assert asked[0] == first, "an entity sees one challenger, and no other"
                seen[key] = (first, min(at, share[first]))
            elif key in seen:
                assert share[seen[key][0]] < seen[key][1], "who saw it at a share sees it at every larger one"
    winner = max(share, key=lambda place: share[place])
    for place in set(range(lanes)) - {winner}:
        slots.drop(name(place))
    mine = {key for key, (place, _) in seen.items() if place == winner and position(name(winner), key) < share[winner]}
    if share[winner] > 0:
        slots.set_share(SetShare(rollout=name(winner), share=share[winner]))
        found = assign(slots, [{} for _ in keys], keys, None, {})
        assert mine <= {key for key in keys if found.challenger is not None and is_for(found.challenger, key)}
