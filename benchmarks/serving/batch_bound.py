"""How near a Python server can come to ONNX Runtime alone with 32 rows a request.

    .venv/bin/python benchmarks/serving/batch_bound.py [--rounds 5] [--seconds 3]

Beside Paceline a bare protocol: uvloop and httptools, encoded rows as they lie in the body given to ONNX Runtime, the
scores as bytes. It validates, encodes, authenticates, counts and logs nothing: what it takes beside the graph are
sockets and HTTP. Ratios to ONNX Runtime in this process are taken within a round. The median of all rounds counts.
"""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import contenders
import httptools
import measures
import model
import numpy as np
import uvloop
from running import running

from pipelines.benchmarking.load import MAXIMUM_CONNECTIONS
from serving.bound_runs import BoundRuns

COLUMNS = len(model.FIELDS.columns)


class BareProtocol(asyncio.Protocol):
    """One connection; the body of each request is rows of float32, that of its answer their scores."""

    def __init__(self, run: BoundRuns) -> None:
        self._run = run
        self._parser = httptools.HttpRequestParser(self)
        self._pieces: list[bytes] = []
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has come."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """A request, or a part of one."""
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        """A piece of the rows."""
        self._pieces.append(body)

    def on_message_complete(self) -> None:
        """All rows are here."""
        body, self._pieces = b"".join(self._pieces), []
        scores = self._run(np.frombuffer(body, dtype="<f4").reshape(-1, COLUMNS)).tobytes()
        self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(scores), scores))


async def serve(port: int, graph: str) -> None:
    """Listens until it is terminated."""
    session = measures.session_of(graph)
    run = BoundRuns(session, maximum_rows=contenders.BATCH_ROWS, has_device=False)
    listener = await asyncio.get_running_loop().create_server(
        lambda: BareProtocol(run), "127.0.0.1", port, backlog=MAXIMUM_CONNECTIONS
    )
    await listener.serve_forever()


def bare() -> contenders.Contender:
    """The bare protocol as a server that can be measured."""
    form = contenders.Form(
        "/",
        lambda work, rows: (work.features[rows].tobytes(), None),
        lambda body: [float(each) for each in np.frombuffer(body, dtype="<f4")],
    )
    return contenders.Contender(
        key="bare-graph",
        name="bare protocol",
        group="floor",
        setting="uvloop, httptools and the graph",
        command=lambda port: [sys.executable, __file__, "--serve", str(port)],
        environment=lambda port, work: {
            "BENCHMARK_GRAPH": str(work.bundle.model_path),
            "PYTHONPATH": str(contenders.ROOT),
        },
        own=form,
        records=form,
        binary=form,
    )


def main() -> None:
    """Measures both in turns, or is the bare server."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3, help="of each load")
    parser.add_argument("--serve", type=int, help="be the bare server on this port instead")
    options = parser.parse_args()
    if options.serve is not None:
        uvloop.run(serve(options.serve, os.environ["BENCHMARK_GRAPH"]))
        return
    effort = measures.Effort(seconds=options.seconds, warmup_s=options.seconds / 5)
    servers = [bare(), *contenders.chosen("no-log,paceline")]
    found: dict[str, list[tuple[float, float, float]]] = {each.name: [] for each in servers}
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        work = contenders.Workload(*model.build(Path(folder)), Path(folder))
        api_key = contenders.make_key(work)
        for _ in range(options.rounds):
            alone = measures.onnxruntime_alone(work, effort)["binary_rps"]
            for each in servers:
                if each.binary is None:
                    raise RuntimeError(f"{each.name} takes no binary tensors")
                with running(each, work, api_key) as server:
                    requests = server.batches(each.binary)
                    taken = measures.closed(
                        server, requests, measures.BATCH_CONNECTIONS, effort, "binary", lambda text: None,
                        rows=contenders.BATCH_ROWS,
                    )  # fmt: skip
                found[each.name].append((taken["binary_rps"], taken["binary_cpu_us"], taken["binary_rps"] / alone))
    print(f"Medians of {options.rounds} rounds, {os.cpu_count()} cores, load of the machine before them {load:.1f}.\n")  # noqa: T201
    print("| server | rows/s | CPU a request, µs | share of ONNX Runtime alone |\n| --- | ---: | ---: | ---: |")  # noqa: T201
    for name, rounds in found.items():
        rows, cpu_us, share = map(statistics.median, zip(*rounds, strict=True))
        print(f"| {name} | {rows:,.0f} | {cpu_us:.0f} | {share:.2f} |")  # noqa: T201


if __name__ == "__main__":
    main()
