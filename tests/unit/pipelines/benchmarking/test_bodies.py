"""Requests that the server's own decoders read, and answers that its own encoders write."""

from typing import Any

import msgspec
import pytest

from pipelines.benchmarking.bodies import (
    MIXED,
    classify_of,
    request,
    requests_of,
    slot_in_records,
    tensors_of,
    version_in_tensors,
)
from pipelines.benchmarking.connections import Target
from serving.protocols import open_inference
from tests.fixtures.bundles import TINY_SCHEMA, tiny_record

TARGET = Target("127.0.0.1", 8500, path="/eu")
DATATYPES = {
    each["name"]: each["datatype"] for each in open_inference.metadata("flight_delay", [], TINY_SCHEMA)["inputs"]
}
RECORDS: list[dict[str, Any]] = [
    tiny_record(0),
    tiny_record(1, humid=None, passenger=...),
    tiny_record(2, passenger=...),
]


@pytest.mark.parametrize("binary", [False, True])
def test_tensors_come_out_as_the_records_that_went_in(binary: bool) -> None:
    body, head_length = tensors_of(RECORDS, DATATYPES, binary=binary)
    assert (head_length is not None) is binary
    decoded = open_inference.decode(body, None if head_length is None else str(head_length))
    found = open_inference.records_of(decoded, TINY_SCHEMA)
    expected = [{**dict.fromkeys(DATATYPES), **record} for record in RECORDS]
    assert [dict(record) for record in found] == expected


def test_whole_number_identifiers_go_as_whole_numbers() -> None:
    records = [tiny_record(0, tailnum=7), tiny_record(1, tailnum=8)]
    body, head_length = tensors_of(records, DATATYPES, binary=True)
    found = open_inference.records_of(open_inference.decode(body, str(head_length)), TINY_SCHEMA)
    assert [record["tailnum"] for record in found] == [7, 8]


def test_a_request_is_whole_http_with_the_key_and_the_urls_path() -> None:
    sent = request(TARGET, "/v1/predict", b"{}", api_key="pk_1", head_length=2)
    head, _, body = sent.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST /eu/v1/predict HTTP/1.1"
    assert {b"Host: 127.0.0.1:8500", b"Content-Length: 2", b"x-api-key: pk_1"} <= set(lines)
    assert b"Inference-Header-Content-Length: 2" in lines
    assert body == b"{}"


def test_rows_go_round_the_records_and_every_record_is_sent() -> None:
    sent = requests_of(RECORDS, target=TARGET, protocol="records", rows=2, project="p", datatypes={})
    bodies = [msgspec.json.decode(each.partition(b"\r\n\r\n")[2])["records"] for each in sent]
    assert {len(body) for body in bodies} == {2}
    assert {record["tailnum"] for body in bodies for record in body} == {record["tailnum"] for record in RECORDS}
    with pytest.raises(ValueError, match="found 0 records"):
        requests_of([], target=TARGET, protocol="records", rows=1, project="p", datatypes={})


def test_the_slot_of_an_answer_is_read_and_several_are_told_apart() -> None:
    one = b'{"predictions":[{"slot":"champion","model_version":"1","score":0.1}],"rollout":null}'
    assert slot_in_records(one) == ("champion", "1")
    two = b'{"predictions":[{"slot":"champion","model_version":"1"},{"slot":"challenger","model_version":"2"}]}'
    assert slot_in_records(two) == (MIXED, MIXED)


def test_the_version_is_read_in_front_of_binary_tensors() -> None:
    json = b'{"model_version":"1","outputs":[{"name":"score"},{"name":"model_version","data":["2","2"]}]}'
    assert version_in_tensors(json) == ("", "2")
    assert version_in_tensors(json + b"\xff\x00}\x01") == ("", "2")
    assert version_in_tensors(b'{"model_version":"1","outputs":[{"name":"score","data":[0.5]}]}') == ("", "1")
    assert classify_of("open-inference-binary") is version_in_tensors
