"""What a shadow costs the champion's clients: latency and CPU time without one, with a sample, and with all requests.

    .venv/bin/python benchmarks/serving/shadow_cost.py             # some two minutes
    .venv/bin/python benchmarks/serving/shadow_cost.py --readme    # and write the table into README.md

One server, and turns (A B C A B C), so that the noise of the machine falls on all alike: ratios are taken in a round.
The challenger has the champion's own bundle. Latency counts from when a request was due.
"""

import argparse
import os
import statistics
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import contenders
import httpx
import measures
from model import build
from running import Running, running
from sections import write_section

BEGIN, END = "<!-- shadow: written by shadow_cost.py --readme -->", "<!-- end of shadow -->"
LEASE_S = 3600.0
TURNS = ((None, "no shadow"), (0.2, "a shadow of 20 %"), (1.0, "a shadow of all requests"))


@dataclass
class Found:
    """What the rounds found in one setting."""

    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    capacity: list[float] = field(default_factory=list)
    dropped: int = 0
    pairs: int = 0


def shadow(server: Running, control: httpx.Client, sample: float | None) -> None:
    """Ends the shadow that there is, and begins one of `sample`."""
    control.delete("/control/challenger", params={"rollout": "benchmark"}).raise_for_status()
    if sample is None:
        return
    bundle = server.work.bundle
    slot = {"version": "2", "bundle": bundle.id, "path": str(bundle.path), "rollout": "benchmark"}
    control.put("/control/challenger", json=slot).raise_for_status()
    share = {"rollout": "benchmark", "share": 0.0, "shadow": True, "sample": sample, "lease_s": LEASE_S}
    control.put("/control/share", json=share).raise_for_status()


def measure(server: Running, control: httpx.Client, found: Found, effort: measures.Effort) -> None:
    """One turn: at the fixed rate, and as much as 16 connections get."""
    requests = server.one_row()
    at_rate = measures.fixed_rate(server, requests, effort, lambda _: None)
    most = measures.closed(server, requests, 16, effort, "c16", lambda _: None)
    found.p50_ms.append(at_rate["fixed_p50_ms"])
    found.p99_ms.append(at_rate["fixed_p99_ms"])
    found.cpu_us.append(at_rate["fixed_cpu_us"])
    found.capacity.append(most["c16_rps"])
    shadowed = control.get("/control/observation").raise_for_status().json()["shadowed"]
    if shadowed is not None:
        found.pairs += shadowed["pairs"]
        found.dropped += shadowed["dropped"]


def table(results: dict[str, Found]) -> str:
    """As Markdown: medians, and the median ratio within a round to no shadow."""
    lines = [
        f"| setting | p50 at {measures.FIXED_RATE:.0f}/s, ms | p99, ms | p99 × no shadow | CPU a request, µs "
        "| 16 connections, /s | pairs | shed |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    usual = results[TURNS[0][1]]
    for name, found in results.items():
        ratios = [mine / theirs for mine, theirs in zip(found.p99_ms, usual.p99_ms, strict=True)]
        lines.append(
            f"| {name} | {statistics.median(found.p50_ms):.2f} | {statistics.median(found.p99_ms):.2f} "
            f"| {statistics.median(ratios):.2f}× | {statistics.median(found.cpu_us):.0f} "
            f"| {statistics.median(found.capacity):,.0f} | {found.pairs:,} | {found.dropped:,} |"
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
        with (
            running(contender, work, contenders.make_key(work)) as server,
            httpx.Client(base_url=server.target.url, trust_env=False, timeout=30) as control,
        ):
            for number in range(1, options.rounds + 1):
                for sample, setting in TURNS:
                    shadow(server, control, sample)
                    measure(server, control, results[setting], effort)
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
        write_section(BEGIN, END, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
