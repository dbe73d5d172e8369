"""The challenger's latency beside the champion's: run in turns on the same rows, so that noise falls on both alike."""

from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.comparison import RESAMPLES, Difference
from pipelines.inference import Latency, measure_latency, time_side_by_side


class LatencyComparison(msgspec.Struct, frozen=True, kw_only=True):
    """The challenger for 1 and 32 rows, and how its p50 of one row differs from the champion's, in microseconds."""

    challenger: tuple[Latency, ...]
    difference_us_p50: Difference | None


Side = tuple[bytes | Path, NDArray[np.float32]]  # a graph, and rows encoded by its own schema


def compare_latency(challenger: Side, champion: Side | None, seed: int, runs: int = 400) -> LatencyComparison:
    """Measures both graphs on the same real records; `champion` is None where there is none.

    The interval of the difference is a paired bootstrap over runs.

    Raises:
        ValueError: there are no rows to run.
    """
    measured = measure_latency(*challenger, runs=runs)
    if champion is None:
        return LatencyComparison(challenger=measured, difference_us_p50=None)
    times = time_side_by_side((challenger, champion), 1, runs)
    drawn = np.random.default_rng(seed).integers(0, runs, (RESAMPLES, runs))
    resampled = np.median(times[0][drawn], axis=1) - np.median(times[1][drawn], axis=1)
    low, high = np.quantile(resampled, (0.025, 0.975))
    estimate = float(np.median(times[0]) - np.median(times[1]))
    return LatencyComparison(
        challenger=measured, difference_us_p50=Difference(estimate=estimate, low=float(low), high=float(high))
    )
