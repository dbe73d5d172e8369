"""What one prediction costs the model server, beside a bare server and a tutorial's, side by side in one run.

    .venv/bin/python benchmarks/serving/hot_path.py [--rounds 3] [--requests 4000]

Each server is a process of its own on loopback with the same model (200 trees on 15 columns, ONNX Runtime) and gets the
same one-row JSON requests over kept-alive connections. Rounds are interleaved, so that noise of the machine falls on
all of them alike; the CPU time of the server's process for each request is what to trust.
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

HERE = Path(__file__).parent
CONCURRENCIES = (1, 16, 64)


@dataclass
class Server:
    """A process under measurement; `path` is where it takes predictions."""

    name: str
    url: str
    path: str
    process: psutil.Process
    results: dict[int, list[tuple[float, float, float, float]]] = field(default_factory=dict)

    def cpu_s(self) -> float:
        """CPU time of the process and its children so far."""
        family = [self.process, *self.process.children(recursive=True)]
        return sum(sum(member.cpu_times()[:2]) for member in family)


async def load(server: Server, bodies: list[bytes], concurrency: int) -> list[float]:
    """Sends `bodies` over `concurrency` connections as fast as they are answered; latencies in seconds."""
    host, port = server.url.removeprefix("http://").split(":")
    head = f"POST {server.path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: "
    requests = [head.encode() + str(len(body)).encode() + b"\r\n\r\n" + body for body in bodies]
    latencies: list[float] = []
    todo = iter(requests)

    async def connection() -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        for request in todo:
            started = time.perf_counter()
            writer.write(request)
            header = await reader.readuntil(b"\r\n\r\n")
            if not header.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"{server.name} answered {header[:200]!r}")
            length = int(header.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            latencies.append(time.perf_counter() - started)
        writer.close()

    await asyncio.gather(*(connection() for _ in range(concurrency)))
    return latencies


def measure(server: Server, bodies: list[bytes], concurrency: int) -> None:
    """One round: CPU microseconds a request, requests a second, p50 and p99 in milliseconds."""
    cpu, started = server.cpu_s(), time.perf_counter()
    latencies = sorted(asyncio.run(load(server, bodies, concurrency)))
    seconds, used = time.perf_counter() - started, server.cpu_s() - cpu
    quantiles = latencies[len(latencies) // 2] * 1e3, latencies[int(len(latencies) * 0.99)] * 1e3
    server.results.setdefault(concurrency, []).append((used / len(bodies) * 1e6, len(bodies) / seconds, *quantiles))


@contextmanager
def started(name: str, command: list[str], port: int, path: str, environment: dict[str, str]) -> Iterator[Server]:
    """Starts a server, waits until it answers anything, and ends it."""
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 30
            while True:
                try:
                    httpx.get(f"{url}/livez", timeout=1, trust_env=False)
                    break
                except httpx.HTTPError:
                    if process.poll() is not None or time.monotonic() > deadline:
                        log.seek(0)
                        raise RuntimeError(f"{name} did not start: {log.read().decode()[-2000:]}") from None
                    time.sleep(0.05)
            yield Server(name, url, path, psutil.Process(process.pid))
        finally:
            process.terminate()
            process.wait(20)


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def summary(servers: list[Server]) -> list[dict[str, Any]]:
    """Medians over the rounds; `times_bare` is the CPU time in units of the bare server's."""
    rows = []
    for concurrency in CONCURRENCIES:
        bare = statistics.median(round_[0] for round_ in servers[0].results[concurrency])
        for server in servers:
            cpu, rate, p50, p99 = (
                statistics.median(column) for column in zip(*server.results[concurrency], strict=True)
            )
            rows.append(
                {
                    "server": server.name,
                    "connections": concurrency,
                    "times_bare": round(cpu / bare, 2),
                    "cpu_us": round(cpu),
                    "requests_s": round(rate),
                    "p50_ms": round(p50, 2),
                    "p99_ms": round(p99, 2),
                }
            )
    return rows


def as_table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + " --- |" * len(rows[0])]
    lines += ["| " + " | ".join(str(value) for value in row.values()) + " |" for row in rows]
    return "\n".join(lines)


def main() -> None:
    """Builds the model, starts the servers, measures them in turns, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    options = parser.parse_args()
    sys.path.insert(0, str(HERE))
    import model

    with tempfile.TemporaryDirectory() as folder:
        bundle, records = model.build(Path(folder))
        bodies = [json.dumps({"records": [record]}).encode() for record in records] * (
            options.requests // len(records) + 1
        )
        bodies = bodies[: options.requests]
        ports = [free_port() for _ in range(4)]
        paceline = {
            "PACELINE_SERVING_PROJECT": "benchmark",
            "PACELINE_SERVING_PORT": str(ports[1]),
            "PACELINE_SERVING_STATE": f"{folder}/state",
            "PACELINE_SERVING_PREDICTIONS": f"{folder}/predictions",
        }
        peer = {"BENCHMARK_BUNDLE": str(bundle.path), "PYTHONPATH": str(HERE)}
        uvicorn = [sys.executable, "-m", "uvicorn", "--no-access-log", "--loop", "uvloop", "--http", "httptools"]
        with (
            started("bare uvicorn", [*uvicorn, "peers:bare", "--port", str(ports[0])], ports[0], "/", peer) as bare,
            started("paceline", [sys.executable, "-m", "serving"], ports[1], "/v1/predict", paceline) as ours,
            started(
                "FastAPI, as tutorials write it",
                [*uvicorn, "--factory", "peers:plain", "--port", str(ports[2])],
                ports[2],
                "/predict",
                peer,
            ) as plain,
            started(
                "FastAPI, our session options",
                [*uvicorn, "--factory", "peers:tuned", "--port", str(ports[3])],
                ports[3],
                "/predict",
                peer,
            ) as tuned,
        ):
            model.install(ours.url, bundle)
            servers = [bare, ours, plain, tuned]
            for server in servers:
                asyncio.run(load(server, bodies[:200], 8))
            for number in range(options.rounds):
                for concurrency in CONCURRENCIES:
                    for server in servers:
                        measure(server, bodies, concurrency)
                print(f"round {number + 1} of {options.rounds}", file=sys.stderr)  # noqa: T201
            memory = {server.name: round(server.process.memory_info().rss / 1e6) for server in servers}
        rows = summary(servers)
    if options.json:
        options.json.write_text(json.dumps({"rows": rows, "rss_mb": memory}, indent=1))
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores; medians of {options.rounds} rounds")  # noqa: T201
    print(as_table(rows))  # noqa: T201
    print("resident memory in MB: " + ", ".join(f"{name} {size}" for name, size in memory.items()))  # noqa: T201


if __name__ == "__main__":
    main()
