"""How much memory a graph takes: its session and its runs, in a process that has nothing else.

The peak of the resident set (`ru_maxrss`) cannot be reset, and a process that has trained something stands high above
a small graph. So one fresh interpreter loads the runtime, and forks for each graph: the growth of the fork's peak is
the graph's. A process is worth its half second: the runtime's own statistics leave out what trees are kept in, and a
graph that crashes the runtime crashes alone.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from contracts.bundle import ServingProfile
from pipelines.inference import INPUT, OUTPUT, open_session

_RUNS = 20
_TIMEOUT_S = 120
_UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes


def measure_peak_memory(
    graphs: Sequence[bytes], rows: NDArray[np.float32], profile: ServingProfile
) -> list[int | None]:
    """The peak memory of each graph in bytes, with one session of `profile` that runs `rows`; None where it crashed.

    Raises:
        RuntimeError: the measuring process itself failed; the message has what it said.
    """
    with tempfile.TemporaryDirectory() as folder:
        for position, graph in enumerate(graphs):
            (Path(folder) / f"{position}.onnx").write_bytes(graph)
        np.save(Path(folder) / "rows.npy", np.ascontiguousarray(rows, np.float32))
        (Path(folder) / "profile.json").write_bytes(msgspec.json.encode(profile))
        command = [sys.executable, "-m", "pipelines.optimization.peak_memory", folder, str(len(graphs))]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    if ran.returncode:
        raise RuntimeError(f"peak memory could not be measured: {ran.stderr.strip()[-500:]}")
    found: list[int | None] = json.loads(ran.stdout.splitlines()[-1])
    return found


def _measure(folder: Path, count: int) -> list[int | None]:
    import onnxruntime  # noqa: F401 (before the forks, so that it does not count)

    profile = msgspec.json.decode((folder / "profile.json").read_bytes(), type=ServingProfile)
    rows = np.load(folder / "rows.npy")
    found: list[int | None] = []
    for position in range(count):
        reading, writing = os.pipe()
        if (child := os.fork()) == 0:
            status = 1
            try:
                grown = _grow(folder / f"{position}.onnx", rows, profile)
                os.write(writing, str(grown).encode())
                status = 0
            finally:
                os._exit(status)  # nothing of the parent's may run twice
        os.close(writing)
        with os.fdopen(reading) as pipe:
            told = pipe.read()
        _, status = os.waitpid(child, 0)
        found.append(int(told) if told and not status else None)
    return found


def _grow(path: Path, rows: NDArray[np.float32], profile: ServingProfile) -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    session = open_session(path, profile)
    for _ in range(_RUNS):
        session.run([OUTPUT], {INPUT: rows})
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * _UNIT


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_measure(Path(sys.argv[1]), int(sys.argv[2]))) + "\n")
