"""The result of a load as numbers: what `--json` writes, and what the page draws. Latencies are in milliseconds.

The keys are stable: a change of their meaning changes `format`. They are documented here, one Struct a level.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipelines.benchmarking.load import NOT_SENT, LoadResult
from pipelines.benchmarking.recording import Label

FORMAT = 1
MAXIMUM_MOMENTS = 120
MINIMUM_MOMENT_S = 0.25
BUSY_SHARE = 0.85  # of a core: above it the generator's own queue is in the latencies
LATE_MS = 1.0
CURVE = (0, 10, 25, 50, 75, 90, 95, 99, 99.5, 99.9, 99.95, 99.99, 99.995, 99.999)
Numbers = NDArray[np.float64]


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """From when a request was due until its answer; None without any. Given-up requests count as they waited."""

    p50: float | None
    p90: float | None
    p99: float | None
    p99_9: float | None
    max: float | None
    mean: float | None


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """Requests a second of the measured time: due by the schedule, and answered with status 2xx; `rows` in those."""

    intended: float | None
    answered: float
    rows: float


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """Requests of the measured time. `failed` includes `not_sent`, those for which no connection was free in time."""

    requests: int
    answered: int
    failed: int
    not_sent: int


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Requests that failed for the same reason; `example` is the first such answer."""

    cause: str
    status: int
    requests: int
    example: str


class SlotResult(msgspec.Struct, frozen=True, kw_only=True):
    """Answers of one version in one slot; `share` of all answers. An Open Inference answer does not say its slot."""

    slot: str
    version: str
    requests: int
    share: float
    latency_ms: Latency


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """Requests that were due in one stretch of the run; rates a second, it begins at `second`."""

    second: float
    seconds: float
    intended: float
    answered: float
    failed: float
    p50_ms: float | None
    p99_ms: float | None
    max_ms: float | None

    @property
    def middle_s(self) -> float:
        """Where a chart shows it."""
        return self.second + self.seconds / 2


class CurvePoint(msgspec.Struct, frozen=True, kw_only=True):
    """One point of the latency's distribution."""

    percentile: float
    latency_ms: float


class Generator(msgspec.Struct, frozen=True, kw_only=True):
    """What the generator itself took; `warnings` say when it, and not the server, limited the result."""

    cpu_share: float
    cpu_us_per_request: float
    late_ms_p99: float
    warnings: list[str]


class ServerProcess(msgspec.Struct, frozen=True, kw_only=True):
    """The server's processes, where they are on this machine: CPU time a request, memory at the end."""

    processes: int
    cpu_us_per_request: float
    resident_mb: float


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One rate that the search tried, and why it meets the objective or not."""

    rate: float
    answered_rate: float
    p50_ms: float | None
    p99_ms: float | None
    failed_share: float
    meets: bool
    reason: str


class Search(msgspec.Struct, frozen=True, kw_only=True):
    """The search for the largest rate whose p99 is within the objective; `best_rate` None: not even the smallest."""

    objective_p99_ms: float
    best_rate: float | None
    steps: list[Step]


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """One load."""

    seconds: float
    counts: Counts
    rates: Rates
    latency_ms: Latency
    statuses: dict[str, int]
    failures: list[Failure]
    slots: list[SlotResult]
    timeline: list[Moment]
    curve: list[CurvePoint]
    generator: Generator
    was_stopped: bool


class BenchResult(msgspec.Struct, frozen=True, kw_only=True):
    """All of `paceline bench serve`. With a search, `measured` is its best step."""

    url: str
    started: str
    mode: str
    protocol: str
    rows_per_request: int
    connections: int
    timeout_s: float
    arrivals: str
    seed: int
    warmup_s: float
    environment: dict[str, str]
    measured: Measured
    server_process: ServerProcess | None = None
    search: Search | None = None
    format: int = FORMAT


def measure(load: LoadResult, *, due_s: Numbers | None, rows: int, warmup_s: float, seconds: float) -> Measured:
    """The numbers of `load`, without the requests that were due in its first `warmup_s`.

    Args:
        due_s: the schedule; None for a closed loop, which has none.
        rows: in each request.
        seconds: of the schedule behind the warm-up, if the load was not stopped before.
    """
    recording = load.recording
    labels = recording.labels
    due = recording.due_s
    chosen = due >= warmup_s
    due, latency, label = due[chosen] - warmup_s, recording.latency_s[chosen] * 1e3, recording.label[chosen]
    span_s = max(min(seconds, load.seconds - warmup_s), 1e-9) if load.was_stopped else seconds
    is_answered = np.array([each.is_answered for each in labels] or [False])[label]
    is_counted = np.array([each.is_answered or each.given_up for each in labels] or [False])[label]
    answered = int(is_answered.sum())
    intended = None if due_s is None else due_s[(due_s >= warmup_s) & (due_s < warmup_s + span_s)] - warmup_s
    return Measured(
        seconds=span_s,
        counts=Counts(
            requests=len(due),
            answered=answered,
            failed=len(due) - answered,
            not_sent=_count(label, [code for code, each in enumerate(labels) if each.error == NOT_SENT]),
        ),
        rates=Rates(
            intended=None if intended is None else len(intended) / span_s,
            answered=answered / span_s,
            rows=answered * rows / span_s,
        ),
        latency_ms=latency_of(latency[is_counted]),
        statuses=_statuses(labels, label),
        failures=_failures(load, label),
        slots=_slots(labels, label, latency, answered),
        timeline=_timeline(due, latency, is_answered, is_counted, intended, span_s),
        curve=_curve(latency[is_counted]),
        generator=_generator(load, is_open_loop=due_s is not None),
        was_stopped=load.was_stopped,
    )


def latency_of(latency_ms: Numbers) -> Latency:
    """Its percentiles."""
    if not len(latency_ms):
        return Latency(p50=None, p90=None, p99=None, p99_9=None, max=None, mean=None)
    p50, p90, p99, p99_9 = (float(value) for value in np.percentile(latency_ms, (50, 90, 99, 99.9)))
    return Latency(p50=p50, p90=p90, p99=p99, p99_9=p99_9, max=float(latency_ms.max()), mean=float(latency_ms.mean()))


def _count(label: NDArray[np.int64], codes: Sequence[int]) -> int:
    return int(np.isin(label, codes).sum())


def _statuses(labels: Sequence[Label], label: NDArray[np.int64]) -> dict[str, int]:
    counted: dict[str, int] = {}
    for code, each in enumerate(labels):
        if number := _count(label, [code]):
            name = str(each.status) if each.status else "no answer"
            counted[name] = counted.get(name, 0) + number
    return dict(sorted(counted.items()))


def _failures(load: LoadResult, label: NDArray[np.int64]) -> list[Failure]:
    recording = load.recording
    found = [
        Failure(cause=each.error, status=each.status, requests=number, example=recording.examples.get(each, ""))
        for code, each in enumerate(recording.labels)
        if not each.is_answered and (number := _count(label, [code]))
    ]
    return sorted(found, key=lambda failure: -failure.requests)


def _slots(labels: Sequence[Label], label: NDArray[np.int64], latency_ms: Numbers, answered: int) -> list[SlotResult]:
    found = []
    for code, each in enumerate(labels):
        of_it = label == code
        if each.is_answered and of_it.any():
            found.append(
                SlotResult(
                    slot=each.slot,
                    version=each.version,
                    requests=int(of_it.sum()),
                    share=float(of_it.sum()) / answered,
                    latency_ms=latency_of(latency_ms[of_it]),
                )
            )
    return sorted(found, key=lambda slot: (slot.slot, slot.version))


def _timeline(
    due_s: Numbers,
    latency_ms: Numbers,
    is_answered: NDArray[np.bool_],
    is_counted: NDArray[np.bool_],
    intended_s: Numbers | None,
    span_s: float,
) -> list[Moment]:
    width_s = max(span_s / MAXIMUM_MOMENTS, MINIMUM_MOMENT_S)
    moments = []
    for number in range(int(np.ceil(span_s / width_s - 1e-9))):
        begin, end = number * width_s, min((number + 1) * width_s, span_s)
        inside = (due_s >= begin) & (due_s < end)
        latencies = latency_ms[inside & is_counted]
        answered = int((inside & is_answered).sum())
        length_s = end - begin
        planned = int(inside.sum()) if intended_s is None else int(((intended_s >= begin) & (intended_s < end)).sum())
        moments.append(
            Moment(
                second=begin,
                seconds=length_s,
                intended=planned / length_s,
                answered=answered / length_s,
                failed=(int(inside.sum()) - answered) / length_s,
                p50_ms=float(np.percentile(latencies, 50)) if len(latencies) else None,
                p99_ms=float(np.percentile(latencies, 99)) if len(latencies) else None,
                max_ms=float(latencies.max()) if len(latencies) else None,
            )
        )
    return moments


def _curve(latency_ms: Numbers) -> list[CurvePoint]:
    """Up to the percentile that the number of requests can show."""
    if not len(latency_ms):
        return []
    shown = [each for each in CURVE if len(latency_ms) * (100 - each) / 100 > 1 - 1e-6]
    return [
        CurvePoint(percentile=float(each), latency_ms=float(value))
        for each, value in zip(shown, np.percentile(latency_ms, shown), strict=True)
    ]


def _generator(load: LoadResult, *, is_open_loop: bool) -> Generator:
    share = load.cpu_s / max(load.seconds, 1e-9)
    late = np.array(load.recording.late_s)
    late_ms = float(np.percentile(late, 99)) * 1e3 if len(late) and is_open_loop else 0.0
    warnings = []
    if share > BUSY_SHARE:
        warnings.append(
            f"the generator itself was busy for {share:.0%} of a core: it may have been the limit, not the server; "
            "use a smaller rate, more rows a request, or several generators"
        )
    if late_ms > LATE_MS:
        warnings.append(
            f"the generator was {late_ms:.1f} ms late for one request in a hundred (other work on this machine?): "
            "latencies include that"
        )
    return Generator(
        cpu_share=share,
        cpu_us_per_request=load.cpu_s / max(load.sent, 1) * 1e6,
        late_ms_p99=late_ms,
        warnings=warnings,
    )


def as_builtins(result: BenchResult) -> dict[str, Any]:
    """For JSON."""
    built: dict[str, Any] = msgspec.to_builtins(result)
    return built
