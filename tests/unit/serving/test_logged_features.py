"""What is logged of the encoded rows: of which requests, and which bytes."""

import math
from typing import Any

import msgspec
import numpy as np
import pyarrow.ipc
import pytest

from contracts.encoder import Encoder
from contracts.input_schema import Field
from contracts.masking import Mask
from contracts.prediction_row import END_OF_STREAM, is_sampled
from serving.arrow_columns import DAY_S
from serving.logged_groups import LoggedGroup, OfRequests
from serving.prediction_batch import STREAM_HEAD, BatchBuilder
from tests.fixtures.bundles import TINY_SCHEMA, tiny_record
from tests.fixtures.prediction_log import NOON_S, tiny_group

INCOME = Field(name="income", kind="number", required=False, personal=True)
ENCODER = Encoder(TINY_SCHEMA)


def group(*records: dict[str, Any], **changes: Any) -> LoggedGroup:
    encoder = Encoder(changes.get("schema", TINY_SCHEMA))
    features = encoder.encode_rows(records)
    return tiny_group(len(records), record=lambda row: records[row], **({"features": features} | changes))


def logged(*groups: LoggedGroup, share: float = 1.0) -> list[bytes | None]:
    batch = BatchBuilder("flight_delay", Mask(b"key"), lambda: None, share).build(int(NOON_S // DAY_S), groups)
    with pyarrow.ipc.open_stream(STREAM_HEAD + batch.content + END_OF_STREAM) as stream:
        table = stream.read_all()
    table.validate(full=True)
    found: list[bytes | None] = table.column("features").to_pylist()
    return found


def test_the_bytes_that_were_scored_are_logged_row_by_row() -> None:
    one, two = tiny_record(1, humid=-0.0), tiny_record(2, humid=None)
    assert logged(group(one, two), group(two)) == [ENCODER.encode(each).tobytes() for each in (one, two, two)]


def test_a_row_has_its_bytes_beside_rows_of_another_width_and_without_any() -> None:
    wide = msgspec.structs.replace(TINY_SCHEMA, fields=(*TINY_SCHEMA.fields, INCOME))
    plain = msgspec.structs.replace(wide, fields=(*TINY_SCHEMA.fields, msgspec.structs.replace(INCOME, personal=False)))
    rows = [group(tiny_record(), schema=plain, bundle="c"), group(tiny_record()), tiny_group(2)]
    assert [None if each is None else len(each) for each in logged(*rows)] == [
        4 * len(plain.columns), 4 * len(TINY_SCHEMA.columns), None, None,
    ]  # fmt: skip


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 1.0])
def test_as_many_requests_as_declared_are_logged_with_features_whoever_asks(share: float) -> None:
    groups = [group(tiny_record(), tiny_record(1), request_id=f"{number:032x}") for number in range(4000)]
    found = logged(*groups, share=share)
    sampled = [is_sampled(each.request_id, share) for each in groups for _ in range(2)]  # a request as a whole
    assert [each is not None for each in found] == sampled
    # five standard deviations of a fair draw
    assert abs(sum(sampled) / 8000 - share) <= 5 * math.sqrt(share * (1 - share) / 4000)


def test_no_personal_feature_is_logged_and_what_was_scored_is_as_it_was() -> None:
    schema = msgspec.structs.replace(TINY_SCHEMA, fields=(*TINY_SCHEMA.fields, INCOME))
    record = tiny_record(income=1234.5)
    scored = Encoder(schema).encode(record)
    kept = scored.copy()
    (found,) = logged(group(record, schema=schema, features=scored))
    assert found is not None
    row = np.frombuffer(found, dtype="<f4")
    assert np.isnan(row[schema.columns.index("income")])
    assert row[schema.columns.index("distance")] == record["distance"]
    assert np.float32(1234.5).tobytes() not in found
    assert np.array_equal(scored, kept)


def test_a_row_whose_inputs_json_cannot_tell_has_no_features() -> None:
    clipping = msgspec.structs.replace(
        TINY_SCHEMA,
        fields=tuple(
            msgspec.structs.replace(each, maximum=500.0, outside="clip") if each.name == "distance" else each
            for each in TINY_SCHEMA.fields
        ),
    )
    records = [tiny_record(distance=math.inf), tiny_record(distance=600.0)]
    found = logged(group(*records, schema=clipping))
    assert found == [None, Encoder(clipping).encode(records[1]).tobytes()]


def test_rows_of_several_requests_in_one_group_are_sampled_each_by_its_own_request() -> None:
    ids = [f"{number:032x}" for number in range(40)]
    records = [tiny_record(number) for number in range(40)]
    together = group(*records, each=OfRequests(ids, [None] * 40, [1] * 40))
    alone = [group(record, request_id=request_id) for record, request_id in zip(records, ids, strict=True)]
    found = logged(together, group(tiny_record()), share=0.5)
    assert found[:-1] == logged(*alone, share=0.5)
    assert None in found[:-1]
    assert any(found[:-1])
