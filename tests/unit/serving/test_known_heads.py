"""A body behind a known head is read as the general way reads it, or left to that."""

import struct
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.benchmarking.bodies import tensors_of
from serving.protocols import open_inference
from serving.protocols.known_heads import MAXIMUM_HEADS, KnownHeads
from serving.protocols.records import MalformedRequestError
from tests.fixtures.bundles import TINY_SCHEMA, tiny_record

DATATYPES = {each["name"]: each["datatype"] for each in open_inference.metadata("p", [], TINY_SCHEMA)["inputs"]}
Binary = tuple[bytes, str]


def body_of(*records: dict[str, Any]) -> Binary:
    body, length = tensors_of(records, DATATYPES, binary=True)
    return body, str(length)


def heads_that_know(*bodies: Binary) -> KnownHeads:
    heads = KnownHeads(TINY_SCHEMA)
    for body, length in bodies:
        decoded = open_inference.decode(body, length)
        heads.keep(body, length, decoded, len(open_inference.records_of(decoded, TINY_SCHEMA)))
    return heads


numbers = st.floats(allow_infinity=False) | st.just(float("nan"))
rows = st.lists(st.tuples(numbers, numbers, st.sampled_from(["UA", "AA", "B6"])), min_size=1, max_size=6)


@given(rows, st.randoms())
@settings(max_examples=100, deadline=None)
def test_what_is_read_behind_a_known_head_is_what_the_general_way_reads(some: list[Any], random: Any) -> None:
    def records(chosen: list[Any]) -> list[dict[str, Any]]:
        return [
            tiny_record(number, distance=distance, humid=humid, carrier=carrier)
            for number, (distance, humid, carrier) in enumerate(chosen)
        ]

    other = random.sample(some, len(some))
    body, length = body_of(*records(some))
    found = heads_that_know(body_of(*records(other))).read(body, length)
    assert found is not None
    request, columns = found
    general = open_inference.decode(body, length)
    assert request == general.request
    assert list(columns) == list(open_inference.records_of(general, TINY_SCHEMA))


def test_an_unknown_head_is_left_to_the_general_way() -> None:
    heads = heads_that_know(body_of(tiny_record(1)))
    assert heads.read(*body_of(tiny_record(1), tiny_record(2))) is None
    assert heads.read(*body_of(tiny_record(2))) is not None


@pytest.mark.parametrize("length", ["", "-1", "x", "9" * 5000, "١", "99999"])
def test_a_length_that_is_none_is_left_to_the_general_way(length: str) -> None:
    body, _ = body_of(tiny_record(1))
    assert heads_that_know(body_of(tiny_record(1))).read(body, length) is None


def test_data_that_does_not_fit_a_known_head_is_left_to_the_general_way() -> None:
    body, length = body_of(tiny_record(1), tiny_record(2))
    heads = heads_that_know((body, length))
    assert heads.read(body + b"x", length) is None
    assert heads.read(body[:-1], length) is None
    texts = struct.pack("<I", 6) + b"N10001" + struct.pack("<I", 6) + b"N10002"
    assert texts in body
    one_text = struct.pack("<I", 16) + b"N" * 16
    for wrong in (one_text, texts.replace(b"N10002", b"N1000\xff"), texts[:10] + struct.pack("<I", 99) + texts[14:]):
        altered = body.replace(texts, wrong)
        assert len(altered) == len(body)
        assert heads.read(altered, length) is None
        with pytest.raises(MalformedRequestError):
            open_inference.records_of(open_inference.decode(altered, length), TINY_SCHEMA)


def test_a_head_with_data_of_its_own_is_not_kept() -> None:
    record = tiny_record(1, passenger=None)
    inputs = [
        {"name": name, "shape": [1], "datatype": DATATYPES[name], "data": [value]} for name, value in record.items()
    ]
    head = msgspec.json.encode({"inputs": inputs})
    heads = heads_that_know((head, str(len(head))))
    assert heads.read(head, str(len(head))) is None


def test_the_oldest_heads_go() -> None:
    bodies = [body_of(*[tiny_record(1)] * (number + 1)) for number in range(MAXIMUM_HEADS + 3)]
    heads = heads_that_know(*bodies)
    assert [heads.read(*each) is None for each in bodies] == [True] * 3 + [False] * MAXIMUM_HEADS


def test_numbers_of_neighbours_are_views_of_the_body() -> None:
    body, length = body_of(tiny_record(1), tiny_record(2))
    found = heads_that_know((body, length)).read(body, length)
    assert found is not None
    distance, humid = (np.asarray(found[1].by_name[name]) for name in ("distance", "humid"))
    assert distance.base is humid.base
    assert not distance.flags.writeable
