"""What the fast watch over scores costs a server: CPU time and throughput with a look a second, and without.

    .venv/bin/python benchmarks/serving/score_watch_cost.py             # some two minutes
    .venv/bin/python benchmarks/serving/score_watch_cost.py --readme    # and write the table into README.md

One server, and many short turns (A B, B A, A B …), so that the noise of the machine falls on both alike: neighbours are
compared, by a paired bootstrap of their sums. CPU time is what says something on a machine that has other work. A
look a turn is sixty times as many as `paceline watch-scores` takes, so its cost is a sixtieth of this.
The looks are those of a process of its own, beside the clients. The histogram itself is what a server keeps anyway.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import contenders
import measures
import numpy as np
from model import build
from running import Running, running
from sections import about_turns, write_section

from pipelines.statistics.bootstrap import Blocks, Interval, interval

BEGIN, END = "<!-- score watch: written by score_watch_cost.py --readme -->", "<!-- end of score watch -->"
MINUTE_S = 60
LOOKS = (
    "import sys, httpx\n"
    "with httpx.Client(trust_env=False, headers={'x-api-key': sys.argv[2]} if sys.argv[2] else {}) as client:\n"
    "    for line in sys.stdin:\n"
    "        client.get(sys.argv[1] + '/metrics').raise_for_status()\n"
    "        print(flush=True)\n"
)


@dataclass
class Found:
    """What each turn found in one setting: CPU time and time by the clock for each request, in µs."""

    cpu_us: list[float] = field(default_factory=list)
    wall_us: list[float] = field(default_factory=list)


class Looker:
    """A process that reads the server's metrics whenever it is told to."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process

    @contextlib.contextmanager
    def looking(self) -> Iterator[None]:
        """One look while the block runs. Raises RuntimeError when there was none."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        yield
        if not self._process.stdout.readline():
            raise RuntimeError(f"the looks ended with {self._process.wait(30)}: nothing was measured")


@contextlib.contextmanager
def looker(server: Running, key: str) -> Iterator[Looker]:
    """A `Looker` at this server, which has looked once."""
    command = [sys.executable, "-c", LOOKS, server.target.url, key]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            found = Looker(process)
            with found.looking():
                pass
            yield found
        finally:
            process.terminate()


def measure(server: Running, requests: Sequence[bytes], found: Found, effort: measures.Effort) -> None:
    """One turn: as much as 16 connections get."""
    most = measures.closed(server, requests, 16, effort, "c16", lambda _: None)
    found.cpu_us.append(most["c16_cpu_us"])
    found.wall_us.append(1e6 / most["c16_rps"])


def dearer(mine: Sequence[float], usual: Sequence[float]) -> Interval:
    """By how much `mine` is more than `usual`, as a share, with its 95 % interval: turns are drawn in pairs.

    >>> dearer([1.02, 2.04, 3.06], [1.0, 2.0, 3.0])
    Interval(estimate=0.02, low=0.02, high=0.02)
    """
    pairs = Blocks(np.arange(len(usual)), resamples=2000)
    found = interval(pairs.ratio(np.array(mine), np.array(usual)), blocks=pairs.count)
    return Interval(*(round(value - 1, 6) for value in found))


def table(off: Found, on: Found, seconds: float) -> str:
    """As Markdown: both settings, what a look in `seconds` costs, and what `paceline watch-scores` does."""
    head = f"| | no watch | a look in {seconds:g} s | it costs | a look a minute costs |"
    lines = [head, "| --- | ---: | ---: | ---: | ---: |"]
    for name, usual, mine in (
        ("CPU time a request, µs", off.cpu_us, on.cpu_us),
        ("time by the clock a request, µs", off.wall_us, on.wall_us),
    ):
        share = dearer(mine, usual)
        a_minute = Interval(*(value * seconds / MINUTE_S for value in share))
        medians = f"{statistics.median(usual):.1f} | {statistics.median(mine):.1f}"
        lines.append(f"| {name} | {medians} | {shown(share, 2)} | {shown(a_minute, 3)} |")
    return "\n".join(lines)


def shown(share: Interval, digits: int) -> str:
    """In percent, with the interval."""
    value, low, high = (f"{100 * each:+.{digits}f}" for each in share)
    return f"{value} % ({low} … {high})"


def main() -> int:
    """Runs the rounds; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60, help="each with two turns")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each turn")
    parser.add_argument("--readme", action="store_true")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    effort = measures.Effort(seconds=options.seconds, warmup_s=0.0)
    (contender,) = contenders.chosen("paceline")
    off, on = Found(), Found()
    with tempfile.TemporaryDirectory() as name:
        work = contenders.Workload(*build(Path(name)), Path(name))
        key = contenders.make_key(work)
        with running(contender, work, key) as server, looker(server, key) as watch:
            requests = server.one_row()
            measure(server, requests, Found(), effort)  # warms up
            for number in range(options.rounds):
                for is_on in (False, True) if number % 2 else (True, False):
                    with watch.looking() if is_on else contextlib.nullcontext():
                        measure(server, requests, on if is_on else off, effort)
    about = about_turns(f"{options.rounds} pairs", options.seconds, load)
    text = f"{about}\n\n{table(off, on, options.seconds)}"
    print(text)  # noqa: T201
    if options.readme:
        write_section(BEGIN, END, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
