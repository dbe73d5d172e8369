"""Rollouts under faults: real processes are killed, the ledger and the disk taken away, at random moments.

`make chaos` runs a hundred of them, the killed leases, and some with a real Airflow; ARGS="--only 17" repeats one run
by its seed and tells its timeline; ARGS=--readme writes the results into this folder's README.
"""

import argparse
import asyncio
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import date
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.chaos import airflow, lease
from benchmarks.chaos.case import FAULTS, draw
from benchmarks.chaos.checks import findings, outcome_of, shares_after_death
from benchmarks.chaos.installation import Installation, install
from benchmarks.chaos.run import RATE, Seen, run_case

README = Path(__file__).parent / "README.md"
STATES = ("promoted", "rolled_back", "refused")
console = Console(stderr=True)


class Survived(NamedTuple):
    """A run and what did not hold in it."""

    seen: Seen
    findings: list[str]
    seconds: float


def main() -> int:
    """Exit code 1 when anything did not hold."""
    options = _options()
    with tempfile.TemporaryDirectory(prefix="paceline-chaos-") as folder:
        template = install(Path(folder) / "template")
        if options.only is not None:
            return _one(options.only, template)
        runs, failed = _runs(options, template)
        killed = asyncio.run(lease.measure(template, options.lease, options.seed, 4)) if options.lease else []
        with console.status("Airflow") as status:
            released = (
                airflow.measure(Path(folder), options.airflow, options.seed, status.update) if options.airflow else []
            )
    for name, text in (("results", _text(runs)), ("lease", lease.text(killed)), ("airflow", airflow.text(released))):
        sys.stdout.write(text)
        if options.readme and text:
            write_section(README, name, text)
    is_sound = not failed and not any(run.findings for run in (*runs, *released))
    return 0 if is_sound and all(each.is_within_lease for each in killed) else 1


def write_section(page: Path, name: str, text: str) -> None:
    """Puts `text` between the marks of `name` on `page`."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, _, rest = page.read_text().partition(begin)
    page.write_text(f"{before}{begin}\n{text}{end}{rest.partition(end)[2]}")


def machine() -> str:
    """When and where something was measured."""
    return f"{date.today()}, {platform.system()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=100, help="with a seed each, counted up from --seed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    parser.add_argument("--minutes", type=float, default=600.0, help="after so many no further run begins")
    parser.add_argument("--only", type=int, metavar="SEED", help="one run again, with its timeline")
    parser.add_argument("--lease", type=int, default=0, metavar="KILLS", help="kill so many controllers in a step")
    parser.add_argument("--airflow", type=int, default=0, metavar="RUNS", help="so many more in a real Airflow")
    parser.add_argument("--readme", action="store_true", help="write the results into the README")
    return parser.parse_args()


def _one(seed: int, template: Installation) -> int:
    run = _run(seed, template)
    _tell(run)
    return 1 if run.findings else 0


def _run(seed: int, template: Installation) -> Survived:
    started_s = time.monotonic()
    seen = run_case(draw(seed), template)
    return Survived(seen, findings(seen), time.monotonic() - started_s)


def _runs(options: argparse.Namespace, template: Installation) -> tuple[list[Survived], list[int]]:
    """The runs that came to their end, and the seeds of those in which this benchmark itself failed."""
    done: list[Survived] = []
    failed: list[int] = []
    ends_s = time.monotonic() + options.minutes * 60
    with ThreadPoolExecutor(options.jobs) as pool, console.status("starting") as status:
        seeds = range(options.seed, options.seed + options.runs)
        futures = {pool.submit(_run_until, ends_s, seed, template): seed for seed in seeds}
        for future in as_completed(futures):
            if (error := future.exception()) is not None:
                failed.append(futures[future])
                console.print(f"the run of seed {futures[future]} did not come to its end: {error!r}", highlight=False)
                continue
            if (run := future.result()) is None:
                continue
            done.append(run)
            status.update(f"{len(done)} of {options.runs}, {sum(bool(each.findings) for each in done)} with findings")
            if run.findings:
                _tell(run)
    if done:
        console.print(_table(done))
    return sorted(done, key=lambda run: run.seen.case.seed), sorted(failed)


def _run_until(ends_s: float, seed: int, template: Installation) -> Survived | None:
    return None if time.monotonic() > ends_s else _run(seed, template)


def _tell(run: Survived) -> None:
    seen = run.seen
    console.print(f"seed {seen.case.seed}: {seen.case}", highlight=False)
    for at, text in sorted(seen.timeline):
        console.print(f"  {at - seen.started_at:7.2f} s  {text}", highlight=False, markup=False)
    console.print(f"  outcome {outcome_of(seen.final_entries)}, {len(seen.answers)} answers, final {seen.final}")
    for finding in run.findings or ["nothing was found"]:
        console.print(f"  [bold]{finding}[/]", highlight=False)
    if run.findings:
        console.print(f"  again: python -m benchmarks.chaos --only {seen.case.seed}", highlight=False)


def _rows(runs: Sequence[Survived]) -> list[tuple[str, ...]]:
    rows = []
    for fault in FAULTS:
        some = [run for run in runs if run.seen.case.fault == fault]
        if not some:
            continue
        outcomes = [outcome_of(run.seen.final_entries) for run in some]
        errors = sum(answer.status != 200 for run in some for answer in run.seen.answers)
        kept = [late_s for run in some for _, late_s in shares_after_death(run.seen)]
        rows.append(
            (
                fault,
                str(len(some)),
                *(str(outcomes.count(state)) for state in STATES),
                f"{errors:,}",
                f"{max(kept):.2f} s" if kept else "–",
                str(sum(len(run.findings) for run in some)),
            )
        )
    return rows


HEADINGS = (
    *("fault", "runs", "promoted", "rolled back", "refused"),
    *("errors while the server was dead", "share without a controller, at most", "findings"),
)


def _table(runs: Sequence[Survived]) -> Table:
    table = Table(*HEADINGS)
    for row in _rows(runs):
        table.add_row(*row)
    return table


def _text(runs: Sequence[Survived]) -> str:
    if not runs:
        return ""
    bad = sum(run.seen.case.challenger == "broken" or run.seen.bad_since is not None for run in runs)
    late = sum(any("after the end" in text for _, text in run.seen.timeline) for run in runs)
    answers = sum(len(run.seen.answers) for run in runs)
    told = [
        f"Run on {machine()}: {len(runs)} runs, seeds {runs[0].seen.case.seed} to {runs[-1].seen.case.seed}, {RATE} "
        f"requests a second, {answers:,} in all; {bad} challengers were bad, {late} faults came after the end of their "
        f"rollout. A run took {sum(run.seconds for run in runs) / len(runs):.0f} s.",
        "",
        "| " + " | ".join(HEADINGS) + " |",
        "| --- | " + " | ".join("--:" for _ in HEADINGS[1:]) + " |",
        *("| " + " | ".join(row) + " |" for row in _rows(runs)),
        "",
        *(f"- seed {run.seen.case.seed}: {finding}" for run in runs for finding in run.findings),
    ]
    return "\n".join(told) + "\n"


if __name__ == "__main__":
    sys.exit(main())
