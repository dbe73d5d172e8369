"""Running a graph outside the model server: scores of many rows, and the latency of few.

Training checks parity with it, optimisation and evaluation score and time with it. Threads do not spin, as in the model
server, and without a serving profile there is one, so that latencies are comparable and parallel tasks do not fight for
cores.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from contracts.bundle import ServingProfile
from contracts.providers import CPU, name_of, options_of

INPUT, OUTPUT = "features", "score"  # the contract's names: float32 (rows, columns) → float32 (rows,)
LATENCY_ROWS = (1, 32)
ON_ONE_THREAD = ServingProfile()
_ROUNDS = 4
_SCORE_ROWS = 4096
_WARM_UP_RUNS = 20


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Quantiles of the time of one graph run over `rows` rows, in microseconds, from `runs` runs.

    The upper two are the lowest of four rounds: on a machine with other work to do every hundredth run waits for a
    processor (4 ms and more), which says nothing of the graph. A graph that is slow by itself is slow in each round.
    """

    rows: int
    runs: int
    us_p50: float
    us_p95: float
    us_p99: float


def open_session(graph: bytes | Path, profile: ServingProfile = ON_ONE_THREAD, profile_to: Path | None = None) -> Any:
    """An ONNX Runtime session for `graph` (bytes, or the path of a file) with those providers of `profile` that it has.

    With `profile_to` (a path without an ending) the runtime takes the time of each operator, until `end_profiling()`.

    Raises:
        ValueError: the graph does not take `features` and give `score`.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = profile.intra_op_threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    if profile_to is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile_to)
    available = onnxruntime.get_available_providers()
    providers = {name_of(wanted): options_of(wanted) for wanted in profile.providers if name_of(wanted) in available}
    providers.setdefault(CPU, {})
    source = str(graph) if isinstance(graph, Path) else graph
    session = onnxruntime.InferenceSession(source, options, providers=list(providers.items()))
    inputs, outputs = [i.name for i in session.get_inputs()], [o.name for o in session.get_outputs()]
    if inputs != [INPUT] or OUTPUT not in outputs:
        raise ValueError(f"the graph maps {inputs} to {outputs}, expected [{INPUT!r}] to [{OUTPUT!r}]")
    return session


def score(graph: bytes | Path, rows: NDArray[np.float32], batch_rows: int = _SCORE_ROWS) -> NDArray[np.float32]:
    """The scores of `rows` (rows × columns, encoded), as an array of shape (rows,).

    Raises:
        ValueError: `rows` is no matrix, or a score is not a number from 0 to 1.
    """
    if rows.ndim != 2:
        raise ValueError(f"features have the shape {rows.shape}, expected rows × columns")
    session = open_session(graph)
    features = np.ascontiguousarray(rows, dtype=np.float32)
    batches = [
        session.run([OUTPUT], {INPUT: features[start : start + batch_rows]})[0].reshape(-1)
        for start in range(0, len(features), batch_rows)
    ]
    scores: NDArray[np.float32] = np.concatenate(batches) if batches else np.empty(0, dtype=np.float32)
    wrong = ~((scores >= 0) & (scores <= 1))  # also true for NaN
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(f"{int(wrong.sum())} of {len(scores)} scores are not in [0, 1]; row {row} has {scores[row]}")
    return scores


def measure_latency(
    graph: bytes | Path, rows: NDArray[np.float32], batch_rows: Sequence[int] = LATENCY_ROWS, runs: int = 400
) -> tuple[Latency, ...]:
    """The latency of `graph` on real `rows`, one result for each size in `batch_rows`, after a warm-up.

    Raises:
        ValueError: there are no rows to run.
    """
    return measure_side_by_side([graph], rows, batch_rows, runs)[0]


def measure_side_by_side(
    graphs: Sequence[bytes | Path],
    rows: NDArray[np.float32],
    batch_rows: Sequence[int] = LATENCY_ROWS,
    runs: int = 400,
    profile: ServingProfile = ON_ONE_THREAD,
) -> list[tuple[Latency, ...]]:
    """The latencies of several graphs, run in turns so that noise of the machine falls on all of them alike.

    Raises:
        ValueError: there are no rows to run.
    """
    results: list[list[Latency]] = [[] for _ in graphs]
    for size in batch_rows:
        times = time_side_by_side([(graph, rows) for graph in graphs], size, runs, profile)
        for found, taken in zip(results, times, strict=True):
            found.append(_quantiles(taken, size))
    return [tuple(found) for found in results]


def _quantiles(times: NDArray[np.float64], rows: int) -> Latency:
    p50 = float(np.median(times))
    rounds = [np.quantile(part, (0.95, 0.99)) for part in np.array_split(times, _ROUNDS) if len(part)]
    p95, p99 = (max(p50, float(quietest)) for quietest in np.min(rounds, axis=0))
    return Latency(rows=rows, runs=len(times), us_p50=p50, us_p95=p95, us_p99=p99)


def time_side_by_side(
    sides: Sequence[tuple[bytes | Path, NDArray[np.float32]]],
    size: int,
    runs: int = 400,
    profile: ServingProfile = ON_ONE_THREAD,
) -> NDArray[np.float64]:
    """The time of each of `runs` runs over `size` rows in microseconds, shape (sides, runs), after a warm-up.

    Each side is a graph with its own encoded rows. The sides take turns within a run, so a column is a pair: the same
    place among the rows at almost the same time.

    Raises:
        ValueError: a side has no rows to run.
    """
    if not all(len(rows) for _, rows in sides):
        raise ValueError("latency needs real rows to run, found none")
    sessions = [open_session(graph, profile) for graph, _ in sides]
    batches = [_batches(rows, size) for _, rows in sides]
    times = np.empty((len(sides), runs))
    for run in range(-_WARM_UP_RUNS, runs):
        for turn in range(len(sides)):
            position = (run + turn) % len(sides)  # who runs first finds the colder caches
            feed = {INPUT: batches[position][run % len(batches[position])]}
            started = time.perf_counter_ns()
            sessions[position].run([OUTPUT], feed)
            if run >= 0:
                times[position, run] = (time.perf_counter_ns() - started) / 1000
    return times


def _batches(rows: NDArray[np.float32], size: int, most: int = 64) -> list[NDArray[np.float32]]:
    """Different batches of `size` rows each, spread over `rows`; rows repeat when there are too few."""
    starts = np.linspace(0, max(0, len(rows) - size), most).astype(int)
    return [np.ascontiguousarray(rows[np.arange(start, start + size) % len(rows)], np.float32) for start in starts]
