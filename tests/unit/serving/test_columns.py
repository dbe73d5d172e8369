import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from contracts.encoder import Encoder, InvalidRecordError
from serving.columns import Columns, nan_as_missing
from serving.protocols import binary_tensors
from tests.fixtures.bundles import TINY_SCHEMA, tiny_record

ROWS = 5


def columns() -> Columns:
    records = [tiny_record(number) for number in range(ROWS)]
    by_name = {name: [record[name] for record in records] for name in records[0]}
    return Columns({**by_name, "distance": np.array(by_name["distance"])}, ROWS)


def test_columns_are_the_records_that_they_hold() -> None:
    found, records = columns(), [tiny_record(number) for number in range(ROWS)]
    assert len(found) == ROWS
    assert list(found) == records
    assert found[2] == records[2]
    assert found[1:3] == records[1:3]
    assert found[2] is found[2]


@pytest.mark.parametrize("rows", [range(ROWS), [0, 1], [2, 3, 4], [0, 2, 3], [4]])
def test_a_part_of_columns_has_the_bytes_of_its_records(rows: Any) -> None:
    found, encoder = columns(), Encoder(TINY_SCHEMA)
    expected = encoder.encode_rows([found[row] for row in rows])
    assert encoder.encode_columns(found.part(rows)).tobytes() == expected.tobytes()


def test_the_texts_of_a_column_are_there_where_no_value_is_missing() -> None:
    found = Columns({"a": ["x", "y"], "b": np.array([1, 2]), "c": ["x", None]}, 2)
    assert found.texts("a") == ["x", "y"]
    assert found.texts("b") == ["1", "2"]
    assert found.texts("c") is None
    assert found.texts("d") is None


@pytest.mark.filterwarnings("error")
@given(
    values=st.lists(st.floats(width=16), max_size=6),
    dtype=st.sampled_from(["<f2", "<f4", "<f8"]),
)
def test_a_nan_is_a_missing_value_and_nothing_else_is(values: list[float], dtype: str) -> None:
    found = nan_as_missing(np.array(values, dtype=dtype))
    assert [None if math.isnan(value) else value for value in values] == list(found)
    assert isinstance(found, list) == any(map(math.isnan, values))


@settings(deadline=None)
@given(data=st.data(), datatype=st.sampled_from(list(binary_tensors.DTYPES)))
def test_tensors_of_any_datatype_have_the_bytes_or_the_problems_of_their_records(
    data: st.DataObject, datatype: str
) -> None:
    size = binary_tensors.DTYPES[datatype].itemsize * ROWS
    distances = binary_tensors.values_of(
        "distance", datatype, memoryview(data.draw(st.binary(min_size=size, max_size=size)))
    )
    found, encoder = Columns({**columns().by_name, "distance": distances}, ROWS), Encoder(TINY_SCHEMA)
    assert outcome(lambda: encoder.encode_columns(found.by_name)) == outcome(lambda: encoder.encode_rows(list(found)))


def outcome(encode: Callable[[], NDArray[np.float32]]) -> object:
    """The bytes of the rows, or what is wrong with them."""
    try:
        return encode().tobytes()
    except InvalidRecordError as refused:
        return refused.problems
