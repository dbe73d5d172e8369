"""The short way of usual requests says what the long one says, over real sockets, and takes nothing that is unusual."""

import asyncio
from collections.abc import Awaitable, Callable
from operator import itemgetter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.bundle import Bundle
from contracts.slots import LoadSlot, SetShare
from pipelines.tasks import keys
from serving.access import RequestHead
from serving.connection import PredictionConnection
from serving.engine import load_model
from serving.routes.predict import PREDICT_PATH, Route
from serving.short_way import KnownHead, ShortWay
from tests.fixtures.bundles import TINY_SCHEMA, tiny_bundle, tiny_record
from tests.fixtures.connections import BODY, Running, answer, post
from tests.fixtures.prediction_log import logged_rows
from tests.fixtures.protocol_bodies import requests_of
from tests.fixtures.wire import Answered

Client = Callable[[bytes], Awaitable[tuple[int, dict[str, str], bytes]]]
Scenario = Callable[[Running, Client], Awaitable[None]]


class Taken(list[bool]):
    """Of each request that was offered to the short way, whether it took it."""


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Taken:
    found, take = Taken(), ShortWay.take

    def spied(*given: Any) -> bool:
        found.append(take(*given))
        return found[-1]

    monkeypatch.setattr(ShortWay, "take", spied)
    return found


@pytest.fixture
def served(tmp_path: Path) -> Callable[..., None]:
    """Runs a scenario with a server and one client that keeps its connection."""

    def run(scenario: Scenario, bundle: Bundle | None = None, **changes: Any) -> None:
        async def main() -> None:
            async with asyncio.timeout(60), Running(tmp_path, bundle=bundle, **changes) as server:
                reader, writer = await server.connect()

                async def ask(sent: bytes) -> tuple[int, dict[str, str], bytes]:
                    writer.write(sent)
                    return await answer(reader)

                await scenario(server, ask)

        asyncio.run(main())

    return run


def body(*records: dict[str, Any]) -> bytes:
    return msgspec.json.encode({"records": records})


def without_ids(found: tuple[int, dict[str, str], bytes]) -> Any:
    status, headers, content = found
    told = msgspec.json.decode(content)
    for each in told["predictions"]:
        assert each.pop("prediction_id")
    return status, sorted(headers.keys() - {"date"}), headers["content-length"], told


def test_the_second_request_of_a_connection_goes_the_short_way_and_has_the_same_answer_and_row(
    served: Callable[..., None], taken: Taken, tmp_path: Path
) -> None:
    told: list[str] = []

    async def scenario(server: Running, ask: Client) -> None:
        first, second = await ask(post()), await ask(post())
        assert taken == [True]
        assert without_ids(first) == without_ids(second)
        third = await ask(post(body(tiny_record(7))))
        assert taken == [True, True], "another body, and another length, behind the same head"
        told.extend(headers["x-request-id"] for _, headers, _ in (first, second, third))

    served(scenario, features_share=0.0)
    long, short, other = logged_rows(tmp_path / "predictions")
    own = {"prediction_id", "request_id", "served_at", "latency_us"}
    assert {name for name in long if long[name] != short[name]} <= own
    assert {long["request_id"], short["request_id"], other["request_id"]} == set(told)
    assert other["entity"] == "N10007"


def test_what_is_wrong_with_a_record_is_told_as_ever(served: Callable[..., None], taken: Taken) -> None:
    async def scenario(server: Running, ask: Client) -> None:
        await ask(post())
        status, _, content = await ask(post(body(tiny_record(distance=-1.0))))
        assert (status, msgspec.json.decode(content)["errors"][0]["field"]) == (422, "distance")
        assert (await ask(post(b'{"records": [{')))[0] == 400
        assert (await ask(post(body(tiny_record(), tiny_record(1)))))[0] == 200
        assert (await ask(post(body(tiny_record(humid=...)))))[0] == 200
        assert taken == [False] * 4
        assert (await ask(post()))[0] == 200
        assert taken[-1]

    served(scenario)


def test_a_head_is_parsed_once_for_batches_and_the_other_protocols_too(
    served: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[object] = []
    began = PredictionConnection.on_message_begin

    def spied(connection: PredictionConnection) -> None:
        parsed.append(connection)
        began(connection)

    monkeypatch.setattr(PredictionConnection, "on_message_begin", spied)
    batches = [[tiny_record(first + row) for row in range(4)] for first in (0, 40, 900)]
    asked = [requests_of("flight_delay", TINY_SCHEMA, records) for records in batches]
    given: dict[str, list[list[float]]] = {}

    async def scenario(server: Running, ask: Client) -> None:
        for name in asked[0]:
            before = len(parsed)
            for _, body, headers, scores in map(itemgetter(name), asked):
                lines = [f"{key.replace('_', '-')}: {value}".encode() for key, value in headers.items()]
                status, told, content = await ask(post(body, *lines, path=asked[0][name].path.encode()))
                assert status == 200, (name, content)
                given.setdefault(name, []).append(scores(Answered(status, told, content)))
            assert len(parsed) - before == (name != "inputs"), f"{name}: inputs have the head of instances"
        assert (await ask(post(b"{")))[0] == 400

    served(scenario)
    for name, scores in given.items():
        for found, expected in zip(scores, given["records"], strict=True):
            assert found == pytest.approx(expected), name


def test_a_score_that_cannot_be_given_is_told_as_ever(
    served: Callable[..., None], taken: Taken, tmp_path: Path
) -> None:
    async def scenario(server: Running, ask: Client) -> None:
        assert (await ask(post()))[0] == 200
        status, _, content = await ask(post(body(tiny_record(distance=5000.0))))
        assert taken == [True]
        assert status == 500
        assert "could not score" in msgspec.json.decode(content)["detail"]
        assert (await ask(post()))[0] == 200

    served(scenario, tiny_bundle(tmp_path / "failing", fail_above=4000.0))


def test_a_revoked_key_opens_nothing_also_behind_a_known_head(
    served: Callable[..., None], taken: Taken, tmp_path: Path
) -> None:
    file = tmp_path / "keys.json"
    created = keys.create(file, "shop", scopes=["predict"])
    key = b"x-api-key: " + created["key"].encode()

    async def scenario(server: Running, ask: Client) -> None:
        assert [(await ask(post(BODY, key)))[0] for _ in range(2)] == [200, 200]
        assert taken == [True]
        assert (await ask(post()))[0] == 401, "without the key it is another head"
        assert (await ask(post(BODY, key)))[0] == 200
        keys.revoke(file, created["id"])
        while (await ask(post(BODY, key)))[0] == 200:
            await asyncio.sleep(0.05)
        assert not taken[-1]

    served(scenario, keys=file)


def test_a_clients_rate_holds_on_the_short_way(served: Callable[..., None], taken: Taken, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    key = b"x-api-key: " + keys.create(file, "shop", scopes=["predict"], rate_per_s=0.01, burst=3)["key"].encode()

    async def scenario(server: Running, ask: Client) -> None:
        found = [await ask(post(BODY, key)) for _ in range(4)]
        assert [status for status, _, _ in found] == [200, 200, 200, 429]
        assert taken == [True, True, False]
        assert [headers["ratelimit-remaining"] for _, headers, _ in found] == ["2", "1", "0", "0"]

    served(scenario, keys=file)


def test_requests_sent_behind_one_on_the_short_way_are_answered_in_their_order(
    served: Callable[..., None], taken: Taken
) -> None:
    async def scenario(server: Running, ask: Client) -> None:
        reader, writer = await server.connect()
        writer.write(post())
        await answer(reader)
        writer.write(post())
        await answer(reader)
        (connection,) = [each for each in server.connections if each.cycle is not None]
        connection.data_received(post())
        connection.data_received(post(BODY, b"x-request-id: second"))
        connection.data_received(post(b"no JSON", b"x-request-id: third"))
        found = [await answer(reader) for _ in range(3)]
        assert taken == [True, True]
        assert [status for status, _, _ in found] == [200, 200, 400]
        assert [headers.get("x-request-id") for _, headers, _ in found][1:2] == ["second"]
        writer.write(post())
        assert (await answer(reader))[0] == 200

    served(scenario)


def test_a_client_that_is_gone_and_a_server_that_stops_end_a_request_on_the_short_way(
    served: Callable[..., None], taken: Taken
) -> None:
    async def scenario(server: Running, ask: Client) -> None:
        await ask(post())
        (connection,) = server.connections
        reader, writer = await server.connect()
        writer.write(post())
        await answer(reader)
        (other,) = server.connections - {connection}
        other.data_received(post())
        other.transport.abort()
        other.connection_lost(None)
        connection.data_received(post())
        connection.shutdown()
        assert taken == [True, True]
        await asyncio.sleep(0.05)
        responses = server.application.metrics.responses
        assert responses == {("predict", 200): 3, ("predict", 499): 1}
        assert connection.transport.is_closing()
        assert server.application.predictions.in_flight == 0

    served(scenario)


def test_what_goes_the_short_way_is_shadowed_and_a_challenger_with_a_share_ends_it(
    served: Callable[..., None], taken: Taken, tmp_path: Path
) -> None:
    other = tiny_bundle(tmp_path / "bundles", bias=0.5)

    async def scenario(server: Running, ask: Client) -> None:
        slots, metrics = server.application.slots, server.application.metrics
        model = load_model(other.path, other.id, "2", "flight_delay")
        slots.place(LoadSlot(version="2", bundle=other.id, path=str(other.path), rollout="r1"), model)
        slots.set_share(SetShare(rollout="r1", share=0, shadow=True, lease_s=60))
        for number in range(3):
            assert (await ask(post(body(tiny_record(number)))))[0] == 200
        assert taken == [True, True]
        while metrics.shadow_pairs < 3:
            await asyncio.sleep(0.01)
        slots.set_share(SetShare(rollout="r1", share=1.0, lease_s=60))
        _, _, content = await ask(post())
        assert msgspec.json.decode(content)["predictions"][0]["slot"] == "challenger"
        assert taken == [True, True, False]

    served(scenario)
    rows = logged_rows(tmp_path / "predictions")
    asked = [row["request_id"] for row in rows if row["slot"] == "champion"]
    assert [row["request_id"] for row in rows if row["slot"] == "shadow"] == asked


KNOWN = KnownHead(
    b"POST /v1/predict HTTP/1.1\r\ncontent-length: ",
    b"\r\nhost: here\r\n\r\n",
    RequestHead("POST", PREDICT_PATH, b"", []),
    Route("predict", lambda request: None, has_error_member=False),  # type: ignore[arg-type,return-value]
    None,
    1.0,
    is_short=True,
)


@given(
    digits=st.one_of(st.integers(0, 40).map(lambda n: b"%d" % n), st.sampled_from([b"", b"+3", b"3 ", b"0x3", b"-1"])),
    content=st.binary(max_size=30),
    cut=st.integers(0, 3),
)
@settings(deadline=None)
def test_a_known_head_is_one_whole_request_or_none(digits: bytes, content: bytes, cut: int) -> None:
    data = KNOWN.before + digits + KNOWN.after + content
    found = KNOWN.body_of(data[: len(data) - cut])
    kept = content[: len(content) - cut] if cut <= len(content) else None
    is_whole = digits.isdigit() and kept is not None and int(digits) == len(kept)
    assert found == (kept if is_whole else None)
