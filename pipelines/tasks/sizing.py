"""How many model servers a peak needs: one is measured in a ramp to its limit, the rest is arithmetic."""

import asyncio
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from pipelines.benchmarking import rate_search
from pipelines.benchmarking.connections import Target, target_of
from pipelines.benchmarking.results import BenchResult, Step
from pipelines.benchmarking.server_metrics import ServerMetrics, read_metrics
from pipelines.benchmarking.start_up import measure_start
from pipelines.capacity import Demand, MeasuredServer, Sizing, page, size
from pipelines.capacity.measured import RampStep, read_measured, written
from pipelines.capacity.prices import PRICES, read_prices
from pipelines.pages import write_whole
from pipelines.tasks.benching import FIRST_SEARCHED_RATE, Options, bench_serve
from pipelines.tasks.serving import server_environment
from pipelines.wiring import find_project, home, server_url

__all__ = ["PRICES", "Demand", "read_measured", "read_prices", "size"]

STATE = "state.json"
Say = Callable[[str], None]


async def measure_server(
    project: str,
    objective_ms: float,
    *,
    start_s: float,
    url: str | None = None,
    seconds: float = 5.0,
    first_rate: float = FIRST_SEARCHED_RATE,
    api_key: str | None = None,
    records: Path | None = None,
    stop: asyncio.Event | None = None,
    say: Say | None = None,
) -> MeasuredServer:
    """Loads the project's model server with rising rates until its p99 exceeds `objective_ms`, and narrows the limit.

    `start_s` is how long it takes to start, as `measured_start` has it; `seconds` is of each load, behind a warm-up.

    Raises:
        ConnectionError: nobody answers there.
        RuntimeError: not even the lowest rate met the objective, the search was stopped, or nothing tells what the
            server uses.
    """
    target = target_of(url or server_url(find_project(project)))
    stop = stop or asyncio.Event()
    steps: list[Step] = []
    ramp: list[RampStep] = []
    results: list[BenchResult] = []
    while (rate := rate_search.next_rate(steps, first_rate)) is not None:
        title = f"step {len(steps) + 1}: {rate:,.0f}/s"
        options = Options(
            rate=rate,
            duration_s=seconds,
            objective_p99_ms=objective_ms,
            # a client that has waited so long has what it needs to know: the objective is missed
            timeout_s=max(1.0, 10 * objective_ms / 1e3),
            api_key=api_key,
            records=records,
        )
        before = await asyncio.to_thread(read_metrics, target, api_key)
        result = await bench_serve(
            target.url, options, stop=stop, on_progress=None if say is None else _titled(say, title)
        )
        if stop.is_set():
            raise RuntimeError("the ramp was stopped before it had found the limit")
        after = await asyncio.to_thread(read_metrics, target, api_key)
        step = rate_search.judge(rate, result.measured, objective_ms)
        steps.append(step)
        ramp.append(_ramp_step(step, result, before, after))
        results.append(result)
    return _measured(project, target, objective_ms, start_s, steps, ramp, results, api_key)


def _titled(say: Say, title: str) -> Say:
    return lambda text: say(f"{title} · {text}")


def _ramp_step(step: Step, result: BenchResult, before: ServerMetrics | None, after: ServerMetrics | None) -> RampStep:
    loaded_s = result.measured.seconds + result.warmup_s
    queue = cores = None
    if before is not None and after is not None:
        queue = max(0.0, after.waited_s - before.waited_s) / loaded_s
        cores = max(0.0, after.cpu_s - before.cpu_s) / loaded_s
    if result.server_process is not None:  # all its processes, where they can be seen
        cores = result.server_process.cpu_us_per_request * 1e-6 * result.measured.rates.answered
    return RampStep(**msgspec.structs.asdict(step), queue_rows=queue, cpu_cores=cores)


def _measured(
    project: str,
    target: Target,
    objective_ms: float,
    start_s: float,
    steps: list[Step],
    ramp: list[RampStep],
    results: list[BenchResult],
    api_key: str | None,
) -> MeasuredServer:
    best = rate_search.best_rate(steps)
    if best is None:
        raise RuntimeError(
            f"{target.url}: not even {steps[-1].rate:g} requests a second met p99 <= {objective_ms:g} ms "
            f"({steps[-1].reason}): take a longer objective, or look at what slows this server down"
        )
    place = max(index for index, step in enumerate(steps) if step.rate == best and step.meets)
    result, step = results[place], ramp[place]
    told = read_metrics(target, api_key)
    process = result.server_process
    resident_mb = process.resident_mb if process else told.resident_bytes / 1e6 if told else None
    if resident_mb is None or step.cpu_cores is None:
        raise RuntimeError(
            f"{target.url} runs on another machine, and its /metrics cannot be read: name an API key with the scope "
            "metrics by PACELINE_API_KEY or --api-key"
        )
    latency = result.measured.latency_ms
    return MeasuredServer(
        project=project,
        version=result.environment["champion"].removeprefix("version "),
        bundle=result.environment["bundle"],
        measured=datetime.now().astimezone().isoformat(timespec="seconds"),
        machine=f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, shared with the generator",
        objective_ms=objective_ms,
        saturation_per_s=best,
        p50_ms=latency.p50 or 0.0,
        p99_ms=latency.p99 or 0.0,
        cpu_us_per_request=step.cpu_cores / result.measured.rates.answered * 1e6,
        resident_mb=resident_mb,
        start_s=start_s,
        steps=tuple(ramp),
    )


def measured_start(project: str) -> float:
    """Seconds from the start of another server of the project, on a free port, until it has loaded the champion.

    Raises:
        FileNotFoundError: no server of the project has run on this machine, so there is no champion to start with.
    """
    state = home().serving(project) / STATE
    if not state.exists():
        raise FileNotFoundError(
            f"{state} is not there: no model server of {project} runs on this machine; give --start-s SECONDS"
        )
    with tempfile.TemporaryDirectory(prefix="paceline-start-") as name:
        folder = Path(name)
        shutil.copy(state, folder / STATE)
        environment = os.environ | server_environment(project)
        environment["PACELINE_SERVING_PORT"] = "0"
        environment["PACELINE_SERVING_STATE"] = str(folder)
        environment["PACELINE_SERVING_PREDICTIONS"] = str(folder / "predictions")
        return measure_start(environment, folder)


def check_fits(measured: MeasuredServer, project: str, objective_ms: float | None) -> None:
    """Whether a measurement from a file is of `project` and of this objective. Raises ValueError where it is not."""
    if measured.project != project:
        raise ValueError(f"--measured: found a measurement of {measured.project}, expected one of {project}")
    if objective_ms is not None and objective_ms != measured.objective_ms:
        raise ValueError(
            f"--objective-ms: found {objective_ms:g}, and the measurement is for {measured.objective_ms:g}: leave it "
            "out, or measure again"
        )


def save(measured: MeasuredServer, file: Path) -> None:
    """For `--measured`."""
    write_whole(file, written(measured))


def write_page(measured: MeasuredServer, demand: Demand, sizing: Sizing, file: Path) -> None:
    """One HTML file that needs nothing from elsewhere."""
    write_whole(file, page.capacity_page(measured, demand, sizing))


def text_of(measured: MeasuredServer, demand: Demand, sizing: Sizing) -> str:
    """For the terminal."""
    return page.capacity_text(measured, demand, sizing)


def values_of(measured: MeasuredServer, demand: Demand, sizing: Sizing) -> dict[str, Any]:
    """For machines."""
    found: dict[str, Any] = json.loads(msgspec.json.encode({"measured": measured, "demand": demand, "sizing": sizing}))
    return found
