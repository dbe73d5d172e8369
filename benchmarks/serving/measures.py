"""What is measured of each server, and ONNX Runtime alone in this process, which is the ceiling of the batches."""

import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
from contenders import BATCH_ROWS, Workload
from running import Running

from pipelines.benchmarking.arrivals import due_times
from pipelines.benchmarking.load import Load, LoadResult
from pipelines.benchmarking.results import Measured, measure
from pipelines.tasks.benching import event_loop

CONCURRENCIES = (1, 16, 64)
FIXED_RATE = 500.0
BATCH_CONNECTIONS = 4
OVERLOAD = 3.0
OVERLOAD_CONNECTIONS = 1024
OVERLOAD_TIMEOUT_S = 1.0
GENERATOR_RATE = 30_000.0  # what the generator can send without being the limit itself
Numbers = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How long each load lasts, behind its warm-up."""

    seconds: float
    warmup_s: float


def measure_all(server: Running, effort: Effort, tell: Callable[[str], None]) -> Numbers:
    """Every measure of one server, in one life of it."""
    found: Numbers = {
        "first_answer_s": server.first_answer_s,
        "start_cpu_s": server.start_cpu_s,
        "start_memory_mb": server.start_memory_mb,
    }
    tell(f"first answer after {server.first_answer_s:.2f} s")
    one_row = server.one_row()
    for connections in CONCURRENCIES:
        found |= closed(server, one_row, connections, effort, f"c{connections}", tell)
    found |= fixed_rate(server, one_row, effort, tell)
    contender = server.contender
    forms = {"json": contender.records, "binary": contender.binary}
    if contender.group == "peer":
        forms["encoded"] = contender.own
    for prefix, form in forms.items():
        if form is not None:
            requests = server.batches(form)
            found |= closed(server, requests, BATCH_CONNECTIONS, effort, prefix, tell, rows=BATCH_ROWS)
    if server.contender.group == "ours":
        found |= overload(server, one_row, found["c64_rps"], effort, tell)
    found["memory_mb"], found["rss_mb"] = server.processes.resident_mb(), server.processes.rss_mb()
    tell(f"{found['memory_mb']:.0f} MB")
    return found


def measure_variant(server: Running, effort: Effort, tell: Callable[[str], None]) -> Numbers:
    """Only what the variants are compared by: throughput, of single rows and of batches."""
    found: Numbers = {"first_answer_s": server.first_answer_s}
    for connections in CONCURRENCIES[1:]:
        found |= closed(server, server.one_row(), connections, effort, f"c{connections}", tell)
    batches = server.batches(server.contender.records)
    found |= closed(server, batches, BATCH_CONNECTIONS, effort, "json", tell, rows=BATCH_ROWS)
    found["memory_mb"] = server.processes.resident_mb()
    return found


def closed(
    server: Running,
    requests: Sequence[bytes],
    connections: int,
    effort: Effort,
    prefix: str,
    tell: Callable[[str], None],
    rows: int = 1,
) -> Numbers:
    """Throughput of connections that each wait for their answer."""
    cpu_s = server.processes.cpu_s()
    result = _run(lambda: Load(server.target, requests, connections=connections).closed_loop(effort.seconds))
    cpu_us = (server.processes.cpu_s() - cpu_s) / max(result.sent, 1) * 1e6
    measured = measure(
        result, due_s=None, rows=rows, warmup_s=effort.warmup_s, seconds=effort.seconds - effort.warmup_s
    )
    _require_answers(server, measured)
    tell(f"{prefix} {measured.rates.rows:,.0f}/s")
    return {
        f"{prefix}_rps": measured.rates.rows,
        f"{prefix}_p50_ms": measured.latency_ms.p50 or 0.0,
        f"{prefix}_p99_ms": measured.latency_ms.p99 or 0.0,
        f"{prefix}_cpu_us": cpu_us,
        f"{prefix}_generator_share": measured.generator.cpu_share,
    }


def fixed_rate(server: Running, requests: Sequence[bytes], effort: Effort, tell: Callable[[str], None]) -> Numbers:
    """Latency at `FIXED_RATE`, from the intended time; a server that cannot keep up shows its queue."""
    due = due_times(FIXED_RATE, effort.seconds, seed=1)
    cpu_s = server.processes.cpu_s()
    result = _run(lambda: Load(server.target, requests, connections=256).open_loop(due))
    cpu_us = (server.processes.cpu_s() - cpu_s) / max(result.sent, 1) * 1e6
    measured = measure(result, due_s=due, rows=1, warmup_s=effort.warmup_s, seconds=effort.seconds - effort.warmup_s)
    tell(f"at {FIXED_RATE:.0f}/s p99 {measured.latency_ms.p99 or 0:.1f} ms")
    return {
        "fixed_p50_ms": measured.latency_ms.p50 or 0.0,
        "fixed_p99_ms": measured.latency_ms.p99 or 0.0,
        "fixed_cpu_us": cpu_us,
        "fixed_failed": float(measured.counts.failed),
    }


def overload(
    server: Running, requests: Sequence[bytes], capacity: float, effort: Effort, tell: Callable[[str], None]
) -> Numbers:
    """Goodput at three times the capacity: answers within the clients' patience, as a share of the capacity."""
    rate = min(OVERLOAD * capacity, GENERATOR_RATE)
    due = due_times(rate, effort.seconds, seed=1)
    result = _run(
        lambda: Load(
            server.target, requests, connections=OVERLOAD_CONNECTIONS, timeout_s=OVERLOAD_TIMEOUT_S, queues=False
        ).open_loop(due)
    )
    measured = measure(result, due_s=due, rows=1, warmup_s=effort.warmup_s, seconds=effort.seconds - effort.warmup_s)
    recording = result.recording
    is_accepted = np.array([each.is_answered for each in recording.labels])[recording.label]
    accepted_ms = recording.latency_s[is_accepted & (recording.due_s >= effort.warmup_s)] * 1e3
    tell(f"at {rate:,.0f}/s {measured.rates.answered:,.0f}/s answered")
    return {
        "overload_times": rate / capacity,
        "overload_goodput": measured.rates.answered / capacity,
        "overload_p99_ms": float(np.percentile(accepted_ms, 99)) if len(accepted_ms) else 0.0,
        "overload_refused": measured.counts.failed / max(measured.counts.requests, 1),
        "overload_generator_share": measured.generator.cpu_share,
    }


def session_of(graph: str) -> onnxruntime.InferenceSession:
    """The graph at that path with our session options."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def onnxruntime_alone(work: Workload, effort: Effort) -> Numbers:
    """Rows a second of ONNX Runtime in this process, by one row and by `BATCH_ROWS`, with our session options."""
    session = session_of(str(work.bundle.model_path))
    found: Numbers = {}
    for prefix, rows in (("c1", 1), ("binary", BATCH_ROWS)):
        chosen = [work.features[start : start + rows] for start in range(0, len(work.features) - rows + 1, rows)]
        done, started = 0, time.perf_counter()
        while time.perf_counter() - started < effort.seconds:
            session.run(["score"], {"features": chosen[done % len(chosen)]})
            done += 1
        found[f"{prefix}_rps"] = done * rows / (time.perf_counter() - started)
    return found


def _run(make: Callable[[], Coroutine[Any, Any, LoadResult]]) -> LoadResult:
    async def run() -> LoadResult:
        return await make()  # made on the loop on which it runs

    with event_loop() as runner:
        return runner.run(run())


def _require_answers(server: Running, measured: Measured) -> None:
    if measured.counts.failed or not measured.counts.answered:
        causes = "; ".join(f"{each.requests} × {each.cause} {each.example}" for each in measured.failures[:3])
        raise RuntimeError(
            f"{server.contender.name}: {measured.counts.failed} requests failed: {causes or 'no answers'}"
        )
