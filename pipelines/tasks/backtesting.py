"""The history of a project as a test of its retraining: walk-forward, as text and as a page."""

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from pipelines.backtest.page import walk_forward_page
from pipelines.backtest.walk_forward import History, Quality, Step, WalkForward, periods, walk_forward
from pipelines.data.snapshots import read_events
from pipelines.data.sources import connect
from pipelines.data.windows import Window
from pipelines.pages import write_whole
from pipelines.projects import Project
from pipelines.training.plan import TrialSpec
from pipelines.wiring import find_project, home

OnStep = Callable[[int, int, Step], None]


def backtest(
    project: str,
    start: str,
    until: str,
    every_days: int,
    trainer: str | None = None,
    on_step: OnStep = lambda number, of, step: None,
) -> WalkForward:
    """Retrains the project's trial (or the first one of `trainer`) at the start of each period, and scores the period.

    `on_step` hears of each period: its number from 1, how many there are, and what was found.

    Raises:
        LookupError: the project has no trial of that trainer.
        ValueError: no period fits, or one has no events.
    """
    found = find_project(project)
    trial = _trial(found, trainer)
    chosen = periods(date.fromisoformat(start), date.fromisoformat(until), every_days)
    done = 0

    def heard(step: Step) -> None:
        nonlocal done
        done += 1
        on_step(done, len(chosen), step)

    return walk_forward(
        project,
        _history(found, chosen[-1].end),
        found.schema,
        found.label,
        trial,
        found.training.seed,
        chosen,
        found.split.validation_days,
        heard,
    )


def step_text(step: Step) -> str:
    """One period in a line."""
    ranked = "one class" if step.retrained.auc is None else f"AUC {step.retrained.auc:.4f}"
    return (
        f"{step.start}: {ranked}, log loss {step.retrained.log_loss:.4f} on {step.rows:,} rows "
        f"(never retrained: {step.first.log_loss:.4f})"
    )


def backtest_text(found: WalkForward) -> str:
    """All periods, and the means."""
    head = f"{'from':<12}{'rows':>8}{'label':>8}{'AUC':>9}{'log loss':>10}{'never retrained: AUC':>22}{'log loss':>10}"
    lines = [
        f"{step.start!s:<12}{step.rows:>8,}{step.label_share:>8.1%}{_figures(step.retrained, step.first)}"
        for step in found.steps
    ]
    return "\n".join([head, *lines, f"{'mean':<28}{_figures(found.retrained, found.first)}"])


def backtest_values(found: WalkForward) -> dict[str, Any]:
    """The same for machines."""

    built: dict[str, Any] = msgspec.to_builtins(found)
    return built | {
        "mean": {"retrained": msgspec.to_builtins(found.retrained), "first": msgspec.to_builtins(found.first)}
    }


def write_page(found: WalkForward, file: Path) -> None:
    """Writes the page with the plots."""
    write_whole(file, walk_forward_page(found))


def _figures(retrained: Quality, first: Quality) -> str:
    ranked = ["–" if quality.auc is None else f"{quality.auc:.4f}" for quality in (retrained, first)]
    return f"{ranked[0]:>9}{retrained.log_loss:>10.4f}{ranked[1]:>22}{first.log_loss:>10.4f}"


def _trial(project: Project, trainer: str | None) -> TrialSpec:
    for trial in project.training.trials:
        if trainer in (None, trial.trainer):
            return trial
    known = ", ".join(sorted({trial.trainer for trial in project.training.trials}))
    raise LookupError(f"{project.name} has no trial of {trainer!r}; it has trials of {known}")


def _history(project: Project, end: date) -> History:
    connection = connect()
    events = project.source().events(connection, home().warehouse(project.name))
    try:
        table = read_events(events, project.schema, project.label, Window(date(1, 1, 1), end))
    finally:
        connection.disconnect()
    if not table.num_rows:
        raise LookupError(
            f"{project.name} has no events before {end}: ingest it first (paceline ingest {project.name})"
        )
    days = table[project.schema.time].to_numpy(zero_copy_only=False).astype("datetime64[D]")
    labels = table[project.label.column].to_numpy(zero_copy_only=False).astype(np.float64)
    known = np.isfinite(labels)
    return History(table.filter(known), days[known], labels[known])
