"""What it costs a server to log the features of a sample of its requests: CPU time and throughput, side by side.

    .venv/bin/python benchmarks/serving/logged_features_cost.py             # some three minutes
    .venv/bin/python benchmarks/serving/logged_features_cost.py --readme    # and write the table into README.md

Three servers, that log none, the default share, and all; many short turns in changing order, so that the noise of the
machine falls on all alike: neighbours are compared, by a paired bootstrap of their sums. CPU time is that of the whole
process, with the log's thread; it is what says something on a machine that has other work.
"""

import argparse
import contextlib
import dataclasses
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import contenders
import measures
from model import build
from running import running
from score_watch_cost import Found, dearer, measure, shown
from sections import about_turns, write_section

BEGIN, END = "<!-- features: written by logged_features_cost.py --readme -->", "<!-- end of features -->"
SHARES = (0.0, 0.05, 1.0)


def logging(contender: contenders.Contender, share: float) -> contenders.Contender:
    """The same server, which logs the features of a `share` of its requests, into a log of its own."""

    def environment(port: int, work: contenders.Workload) -> dict[str, str]:
        folder = work.folder / f"features-{share}"
        return {
            **contender.environment(port, work),
            "PACELINE_SERVING_FEATURES_SHARE": str(share),
            "PACELINE_SERVING_PREDICTIONS": str(folder),
        }

    return dataclasses.replace(contender, environment=environment)


def table(found: Mapping[float, Found], row_bytes: Mapping[float, float]) -> str:
    """As Markdown: medians, what each share costs beside none, and the bytes of a row on disk."""
    none = found[SHARES[0]]
    lines = [
        "| share | CPU time a request, µs | it costs | time by the clock a request, µs | it costs | bytes a row |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for share, mine in found.items():
        costs = [
            "–" if share == SHARES[0] else shown(dearer(of(mine), of(none)), 2)
            for of in (lambda each: each.cpu_us, lambda each: each.wall_us)
        ]
        cpu, wall = statistics.median(mine.cpu_us), statistics.median(mine.wall_us)
        lines.append(f"| {share:g} | {cpu:.1f} | {costs[0]} | {wall:.1f} | {costs[1]} | {row_bytes[share]:.0f} |")
    return "\n".join(lines)


def bytes_a_row(folder: Path) -> float:
    """Of the segments that a server has written."""
    import pyarrow.ipc

    size = rows = 0
    for path in folder.glob("day=*/*.arrows"):
        size += path.stat().st_size
        with pyarrow.ipc.open_stream(path.read_bytes()) as stream:
            rows += sum(batch.num_rows for batch in stream)
    return size / rows


def main() -> int:
    """Runs the rounds; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40, help="each with a turn of every share")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each turn")
    parser.add_argument("--readme", action="store_true")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    effort = measures.Effort(seconds=options.seconds, warmup_s=0.0)
    (contender,) = contenders.chosen("paceline")
    found = {share: Found() for share in SHARES}
    with tempfile.TemporaryDirectory() as name:
        work = contenders.Workload(*build(Path(name)), Path(name))
        key = contenders.make_key(work)
        with contextlib.ExitStack() as servers:
            asked = {share: servers.enter_context(running(logging(contender, share), work, key)) for share in SHARES}
            requests = asked[SHARES[0]].one_row()
            for server in asked.values():
                measure(server, requests, Found(), effort)  # warms up
            for number in range(options.rounds):
                turn = number % len(SHARES)
                for share in (*SHARES[turn:], *SHARES[:turn]):
                    measure(asked[share], requests, found[share], effort)
        sizes = {share: bytes_a_row(Path(name) / f"features-{share}") for share in SHARES}
    about = about_turns(f"{options.rounds} rounds", options.seconds, load)
    text = f"{about}\n\n{table(found, sizes)}"
    print(text)  # noqa: T201
    if options.readme:
        write_section(BEGIN, END, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
