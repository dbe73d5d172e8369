"""How many requests the shadow saves: the same shift of scores found in pairs, and by two samples.

Scores of a champion are drawn from Beta(2, 6), the challenger's for the same request are those plus a shift and noise.
Fixed sizes are those of the usual formula for the z-test; the sequential ones are medians of the judge's own tests, at
the same level. Printed as a Markdown table: part of `make bench-rollout`.
"""

from dataclasses import dataclass
from math import log

import numpy as np

from contracts.strata import DIFFERENCE_BINS
from pipelines.statistics.paired_shift import log_e_value

MARGIN, ALPHA, POWER_Z, ALPHA_Z = 0.05, 0.01, 1.2816, 2.3263  # power 90 %, one-sided 1 %
LOOK, MOST = 5, 60_000
TRIALS = 30


@dataclass(frozen=True)
class Saving:
    """Requests of the challenger to find `shift` where noise has the standard deviation `noise`."""

    shift: float
    noise: float
    correlation: float
    fixed_pairs: float
    fixed_samples: float
    pairs: float
    samples: float


def savings(seed: int = 1) -> list[Saving]:
    """One row for each shift and noise."""
    random = np.random.default_rng(seed)
    return [_saving(shift, noise, random) for shift in (0.08, 0.1, 0.2) for noise in (0.05, 0.1)]


def table(rows: list[Saving]) -> list[str]:
    """The rows as lines of Markdown."""
    head = "| shift | correlation | pairs, z-test | two samples, z-test | pairs, judge | two samples, judge | saved |"
    return [head, "| --- | --- | --- | --- | --- | --- | --- |", *map(_line, rows)]


def _line(row: Saving) -> str:
    cells = [f"{row.shift:g}", f"{row.correlation:.2f}"]
    cells += [f"{n:,.0f}" for n in (row.fixed_pairs, row.fixed_samples, row.pairs, row.samples)]
    return "| " + " | ".join([*cells, f"{row.samples / row.pairs:,.0f} times"]) + " |"


def _saving(shift: float, noise: float, random: np.random.Generator) -> Saving:
    theirs, mine = _scores(shift, noise, random, 200_000)
    differences = mine - theirs
    excess = float(differences.mean()) - MARGIN
    needed = ((ALPHA_Z + POWER_Z) / excess) ** 2
    return Saving(
        shift=shift,
        noise=noise,
        correlation=float(np.corrcoef(mine, theirs)[0, 1]),
        fixed_pairs=float(needed * differences.var()),
        fixed_samples=float(needed * (mine.var() + theirs.var())),
        pairs=float(np.median([_requests(shift, noise, random, is_paired=True) for _ in range(TRIALS)])),
        samples=float(np.median([_requests(shift, noise, random, is_paired=False) for _ in range(TRIALS)])),
    )


def _scores(shift: float, noise: float, random: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    theirs = random.beta(2, 6, n)
    return theirs, np.clip(theirs + random.normal(shift, noise, n), 0, 1)


def _requests(shift: float, noise: float, random: np.random.Generator, *, is_paired: bool) -> int:
    """Until the judge's test has found the shift; without pairs each score is compared with that of another request."""
    counts = np.zeros(DIFFERENCE_BINS, int)
    for requests in range(LOOK, MOST, LOOK):
        theirs, mine = _scores(shift, noise, random, LOOK)
        if not is_paired:
            _, mine = _scores(shift, noise, random, LOOK)
        counts += np.histogram(mine - theirs, DIFFERENCE_BINS, (-1, 1))[0]
        if log_e_value(counts.tolist(), MARGIN) >= -log(ALPHA):
            return requests
    return MOST
