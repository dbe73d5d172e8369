"""Shadow traffic: pairs of answers to the same requests, and what it may cost."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from contracts.slots import SetShare
from pipelines.statistics import paired_shift
from serving.prediction_writer import PredictionIds
from serving.shadow import BUSY_ROWS, BUSY_TURN_S, GIVE_WAY_S, PIECE_ROWS, Shadow, ShadowWork, score_shadow
from tests.fixtures.bundles import tiny_bundle, tiny_record
from tests.fixtures.driven import as_future
from tests.unit.serving.test_answering import Parts, Request, sigmoid, until


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    with asyncio.Runner() as runner:
        yield Parts(tmp_path, tiny_bundle(tmp_path), runner)


def test_a_shadow_pairs_answers_and_counts_flips_and_errors(parts: Parts, tmp_path: Path) -> None:
    parts.place(tiny_bundle(tmp_path, bias=0.5, fail_above=500), "2", "r1", slice_by="carrier")
    parts.share(0, shadow=True)

    async def run() -> None:
        parts.shadow.start()
        records = [tiny_record(0), tiny_record(1), tiny_record(2, distance=900)]
        answer = await as_future(parts.answerer.answer(records, Request("request")))
        assert {each.slot for each in answer.predictions} == {"champion"}
        await until(lambda: parts.metrics.shadow_pairs == 3)
        await parts.shadow.stop()

    parts.run(run())
    shadowed = parts.slots.observe().shadowed
    assert shadowed is not None
    # 0.52 and 0.53 stay below the threshold of 0.6 on the champion; half a logit more lifts both above it
    assert (shadowed.pairs, shadowed.flips, shadowed.errors) == (3, 2, 1)
    expected = sum(sigmoid(logit + 0.5) - sigmoid(logit) for logit in (0.10, 0.11))
    assert shadowed.absolute_difference_sum == pytest.approx(expected, abs=1e-6)
    assert (sum(shadowed.latency), sum(shadowed.champion_latency)) == (2, 2), "of both for each pair"
    pairs = parts.slots.observe().pairs
    assert pairs is not None
    assert sum(pairs.differences) == 2, "of each entity the first pair in which both have a score"
    assert {value: (found.pairs, found.flips) for value, found in pairs.slices.items()} == {
        "AA": (1, 1),
        "UA": (1, 1),
        "WN": (0, 0),
    }
    assert paired_shift.mean_of(pairs.differences) == pytest.approx(expected / 2, abs=1 / 64)
    assert [row for row in parts.log.rows() if row[0] == "shadow"] == [
        ("shadow", "2", None),
        ("shadow", "2", None),
        ("shadow", "2", "the score is nan, expected 0 to 1"),
    ]
    challenger = parts.slots.challenger
    assert challenger is not None
    assert challenger.counts.requests == 0


def test_shadow_rows_that_do_not_fit_the_queue_are_dropped_and_counted(parts: Parts, tmp_path: Path) -> None:
    parts.place(tiny_bundle(tmp_path, bias=0.5), "2", "r1")
    parts.share(0, shadow=True)
    parts.answer(*[tiny_record(number % 30) for number in range(40)])
    parts.answer(*[tiny_record(number % 30) for number in range(40)])
    shadowed = parts.slots.observe().shadowed
    assert shadowed is not None
    assert (shadowed.pairs, shadowed.dropped) == (0, 40)


def test_the_shadow_gets_a_sample_of_the_requests(parts: Parts, tmp_path: Path) -> None:
    drawn = iter([0.19, 0.2, 0.9, 0.0])
    shadow = Shadow(
        slots=parts.slots, metrics=parts.metrics, writer=parts.log, ids=PredictionIds(), chance=lambda: next(drawn)
    )
    parts.place(tiny_bundle(tmp_path, bias=0.5), "2", "r1")
    parts.slots.set_share(SetShare(rollout="r1", share=0, shadow=True, sample=0.2))

    async def run() -> None:
        shadow.start()
        for number in range(4):
            shadow.offer(work_of(parts, number))
        await until(lambda: parts.metrics.shadow_pairs == 2)
        await shadow.stop()

    parts.run(run())
    shadowed = parts.slots.observe().shadowed
    assert shadowed is not None
    assert (shadowed.pairs, shadowed.dropped) == (2, 0), "what is not drawn is not missed"
    assert [group.each.request_ids for group in parts.log.groups if group.each] == [["request 0", "request 3"]]


@pytest.mark.parametrize("is_in_loop", [True, False])
def test_the_shadow_gives_way_while_clients_keep_the_server_busy_and_not_for_ever(
    parts: Parts, tmp_path: Path, is_in_loop: bool
) -> None:
    parts.place(tiny_bundle(tmp_path, bias=0.5), "2", "r1")
    parts.share(0, shadow=True)
    shadow = Shadow(slots=parts.slots, metrics=parts.metrics, writer=parts.log, ids=PredictionIds())

    async def run() -> float:
        loop = asyncio.get_running_loop()
        is_over = False

        def keep_busy() -> None:
            if not is_over:
                end_s = time.perf_counter() + 1.5 * BUSY_TURN_S
                while time.perf_counter() < end_s:
                    pass
                loop.call_soon(keep_busy)

        if is_in_loop:
            keep_busy()
        else:
            parts.metrics.batcher.waiting_rows = BUSY_ROWS
        started_s = time.perf_counter()
        shadow.start()
        for number in range(6 * PIECE_ROWS):
            shadow.offer(work_of(parts, number % 30))
        await until(lambda: parts.metrics.shadow_pairs == 6 * PIECE_ROWS)
        is_over = True
        await shadow.stop()
        return time.perf_counter() - started_s

    assert parts.run(run()) >= 6 * GIVE_WAY_S


def test_a_large_request_goes_through_the_shadow_in_pieces(parts: Parts, tmp_path: Path) -> None:
    parts.place(tiny_bundle(tmp_path, bias=0.5), "2", "r1")
    model = parts.slots.challenger.model if parts.slots.challenger else None
    assert model is not None
    records = [tiny_record(number % 30) for number in range(PIECE_ROWS * 2 + 7)]
    whole = model.score(model.encoder.encode_rows(records)).tolist()
    pieces = score_shadow(model, records)
    assert pieces.scores == pytest.approx(whole)
    assert len(pieces.errors) == len(records)


def test_failures_in_the_shadow_are_told_by_slice_once_for_each_entity(parts: Parts, tmp_path: Path) -> None:
    parts.place(tiny_bundle(tmp_path, bias=0.5, fail_above=500), "2", "r1")
    challenger = parts.slots.challenger
    assert challenger is not None
    challenger.slice_by = "carrier"
    parts.share(0, shadow=True)

    async def run() -> None:
        parts.shadow.start()
        for entity, carrier, distance in (("N1", "UA", 900), ("N1", "UA", 900), ("N2", "UA", 100), ("N3", "WN", 900)):
            record = tiny_record(tailnum=entity, carrier=carrier, distance=distance)
            await as_future(parts.answerer.answer([record], Request("request")))
        await until(lambda: parts.metrics.shadow_pairs == 4)
        await parts.shadow.stop()

    parts.run(run())
    pairs = parts.slots.observe().pairs
    assert pairs is not None
    assert {value: (found.challenger_only, found.pairs) for value, found in pairs.slices.items()} == {
        "UA": (1, 1),
        "WN": (1, 0),
    }


def work_of(parts: Parts, number: int) -> ShadowWork:
    assert parts.slots.challenger is not None
    record = tiny_record(number)
    return ShadowWork(parts.slots.challenger, [f"request {number}"], [record], [record["tailnum"]], [0.5], [0.001], 0.6)


def test_rows_of_a_request_each_are_drawn_and_dropped_one_by_one_and_go_to_the_challenger_together(
    parts: Parts, tmp_path: Path
) -> None:
    drawn = iter([0.1, 0.9, 0.1, 0.1, 0.9, 0.1])
    shadow = Shadow(
        slots=parts.slots,
        metrics=parts.metrics,
        writer=parts.log,
        ids=PredictionIds(),
        maximum_rows=3,
        chance=lambda: next(drawn),
    )
    parts.place(tiny_bundle(tmp_path, bias=0.5), "2", "r1")
    parts.slots.set_share(SetShare(rollout="r1", share=0, shadow=True, sample=0.5))
    challenger = parts.slots.challenger
    assert challenger is not None
    records = [tiny_record(number) for number in range(6)]
    entities, ids = [record["tailnum"] for record in records], [f"request {number}" for number in range(6)]

    async def run() -> None:
        shadow.start()
        shadow.offer_each(ShadowWork(challenger, ids, records, entities, [0.5] * 6, [0.001] * 6, 0.6))
        await until(lambda: parts.metrics.shadow_pairs == 3)
        await shadow.stop()

    parts.run(run())
    shadowed = parts.slots.observe().shadowed
    assert shadowed is not None
    assert (shadowed.pairs, shadowed.dropped) == (3, 1)
    [group] = parts.log.groups
    assert group.each is not None
    assert group.each.request_ids == ["request 0", "request 2", "request 3"]
    assert group.entities == [entities[0], entities[2], entities[3]]
