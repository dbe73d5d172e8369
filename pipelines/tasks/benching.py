"""Load on a model server: what it can do, and what its clients would feel."""

import asyncio
import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import msgspec

from pipelines.benchmarking import page, rate_search
from pipelines.benchmarking.arrivals import ARRIVALS, Arrivals, due_times
from pipelines.benchmarking.bodies import PROTOCOLS, BenchProtocol, classify_of, requests_of
from pipelines.benchmarking.connections import Target, target_of, trusted
from pipelines.benchmarking.live_model import LiveModel, make_records, read_live_model
from pipelines.benchmarking.load import MAXIMUM_CONNECTIONS, Load, Progress
from pipelines.benchmarking.results import BenchResult, Measured, Search, ServerProcess, Step, as_builtins, measure
from pipelines.benchmarking.server_process import ServerProcesses, find_listener
from pipelines.pages import write_whole

API_KEY_VARIABLE = "PACELINE_API_KEY"
DEFAULT_RATE = 100.0
FIRST_SEARCHED_RATE = 200.0
MAXIMUM_ROWS = 1000
MAXIMUM_FILE_BYTES = 256 << 20
OnProgress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `bench_serve` does. One of `rate`, `concurrency` and `find_rate`; without any, `DEFAULT_RATE`.

    `rate` is in requests a second, with `find_rate` the first that is tried; `concurrency` the connections of a closed
    loop. `duration_s` is of each measured load, behind `warmup_s`. `connections` are the most that are open.
    """

    rate: float | None = None
    concurrency: int | None = None
    find_rate: bool = False
    objective_p99_ms: float = 10.0
    duration_s: float = 10.0
    warmup_s: float = 1.0
    rows: int = 1
    protocol: BenchProtocol = "records"
    connections: int = 256
    timeout_s: float = 5.0
    arrivals: Arrivals = "poisson"
    seed: int = 1
    records: Path | None = None
    api_key: str | None = None

    def __post_init__(self) -> None:
        if self.concurrency is not None and (self.rate is not None or self.find_rate):
            raise ValueError("--concurrency waits for answers and has no rate: give it without --rate and --find-rate")
        for name, value, low, high in (
            ("--rate", self.rate, 0.1, rate_search.MAXIMUM_RATE),
            ("--concurrency", self.concurrency, 1, MAXIMUM_CONNECTIONS),
            ("--connections", self.connections, 1, MAXIMUM_CONNECTIONS),
            ("--rows", self.rows, 1, MAXIMUM_ROWS),
            ("--duration", self.duration_s, 0.1, 24 * 3600.0),
            ("--warmup", self.warmup_s, 0.0, 3600.0),
            ("--timeout", self.timeout_s, 0.01, 600.0),
            ("--objective-p99-ms", self.objective_p99_ms, 0.01, 600_000.0),
        ):
            if value is not None and not low <= value <= high:
                raise ValueError(f"{name}: found {value:g}, expected {low:g} to {high:g}")


def protocol_of(text: str) -> BenchProtocol:
    """Raises ValueError: there is no such protocol."""
    for protocol in PROTOCOLS:
        if text == protocol:
            return protocol
    raise ValueError(f"--protocol: found {text!r}, expected one of {', '.join(PROTOCOLS)}")


def arrivals_of(text: str) -> Arrivals:
    """Raises ValueError: requests do not arrive so."""
    for arrivals in ARRIVALS:
        if text == arrivals:
            return arrivals
    raise ValueError(f"--arrivals: found {text!r}, expected one of {', '.join(ARRIVALS)}")


def event_loop() -> "asyncio.Runner":
    """Where to run `bench_serve`: on the fastest loop there is: the generator must cost less than the server."""
    if sys.platform == "win32":
        return asyncio.Runner()
    import uvloop

    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


def read_records(file: Path) -> list[dict[str, Any]]:
    """One record a line, as JSON.

    Raises:
        ValueError: a line is no JSON object, or there is none; the line is named.
    """
    if file.stat().st_size > MAXIMUM_FILE_BYTES:
        raise ValueError(
            f"{file} is larger than {MAXIMUM_FILE_BYTES >> 20} MiB: give fewer records, they are sent in turns"
        )
    records: list[dict[str, Any]] = []
    for number, line in enumerate(file.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            records.append(msgspec.json.decode(line, type=dict[str, Any]))
        except msgspec.MsgspecError as error:
            raise ValueError(
                f"{file}:{number}: found {line[:60]!r}, expected one record as a JSON object: {error}"
            ) from None
    if not records:
        raise ValueError(f"{file} has no records, expected one JSON object a line")
    return records


async def bench_serve(
    url: str, options: Options, *, stop: asyncio.Event | None = None, on_progress: OnProgress | None = None
) -> BenchResult:
    """Loads the model server at `url`; `stop` ends it early with what there is.

    Raises:
        ConnectionError: nobody answers there.
        PermissionError: the API key does not do.
        ValueError: an option or a record cannot be used.
        RuntimeError: the server has no champion, or does not answer the first request.
    """
    target = target_of(url)
    stop = stop or asyncio.Event()
    model = await asyncio.to_thread(read_live_model, target, options.api_key)
    records = read_records(options.records) if options.records else make_records(model, seed=options.seed)
    requests = requests_of(
        records,
        target=target,
        protocol=options.protocol,
        rows=options.rows,
        project=model.project,
        datatypes=model.datatypes,
        api_key=options.api_key,
    )
    await asyncio.to_thread(_try_one, target, requests[0], options)
    bench = _Bench(target, requests, options, stop, on_progress)
    started = datetime.now().astimezone().isoformat(timespec="seconds")
    search = None
    if options.find_rate:
        measured, search = await bench.search()
    elif options.concurrency is not None:
        measured = await bench.closed()
    else:
        measured = await bench.open(options.rate or DEFAULT_RATE, "")
    return BenchResult(
        url=target.url,
        started=started,
        mode="find-rate" if options.find_rate else "rate" if options.concurrency is None else "concurrency",
        protocol=options.protocol,
        rows_per_request=options.rows,
        connections=options.concurrency or options.connections,
        timeout_s=options.timeout_s,
        arrivals=options.arrivals if options.concurrency is None else "after each answer",
        seed=options.seed,
        warmup_s=options.warmup_s,
        environment=_environment(model),
        measured=measured,
        server_process=bench.process,
        search=search,
    )


def write_reports(result: BenchResult, *, json_file: Path | None, html_file: Path | None) -> None:
    """The files that were asked for, each whole or not at all."""
    if json_file is not None:
        write_whole(json_file, json.dumps(json_of(result), indent=1) + "\n")
    if html_file is not None:
        write_whole(html_file, page.bench_page(result))


def json_of(result: BenchResult) -> dict[str, Any]:
    """For machines; `pipelines.benchmarking.results` documents the keys."""
    return as_builtins(result)


def text_of(result: BenchResult) -> str:
    """A few lines for the terminal."""
    return page.bench_text(result)


class _Bench:
    """Loads with the same requests; `process` is what the server took in the last that counts."""

    def __init__(
        self,
        target: Target,
        requests: Sequence[bytes],
        options: Options,
        stop: asyncio.Event,
        on_progress: OnProgress | None,
    ) -> None:
        self._target = target
        self._requests = requests
        self._options = options
        self._stop = stop
        self._on_progress = on_progress
        self._listener = find_listener(target)
        self.process: ServerProcess | None = None

    async def open(self, rate: float, title: str) -> Measured:
        options = self._options
        span_s = options.warmup_s + options.duration_s
        due = due_times(rate, span_s, arrivals=options.arrivals, seed=options.seed)
        with _Watched(self._listener) as watched:
            load = await self._load(options.connections, title).open_loop(due)
        self.process = watched.result(load.sent)
        return measure(load, due_s=due, rows=options.rows, warmup_s=options.warmup_s, seconds=options.duration_s)

    async def closed(self) -> Measured:
        options = self._options
        with _Watched(self._listener) as watched:
            load = await self._load(options.concurrency or 1, "").closed_loop(options.warmup_s + options.duration_s)
        self.process = watched.result(load.sent)
        return measure(load, due_s=None, rows=options.rows, warmup_s=options.warmup_s, seconds=options.duration_s)

    async def search(self) -> tuple[Measured, Search]:
        """The best step's numbers, or the last's when none met the objective."""
        options = self._options
        first = options.rate or FIRST_SEARCHED_RATE
        steps: list[Step] = []
        kept: tuple[Measured, ServerProcess | None] | None = None
        while (rate := rate_search.next_rate(steps, first)) is not None:
            best = rate_search.best_rate(steps)
            known = "" if best is None else f", {best:,.0f}/s is fine"
            measured = await self.open(rate, f"step {len(steps) + 1}: {rate:,.0f}/s{known}")
            if self._stop.is_set() and steps:
                break  # half a step says nothing
            steps.append(rate_search.judge(rate, measured, options.objective_p99_ms))
            if rate_search.best_rate(steps) == rate or kept is None or best is None:
                kept = (measured, self.process)
            if self._stop.is_set():
                break
        if kept is None:
            raise RuntimeError("the search ended before its first step")
        measured, self.process = kept
        found = Search(objective_p99_ms=options.objective_p99_ms, best_rate=rate_search.best_rate(steps), steps=steps)
        return measured, found

    def _load(self, connections: int, title: str) -> Load:
        tell = self._on_progress
        return Load(
            self._target,
            self._requests,
            connections=connections,
            timeout_s=self._options.timeout_s,
            classify=classify_of(self._options.protocol),
            stop=self._stop,
            on_progress=None if tell is None else lambda progress: tell(_progress_text(title, progress)),
        )


class _Watched:
    """The server's CPU time between entering and leaving."""

    def __init__(self, listener: ServerProcesses | None) -> None:
        self._listener = listener
        self._cpu_s = 0.0

    def __enter__(self) -> "_Watched":
        self._cpu_s = self._listener.cpu_s() if self._listener else 0.0
        return self

    def __exit__(self, *_: object) -> None:
        self._cpu_s = self._listener.cpu_s() - self._cpu_s if self._listener else 0.0

    def result(self, sent: int) -> ServerProcess | None:
        if self._listener is None or not sent or not self._listener.family():
            return None
        return ServerProcess(
            processes=len(self._listener.family()),
            cpu_us_per_request=self._cpu_s / sent * 1e6,
            resident_mb=self._listener.resident_mb(),
        )


def _try_one(target: Target, request: bytes, options: Options) -> None:
    """One request before the load: what fails at once is an error, and no statistic."""
    head, _, body = request.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    route = first.split(" ")[1]
    headers = dict(line.split(": ", 1) for line in lines)
    url = f"{'https' if target.tls else 'http'}://{target.authority}{route}"
    try:
        with httpx.Client(timeout=options.timeout_s, trust_env=False, verify=trusted(target)) as client:
            answer = client.post(url, content=body, headers=headers)
    except httpx.TransportError as error:
        raise ConnectionError(f"{url} does not answer the first request: {type(error).__name__}: {error}") from error
    if answer.status_code in (401, 403):
        raise PermissionError(
            f"{url} answers {answer.status_code} to the first request: the key in {API_KEY_VARIABLE} or --api-key "
            f"needs the scope predict. {answer.text[:300]}"
        )
    if answer.status_code == 422:
        raise ValueError(
            f"the server refuses the first request, whose records do not fit its schema: {answer.text[:500]}"
        )
    if answer.status_code != 200:
        raise RuntimeError(f"{url} answers {answer.status_code} to the first request: {answer.text[:500]}")


def _progress_text(title: str, progress: Progress) -> str:
    return (
        f"{title + ' · ' if title else ''}{progress.seconds:.0f} s · {progress.sent:,} sent, "
        f"{progress.answered:,} answered, {progress.failed:,} failed, {progress.waiting:,} waiting · "
        f"p99 {progress.latency_ms_p99:.2f} ms"
    )


def _environment(model: LiveModel) -> dict[str, str]:
    return {
        "project": model.project,
        "server": f"{model.server}, API version {model.api_version}",
        "champion": f"version {model.version}",
        "bundle": model.bundle,
        "generator's machine": f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        "generator's Python": platform.python_version(),
    }
