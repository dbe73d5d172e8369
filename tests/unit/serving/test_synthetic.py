"""Requests of probes and tests: answered as any other, and counted nowhere."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from contracts.flags import Flags, SetFlags
from contracts.slots import HardLimits
from tests.fixtures.bundles import tiny_bundle, tiny_record
from tests.unit.serving.test_answering import Parts
from tests.unit.serving.test_flags import ask, units_seen

SYNTHETIC = {b"paceline-synthetic": b"1"}


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    """Version 2, which fails on long distances, is the challenger of r1."""
    with asyncio.Runner() as runner:
        found = Parts(tmp_path, tiny_bundle(tmp_path), runner)
        found.place(tiny_bundle(tmp_path, bias=0.5, fail_above=500), "2", "r1", HardLimits(errors=1, window=20))
        yield found


def test_a_synthetic_request_goes_where_its_entity_goes_and_counts_for_neither_version(parts: Parts) -> None:
    parts.share(0.5)
    records = [tiny_record(number % 30, tailnum=f"N{number}") for number in range(60)]
    found = ask(parts, *records, headers=SYNTHETIC)
    assert found == [slot for record in records for slot in ask(parts, record, headers=SYNTHETIC)]
    assert set(found) == {"champion", "challenger"}
    assert units_seen(parts) == (0, 0)
    champion, challenger = parts.slots.champion, parts.slots.challenger
    assert champion is not None
    assert challenger is not None
    assert champion.counts.requests == challenger.counts.requests == 0
    assert {group.uncounted for group in parts.log.groups} == {"synthetic"}
    assert ask(parts, *records) == found
    assert sum(units_seen(parts)) == 60


def test_an_error_on_a_synthetic_request_is_answered_by_the_champion_and_trips_nothing(parts: Parts) -> None:
    parts.share(1.0)
    record = tiny_record(0, distance=900)
    assert ask(parts, record, headers=SYNTHETIC) == ["champion"]
    assert parts.slots.observe().tripped is None
    assert ask(parts, record) == ["champion"]
    assert parts.slots.observe().tripped is not None, "one that is counted trips a limit of one"


def test_the_shadow_sees_no_synthetic_request(parts: Parts) -> None:
    parts.share(0, shadow=True)
    ask(parts, *[tiny_record(number % 30) for number in range(60)], headers=SYNTHETIC)
    challenger = parts.slots.challenger
    assert challenger is not None
    assert challenger.shadowed.dropped == 0, "60 rows would not have fitted a queue of 50"
    ask(parts, *[tiny_record(number % 30) for number in range(60)])
    assert challenger.shadowed.dropped == 60


@pytest.mark.parametrize(
    ("flags", "slot"), [(Flags(pins={"a": "challenger"}), "challenger"), (Flags(deny=("a",)), "champion")]
)
def test_flags_hold_for_synthetic_requests_as_well(parts: Parts, flags: Flags, slot: str) -> None:
    message = SetFlags(flags=flags, by="ann", reason="a test")
    parts.slots.set_flags(message, lambda _: None)
    parts.share(0.5)
    records = [tiny_record(number, tailnum=f"N{number}") for number in range(9)]
    assert set(ask(parts, *records, client="a", headers=SYNTHETIC)) == {slot}
    assert {group.uncounted for group in parts.log.groups} == {"synthetic"}
