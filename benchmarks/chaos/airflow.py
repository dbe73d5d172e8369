"""The same with a real Airflow: its triggerer, scheduler and API server killed in the middle of a release.

One stack serves all runs, since it takes longer to start than a rollout takes. Version after version is offered;
every second one is broken.
"""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np

from benchmarks.chaos.checks import CLOCKS_S
from benchmarks.chaos.installation import LEASE_S, PROJECT, Installation, install, is_broken, records
from benchmarks.chaos.processes import free_port, lead
from pipelines.benchmarking.bodies import classify_of, requests_of
from pipelines.benchmarking.connections import target_of
from pipelines.benchmarking.load import Load
from pipelines.demo import airflow_stack
from pipelines.demo import stack as stacks
from pipelines.demo.stack import Ports, Stack
from pipelines.demo.supervisor import Supervisor
from pipelines.ledger import Ledger
from pipelines.rollout.story import OUTCOMES

PARTS = ("airflow-triggerer", "airflow-scheduler", "airflow-api-server")
RATE, LASTS_S_MAX, RUN_S_MAX, BEGINS_S_MAX = 40, 4.0, 420.0, 240.0
# a task whose word to a dead API server was lost is found and repeated after a minute, not after five
HEARTBEAT = {"AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "60"}
ASK_S = 0.05


class AirflowRun(NamedTuple):
    """One release, the part of Airflow that was killed in it, and what did not hold."""

    part: str
    version: str
    state: str
    share_after_s: float  # from the kill of the triggerer to zero share; 0 where it had none, or another part died
    seconds: float
    findings: list[str]


def measure(folder: Path, runs: int, seed: int, tell: Callable[[str], None]) -> list[AirflowRun]:
    """Starts the stack, offers `runs` versions, and kills one part in each rollout."""
    tell("starting Airflow")
    place = install(folder / "airflow", versions=runs + 1)
    ports = Ports(airflow=free_port(), mlflow=free_port(), server=free_port())
    before = dict(os.environ)
    os.environ.update({**place.environment(ports.server, ports.mlflow), **HEARTBEAT})
    try:
        with Supervisor(place.root / "home" / "logs") as supervisor:
            stack = stacks.start(PROJECT, ports, supervisor)
            asyncio.run(lead(place, stack.server_url))
            random = np.random.default_rng(seed)
            found = []
            with _clients(stack.server_url) as errors:
                for number in range(runs):
                    part = PARTS[number % len(PARTS)]
                    tell(f"Airflow: {number + 1} of {runs}, {part}")
                    found.append(_run(stack, place, part, str(number + 2), random))
                failed = errors()
            if failed:
                found[-1].findings.append(f"{failed} requests of all failed, and the server was always there")
            return found
    finally:
        os.environ.clear()
        os.environ.update(before)


def text(found: Sequence[AirflowRun]) -> str:
    """The releases, as Markdown; empty for none."""
    if not found:
        return ""
    rows = [
        f"| {run.part} | {run.version}{' (broken)' if is_broken(run.version) else ''} | {run.state} "
        f"| {f'{run.share_after_s:.2f} s' if run.share_after_s else '–'} | {run.seconds:.0f} s "
        f"| {'; '.join(run.findings) or 'none'} |"
        for run in found
    ]
    heading = "| killed | version | outcome | share without a triggerer | the release took | findings |"
    return "\n".join([heading, "| --- | --- | --- | --: | --: | --- |", *rows, ""])


def _run(stack: Stack, place: Installation, part: str, version: str, random: np.random.Generator) -> AirflowRun:
    started_s = time.monotonic()
    with Ledger.open(f"sqlite:///{place.ledger}", creates=False) as ledger:
        entries, champion = ledger.entries(), ledger.champion(PROJECT)
        dag = f"{PROJECT}.release"
        run = stack.airflow.trigger(dag, {"version": version})
        findings: list[str] = []
        if not _wait(lambda: _observe(stack)["rollout"] is not None, BEGINS_S_MAX):
            findings.append(f"the release of version {version} did not begin within {BEGINS_S_MAX:g} s")
        time.sleep(float(random.uniform(0, 3)))
        share_after_s = _kill(stack, part)
        if share_after_s > LEASE_S + CLOCKS_S:
            findings.append(f"the share was zero {share_after_s:.2f} s after the triggerer died: lease {LEASE_S:g} s")
        time.sleep(float(random.uniform(0, LASTS_S_MAX)))
        _start_again(stack, part)
        if not _wait(lambda: _end(ledger, version) is not None, RUN_S_MAX):
            findings.append(f"the release of version {version} did not end: {stack.airflow.tasks(dag, run)}")
        end = _end(ledger, version)
        state = "nothing" if end is None else str(end["state"])
        led = None if champion is None else champion.version
        findings += _disagreement(stack, ledger, version, version if state == "promoted" else led)
        if state == "promoted" and is_broken(version):
            findings.append(f"version {version}, which is broken, was promoted")
        if ledger.entries()[: len(entries)] != entries:
            findings.append("entries of earlier releases are gone or other ones")
    return AirflowRun(part, version, state, share_after_s, time.monotonic() - started_s, findings)


def _kill(stack: Stack, part: str) -> float:
    """Kills `part`, and says how long a share outlived the triggerer."""
    had_share = _observe(stack)["share"] > 0
    stack.supervisor.kill(part)
    killed_s = time.monotonic()
    if part != PARTS[0] or not had_share:
        return 0.0
    _wait(lambda: _observe(stack)["share"] == 0, 10 * LEASE_S)
    return time.monotonic() - killed_s


def _start_again(stack: Stack, part: str) -> None:
    program = next(each for each in airflow_stack.programs(stack.environment) if each.name == part)
    stack.supervisor.start(program)
    if program.ready_url is not None:
        stack.supervisor.wait_ready(part)


def _end(ledger: Ledger, version: str) -> dict[str, Any] | None:
    ended = [entry.body for entry in ledger.entries(project=PROJECT, kinds=("release.ended",))]
    return next((body for body in ended if body["version"] == version), None)


def _disagreement(stack: Stack, ledger: Ledger, version: str, expected: str | None) -> list[str]:
    from pipelines.wiring import open_registry

    champion = ledger.champion(PROJECT)
    alias = open_registry().version(PROJECT, "champion")
    shown = _observe(stack)
    leaders = {
        "ledger": None if champion is None else champion.version,
        "server": shown["champion"]["version"],
        "alias": None if alias is None else alias.version,
    }
    found = [] if set(leaders.values()) == {expected} else [f"the champion should be {expected}, found {leaders}"]
    outcomes = [entry for entry in ledger.entries(kinds=OUTCOMES) if entry.body["version"] == version]
    if len(outcomes) != 1:
        found.append(f"the rollout of version {version} has {len(outcomes)} outcomes")
    if shown["share"] or shown["rollout"] is not None:
        found.append(f"after the end the server holds rollout {shown['rollout']} with share {shown['share']}")
    return found


def _observe(stack: Stack) -> dict[str, Any]:
    return dict(httpx.get(f"{stack.server_url}/control/observation", trust_env=False).raise_for_status().json())


def _wait(condition: Callable[[], bool], seconds: float) -> bool:
    deadline_s = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(ASK_S)
    return True


@contextmanager
def _clients(url: str) -> Iterator[Callable[[], int]]:
    """Open-loop clients in a thread; what it yields ends them and says how many saw an error."""
    target = target_of(url)
    requests = requests_of(records(5000, 1), target=target, protocol="records", rows=1, project=PROJECT, datatypes={})
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    load = Load(target, requests, timeout_s=15.0, classify=classify_of("records"), stop=stop)
    due_s = np.arange(RATE * 3600) / RATE
    thread = threading.Thread(target=lambda: loop.run_until_complete(load.open_loop(due_s)))
    thread.start()

    def end() -> int:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        return sum(load.recording.labels[code].status != 200 for code in load.recording.label)

    try:
        yield end
    finally:
        if thread.is_alive():
            end()
        loop.close()
