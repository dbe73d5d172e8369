"""What an evaluation of many rows takes of memory, measured in processes of their own."""

import subprocess
import sys

import pytest

ROWS = 300_000
MAXIMUM_MB = 2048
EVALUATION = """
import resource, sys
import numpy as np
from pipelines.evaluation.comparison import compare
from pipelines.evaluation.fairness import FairnessLimits, measure_fairness
from pipelines.evaluation.groups import by_edges
from pipelines.evaluation.slices import SliceLimits, SliceRows, measure_slices

rows, resamples = int(sys.argv[1]), int(sys.argv[2])
random = np.random.default_rng(0)
truth = random.beta(1, 3, rows)
labels = (random.random(rows) < truth).astype(float)
days = np.sort(random.integers(0, 56, rows))
rival = np.clip(truth + random.normal(0, 0.05, rows), 0.01, 0.99)
compare(truth, rival, labels, days, 0.4, seed=1, resamples=resamples)
numbers = random.random((6, rows))
grouped = [by_edges(f"number {n}", values, np.linspace(0.1, 0.9, 9)) for n, values in enumerate(numbers)]
measure_fairness(labels, truth, days, grouped[:2], 0.4, FairnessLimits(), 1, resamples)
found = measure_slices(SliceRows(labels, days, truth, rival), [], grouped, grouped, SliceLimits())
assert found.looked_at_two == 15 * 100
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_mb(resamples: int) -> float:
    command = [sys.executable, "-c", EVALUATION, str(ROWS), str(resamples)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout) / 1024


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux only")
def test_many_rows_take_little_memory_and_more_resamples_take_no_more() -> None:
    few, many = peak_mb(100), peak_mb(4000)
    assert many <= MAXIMUM_MB
    assert many <= few * 1.05 + 10
