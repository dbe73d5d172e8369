"""What a request costs inside the server, without sockets: CPU time on the event loop's thread and in the log's.

    .venv/bin/python benchmarks/serving/inside.py [--rounds 7] [--requests 2000] [--shadow]

Whole requests are given to the server's own connections by a transport that goes nowhere: HTTP parsing, the API key,
decoding, validation, encoding, the graph, the answer and the prediction log are all real. It is CPU time, so it says
something on a machine that has other work as well. Quickest round and median, in microseconds a request.
"""

import argparse
import asyncio
import cProfile
import itertools
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import contenders
import model
import uvicorn
from uvicorn.server import ServerState

from contracts.slots import LoadSlot, SetShare
from pipelines.benchmarking.bodies import request
from pipelines.benchmarking.connections import Target
from pipelines.tasks.benching import event_loop
from serving.app import ModelServer
from serving.connection import PredictionConnection
from serving.engine import load_model
from serving.garbage import settle
from serving.process import configuration
from serving.settings import read_settings

ONE = "one record, JSON"
CONNECTIONS = {ONE: 16, "32 records, JSON": 4, "32 rows, binary": 4}


class Size(NamedTuple):
    """How much is asked; `only` is the form that is profiled."""

    rounds: int
    requests: int
    only: str
    has_shadow: bool


def _ours() -> contenders.Contender:
    return next(each for each in contenders.CONTENDERS if each.key == "paceline")


class _Nowhere(asyncio.Transport):
    """A transport whose peer reads everything; it counts the answers and keeps the last one."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.answers = 0
        self.last = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """One answer."""
        self.answers += 1
        self.last = bytes(data)

    def is_closing(self) -> bool:
        """Never."""
        return False

    def close(self) -> None:
        """Nothing is open."""

    def pause_reading(self) -> None:
        """Nothing is read."""

    def resume_reading(self) -> None:
        """Nothing is read."""


def requests_of(work: contenders.Workload, api_key: str) -> dict[str, list[bytes]]:
    """For each form its requests as they go over the wire."""
    target, ours = Target("127.0.0.1", 1), _ours()
    if ours.binary is None:
        raise RuntimeError("this server takes binary tensors")

    def whole(form: contenders.Form, rows: Sequence[slice]) -> list[bytes]:
        made = []
        for each in rows:
            body, head_length = form.body(work, each)
            made.append(request(target, form.route, body, api_key=api_key, head_length=head_length))
        return made

    singles = [slice(row, row + 1) for row in range(len(work.records))]
    forms = [whole(ours.own, singles), whole(ours.records, work.batches()), whole(ours.binary, work.batches())]
    return dict(zip(CONNECTIONS, forms, strict=True))


class _Clients:
    """Connections of the server, asked all at once and then waited for, turn by turn."""

    def __init__(self, config: uvicorn.Config, bodies: list[bytes], count: int) -> None:
        state = ServerState()
        state.default_headers = [(b"date", b"Mon, 01 Jul 2013 00:00:00 GMT")]
        self.transports = [_Nowhere() for _ in range(count)]
        self.connections = [PredictionConnection(config, state, {}, asyncio.get_running_loop()) for _ in range(count)]
        for connection, transport in zip(self.connections, self.transports, strict=True):
            connection.connection_made(transport)
        self._bodies = itertools.cycle(bodies)

    async def ask(self, requests: int) -> int:
        """At least `requests`, divided among the connections; how many were answered.

        Raises:
            RuntimeError: an answer is no prediction.
        """
        before = sum(each.answers for each in self.transports)
        for _ in range(-(-requests // len(self.connections))):
            due = self.transports[-1].answers + 1
            for connection in self.connections:
                connection.data_received(next(self._bodies))
            while self.transports[-1].answers < due:
                await asyncio.sleep(0)
        for each in self.transports:
            if not each.last.startswith(b"HTTP/1.1 200 "):
                raise RuntimeError(f"an answer is {each.last[:500]!r}")
        return sum(each.answers for each in self.transports) - before

    def close(self) -> None:
        """The clients go."""
        for connection in self.connections:
            connection.connection_lost(None)


async def measure(server: ModelServer, config: uvicorn.Config, work: dict[str, list[bytes]], size: Size) -> None:
    """Asks each form in turns, and prints a line for each."""
    log = next(each for each in threading.enumerate() if each.name == "prediction-writer")
    log_clock = time.pthread_getcpuclockid(log.ident or 0)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in work}
    for _ in range(size.rounds):
        for name, bodies in work.items():
            clients = _Clients(config, bodies, CONNECTIONS[name])
            loop_s, log_s = time.thread_time(), time.clock_gettime(log_clock)
            done = await clients.ask(size.requests if name == ONE else size.requests // 8)
            loop_s = time.thread_time() - loop_s
            while server.writer.buffered_rows:
                await asyncio.sleep(0.01)
            log_s = time.clock_gettime(log_clock) - log_s
            taken[name].append((loop_s / done * 1e6, log_s / done * 1e6))
            clients.close()
    print("| form | event loop, µs | median | log's thread, µs | median |\n| --- | ---: | ---: | ---: | ---: |")  # noqa: T201
    for name, found in taken.items():
        cells = [f"{min(each):.1f} | {statistics.median(each):.1f}" for each in zip(*found, strict=True)]
        print(f"| {name} | {' | '.join(cells)} |")  # noqa: T201


def _begin_shadow(server: ModelServer, work: contenders.Workload) -> None:
    """A challenger of the champion's own bundle, which shadows all requests."""
    bundle, model = work.bundle, load_model(work.bundle.path, work.bundle.id, "2", contenders.PROJECT)
    server.slots.place(LoadSlot(version="2", bundle=bundle.id, path=str(bundle.path), rollout="benchmark"), model)
    server.slots.set_share(SetShare(rollout="benchmark", share=0.0, shadow=True, lease_s=3600.0))


async def run(work: contenders.Workload, size: Size, profile: Path | None) -> None:
    """A server through its whole life."""
    api_key = contenders.make_key(work)
    settings = read_settings(contenders.environment_of(_ours(), 1, work))
    server = ModelServer(settings)
    config = configuration(settings, server)
    config.load()
    await server.start()
    if size.has_shadow:
        _begin_shadow(server, work)
    settle()
    try:
        requests = requests_of(work, api_key)
        if profile is None:
            await measure(server, config, requests, size)
        else:
            profiled = cProfile.Profile(builtins=False)
            clients = _Clients(config, requests[size.only], CONNECTIONS[size.only])
            profiled.enable()
            await clients.ask(size.requests)
            profiled.disable()
            profiled.dump_stats(profile)
    finally:
        await server.stop()


def main() -> None:
    """Measures all forms, or profiles one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--requests", type=int, default=4000, help="of one record; of batches an eighth")
    parser.add_argument("--profile", type=Path, help="write what cProfile saw of `--form` to this file instead")
    parser.add_argument("--form", choices=tuple(CONNECTIONS), default=ONE)
    parser.add_argument("--shadow", action="store_true", help="a challenger shadows all requests")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, event_loop() as runner:
        work = contenders.Workload(*model.build(Path(name)), Path(name))
        size = Size(options.rounds, options.requests, options.form, options.shadow)
        runner.run(run(work, size, options.profile))


if __name__ == "__main__":
    main()
