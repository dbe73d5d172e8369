import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import msgspec
import pytest

from contracts.problem import CONTENT_TYPE, Problem
from contracts.slots import HardLimits, LoadSlot, Observation, PromoteSlot, RenewLease, SetShare, SlotCounts
from pipelines.rollout.platforms.local import LocalPlatform
from pipelines.rollout.platforms.port import PlatformUnreachableError, SlotRefusedError

SEEN = Observation(
    server="s", clock_s=1, rollout=None, share=0, shadow=False, lease_left_s=0, champion=SlotCounts(version="1"),
    challenger=None, shadowed=None,
)  # fmt: skip


@dataclass
class Server:
    """A server that answers all requests alike, and remembers them."""

    url: str
    answer: tuple[int, str, bytes] = (200, "application/json", b"{}")
    requests: list[tuple[str, str, str | None, Any]] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            decoded = msgspec.json.decode(body) if body else None
            found.requests.append((self.command, self.path, self.headers.get("authorization"), decoded))
            status, kind, content = found.answer
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_DELETE = handle_any  # noqa: N815

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listening.daemon_threads = True
    found = Server(url=f"http://127.0.0.1:{listening.server_address[1]}")
    thread = Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield found
    listening.shutdown()
    listening.server_close()
    thread.join()


def test_each_message_goes_to_its_route_as_the_contract_says(server: Server) -> None:
    limits = HardLimits(errors=3, window=9)

    async def talk() -> None:
        async with LocalPlatform(server.url, token="secret") as platform:
            await platform.load(LoadSlot(version="2", bundle="b", path="/b", rollout="r", hard_limits=limits))
            await platform.set_share(SetShare(rollout="r", share=0.1))
            await platform.renew_lease(RenewLease(rollout="r", lease_s=9, fence=7))
            await platform.promote(PromoteSlot(version="2", expected="1"))
            await platform.drop("r 1&x")

    asyncio.run(talk())
    routes = [(method, path) for method, path, _, _ in server.requests]
    assert routes == [
        ("PUT", "/control/challenger"),
        ("PUT", "/control/share"),
        ("PUT", "/control/lease"),
        ("POST", "/control/promote"),
        ("DELETE", "/control/challenger?rollout=r+1%26x"),
    ]
    assert {token for _, _, token, _ in server.requests} == {"Bearer secret"}
    assert msgspec.convert(server.requests[0][3], LoadSlot).hard_limits == limits
    assert server.requests[2][3] == {"rollout": "r", "lease_s": 9, "fence": 7}


def observe(url: str, **options: Any) -> Observation:
    async def ask() -> Observation:
        async with LocalPlatform(url, **options) as platform:
            return await platform.observe()

    return asyncio.run(ask())


def test_an_observation_is_read(server: Server) -> None:
    server.answer = (200, "application/json", msgspec.json.encode(SEEN))
    assert observe(server.url + "/") == SEEN
    assert server.requests == [("GET", "/control/observation", None, None)]


def test_a_refusal_carries_the_servers_reason(server: Server) -> None:
    problem = Problem(title="Conflict", status=409, detail="another rollout holds the slot")
    server.answer = (409, CONTENT_TYPE, msgspec.json.encode(problem))
    with pytest.raises(SlotRefusedError, match="another rollout holds the slot") as caught:
        observe(server.url)
    assert caught.value.status == 409


def test_a_refusal_without_a_problem_shows_what_was_answered(server: Server) -> None:
    server.answer = (404, "text/plain", b"no such page")
    with pytest.raises(SlotRefusedError, match=r"no such page \(404\)"):
        observe(server.url)


def test_a_server_in_trouble_is_no_refusal(server: Server) -> None:
    server.answer = (503, "text/plain", b"starting")
    with pytest.raises(PlatformUnreachableError, match="503 starting"):
        observe(server.url)


def test_an_answer_that_is_no_observation_names_the_likely_cause(server: Server) -> None:
    with pytest.raises(PlatformUnreachableError, match="is this the model server"):
        observe(server.url)


def test_a_server_that_is_not_there_is_unreachable() -> None:
    listening = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    port = listening.server_address[1]
    listening.server_close()
    with pytest.raises(
        PlatformUnreachableError, match=f"GET http://127.0.0.1:{port}/control/observation: ConnectError"
    ):
        observe(f"http://127.0.0.1:{port}")
