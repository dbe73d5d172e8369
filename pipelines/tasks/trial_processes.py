"""Trials in processes of their own, as many at once as the plan says: what kills one, its memory or its time, leaves
the others alone. Airflow does the same by its mapped tasks."""

import logging
import multiprocessing
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

from pipelines.tasks import searching
from pipelines.wiring import find_project

logger = logging.getLogger("paceline")


class Standing(NamedTuple):
    """How far a search is; `best` is the least validation log loss so far and whose it is, `minutes_left` of its
    budget (None without a search)."""

    done: int
    planned: int
    running: tuple[str, ...]
    best: tuple[float, str] | None
    minutes_left: float | None


class _Running(NamedTuple):
    trial: dict[str, Any]
    process: Any
    messages: Connection
    started: float


def run_trials(
    project: str, trials: list[dict[str, Any]], on_change: Callable[[Standing], None] = lambda _standing: None
) -> list[dict[str, Any]]:
    """The outcomes of the planned trials, in their order.

    A trial whose process ends without an outcome has failed, and one that takes longer than the plan's `trial_minutes`
    is killed; the search goes on. When this function is left early, its processes are killed.
    """
    plan = find_project(project).training
    parallel = 1 if plan.search is None else plan.search.parallel
    waiting, running = list(trials), list[_Running]()
    outcomes: dict[int, dict[str, Any]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < parallel:
                running.append(_start(project, waiting.pop(0)))
            on_change(_standing(project, trials, running, outcomes))
            limit = min(one.started for one in running) + plan.trial_minutes * 60
            wait([one.messages for one in running], timeout=max(0.0, limit - time.monotonic()))
            for one in list(running):
                outcome = _outcome(project, one, plan.trial_minutes)
                if outcome is not None:
                    outcomes[one.trial["number"]] = outcome
                    running.remove(one)
        on_change(_standing(project, trials, running, outcomes))
    finally:
        for one in running:
            _end(one)
    return [outcomes[trial["number"]] for trial in trials]


def _start(project: str, trial: dict[str, Any]) -> _Running:
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(theirs, project, trial), name=trial["name"], daemon=True)
    process.start()
    theirs.close()  # so that the end of the process is the end of the pipe
    return _Running(trial, process, ours, time.monotonic())


def _outcome(project: str, one: _Running, minutes: float) -> dict[str, Any] | None:
    """What came of the trial, or None while it runs."""
    outcome = None
    try:
        while outcome is None and one.messages.poll():
            kind, content = one.messages.recv()
            if kind == "line":
                logger.log(content[0], "%s", content[1])
            else:
                outcome = content
    except EOFError:
        one.process.join()
        outcome = searching.give_up(project, one.trial, searching.FAILED, _how(one.process.exitcode), _seconds(one))
    if outcome is None and _seconds(one) >= minutes * 60:
        one.process.kill()
        error = f"it took longer than training.trial_minutes, {minutes:g}"
        outcome = searching.give_up(project, one.trial, searching.OUT_OF_TIME, error, _seconds(one))
    if outcome is not None:
        one.process.join()
        one.messages.close()
    return dict(outcome) if outcome is not None else None


def _how(exit_code: int) -> str:
    if exit_code < 0:
        hint = ", perhaps for its memory" if exit_code == -signal.SIGKILL else ""
        return f"its process was ended by {signal.Signals(-exit_code).name}{hint}"
    return f"its process ended with exit code {exit_code}"


def _seconds(one: _Running) -> float:
    return time.monotonic() - one.started


def _end(one: _Running) -> None:
    one.process.kill()
    one.process.join()
    one.messages.close()


def _standing(
    project: str, trials: list[dict[str, Any]], running: list[_Running], outcomes: dict[int, dict[str, Any]]
) -> Standing:
    finished = [outcome for outcome in outcomes.values() if outcome["state"] == searching.FINISHED]
    best = min(((outcome["metrics"]["log_loss"], outcome["name"]) for outcome in finished), default=None)
    names = tuple(one.trial["name"] for one in running)
    return Standing(len(outcomes), len(trials), names, best, searching.minutes_left(project, trials[0]))


class _Lines(logging.Handler):
    def __init__(self, messages: Connection) -> None:
        super().__init__()
        self._messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        self._messages.send(("line", (record.levelno, record.getMessage())))


def _work(messages: Connection, project: str, trial: dict[str, Any]) -> None:
    """The child: trains, and tells its parent, who alone hears the interrupt of the terminal."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(_Lines(messages))
    try:
        outcome = searching.run_trial(project, trial)
    except OSError as error:
        outcome = searching.give_up(project, trial, searching.FAILED, f"{type(error).__name__}: {error}")
    messages.send(("outcome", outcome))
