"""One worker beside two: throughput, CPU time for each request, memory, and how even the connections are.

    .venv/bin/python benchmarks/serving/workers.py [--rounds 5] [--seconds 2] [--json FILE]

Both servers have the same remembered champion (200 trees on 15 columns) and get the same requests in turns. The client
is a bare protocol on uvloop, and still takes a part of the same cores: so its CPU time is told as well, and requests of
32 rows, where that part is small, stand beside those of one.
"""

import argparse
import asyncio
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import uvloop

from serving.champion_file import Remembered, State, write_state

_CASES = tuple((rows, connections) for rows in (1, 32) for connections in (16, 64))


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def pss_mb(process: int) -> float:
    """Resident memory in MB (10⁶ bytes); of what processes share, each has its part."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    (found,) = (line.split()[1] for line in lines if line.startswith("Pss:"))
    return round(int(found) * 1024 / 1e6, 1)


def as_table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + " --- |" * len(rows[0])]
    lines += ["| " + " | ".join(str(value) for value in row.values()) + " |" for row in rows]
    return "\n".join(lines)


@dataclass
class Running:
    """A server under measurement: rounds by (rows, connections) of requests a second and CPU µs of both sides."""

    workers: int
    port: int
    process: psutil.Process
    rounds: dict[tuple[int, int], list[tuple[float, float, float]]] = field(default_factory=dict)

    @property
    def family(self) -> list[psutil.Process]:
        """The process and its workers."""
        return [self.process, *self.process.children()]

    def cpu_s(self) -> float:
        """CPU time of all of them so far."""
        return sum(sum(each.cpu_times()[:2]) for each in self.family)


class _Client(asyncio.Protocol):
    """Sends the next request when the answer to the last one is complete."""

    def __init__(self, requests: list[bytes], tally: list[int], is_over: asyncio.Event) -> None:
        self._requests = requests
        self._tally = tally
        self._is_over = is_over
        self._next = 0
        self.ended = asyncio.get_running_loop().create_future()
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._send()

    def data_received(self, data: bytes) -> None:
        data = self._buffer + data
        end = data.find(b"\r\n\r\n")
        if end >= 0:
            start = data.find(b"content-length: ") + 16
            if len(data) >= end + 4 + int(data[start : data.find(b"\r", start)]):
                if not data.startswith(b"HTTP/1.1 200"):
                    raise RuntimeError(data[:500].decode())
                self._tally[0] += 1
                self._buffer = b""
                if self._is_over.is_set():
                    self.ended.set_result(None)
                else:
                    self._send()
                return
        self._buffer = data

    def _send(self) -> None:
        assert self._transport is not None
        self._transport.write(self._requests[self._next % len(self._requests)])
        self._next += 1


async def ask(port: int, requests: list[bytes], connections: int, seconds: float) -> int:
    """Keeps `connections` busy for `seconds`; how many answers came."""
    loop = asyncio.get_running_loop()
    tally, is_over = [0], asyncio.Event()
    made = [
        await loop.create_connection(lambda: _Client(requests, tally, is_over), "127.0.0.1", port)
        for _ in range(connections)
    ]
    await asyncio.sleep(seconds)
    is_over.set()
    await asyncio.gather(*(client.ended for _, client in made))
    for transport, _ in made:
        transport.close()
    return tally[0]


def measure(server: Running, requests: list[bytes], rows: int, connections: int, seconds: float) -> None:
    """One round."""
    server_s, own_s, started = server.cpu_s(), time.process_time(), time.perf_counter()
    answers = uvloop.run(ask(server.port, requests, connections, seconds))
    taken_s = time.perf_counter() - started
    server.rounds.setdefault((rows, connections), []).append(
        (
            answers / taken_s,
            (server.cpu_s() - server_s) / answers * 1e6,
            (time.process_time() - own_s) / answers * 1e6,
        )
    )


def evenness(server: Running, connections: int = 64, tries: int = 10) -> list[list[int]]:
    """How many of `connections` that come at once each worker has, smallest first, several times."""

    async def once() -> list[int]:
        made = await asyncio.gather(*(asyncio.open_connection("127.0.0.1", server.port) for _ in range(connections)))
        for reader, writer in made:
            writer.write(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
        held = [
            sum(1 for each in worker.net_connections("tcp") if each.status == "ESTABLISHED")
            for worker in server.process.children()
        ]
        for _, writer in made:
            writer.close()
        await asyncio.sleep(0.1)
        return sorted(held)

    return [uvloop.run(once()) for _ in range(tries)]


@contextmanager
def serving(folder: Path, workers: int) -> Iterator[Running]:
    """A server of `workers` processes with the champion that `folder` remembers."""
    port = free_port()
    environment = {
        **os.environ,
        "PACELINE_SERVING_PROJECT": "benchmark",
        "PACELINE_SERVING_PORT": str(port),
        "PACELINE_SERVING_STATE": str(folder / "state"),
        "PACELINE_SERVING_PREDICTIONS": str(folder / f"predictions-{workers}"),
    }
    command = [sys.executable, "-m", "serving", "--workers", str(workers)]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 30
            while True:
                try:
                    httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=5, trust_env=False).raise_for_status()
                    break
                except httpx.HTTPError:
                    if process.poll() is not None or time.monotonic() > deadline:
                        log.seek(0)
                        raise RuntimeError(f"the server did not start: {log.read().decode()[-2000:]}") from None
                    time.sleep(0.05)
            yield Running(workers, port, psutil.Process(process.pid))
        finally:
            process.terminate()
            process.wait(30)


def summary(one: Running, two: Running) -> list[dict[str, Any]]:
    """Medians over the rounds; `times_one` compares rounds that stand beside each other."""
    rows = []
    for case in _CASES:
        ratio = statistics.median(
            second[0] / first[0] for first, second in zip(one.rounds[case], two.rounds[case], strict=True)
        )
        for server in (one, two):
            rate, cpu, own = (statistics.median(column) for column in zip(*server.rounds[case], strict=True))
            rows.append(
                {
                    "rows": case[0],
                    "connections": case[1],
                    "workers": server.workers,
                    "requests_s": round(rate),
                    "times_one": 1.0 if server is one else round(ratio, 2),
                    "server_cpu_us": round(cpu, 1),
                    "client_cpu_us": round(own, 1),
                }
            )
    return rows


def main() -> None:
    """Builds the model, measures both servers in turns, and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    options = parser.parse_args()
    import model

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle, records = model.build(folder)
        write_state(folder / "state", State(champion=Remembered(version="1", bundle=bundle.id, path=str(bundle.path))))
        requests = {
            rows: [_request(records[start : start + rows]) for start in range(0, 320, rows)] for rows in (1, 32)
        }
        with serving(folder, 1) as one, serving(folder, 2) as two:
            fresh = {each.workers: [pss_mb(process.pid) for process in each.family] for each in (one, two)}
            for number in range(options.rounds):
                for rows, connections in _CASES:
                    for server in (one, two):
                        measure(server, requests[rows], rows, connections, options.seconds)
                print(f"round {number + 1} of {options.rounds}", file=sys.stderr)  # noqa: T201
            used = {each.workers: [pss_mb(process.pid) for process in each.family] for each in (one, two)}
            spread = evenness(two)
        found = summary(one, two)
    if options.json:
        options.json.write_text(json.dumps({"rows": found, "fresh": fresh, "used": used, "spread": spread}, indent=1))
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores; medians of {options.rounds} rounds")  # noqa: T201
    print(as_table(found))  # noqa: T201
    for title, memory in (("at the start", fresh), ("after the requests", used)):
        for workers, processes in memory.items():
            told = " + ".join(str(each) for each in processes)
            print(f"PSS in MB {title}, {workers} workers: {told} = {sum(processes):.1f}")  # noqa: T201
    print(f"connections of 64 that came at once, by worker: {spread}")  # noqa: T201


def _request(records: list[dict[str, Any]]) -> bytes:
    body = json.dumps({"records": records}).encode()
    return b"POST /v1/predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (
        len(body),
        body,
    )


if __name__ == "__main__":
    main()
