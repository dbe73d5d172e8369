"""A holdout in one process: who answers whom, what is retried, what is counted, how it ends."""

import asyncio
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from contracts.assignment import is_held_back, position
from contracts.bundle import Bundle
from contracts.flags import Flags, SetFlags
from contracts.slots import KeepHoldout, LoadSlot, PromoteSlot, SetShare
from serving.answering import Answerer
from serving.assigned import SYNTHETIC_HEADER
from serving.champion_file import State
from serving.divided import ChampionFailedError
from serving.engine import load_model
from serving.metrics import Metrics
from serving.prediction_writer import LoggedGroup, Mask, PredictionIds, PredictionWriter
from serving.shadow import Shadow
from serving.slots import SlotConflictError, Slots
from serving.tracing import Marks
from tests.fixtures.bundles import tiny_bundle, tiny_record
from tests.fixtures.driven import as_future

SHARE = 0.05
RECORDS = [tiny_record(number % 30, tailnum=f"N{number}") for number in range(400)]
HELD = [record for record in RECORDS if is_held_back("r1", record["tailnum"], SHARE)]
OTHERS = [record for record in RECORDS if record not in HELD]


@dataclass
class Request:
    """Who asks, with all the time in the world."""

    id: str = "request"
    deadline_s: float = math.inf
    client: str | None = None
    marks: Marks | None = None
    body: bytes = b""
    headers: Mapping[bytes, bytes] = field(default_factory=dict)


class Log(PredictionWriter):
    """The writer before its thread: what would be written is in `groups`."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, project="flight_delay", mask=Mask(b"key"))
        self.groups: list[LoggedGroup] = []

    def append(self, group: LoggedGroup) -> None:
        self.groups.append(group)


class Server:
    """A server's parts without its HTTP; version 2 has replaced version 1, which stays for a holdout of `SHARE`."""

    def __init__(self, root: Path, runner: asyncio.Runner, old: Bundle, new: Bundle) -> None:
        self.run = runner.run
        self.states: list[State] = []
        self.slots = Slots(server="a")
        self.log = Log(root)
        self.metrics = Metrics(self.slots, self.log)
        ids = PredictionIds()
        self.answerer = Answerer(
            slots=self.slots,
            metrics=self.metrics,
            writer=self.log,
            shadow=Shadow(slots=self.slots, metrics=self.metrics, writer=self.log, ids=ids),
            ids=ids,
            batcher=self.metrics.batcher,
        )
        self.old, self.new = old, new
        self.place(old, "1")
        self.promote("1", None)
        self.place(new, "2", "r1")
        self.promote("2", "1", KeepHoldout(rollout="r1", share=SHARE))

    def place(self, bundle: Bundle, version: str, rollout: str | None = None) -> None:
        self.slots.place(
            load_message(bundle, version, rollout), load_model(bundle.path, bundle.id, version, "flight_delay")
        )

    def promote(self, version: str, expected: str | None, holdout: KeepHoldout | None = None) -> None:
        self.slots.promote(PromoteSlot(version=version, expected=expected, holdout=holdout), self.states.append)

    def answer(self, *records: Any, by: Request | None = None, **more: Any) -> Any:
        async def run() -> Any:
            return await as_future(self.answerer.answer(records, by or Request(), **more))

        return self.run(run())

    def rows(self) -> list[tuple[str, str, str | None, float, str | None]]:
        return [
            (group.slot, group.version, group.rollout, group.share, error)
            for group in self.log.groups
            for error, _ in zip(group.errors, group.prediction_ids, strict=True)
        ]


def load_message(bundle: Bundle, version: str, rollout: str | None) -> LoadSlot:
    return LoadSlot(version=version, bundle=bundle.id, path=str(bundle.path), rollout=rollout)


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def server(tmp_path: Path, runner: asyncio.Runner) -> Server:
    return Server(tmp_path, runner, tiny_bundle(tmp_path), tiny_bundle(tmp_path, bias=0.5))


def counts(server: Server) -> tuple[int, int, int, int]:
    """Requests and errors of the champion, and of the holdout."""
    seen = server.slots.observe()
    assert seen.champion is not None
    assert seen.holdout is not None
    held = seen.holdout.counts
    return seen.champion.requests, seen.champion.errors, held.requests, held.errors


def test_the_entities_that_a_rollout_reaches_last_stay_on_the_old_champion(server: Server) -> None:
    assert 5 <= len(HELD) <= 40
    assert all(position("r1", record["tailnum"]) >= 0.95 for record in HELD)
    answer = server.answer(*RECORDS)
    assert [each.slot for each in answer.predictions] == [
        "holdout" if record in HELD else "champion" for record in RECORDS
    ]
    assert {each.slot: each.model_version for each in answer.predictions} == {"champion": "2", "holdout": "1"}
    assert (answer.model_version, answer.rollout, answer.share) == ("2", "r1", SHARE)
    for record, expected in ((HELD[0], "holdout"), (OTHERS[0], "champion")):
        alone = server.answer(record).predictions[0]
        assert alone.slot == expected
        assert alone.score == answer.predictions[RECORDS.index(record)].score
    assert counts(server) == (len(OTHERS) + 1, 0, len(HELD) + 1, 0)
    assert set(server.rows()) == {("champion", "2", "r1", SHARE, None), ("holdout", "1", "r1", SHARE, None)}


def test_who_asks_for_the_champions_version_is_no_part_of_the_holdout(server: Server) -> None:
    assert server.answer(HELD[0], champion_only=True).predictions[0].slot == "champion"
    assert counts(server) == (0, 0, 0, 0)
    assert server.rows() == [("champion", "2", None, 0.0, None)]


@pytest.mark.parametrize(
    ("client", "slots", "uncounted"),
    [
        ("denied", ["champion", "champion"], "denied"),
        ("pinned", ["champion", "champion"], "pinned"),
        ("other", ["champion", "holdout"], None),
    ],
)
def test_clients_that_flags_name_are_no_part_of_the_holdout(
    server: Server, client: str, slots: list[str], uncounted: str | None
) -> None:
    flags = Flags(deny=("denied",), pins={"pinned": "challenger"})
    server.slots.set_flags(SetFlags(flags=flags, by="test", reason="a test"), lambda _: None)
    answer = server.answer(OTHERS[0], HELD[0], by=Request(client=client))
    assert [each.slot for each in answer.predictions] == slots
    assert {group.uncounted for group in server.log.groups} == {uncounted}
    assert {group.rollout for group in server.log.groups} == {"r1" if uncounted is None else None}
    assert counts(server) == ((1, 0, 1, 0) if uncounted is None else (0, 0, 0, 0))


def test_synthetic_requests_are_answered_as_any_other_and_counted_nowhere(server: Server) -> None:
    answer = server.answer(OTHERS[0], HELD[0], by=Request(headers={SYNTHETIC_HEADER: b"1"}))
    assert [each.slot for each in answer.predictions] == ["champion", "holdout"]
    assert {group.uncounted for group in server.log.groups} == {"synthetic"}
    assert counts(server) == (0, 0, 0, 0)


@pytest.mark.parametrize("failing", ["old", "new"])
def test_each_version_answers_what_the_other_fails_on(tmp_path: Path, runner: asyncio.Runner, failing: str) -> None:
    bundles = {"old": tiny_bundle(tmp_path), "new": tiny_bundle(tmp_path, bias=0.5)}
    bundles[failing] = tiny_bundle(tmp_path, bias=0.3, fail_above=500)
    server = Server(tmp_path, runner, bundles["old"], bundles["new"])
    long = {"distance": 900}
    answer = server.answer(HELD[0], OTHERS[0], {**HELD[1], **long}, {**OTHERS[1], **long})
    expected = {"old": "champion", "new": "holdout"}[failing]
    assert [each.slot for each in answer.predictions] == ["holdout", "champion", expected, expected]
    assert counts(server) == ((2, 0, 2, 1) if failing == "old" else (2, 1, 2, 0)), "as they were assigned"
    alone = server.answer({**(HELD if failing == "old" else OTHERS)[1], **long})
    assert alone.predictions[0].slot == expected
    stand_in = (expected, {"champion": "2", "holdout": "1"}[expected], None, 0.0, None)
    assert server.rows().count(stand_in) == 2, "what one answers in the other's place was assigned by no rollout"
    assert server.metrics.of("2", "champion").retried == (2 if failing == "old" else 0)


def test_what_both_fail_on_is_an_error_that_names_the_rows(tmp_path: Path, runner: asyncio.Runner) -> None:
    failing = [tiny_bundle(tmp_path, bias=bias, fail_above=500) for bias in (0.1, 0.2)]
    server = Server(tmp_path, runner, *failing)
    with pytest.raises(ChampionFailedError, match="version 2 could not score 2 of the rows, the first is row 1") as got:
        server.answer(OTHERS[0], {**OTHERS[1], "distance": 900}, {**HELD[0], "distance": 900})
    assert got.value.rows == (1, 2)
    with pytest.raises(ChampionFailedError):
        server.answer({**HELD[0], "distance": 900})


def test_the_end_of_a_holdout_gives_the_champion_everybody_and_may_be_repeated(server: Server) -> None:
    assert not server.slots.end_holdout("another", server.states.append)
    assert server.slots.end_holdout("r1", server.states.append)
    assert not server.slots.end_holdout("r1", server.states.append)
    assert {each.slot for each in server.answer(*RECORDS).predictions} == {"champion"}
    assert server.slots.observe().holdout is None
    assert [(state.champion.version, state.holdout is not None) for state in server.states] == [
        ("1", False),
        ("2", True),
        ("2", False),
    ]


def test_the_old_champion_leads_again_at_once_without_being_loaded(server: Server) -> None:
    before = server.slots.holdout
    assert before is not None
    assert server.slots.is_in_place(load_message(server.old, "1", "back")), "nothing to load"
    server.promote("1", "2")
    champion = server.slots.champion
    assert champion is not None
    assert champion.model is before.model
    assert server.slots.observe().holdout is None
    assert server.states[-1].holdout is None
    server.promote("1", "2")
    assert len(server.states) == 3, "the same again is a success, and changes nothing"


def test_a_holdout_that_cannot_be_remembered_as_ended_goes_on(server: Server) -> None:
    def refuse(_: State) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        server.slots.end_holdout("r1", refuse)
    assert server.slots.observe().holdout is not None


def test_while_a_holdout_runs_no_other_rollout_has_traffic(server: Server, tmp_path: Path) -> None:
    server.place(tiny_bundle(tmp_path, bias=0.9), "3", "r2")
    for message in (SetShare(rollout="r2", share=0.1), SetShare(rollout="r2", share=0.0, shadow=True)):
        with pytest.raises(SlotConflictError, match="the holdout of rollout 'r1' keeps version 1: end it"):
            server.slots.set_share(message)
    server.promote("3", "2")
    assert server.slots.observe().holdout is None, "a third champion makes it void"


def test_the_first_champion_has_nobody_to_hold_out(tmp_path: Path) -> None:
    slots = Slots(server="a")
    bundle = tiny_bundle(tmp_path)
    slots.place(load_message(bundle, "1", None), load_model(bundle.path, bundle.id, "1", "flight_delay"))
    keep = KeepHoldout(rollout="r1", share=SHARE)
    slots.promote(PromoteSlot(version="1", expected=None, holdout=keep), lambda _: None)
    assert slots.observe().holdout is None


@pytest.mark.parametrize("share", [0, 0.051, 1])
def test_a_holdout_is_at_most_one_entity_in_twenty(share: float) -> None:
    message = {"version": "2", "expected": "1", "holdout": {"rollout": "r1", "share": share}}
    with pytest.raises(msgspec.ValidationError, match=r"a holdout's share lies in \(0, 0.05\]"):
        msgspec.convert(message, PromoteSlot)
