"""Which operators of a graph take the time, by ONNX Runtime's own profile."""

import json
import tempfile
from collections import defaultdict
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from contracts.bundle import ServingProfile
from pipelines.inference import INPUT, OUTPUT, open_session

SLOWEST = 8
_RUNS, _WARM_UP_RUNS = 30, 5


class Operator(msgspec.Struct, frozen=True, kw_only=True):
    """All nodes of one operator: how many there are, the sum of their median times in a run, and its share of all.

    Operators are those that the runtime makes of the graph: `QGemm` for a quantised `Gemm`. Taking the time costs about
    3 µs a node, so that shares are told of the largest batch, where that is little.
    """

    name: str
    nodes: int
    us: float
    share: float


def slowest_operators(
    graph: bytes, rows: NDArray[np.float32], profile: ServingProfile, most: int = SLOWEST
) -> tuple[Operator, ...]:
    """The `most` slowest operators of `graph` in runs over `rows`, slowest first."""
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(graph, profile, profile_to=Path(folder) / "operators")
        for _ in range(_WARM_UP_RUNS + _RUNS):
            session.run([OUTPUT], {INPUT: rows})
        events = json.loads(Path(session.end_profiling()).read_bytes())
    times: dict[tuple[str, str], list[float]] = defaultdict(list)  # by operator and node
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            times[event["args"]["op_name"], event["args"]["node_index"]].append(float(event["dur"]))
    medians: dict[str, list[float]] = defaultdict(list)  # not means: a run that waits for a processor counts once
    for (name, _), taken in times.items():
        medians[name].append(float(np.median(taken[_WARM_UP_RUNS:])))
    whole = sum(map(sum, medians.values()))
    found = [
        Operator(name=name, nodes=len(taken), us=sum(taken), share=sum(taken) / whole if whole else 0.0)
        for name, taken in medians.items()
    ]
    return tuple(sorted(found, key=lambda operator: (-operator.us, operator.name))[:most])
