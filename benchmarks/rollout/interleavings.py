"""Releases, a rollback and a backfill of one project at once, killed at random: what three ways to promote leave.

`python -m benchmarks.rollout.interleavings` prints the table; `--readme` writes it into this folder's README.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from multiprocessing import get_context
from pathlib import Path

from tests.fixtures.interleavings import Found, PlainFound, interleave, interleave_plain, memory_ledger

README = Path(__file__).parent / "README.md"
BEGIN, END = "<!-- interleavings -->", "<!-- end of interleavings -->"
A_BATCH = 100


def main() -> int:
    """Exit code 1 when an interleaving of the fenced way left a problem."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readme", action="store_true", help="write the table into the README")
    parser.add_argument("--interleavings", type=int, default=2000)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    everything = range(options.interleavings)
    seeds = [everything[start : start + A_BATCH] for start in everything[::A_BATCH]]
    with ProcessPoolExecutor(options.processes, get_context("spawn"), initializer=_be_quiet) as pool:
        fenced = [each for batch in pool.map(_fenced, seeds) for each in batch]
        alone = [each for batch in pool.map(_alone, seeds) for each in batch]
        plain = [each for batch in pool.map(_plain, seeds) for each in batch]
    text = _text(fenced, alone, plain)
    sys.stdout.write(text)
    if options.readme:
        before, _, rest = README.read_text().partition(BEGIN)
        README.write_text(f"{before}{BEGIN}\n{text}{END}{rest.partition(END)[2]}")
    problems = [each for each in fenced if each.problems]
    sys.stderr.write("".join(f"seed {each.seed}: {'; '.join(each.problems)}\n" for each in problems))
    return 1 if problems else 0


def _be_quiet() -> None:
    logging.disable(logging.CRITICAL)


def _fenced(seeds: Sequence[int]) -> list[Found]:
    with memory_ledger() as ledger:
        return [interleave(ledger, seed) for seed in seeds]


def _alone(seeds: Sequence[int]) -> list[Found]:
    with memory_ledger() as ledger:
        return [interleave(ledger, seed, by_version_alone=True) for seed in seeds]


def _plain(seeds: Sequence[int]) -> list[PlainFound]:
    return [interleave_plain(seed) for seed in seeds]


def _text(fenced: list[Found], alone: list[Found], plain: list[PlainFound]) -> str:
    n = len(fenced)
    kills, promoted = sum(each.kills for each in fenced), sum(len(each.promoted) for each in fenced)
    stale = [sum(_is_stale(each) for each in found) for found in (fenced, alone)]
    apart = [sum(bool(each.problems) and not _is_stale(each) for each in found) for found in (fenced, alone)]
    lost, disagree = sum(each.lost > 0 for each in plain), sum(each.disagree for each in plain)
    refused = sum(any("evidence" in reason for reason in each.refusals) for each in fenced)
    rows = (
        ("compare-and-swap on reign and evidence (Paceline's)", stale[0], 0, apart[0]),
        ("compare-and-swap on the champion's version alone", stale[1], 0, apart[1]),
        ("set the alias, the last writer wins", None, lost, disagree),
    )
    lines = [
        f"{n:,} interleavings each, {date.today().isoformat()}; in those of the first line {kills:,} runs were killed "
        f"and run again, {promoted:,} rollouts were promoted, and stale evidence was offered and refused in {refused}.",
        "",
        "| how the champion is set | promoted on stale evidence | lost updates | ledger, server and aliases disagree |",
        "| --- | --- | --- | --- |",
        *(f"| {name} | {_of(a, n)} | {_of(b, n)} | {_of(c, n)} |" for name, a, b, c in rows),
    ]
    return "\n".join(lines) + "\n"


def _is_stale(found: Found) -> bool:
    return any(" promoted " in problem or "leads" in problem for problem in found.problems)


def _of(count: int | None, n: int) -> str:
    return "names none" if count is None else f"{count} ({count / n:.1%})"


if __name__ == "__main__":
    sys.exit(main())
