"""How many requests the shadow saves: the same shift of scores found in pairs, and by two samples.

Scores of a champion are drawn from Beta(2, 6), the challenger's for the same request are those plus a shift and noise.
Fixed sizes are those of the usual formula for the z-test; the sequential ones are medians of the judge's own tests, at
the same level. None of it hangs on a plan.
"""

from collections.abc import Sequence
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
    """Requests of the challenger to find `shift`, of scores in [0, 1]; `noise` is a standard deviation."""

    shift: float
    noise: float
    correlation: float
    fixed_pairs: float
    fixed_samples: float
    pairs: float
    samples: float

    @property
    def saved(self) -> float:
        """How many times fewer requests the judge needs in pairs."""
        return self.samples / self.pairs


def savings(seed: int) -> list[Saving]:
    """One for each shift and noise; takes some seconds."""
    random = np.random.default_rng(seed)
    return [_saving(shift, noise, random) for shift in (0.08, 0.1, 0.2) for noise in (0.05, 0.1)]


def pairs_table(found: Sequence[Saving]) -> list[list[str]]:
    """What pairs save as rows of text, the head first."""
    head = ["shift", "correlation", "pairs, z-test", "two samples, z-test", "pairs, judge", "two samples, judge"]
    return [[*head, "saved"], *map(_row, found)]


def _row(found: Saving) -> list[str]:
    needed = (found.fixed_pairs, found.fixed_samples, found.pairs, found.samples)
    cells = [f"{found.shift:g}", f"{found.correlation:.2f}", *(f"{n:,.0f}" for n in needed)]
    return [*cells, f"{found.saved:,.0f} times"]


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
