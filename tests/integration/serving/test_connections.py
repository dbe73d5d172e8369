"""The server's connections, over real sockets: what comes in pieces, too large, too slow or not at all."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from serving.admission import MAXIMUM_BODY_BYTES
from serving.connection import MAXIMUM_HEAD_BYTES
from tests.fixtures.bundles import tiny_record
from tests.fixtures.connections import BODY, PREDICT, Run, Running, Scenario, answer, exchange, post


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def running(scenario: Scenario, keep_alive_s: int = 30) -> None:
        async def main() -> None:
            async with asyncio.timeout(60), Running(tmp_path, keep_alive_s) as server:
                await scenario(server)

        asyncio.run(main())

    return running


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


def scores(body: bytes) -> list[float]:
    return [each["score"] for each in msgspec.json.decode(body)["predictions"]]


def test_a_request_that_comes_byte_by_byte_has_the_same_answer(run: Run) -> None:
    async def scenario(server: Running) -> None:
        _, _, whole = await exchange(server, post())
        reader, writer = await server.connect()
        for byte in post():
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)
        status, _, slow = await answer(reader)
        assert status == 200
        assert scores(slow) == scores(whole)

    run(scenario)


def test_requests_sent_at_once_on_one_connection_are_answered_in_their_order(run: Run) -> None:
    async def scenario(server: Running) -> None:
        reader, writer = await server.connect()
        chunked = PREDICT + b"transfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
        writer.write(
            post(BODY, b"x-request-id: a")
            + b"GET /livez HTTP/1.1\r\nhost: here\r\n\r\n"
            + post(b"no JSON", b"x-request-id: c")
            + chunked
            + b"GET /v1/predict HTTP/1.1\r\nhost: here\r\n\r\n"
            + post(BODY, b"x-request-id: f")
        )
        found = [await answer(reader) for _ in range(6)]
        assert [status for status, _, _ in found] == [200, 200, 400, 200, 405, 200]
        assert [headers.get("x-request-id") for _, headers, _ in found][::2] == ["a", "c", None]
        assert found[4][1]["allow"] == "POST"
        assert found[1][2] == b'{"live":true}'
        assert scores(found[3][2]) == scores(found[5][2])

    run(scenario)


@pytest.mark.parametrize("path", [b"/v1/predict?a=1", b"/v1/pr%65dict", b"http://here/v1/predict"])
def test_a_path_is_found_in_every_form_that_http_allows(run: Run, path: bytes) -> None:
    async def scenario(server: Running) -> None:
        status, _, _ = await exchange(server, post(path=path))
        assert status == 200

    run(scenario)


def test_a_client_that_asks_first_is_told_to_go_on_or_not(run: Run) -> None:
    async def scenario(server: Running) -> None:
        reader, writer = await server.connect()
        writer.write(PREDICT + b"content-length: %d\r\nexpect: 100-continue\r\n\r\n" % len(BODY))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(BODY)
        assert (await answer(reader))[0] == 200
        writer.write(PREDICT + b"content-length: %d\r\nexpect: 100-continue\r\n\r\n" % (MAXIMUM_BODY_BYTES + 1))
        assert (await answer(reader))[0] == 413

    run(scenario)


@pytest.mark.parametrize(
    "sent",
    [
        post(BODY, b"connection: close"),
        b"POST /v1/predict HTTP/1.0\r\ncontent-length: %d\r\n\r\n" % len(BODY) + BODY,
    ],
)
def test_a_connection_ends_after_the_answer_where_the_client_wants_it(run: Run, sent: bytes) -> None:
    async def scenario(server: Running) -> None:
        reader, writer = await server.connect()
        writer.write(sent)
        status, headers, _ = await answer(reader)
        assert (status, headers["connection"]) == (200, "close")
        assert await reader.read() == b""

    run(scenario)


def test_a_body_up_to_the_limit_is_read_and_a_larger_one_refused_before_it_came(run: Run) -> None:
    async def scenario(server: Running) -> None:
        many = msgspec.json.encode({"records": [tiny_record()] * 1000})  # one must not be as large as many
        status, _, found = await exchange(server, post(many.ljust(MAXIMUM_BODY_BYTES)))
        assert (status, len(scores(found))) == (200, 1000)
        status, _, found = await exchange(server, post(BODY.ljust(MAXIMUM_BODY_BYTES)))
        assert (status, b"expected at most 6,144" in found) == (422, True)
        announced = PREDICT + b"content-length: %d\r\n\r\n" % (100 << 20)
        status, _, found = await exchange(server, announced)
        assert (status, msgspec.json.decode(found)["title"]) == (413, "Body too large")

    run(scenario)


def test_a_body_of_unknown_length_is_refused_when_it_passes_the_limit(run: Run) -> None:
    async def scenario(server: Running) -> None:
        reader, writer = await server.connect()
        writer.write(PREDICT + b"transfer-encoding: chunked\r\n\r\n")
        piece = b"%x\r\n%s\r\n" % (1 << 16, b" " * (1 << 16))
        sending = asyncio.create_task(_send_for_ever(writer, piece))
        assert (await answer(reader))[0] == 413
        sending.cancel()
        [connection] = server.connections
        assert connection.cycle.body == b"", "nothing of it is kept"

    run(scenario)


async def _send_for_ever(writer: asyncio.StreamWriter, piece: bytes) -> None:
    with suppress(ConnectionError):
        while True:
            writer.write(piece)
            await writer.drain()


def test_headers_up_to_the_limit_are_read_and_more_are_refused(run: Run) -> None:
    async def scenario(server: Running) -> None:
        status, _, _ = await exchange(server, post(BODY, b"x-long: " + b"a" * (MAXIMUM_HEAD_BYTES // 2)))
        assert status == 200
        reader, writer = await server.connect()
        sending = asyncio.create_task(_send_for_ever(writer, b"a" * 1000))
        writer.write(PREDICT + b"x-long: ")
        assert (await reader.readline()).startswith(b"HTTP/1.1 431")
        sending.cancel()

    run(scenario)


@pytest.mark.parametrize(
    "begun", [PREDICT + b"content-length: 100\r\n\r\n{", PREDICT, b"POST /control/promote HTTP/1.1\r\nhost: h"]
)
def test_a_request_that_is_not_complete_in_time_is_given_up(
    run: Run, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr("serving.connection.MAXIMUM_REQUEST_S", 0.1)

    async def scenario(server: Running) -> None:
        reader, writer = await server.connect()
        writer.write(begun)
        status, headers, _ = await answer(reader)
        assert (status, headers["connection"]) == (408, "close")
        assert await reader.read() == b""

    run(scenario)


def test_a_connection_that_is_idle_is_closed_and_one_in_use_is_not(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.connection.MAXIMUM_REQUEST_S", 0.1)  # looks as often

    async def scenario(server: Running) -> None:
        idle, _ = await server.connect()
        reader, writer = await server.connect()
        closed = asyncio.create_task(idle.read())
        while not closed.done():
            writer.write(post())
            assert (await answer(reader))[0] == 200
            await asyncio.sleep(0.01)
        assert closed.result() == b""
        writer.write(post())
        assert (await answer(reader))[0] == 200

    run(lambda server: scenario(server), keep_alive_s=1)  # type: ignore[call-arg]


def test_a_client_that_hangs_up_leaves_nothing_behind(run: Run) -> None:
    async def scenario(server: Running) -> None:
        for sent in (post()[:-5], post(), PREDICT):
            _, writer = await server.connect()
            writer.write(sent)
            await writer.drain()
            writer.transport.abort()
        await until(lambda: not server.connections)
        assert server.application.metrics.batcher.waiting_rows == 0
        assert (await exchange(server, post()))[0] == 200

    run(scenario)


def test_bytes_beyond_the_announced_length_are_no_part_of_the_body(run: Run) -> None:
    async def scenario(server: Running) -> None:
        reader, writer = await server.connect()
        writer.write(post() + b"and more\r\n\r\n")
        status, headers, _ = await answer(reader)
        assert (status, headers["connection"]) == (200, "close")
        assert (await exchange(server, b"and more\r\n\r\n"))[0] == 400

    run(scenario)


def test_a_client_that_does_not_read_its_answers_is_not_read_from(run: Run) -> None:
    async def scenario(server: Running) -> None:
        reader, writer = await server.connect()
        body = msgspec.json.encode({"records": [tiny_record(number % 30) for number in range(500)]})
        count = 200
        sending = asyncio.create_task(_send_all(writer, [post(body)] * count))
        [connection] = [each async for each in _connections(server)]
        await until(lambda: connection.flow.write_paused)
        held = connection.transport.get_write_buffer_size()
        assert held < 4 << 20
        found = [await answer(reader) for _ in range(count)]
        await sending
        assert {status for status, _, _ in found} == {200}
        assert {len(scores(content)) for _, _, content in found} == {500}

    run(scenario)


async def _send_all(writer: asyncio.StreamWriter, requests: list[bytes]) -> None:
    for request in requests:
        writer.write(request)
        await writer.drain()


async def _connections(server: Running) -> Any:
    await until(lambda: bool(server.connections))
    for connection in server.connections:
        yield connection


def test_a_server_that_stops_answers_what_is_on_its_way_and_then_closes(run: Run) -> None:
    async def scenario(server: Running) -> None:
        idle, _ = await server.connect()
        reader, writer = await server.connect()
        writer.write(post()[:-1])
        await until(lambda: any(connection.cycle is not None for connection in server.connections))
        late, late_writer = await server.connect()
        late_writer.write(post())
        assert (await answer(late))[1].get("connection") is None
        for connection in list(server.connections):
            connection.shutdown()
        writer.write(b"}")
        late_writer.write(post())
        for each in (reader, late):
            status, headers, _ = await answer(each)
            assert (status, headers["connection"]) == (200, "close")
            assert await each.read() == b""
        assert await idle.read() == b""
        await until(lambda: not server.connections)

    run(scenario)
