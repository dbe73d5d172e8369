"""What the fast watch over scores costs a server: CPU time and throughput with a look a second, and without.

    .venv/bin/python benchmarks/serving/score_watch_cost.py             # some two minutes
    .venv/bin/python benchmarks/serving/score_watch_cost.py --readme    # and write the table into README.md

One server, and turns (A B A B), so that the noise of the machine falls on all alike: ratios are taken in a round. A
look a second is sixty times as many as `paceline watch-scores` takes, so its cost is a sixtieth of this.
The looks are those of a process of its own, beside the clients. The histogram itself is what a server keeps anyway.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import contenders
import measures
from model import build
from running import Running, running

README = Path(__file__).parent / "README.md"
BEGIN, END = "<!-- score watch: written by score_watch_cost.py --readme -->", "<!-- end of score watch -->"
TURNS = ((False, "no watch"), (True, "a look a second"))
LOOKS = (
    "import sys, time, httpx\n"
    "with httpx.Client(trust_env=False, headers={'x-api-key': sys.argv[2]} if sys.argv[2] else {}) as client:\n"
    "    while True:\n"
    "        client.get(sys.argv[1] + '/metrics').raise_for_status(); time.sleep(1)\n"
)


@dataclass
class Found:
    """What the rounds found in one setting."""

    p99_ms: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    capacity: list[float] = field(default_factory=list)


@contextlib.contextmanager
def watched(server: Running, key: str, is_on: bool) -> Iterator[None]:
    """A process that reads the server's metrics once a second, while the block runs."""
    if not is_on:
        yield
        return
    looking = subprocess.Popen([sys.executable, "-c", LOOKS, server.target.url, key])
    try:
        yield
        if looking.poll() is not None:
            raise RuntimeError(f"the looks ended with {looking.returncode}: nothing was measured")
    finally:
        looking.terminate()
        looking.wait(30)


def measure(server: Running, found: Found, effort: measures.Effort) -> None:
    """One turn: at the fixed rate, and as much as 16 connections get."""
    requests = server.one_row()
    at_rate = measures.fixed_rate(server, requests, effort, lambda _: None)
    most = measures.closed(server, requests, 16, effort, "c16", lambda _: None)
    found.p99_ms.append(at_rate["fixed_p99_ms"])
    found.cpu_us.append(most["c16_cpu_us"])
    found.capacity.append(most["c16_rps"])


def table(results: dict[str, Found]) -> str:
    """As Markdown: medians, and the median ratio within a round to no watch."""
    usual = results[TURNS[0][1]]
    lines = [
        f"| setting | p99 at {measures.FIXED_RATE:.0f}/s, ms | CPU a request, µs | × no watch | 16 connections, /s "
        "| × no watch |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, found in results.items():
        cpu = statistics.median(mine / theirs for mine, theirs in zip(found.cpu_us, usual.cpu_us, strict=True))
        rate = statistics.median(mine / theirs for mine, theirs in zip(found.capacity, usual.capacity, strict=True))
        lines.append(
            f"| {name} | {statistics.median(found.p99_ms):.2f} | {statistics.median(found.cpu_us):.1f} | {cpu:.3f}× "
            f"| {statistics.median(found.capacity):,.0f} | {rate:.3f}× |"
        )
    return "\n".join(lines)


def main() -> int:
    """Runs the rounds; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each load")
    parser.add_argument("--readme", action="store_true")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    effort = measures.Effort(seconds=options.seconds, warmup_s=options.seconds / 4)
    (contender,) = contenders.chosen("paceline")
    results = {name: Found() for _, name in TURNS}
    with tempfile.TemporaryDirectory() as name:
        work = contenders.Workload(*build(Path(name)), Path(name))
        key = contenders.make_key(work)
        with running(contender, work, key) as server:
            for number in range(1, options.rounds + 1):
                for is_on, setting in TURNS:
                    with watched(server, key, is_on):
                        measure(server, results[setting], effort)
                print(f"round {number} of {options.rounds} done", file=sys.stderr)  # noqa: T201
    about = f"Medians of {options.rounds} rounds, {os.cpu_count()} cores, load of the machine before them {load:.1f}."
    if load > 0.5 * (os.cpu_count() or 1):
        about += (
            " **The machine had other work**: the CPU times say something, latencies, rates and their ratios do not. "
            "Run it again on a quiet one."
        )
    text = f"{about}\n\n{table(results)}"
    print(text)  # noqa: T201
    if options.readme:
        head, _, rest = README.read_text().partition(BEGIN)
        README.write_text(f"{head}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
