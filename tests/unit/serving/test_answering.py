import asyncio
import math
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from contracts.assignment import position
from contracts.bundle import Bundle
from contracts.encoder import InvalidRecordError
from contracts.slots import HardLimits, InjectFault, LoadSlot, PromoteSlot, SetShare
from serving import divided
from serving.answering import Answerer, NotReadyError, entity_of
from serving.cache import ScoreCache
from serving.challenger import require_slices
from serving.divided import ChampionFailedError
from serving.engine import Model, ModelRefusedError, load_model
from serving.metrics import Metrics
from serving.prediction_writer import LoggedGroup, Mask, PredictionIds, PredictionWriter
from serving.shadow import Shadow
from serving.slots import Slots
from serving.suspension import drive
from serving.tracing import Marks
from tests.fixtures.bundles import CARRIERS, TINY_SCHEMA, tiny_bundle, tiny_record
from tests.fixtures.driven import as_future

STRICT_SCHEMA = msgspec.structs.replace(
    TINY_SCHEMA,
    fields=tuple(
        msgspec.structs.replace(field, maximum=390.0) if field.name == "distance" else field
        for field in TINY_SCHEMA.fields
    ),
)


@dataclass
class Request:
    """Who asks, with all the time in the world."""

    id: str
    deadline_s: float = math.inf
    client: str | None = None
    marks: Marks | None = None
    body: bytes = b""
    headers: dict[bytes, bytes] = field(default_factory=dict)


class Log(PredictionWriter):
    """The writer before its thread: what would be written is in `groups`."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, project="flight_delay", mask=Mask(b"key"))
        self.groups: list[LoggedGroup] = []

    def append(self, group: LoggedGroup) -> None:
        self.groups.append(group)

    def rows(self) -> list[tuple[str, str, str | None]]:
        return [
            (group.slot, group.version, error)
            for group in self.groups
            for error, _ in zip(group.errors, group.prediction_ids, strict=True)
        ]


class Parts:
    """A server's parts without its HTTP, with version 1 as champion."""

    def __init__(
        self, root: Path, champion: Bundle | None, runner: asyncio.Runner, cache: ScoreCache | None = None
    ) -> None:
        self.run = runner.run
        self.slots = Slots(server="a")
        self.log = Log(root)
        self.metrics = Metrics(self.slots, self.log)
        ids = PredictionIds()
        self.shadow = Shadow(slots=self.slots, metrics=self.metrics, writer=self.log, ids=ids, maximum_rows=50)
        self.answerer = Answerer(
            slots=self.slots,
            metrics=self.metrics,
            writer=self.log,
            shadow=self.shadow,
            ids=ids,
            batcher=self.metrics.batcher,
            cache=cache,
        )
        if champion is not None:
            self.place(champion, "1", None)
            self.slots.promote(PromoteSlot(version="1", expected=None), lambda _: None)

    def place(
        self,
        bundle: Bundle,
        version: str,
        rollout: str | None,
        limits: HardLimits | None = None,
        slice_by: str | None = None,
    ) -> None:
        load = LoadSlot(
            version=version,
            bundle=bundle.id,
            path=str(bundle.path),
            rollout=rollout,
            hard_limits=limits or HardLimits(errors=100, window=100),
            slice_by=slice_by,
        )
        model = load_model(bundle.path, bundle.id, version, "flight_delay")
        require_slices(load, model)
        self.slots.place(load, model)

    def share(self, share: float, *, shadow: bool = False, rollout: str = "r1") -> None:
        self.slots.set_share(SetShare(rollout=rollout, share=share, shadow=shadow, lease_s=60))

    def answer(self, *records: Any, **more: Any) -> Any:
        async def run() -> Any:
            return await as_future(self.answerer.answer(records, Request("request"), **more))

        return self.run(run())


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def parts(tmp_path: Path, runner: asyncio.Runner) -> Parts:
    return Parts(tmp_path, tiny_bundle(tmp_path), runner)


@pytest.fixture
def cached(tmp_path: Path, runner: asyncio.Runner) -> Parts:
    return Parts(tmp_path, tiny_bundle(tmp_path), runner, ScoreCache(seconds=60, rows=100))


def fill(parts: Parts, tmp_path: Path, share: float, limits: HardLimits | None = None, **bundle: Any) -> None:
    parts.place(tiny_bundle(tmp_path, **{"bias": 0.5, **bundle}), "2", "r1", limits)
    parts.share(share)


def test_without_a_champion_nobody_answers(tmp_path: Path, runner: asyncio.Runner) -> None:
    with pytest.raises(NotReadyError, match="promote"):
        Parts(tmp_path, None, runner).answer(tiny_record())


def test_each_row_is_answered_by_the_slot_of_its_entity_in_the_order_of_the_records(
    parts: Parts, tmp_path: Path
) -> None:
    fill(parts, tmp_path, 0.5)
    records = [tiny_record(number % 30, tailnum=f"N{number}") for number in range(200)]
    answer = parts.answer(*records)
    expected = ["challenger" if position("r1", record["tailnum"]) < 0.5 else "champion" for record in records]
    assert [each.slot for each in answer.predictions] == expected
    assert {each.slot: each.model_version for each in answer.predictions} == {"champion": "1", "challenger": "2"}
    alone = [parts.answer(record).predictions[0] for record in records[:20]]
    assert [each.score for each in alone] == [each.score for each in answer.predictions[:20]]
    assert len({each.prediction_id for each in answer.predictions}) == 200
    assert (answer.rollout, answer.share, answer.model_version) == ("r1", 0.5, "1")


def test_an_answer_of_nan_is_retried_on_the_champion_and_counts_against_the_challenger(
    parts: Parts, tmp_path: Path
) -> None:
    fill(parts, tmp_path, 1.0, fail_above=500)
    answer = parts.answer(tiny_record(0), tiny_record(1, distance=900))
    assert [(each.slot, each.model_version) for each in answer.predictions] == [("challenger", "2"), ("champion", "1")]
    challenger, champion = parts.slots.challenger, parts.slots.champion
    assert challenger is not None
    assert champion is not None
    assert (challenger.counts.requests, challenger.counts.errors) == (2, 1)
    assert champion.counts.requests == 0, "a retried row is no answer to a request of the champion's own"
    assert parts.metrics.of("1", "champion").retried == 1
    assert parts.log.rows() == [
        ("challenger", "2", None),
        ("challenger", "2", "the score is nan, expected 0 to 1"),
        ("champion", "1", None),
    ]
    assert parts.log.groups[0].scores[1] is None


def test_a_challenger_whose_graph_raises_is_answered_for(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(parts, tmp_path, 1.0)
    challenger = parts.slots.challenger
    assert challenger is not None

    def fail(_: Any) -> Any:
        raise RuntimeError("out of memory")

    object.__setattr__(challenger.model, "run", fail)
    answer = parts.answer(tiny_record(0), tiny_record(1))
    assert [each.slot for each in answer.predictions] == ["champion"] * 2
    assert challenger.counts.errors == 2
    assert parts.log.rows()[0] == ("challenger", "2", "RuntimeError: out of memory")


def test_what_only_the_challengers_schema_refuses_is_the_challengers_error(parts: Parts, tmp_path: Path) -> None:
    fill(parts, tmp_path, 1.0, schema=STRICT_SCHEMA)
    answer = parts.answer(tiny_record(0), tiny_record(1, distance=5000), tiny_record(2))
    assert [each.slot for each in answer.predictions] == ["challenger", "champion", "challenger"]
    assert parts.log.rows()[2] == ("challenger", "2", "the challenger's schema refuses what the champion's accepts")


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_what_the_champions_schema_refuses_is_the_clients_error_and_counts_for_nobody(
    parts: Parts, tmp_path: Path, share: float
) -> None:
    fill(parts, tmp_path, share)
    with pytest.raises(InvalidRecordError) as refused:
        parts.answer(tiny_record(0), tiny_record(1, distance=-1), tiny_record(2, carrier=3))
    assert [(each.field, each.row) for each in refused.value.problems] == [("distance", 1), ("carrier", 2)]
    challenger, champion = parts.slots.challenger, parts.slots.champion
    assert challenger is not None
    assert champion is not None
    assert challenger.counts.requests == champion.counts.requests == 0
    assert parts.log.rows() == []


def test_rows_behind_the_one_that_trips_the_limit_are_the_champions(parts: Parts, tmp_path: Path) -> None:
    fill(parts, tmp_path, 1.0, HardLimits(errors=2, window=10), fail_above=500)
    records = [tiny_record(number, distance=900 if number in (1, 3) else 100) for number in range(8)]
    answer = parts.answer(*records)
    assert [each.slot for each in answer.predictions] == [
        "challenger", "champion", "challenger", "champion", "champion", "champion", "champion", "champion",
    ]  # fmt: skip
    tripped = parts.slots.observe().tripped
    assert tripped is not None
    assert tripped.challenger_requests_since_first_error == 3
    assert parts.answer(tiny_record()).predictions[0].slot == "champion"


def test_injected_faults_reach_no_client(parts: Parts, tmp_path: Path) -> None:
    fill(parts, tmp_path, 1.0)
    parts.slots.inject_fault(InjectFault(error_share=1.0))
    assert [each.slot for each in parts.answer(*[tiny_record(number) for number in range(5)]).predictions] == [
        "champion"
    ] * 5
    assert {error for slot, _, error in parts.log.rows() if slot == "challenger"} == {"injected fault"}


def test_a_champion_that_fails_is_an_error_that_names_the_rows(tmp_path: Path, runner: asyncio.Runner) -> None:
    parts = Parts(tmp_path, tiny_bundle(tmp_path, fail_above=500), runner)
    with pytest.raises(ChampionFailedError, match="the first is row 1: the score is nan") as failed:
        parts.answer(tiny_record(0), tiny_record(1, distance=900))
    assert failed.value.rows == (1,)
    champion = parts.slots.champion
    assert champion is not None
    assert (champion.counts.requests, champion.counts.errors) == (2, 1)


def test_a_promotion_during_a_large_request_loses_no_row(parts: Parts, tmp_path: Path) -> None:
    fill(parts, tmp_path, 0.5)

    async def both() -> Any:
        records = [tiny_record(number % 30, tailnum=f"N{number}") for number in range(1000)]
        answering = as_future(parts.answerer.answer(records, Request("request")))
        await asyncio.sleep(0)
        parts.slots.promote(PromoteSlot(version="2", expected="1"), lambda _: None)
        return await answering

    answer = parts.run(both())
    assert len(answer.predictions) == 1000
    assert {each.slot for each in answer.predictions} == {"champion"}, "the slot was gone when their turn came"


def test_a_large_request_lets_others_pass(parts: Parts) -> None:
    order: list[str] = []

    async def note(name: str, answering: Awaitable[Any]) -> None:
        await answering
        order.append(name)

    async def both() -> None:
        large = [tiny_record(number % 30) for number in range(1000)]
        await asyncio.gather(
            note("large", as_future(parts.answerer.answer(large, Request("a")))),
            note("small", as_future(parts.answerer.answer([tiny_record()], Request("b")))),
        )

    parts.run(both())
    assert order == ["small", "large"]


@pytest.mark.parametrize("name", ["passenger", "distance", "nothing"])
def test_slices_are_of_a_category_that_is_not_personal(parts: Parts, tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelRefusedError, match=f"slice_by is {name}, expected a category of the schema: carrier"):
        parts.place(tiny_bundle(tmp_path, bias=0.5), "2", "r1", slice_by=name)


def test_requests_for_the_champion_by_name_stay_out_of_the_comparison(parts: Parts, tmp_path: Path) -> None:
    fill(parts, tmp_path, 1.0)
    assert parts.answer(tiny_record(), champion_only=True).predictions[0].slot == "champion"
    champion = parts.slots.champion
    assert champion is not None
    assert champion.counts.requests == 0
    assert parts.metrics.of("1", "champion").counts.requests == 1


def test_a_record_without_entity_sticks_by_the_key_of_its_event() -> None:
    assert entity_of(TINY_SCHEMA, tiny_record(0)) == "N10000"
    keys = {entity_of(TINY_SCHEMA, tiny_record(0, tailnum=None, carrier=carrier)) for carrier in CARRIERS}
    assert keys == {f'["{carrier}","2013-07-01T08:30:00"]' for carrier in CARRIERS}


def sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.001)


def test_with_a_cache_identical_records_share_one_run_are_marked_and_counted_once(cached: Parts) -> None:
    async def three() -> list[Any]:
        asked = [as_future(cached.answerer.answer([tiny_record(1)], Request(f"r{number}"))) for number in range(3)]
        return [await each for each in asked]

    together = [answer.predictions[0] for answer in cached.run(three())]
    later = cached.answer(tiny_record(1)).predictions[0]
    other = cached.answer(tiny_record(2)).predictions[0]
    assert [each.cached for each in (*together, later, other)] == [False, True, True, True, False]
    assert {each.score for each in (*together, later)} == {together[0].score}
    assert len({each.prediction_id for each in (*together, later)}) == 4
    champion = cached.slots.champion
    assert champion is not None
    assert champion.counts.requests == 2
    assert len(cached.log.rows()) == 5, "who got which prediction is logged for all of them"


def test_a_cached_score_of_one_version_is_not_given_for_another(cached: Parts, tmp_path: Path) -> None:
    before = cached.answer(tiny_record(1)).predictions[0]
    cached.place(tiny_bundle(tmp_path, bias=0.5), "2", "r1")
    cached.slots.promote(PromoteSlot(version="2", expected="1"), lambda _: None)
    after = cached.answer(tiny_record(1)).predictions[0]
    assert (after.model_version, after.cached) == ("2", False)
    assert after.score != before.score


@pytest.mark.parametrize("shadow", [True, False])
def test_during_a_rollout_every_request_has_a_run_of_its_own(cached: Parts, tmp_path: Path, shadow: bool) -> None:
    cached.answer(tiny_record(1))
    cached.place(tiny_bundle(tmp_path, bias=0.5), "2", "r1")
    cached.share(0.0 if shadow else 1e-9, shadow=shadow)
    assert not cached.answer(tiny_record(1)).predictions[0].cached
    champion = cached.slots.champion
    assert champion is not None
    assert champion.counts.requests == 2


def test_who_waits_for_a_run_whose_client_has_gone_gets_a_run_of_its_own(cached: Parts) -> None:
    async def both() -> Any:
        gone = drive(cached.answerer.answer([tiny_record(1)], Request("gone")), lambda _: None, lambda _: None)
        stays = as_future(cached.answerer.answer([tiny_record(1)], Request("stays")))
        gone.abandon(ConnectionError("gone"))
        return await stays

    answer = cached.run(both())
    assert not answer.predictions[0].cached
    assert answer.predictions[0].score == cached.answer(tiny_record(1)).predictions[0].score


def test_a_challenger_that_is_too_slow_has_failed_and_the_champion_answers(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(divided, "MAXIMUM_CHALLENGER_S", 0.05)
    fill(parts, tmp_path, 1.0)
    challenger = parts.slots.challenger
    assert challenger is not None
    released = threading.Event()

    class Slow(Model):
        def score(self, features: Any) -> Any:
            time.sleep(0.05)
            released.wait(30)
            return super().score(features)

    challenger.model = Slow(**{name: getattr(challenger.model, name) for name in Model.__dataclass_fields__})
    released.set()
    assert parts.answer(tiny_record(0)).predictions[0].slot == "challenger"
    released.clear()  # its first run told that it is slow: the next one hangs in the thread of its lane
    try:
        answer = parts.answer(tiny_record(1), tiny_record(2))
    finally:
        released.set()
    assert {each.slot for each in answer.predictions} == {"champion"}
    assert challenger.counts.errors == 2
    slot, _, error = parts.log.rows()[1]
    assert slot == "challenger"
    assert "the challenger is too slow" in str(error)
