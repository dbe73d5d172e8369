"""What a graph run costs: as everybody calls it, on bound buffers, and from the encoded rows to plain numbers.

    .venv/bin/python benchmarks/serving/engine.py [--rounds 15]

200 trees on 15 columns, one thread. Every run gets other rows: with the same ones again and again a processor learns
the way through the trees by heart, and 24 rows took a third of the time.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import model
import numpy as np
from numpy.typing import NDArray

from serving.bound_runs import INPUT, OUTPUT
from serving.engine import load_model

RUNS = 400
SIZES = (1, 4, 16, 32, 64)


def microseconds(call: Callable[[NDArray[np.float32]], Any], batches: list[NDArray[np.float32]]) -> float:
    """The mean time of one call."""
    started = time.perf_counter()
    for batch in batches:
        call(batch)
    return (time.perf_counter() - started) / len(batches) * 1e6


def main() -> None:
    """Measures all forms in turns and prints the quickest and the median round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle, records = model.build(Path(folder))
        loaded = load_model(bundle.path, bundle.id, "1", "benchmark")
    features = loaded.encoder.encode_rows(records)
    session = loaded.run.session
    names = [OUTPUT]
    forms: dict[str, Callable[[NDArray[np.float32]], Any]] = {
        "session.run": lambda batch: session.run(names, {INPUT: batch})[0],
        "bound": loaded.run,
        "scores as a list": lambda batch: loaded.score(batch).tolist(),
    }
    random = np.random.default_rng(1)
    print("| rows | form | µs, quickest round | median | a row |\n| --- | --- | --- | --- | --- |")  # noqa: T201
    for size in SIZES:
        batches = [features[random.integers(0, len(features), size)] for _ in range(RUNS)]
        taken: dict[str, list[float]] = {name: [] for name in forms}
        for _ in range(options.rounds):
            for name, call in forms.items():
                taken[name].append(microseconds(call, batches))
        for name, found in taken.items():
            print(f"| {size} | {name} | {min(found):.1f} | {statistics.median(found):.1f} | {min(found) / size:.2f} |")  # noqa: T201


if __name__ == "__main__":
    main()
