"""What optimisation comes to on real flights: every candidate of two nets and of trees, and other ways to int8.

`make bench-optimization` trains the models on the project flight_delay, and prints the tables;
`ARGS=--readme` writes them into this folder's README.
"""

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from rich.console import Console

from benchmarks.optimization.tables import (
    GOAL_ROWS,
    Ratio,
    Way,
    candidates_table,
    goal,
    operators_table,
    ways_table,
)
from benchmarks.optimization.ways import WAYS
from pipelines.inference import measure_side_by_side, score, time_side_by_side
from pipelines.optimization import candidates
from pipelines.optimization.folding import optimise_graph
from pipelines.statistics.classification import log_losses
from pipelines.tasks import ingesting, optimising, retraining
from pipelines.tasks.optimising import Inputs
from pipelines.wiring import find_project

PROJECT, AS_OF = "flight_delay", "2013-06-01"
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "the net as the project has it (128 and 64 units)": ("neural_net", {}),
    "a larger net (512 and 256 units)": ("neural_net", {"hidden": [512, 256]}),
    "trees": ("boosted_trees", {}),
}
INT8 = ("int8_static_minmax", "int8_static_percentile", "int8_per_tensor")
README = Path(__file__).parent / "README.md"
BEGIN, END = "<!-- results -->", "<!-- end of results -->"
ROUNDS = 5
console = Console(stderr=True)


def main() -> int:
    """Exit code 1 when the goal is not reached for a net."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readme", action="store_true", help="write the results into the README")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="paceline-optimization-") as folder, console.status("starting") as status:
        os.environ["PACELINE_HOME"] = folder
        text, reached = _measured(status)
    sys.stdout.write(text)
    if options.readme:
        before, _, rest = README.read_text().partition(BEGIN)
        README.write_text(f"{before}{BEGIN}\n{text}{END}{rest.partition(END)[2]}")
    return 0 if reached else 1


def _measured(status: Any) -> tuple[str, bool]:
    project = find_project(PROJECT)
    status.update("ingest")
    ingesting.ingest(PROJECT)
    snapshot = retraining.take_snapshot(PROJECT, retraining.choose_window(PROJECT, AS_OF))
    sections, reached, load = [], True, os.getloadavg()[0]
    for title, (trainer, parameters) in MODELS.items():
        status.update(f"{title}: training")
        trial = {
            "snapshot": snapshot,
            "trainer": trainer,
            "parameters": parameters,
            "seed": project.training.seed,
        }
        trained = retraining.train(PROJECT, trial)
        given = optimising.inputs_of(PROJECT, trained)
        status.update(f"{title}: candidates")
        optimised = candidates.optimise(
            given.graph,
            given.training,
            given.validation,
            given.slices,
            project.optimization,
            given.target,
            given.seed,
            lambda text: None,
        )
        sections += [f"### {title[0].upper()}{title[1:]}", candidates_table(optimised)]
        if trainer != "neural_net":
            continue
        sections.append(operators_table(optimised, ("fp32", "graph_optimised", "int8_per_tensor", "pruned_units_50")))
        status.update(f"{title}: in turns")
        ratios = _ratios(given)
        passed, told = goal(optimised, ratios)
        reached = reached and passed
        sections += [
            f"At most 30 % of the size, faster for {GOAL_ROWS} rows, and accepted: "
            f"**{'reached' if passed else 'not reached'}**. {told}.",
            f"Other ways to int8 of this net, in turns with fp32 and without a gate:\n\n{ways_table(_ways(given))}",
        ]
    return "\n\n".join([_environment(load), *sections]) + "\n", reached


def _ratios(given: Inputs) -> dict[str, Ratio]:
    """The medians of `ROUNDS` rounds in turns with fp32."""
    forms = {name: candidates.recreate(name, given.graph, given.training, given.target, given.seed) for name in INT8}
    sides = [(made, given.validation.features) for made in (given.graph, *forms.values())]
    rounds = [np.median(time_side_by_side(sides, GOAL_ROWS, 1000), axis=1) for _ in range(ROUNDS)]
    shares = np.array([medians[1:] / medians[0] for medians in rounds])
    return {
        name: Ratio(float(np.median(found)), float(found.min()), float(found.max()))
        for name, found in zip(forms, shares.T, strict=True)
    }


def _ways(given: Inputs) -> Sequence[Way]:
    folded = optimise_graph(given.graph)
    graphs = {"fp32, as trained": given.graph} | {title: make(folded, given.training) for title, make in WAYS.items()}
    features, labels = given.validation.features, given.validation.labels
    latencies = measure_side_by_side(list(graphs.values()), features[:4096], (1, GOAL_ROWS), 1000)
    reference = log_losses(labels, score(given.graph, features))
    return [
        Way(
            title,
            len(made),
            one.us_p50,
            many.us_p50,
            float((log_losses(labels, score(made, features)) - reference).mean()),
        )
        for (title, made), (one, many) in zip(graphs.items(), latencies, strict=True)
    ]


def _environment(load: float) -> str:
    processor = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    vnni = "with" if "avx512_vnni" in Path("/proc/cpuinfo").read_text() else "without"
    return (
        f"Run of {date.today()}: {processor} {vnni} VNNI, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"ONNX Runtime {onnxruntime.__version__}; load of the machine before the run {load:.2f}. Flights from January "
        f"to {AS_OF}; times in µs on one thread; losses against the graph as trained, on two weeks of validation."
    )


if __name__ == "__main__":
    sys.exit(main())
