"""Who may see a challenger, by what requests stick, and what is left of it after a restart."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from contracts.assignment import position
from contracts.flags import Flags, FlagsInForce, SetFlags
from contracts.slots import HardLimits, SetShare
from serving.columns import Columns
from serving.flags import FlagFileError, FlagRules, read_flags, rules_of, unknown_field, write_flags
from serving.slots import SlotConflictError, Slots, adopt_remembered_flags
from tests.fixtures.bundles import TINY_SCHEMA, tiny_bundle, tiny_record
from tests.unit.serving.test_answering import Parts, Request, as_future


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    """Version 2 is the challenger of r1; `split` gives it a share."""
    with asyncio.Runner() as runner:
        found = Parts(tmp_path, tiny_bundle(tmp_path), runner)
        found.place(tiny_bundle(tmp_path, bias=0.5, fail_above=500), "2", "r1", HardLimits(errors=3, window=20))
        yield found


def put(parts: Parts, **flags: Any) -> None:
    message = SetFlags(flags=Flags(**flags), by="ann", reason="a test")
    parts.slots.set_flags(message, lambda _: None)


def ask(parts: Parts, *records: Any, client: str | None = None, headers: dict[bytes, bytes] | None = None) -> list[str]:
    """The slots that answered."""

    async def run() -> Any:
        request = Request("request", client=client, headers=headers or {})
        return await as_future(parts.answerer.answer(records, request))

    return [each.slot for each in parts.run(run()).predictions]


def strata_of(parts: Parts) -> list[Any]:
    challenger = parts.slots.challenger
    assert challenger is not None
    return challenger.gathered.before(1 << 60)


def units_seen(parts: Parts) -> tuple[int, int]:
    """How many units the champion and the challenger are counted for since the last look, whatever second it was."""
    found = strata_of(parts)
    champion, challenger = (set().union(*(each.arms[arm] for each in found)) for arm in (0, 1))
    return len(champion), len(challenger)


def test_a_denied_client_always_gets_the_champion_and_is_in_no_count_of_the_judge(parts: Parts) -> None:
    put(parts, deny=("acme",))
    parts.share(1.0)
    records = [tiny_record(number, tailnum=f"N{number}") for number in range(9)]
    assert set(ask(parts, *records, client="acme")) == {"champion"}
    assert ask(parts, records[0], client="acme") == ["champion"]
    assert units_seen(parts) == (0, 0), "split as they are not configured, they would spoil the sample ratio"
    assert {group.uncounted for group in parts.log.groups} == {"denied"}
    assert set(ask(parts, *records, client="other")) == {"challenger"}
    assert units_seen(parts) == (0, 9)


def test_only_clients_of_the_allow_list_can_get_the_challenger(parts: Parts) -> None:
    put(parts, allow=("beta",))
    parts.share(1.0)
    assert ask(parts, tiny_record(), client="acme") == ["champion"]
    assert ask(parts, tiny_record()) == ["champion"], "nor can who is not known"
    assert ask(parts, tiny_record(), client="beta") == ["challenger"]


def test_a_pinned_client_sees_its_version_at_every_share_and_is_not_counted(parts: Parts) -> None:
    put(parts, pins={"tester": "challenger", "bank": "champion"})
    entities = [f"N{number}" for number in range(200)]
    mostly_champions = next(each for each in entities if position("r1", each) > 0.9)
    mostly_challengers = next(each for each in entities if position("r1", each) < 0.05)
    assert ask(parts, tiny_record(tailnum=mostly_champions), client="tester") == ["champion"], "no share is in force"
    parts.share(0.05)
    assert ask(parts, tiny_record(tailnum=mostly_champions), client="tester") == ["challenger"]
    assert ask(parts, tiny_record(tailnum=mostly_challengers), client="bank") == ["champion"]
    assert units_seen(parts) == (0, 0)
    challenger = parts.slots.challenger
    assert challenger is not None
    assert (challenger.counts.requests, challenger.counts.errors) == (0, 0)
    assert [group.uncounted for group in parts.log.groups] == [None, "pinned", "pinned"]


def test_errors_of_a_pinned_challenger_are_answered_by_the_champion_and_reach_the_hard_limit(parts: Parts) -> None:
    put(parts, pins={"tester": "challenger"})
    parts.share(0.01)
    for number in range(3):
        record = tiny_record(number, tailnum=f"N{number}", distance=900)
        assert ask(parts, record, client="tester") == ["champion"]
    tripped = parts.slots.observe().tripped
    assert tripped is not None
    assert "errors for 3 entities" in tripped.reason
    challenger = parts.slots.challenger
    assert challenger is not None
    assert challenger.counts.errors == 0, "nor do they count for the judge: who is pinned is not drawn"


@pytest.mark.parametrize(
    ("sticky_by", "client", "headers", "expected"),
    [
        ("client", "acme", {}, ["acme", "acme"]),
        ("client", None, {}, ["N1", "N2"]),
        ("header:X-Session", None, {b"x-session": b"s7"}, ["s7", "s7"]),
        ("header:x-session", "acme", {}, ["N1", "N2"]),
        ("field:carrier", "acme", {}, ["UA", "N2"]),
        ("entity", "acme", {}, ["N1", "N2"]),
    ],
)
def test_what_sticks_is_what_the_flags_name_or_the_entity(
    sticky_by: str, client: str | None, headers: dict[bytes, bytes], expected: list[str]
) -> None:
    records = [{"tailnum": "N1", "carrier": "UA"}, {"tailnum": "N2", "carrier": None}]
    assert FlagRules(Flags(sticky_by=sticky_by)).keys_of(records, ["N1", "N2"], client, headers) == expected


def test_a_field_of_columns_sticks_as_that_of_records() -> None:
    columns = Columns({"carrier": ["UA", "B6"], "tailnum": ["N1", "N2"]}, 2)
    assert FlagRules(Flags(sticky_by="field:carrier")).keys_of(columns, ["N1", "N2"], None, {}) == ["UA", "B6"]


def test_requests_that_stick_by_client_go_to_one_version_and_count_as_one_unit(parts: Parts) -> None:
    put(parts, sticky_by="client")
    parts.share(0.5)
    slots = {
        client: set(ask(parts, *[tiny_record(number, tailnum=f"N{number}") for number in range(30)], client=client))
        for client in ("a", "b", "c", "d", "e", "f")
    }
    assert all(len(found) == 1 for found in slots.values())
    assert set().union(*slots.values()) == {"champion", "challenger"}
    assert sum(units_seen(parts)) == 6
    for client, (before,) in slots.items():
        if before == "challenger":
            parts.share(0.75)
            assert ask(parts, tiny_record(), client=client) == ["challenger"], "also nested, as entities are"


def test_another_stickiness_key_begins_a_new_phase_and_a_list_does_not(parts: Parts) -> None:
    parts.share(0.5)
    ask(parts, tiny_record())
    put(parts, deny=("acme",))
    ask(parts, tiny_record())
    put(parts, deny=("acme",), sticky_by="client")
    ask(parts, tiny_record(), client="x")
    phases = [(each.phase, sum(each.requests)) for each in strata_of(parts)]
    assert {phase: sum(count for of, count in phases if of == phase) for phase, _ in phases} == {1: 2, 2: 1}


def test_without_flags_requests_ask_nothing() -> None:
    assert rules_of(Flags()) is None


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        ({"deny": ("a",), "pins": {"a": "challenger"}}, "'a' is denied, and allowed or pinned"),
        ({"deny": ("a",), "allow": ("a",)}, "take one of them away"),
        ({"allow": ("",)}, "without a name"),
        ({"sticky_by": "field:"}, "expected entity, client"),
        ({"sticky_by": "carrier"}, "found|expected entity"),
        ({"allow": tuple(f"c{number}" for number in range(1001))}, "at most 1000"),
    ],
)
def test_flags_that_contradict_themselves_are_refused(flags: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Flags(**flags)


def test_a_field_that_records_do_not_have_is_named() -> None:
    assert "only the fields" in str(unknown_field(Flags(sticky_by="field:carier"), TINY_SCHEMA))
    assert unknown_field(Flags(sticky_by="field:carrier"), TINY_SCHEMA) is None
    assert unknown_field(Flags(sticky_by="header:carier"), TINY_SCHEMA) is None


def test_nobody_undoes_flags_that_he_has_not_seen() -> None:
    slots = Slots(server="a")
    kept: list[FlagsInForce] = []
    slots.set_flags(SetFlags(flags=Flags(deny=("a",)), by="ann", reason="why", expected=0), kept.append)
    with pytest.raises(SlotConflictError, match="revision 1, set by 'ann', expected was 0"):
        slots.set_flags(SetFlags(flags=Flags(), by="bob", reason="why", expected=0), kept.append)
    assert slots.flags == kept[-1] == FlagsInForce(flags=Flags(deny=("a",)), revision=1, by="ann", reason="why")


def test_flags_that_cannot_be_remembered_are_not_in_force() -> None:
    slots = Slots(server="a")

    def fail(_: FlagsInForce) -> None:
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        slots.set_flags(SetFlags(flags=Flags(deny=("a",)), by="ann", reason="why"), fail)
    assert (slots.flags, slots.flag_rules) == (FlagsInForce(), None)


def test_flags_come_back_from_their_file(tmp_path: Path) -> None:
    assert read_flags(tmp_path) == FlagsInForce()
    flags = FlagsInForce(flags=Flags(pins={"a": "champion"}, sticky_by="client"), revision=7, by="ann", reason="why")
    write_flags(tmp_path, flags)
    assert read_flags(tmp_path) == flags


def test_no_share_is_given_while_the_flags_cannot_be_read(parts: Parts, tmp_path: Path) -> None:
    (tmp_path / "flags.json").write_bytes(b'{"flags": {"denied": []}}')
    with pytest.raises(FlagFileError, match="set the flags"):
        read_flags(tmp_path)
    adopt_remembered_flags(parts.slots, tmp_path)
    with pytest.raises(SlotConflictError, match="nobody knows whom the flags deny"):
        parts.share(0.5)
    parts.share(0, shadow=True)  # whoever is denied sees none of it
    put(parts)
    parts.slots.set_share(SetShare(rollout="r1", share=0.5))
    with pytest.raises(msgspec.ValidationError, match="who wants it"):
        msgspec.convert({"flags": {}, "by": " ", "reason": "x"}, SetFlags)
