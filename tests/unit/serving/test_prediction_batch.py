"""Rows read back equal the rows that were appended: the columns are built from bytes, so every odd value counts."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
import pyarrow.ipc
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.encoder import Encoder, parse_timestamp
from contracts.masking import Mask
from contracts.prediction_row import END_OF_STREAM, PredictionRow
from serving.arrow_columns import DAY_S
from serving.columns import _MAXIMUM_KINDS, Columns
from serving.logged_groups import LoggedGroup, OfRequests
from serving.prediction_batch import SEGMENT_SCHEMA, STREAM_HEAD, Batch, BatchBuilder
from tests.fixtures.bundles import TINY_SCHEMA, tiny_bundle, tiny_record
from tests.fixtures.prediction_log import NOON_S, tiny_group

DAY = int(NOON_S // DAY_S)
MASK = Mask(b"key")


def build(*groups: LoggedGroup) -> Batch:
    return BatchBuilder("flight_delay", MASK, lambda: None).build(DAY, groups)


def read(batch: Batch) -> list[PredictionRow]:
    with pyarrow.ipc.open_stream(STREAM_HEAD + batch.content + END_OF_STREAM) as stream:
        table = stream.read_all()
    table.validate(full=True)
    assert table.schema == SEGMENT_SCHEMA
    return msgspec.convert(table.to_pylist(), list[PredictionRow])


def expected(group: LoggedGroup) -> list[PredictionRow]:
    """The rows of a group, one after the other, without any cleverness."""
    rows = []
    for row, record in enumerate(group.records):
        time = record.get("scheduled")
        try:
            event_time = parse_timestamp(time).isoformat()
        except (TypeError, ValueError):
            event_time = "" if time is None else str(time)
        masked = dict(record)
        if masked.get("passenger") is not None:
            masked["passenger"] = MASK.value(masked["passenger"])
        rows.append(
            PredictionRow(
                prediction_id=group.prediction_ids[row],
                request_id=group.each.request_ids[row] if group.each else group.request_id,
                served_at=datetime.fromtimestamp(group.served_at_s, UTC).isoformat(timespec="microseconds"),
                event_time=event_time,
                project="flight_delay",
                version=group.version,
                bundle=group.bundle,
                slot=group.slot,
                rollout=group.rollout,
                share=group.share,
                entity=group.entities[row],
                score=group.scores[row],
                decision=group.decisions[row],
                latency_us=group.each.latencies_us[row] if group.each else group.latency_us,
                error=group.errors[row],
                inputs=msgspec.json.encode(masked).decode(),
                client=group.each.clients[row] if group.each else group.client,
                cached=group.cached,
                uncounted=group.uncounted,
            )
        )
    return rows


values = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=8)
)
times = st.one_of(st.datetimes().map(datetime.isoformat), st.text(max_size=20), st.none(), st.just("20130701T0830"))
records = st.fixed_dictionaries(
    {"scheduled": times, "passenger": values}, optional={"carrier": values, "distance": values, "ü€😀": values}
)
seconds = st.integers(0, int(DAY_S * 1e6) - 1).map(lambda us: DAY * DAY_S + us / 1e6)


@st.composite
def groups(draw: st.DrawFn) -> LoggedGroup:
    rows = draw(st.integers(0, 4))

    def column(of: st.SearchStrategy[Any]) -> list[Any]:
        return draw(st.lists(of, min_size=rows, max_size=rows))

    of_requests = OfRequests(
        column(st.text(max_size=5)), column(st.none() | st.text(max_size=4)), column(st.integers(0, 2**62))
    )
    return LoggedGroup(
        served_at_s=draw(seconds),
        request_id=draw(st.text(max_size=5)),
        schema=TINY_SCHEMA,
        version=draw(st.sampled_from(["7", "8"])),
        bundle=draw(st.sampled_from(["b", "c"])),
        slot=draw(st.sampled_from(["champion", "challenger", "shadow"])),
        rollout=draw(st.none() | st.text(max_size=4)),
        share=draw(st.floats(0, 1)),
        latency_us=draw(st.integers(0, 2**62)),
        records=column(records),
        entities=column(st.text(max_size=6)),
        prediction_ids=column(st.uuids().map(str)),
        scores=column(st.none() | st.floats(0, 1)),
        decisions=column(st.none() | st.booleans()),
        errors=column(st.none() | st.text(max_size=6)),
        client=draw(st.none() | st.text(max_size=4)),
        cached=draw(st.booleans()),
        uncounted=draw(st.none() | st.just("pinned")),
        each=of_requests if draw(st.booleans()) else None,
    )


@given(st.lists(groups(), max_size=6))
@settings(max_examples=100, deadline=None)
def test_rows_read_back_equal_the_rows_appended(some: list[LoggedGroup]) -> None:
    batch = build(*some)
    assert batch.refused == []
    rows = [row for group in some for row in expected(group)]
    assert batch.rows == len(rows)
    if rows:
        assert read(batch) == rows


names = st.lists(st.sampled_from(["carrier", "distance", "ü€😀", "class", ""]), unique=True)


@given(groups(), names, st.data())
@settings(max_examples=60, deadline=None)
def test_a_request_by_columns_is_logged_as_its_records_are(
    group: LoggedGroup, some: list[str], data: st.DataObject
) -> None:
    rows = len(group.records)
    columns: dict[str, Any] = {
        name: data.draw(st.lists(times if name == "scheduled" else values, min_size=rows, max_size=rows))
        for name in [*some, "scheduled", "passenger"]
    }
    columns["humid"] = np.linspace(0, 1, rows)
    by_column = msgspec.structs.replace(group, records=Columns(columns, rows))
    by_record = msgspec.structs.replace(group, records=list(Columns(columns, rows)))
    assert build(by_column).content == build(by_record).content
    assert build(by_record, by_column, by_record).content == build(by_record, by_record, by_record).content


def test_what_no_column_can_be_written_of_is_logged_by_record() -> None:
    odd = Columns({"scheduled": ["2013-07-01T08:30:00"] * 2, "carrier": ["N\ud800", "AA"]}, 2)
    found = read(build(tiny_group(1), tiny_group(2, records=odd), tiny_group(1)))
    assert [json.loads(row.inputs)["carrier"] for row in found] == ["AA", "N?", "AA", "AA"]


def test_columns_in_any_number_of_orders_are_logged() -> None:
    some = [
        tiny_group(1, records=Columns({"scheduled": ["t"], **{f"{name}{number}": [number] for name in "ab"}}, 1))
        for number in range(_MAXIMUM_KINDS + 20)
    ]
    found = read(build(*some))
    assert [json.loads(row.inputs) for row in found] == [dict(group.records[0]) for group in some]


def test_unseen_words_of_a_request_by_columns_are_flagged(tmp_path: Any) -> None:
    baseline = tiny_bundle(tmp_path).baseline
    records = [tiny_record(1), tiny_record(2, carrier="ZZ"), tiny_record(3)]
    columns = Columns({name: [record[name] for record in records] for name in records[0]}, 3)
    features = Encoder(TINY_SCHEMA).encode_rows(records)
    group = tiny_group(3, records=columns, features=features, baseline=baseline, scores=[0.55] * 3)
    assert [row.unusual for row in read(build(tiny_group(1, scores=[0.55]), group))] == [
        None,
        None,
        "unseen_category:carrier",
        None,
    ]


def test_rows_of_many_requests_are_paused_between_and_all_there() -> None:
    pauses: list[int] = []
    builder = BatchBuilder("flight_delay", MASK, lambda: pauses.append(1))
    some = [tiny_group(1) for _ in range(1000)]
    batch = builder.build(DAY, some)
    assert [row.prediction_id for row in read(batch)] == [group.prediction_ids[0] for group in some]
    assert len(pauses) >= 1000 // 128


def test_half_a_surrogate_pair_and_values_of_other_libraries_are_logged_as_near_as_can_be() -> None:
    record = tiny_record(tailnum="N\ud800", humid=np.float32(1.5))
    [row] = read(build(tiny_group(1, record=lambda _: record, entities=["N\ud800"], request_id="r\udfff")))
    inputs = json.loads(row.inputs)
    assert (inputs["tailnum"], inputs["carrier"]) == ("N?", "AA")
    assert float(inputs["humid"]) == 1.5
    assert (row.entity, row.request_id) == ("N\\ud800", "r\\udfff")


def test_a_request_whose_columns_do_not_fit_together_is_left_out_alone() -> None:
    batch = build(tiny_group(1), tiny_group(2, scores=[0.5]), tiny_group(1))
    assert (batch.rows, batch.refused, batch.taken) == (2, [1], 3)
    assert len(read(batch)) == 2


def test_a_value_that_does_not_fit_its_column_costs_only_its_request() -> None:
    odd: Any = ["high"]
    some = [tiny_group(1), tiny_group(1, scores=odd), tiny_group(2), tiny_group(1, latency_us=2**70)]
    batch = build(*some)
    assert (batch.rows, batch.refused, batch.taken) == (3, [1, 3], 4)
    kept = [*some[0].prediction_ids, *some[2].prediction_ids]
    assert [row.prediction_id for row in read(batch)] == kept


def test_a_full_batch_leaves_the_rest_for_the_next() -> None:
    large = "x" * (1 << 20)
    some = [tiny_group(1, record=lambda _: {"scheduled": None, "text": large}) for _ in range(200)]
    batch = build(*some)
    assert batch.rows == batch.taken < 200
    assert len(read(batch)) == batch.rows


def test_the_last_instant_of_a_day_stays_in_it() -> None:
    [row] = read(build(tiny_group(1, served_at_s=(DAY + 1) * DAY_S - 1e-7)))
    assert row.served_at == "2013-08-01T23:59:59.999999+00:00"


def test_features_that_are_not_one_row_for_each_record_are_not_looked_at(tmp_path: Any) -> None:
    baseline = tiny_bundle(tmp_path).baseline
    far = np.array([[0, 9000.0, 50]], dtype=np.float32)
    batch = build(
        tiny_group(2, features=far, baseline=baseline, scores=[0.55, 0.55]),
        tiny_group(1, features=far, baseline=baseline, scores=[0.55]),
    )
    assert [row.unusual for row in read(batch)] == [None, None, "outside_baseline:distance"]


def test_unusual_rows_have_their_flags_and_are_counted_by_version_and_slot(tmp_path: Any) -> None:
    baseline = tiny_bundle(tmp_path).baseline
    encoder = Encoder(TINY_SCHEMA)

    def group(*some: dict[str, Any], scores: list[float], **more: Any) -> LoggedGroup:
        features = encoder.encode_rows(some)
        return tiny_group(
            len(some), record=lambda row: some[row], features=features, baseline=baseline, scores=scores, **more
        )

    usual, far, odd = tiny_record(1), tiny_record(distance=9000.0), tiny_record(carrier="ZZ", distance=9000.0)
    batch = build(
        group(usual, far, scores=[0.55, 0.55]),
        tiny_group(1, bundle="without a baseline", scores=[1.0]),
        group(odd, scores=[0.99], slot="challenger", version="8"),
        tiny_group(1, baseline=baseline, scores=[0.99], slot="shadow"),
    )
    assert [row.unusual for row in read(batch)] == [
        None,
        "outside_baseline:distance",
        None,
        "extreme_score,outside_baseline:distance,unseen_category:carrier",
        "extreme_score",
    ]
    assert batch.unusual == {
        ("7", "champion", "outside_baseline:distance"): 1,
        ("8", "challenger", "extreme_score"): 1,
        ("8", "challenger", "outside_baseline:distance"): 1,
        ("8", "challenger", "unseen_category:carrier"): 1,
        ("7", "shadow", "extreme_score"): 1,
    }


ENTITY_IS_PERSONAL = msgspec.structs.replace(
    TINY_SCHEMA,
    fields=tuple(msgspec.structs.replace(field, personal=field.name == "tailnum") for field in TINY_SCHEMA.fields),
)


def test_a_personal_entity_is_masked_as_its_field_is() -> None:
    group = tiny_group(2, schema=ENTITY_IS_PERSONAL, record=lambda row: tiny_record(row, tailnum=f"N{row}"))
    for row in read(build(group, tiny_group(1, bundle="c"))):
        is_masked = row.bundle == "b"
        assert row.entity.startswith("masked:") is is_masked
        if is_masked:
            assert json.loads(row.inputs)["tailnum"] == row.entity


def test_building_a_batch_loads_no_pandas() -> None:
    code = (
        "import sys; from pathlib import Path; from tests.fixtures.prediction_log import *; import tempfile;"
        "write_segment(Path(tempfile.mkdtemp()), tiny_group(3, errors=[None, 'e', None]), tiny_group(40));"
        "assert 'pandas' not in sys.modules, 'pandas'"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
