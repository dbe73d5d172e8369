"""What a retrain costs, part by part, in a home of its own that is deleted afterwards."""

import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import msgspec

from pipelines.wiring import expectations_folder, find_project, home, open_ledger

CHAMPION_DAYS_BEFORE = 28
OnPart = Callable[[str], None]


class PartCost(msgspec.Struct, frozen=True, kw_only=True):
    """One part of a retrain: seconds by the clock, and of processors, its own and those of its child processes."""

    part: str
    wall_s: float
    cpu_s: float


class TrainingCost(msgspec.Struct, frozen=True, kw_only=True):
    """A whole retrain; `peak_mb` is the largest resident memory of this process or of one of its children."""

    project: str
    as_of: str
    trainer: str
    rows: dict[str, int]
    gates: int
    passed: bool
    parts: tuple[PartCost, ...]
    peak_mb: float

    @property
    def wall_s(self) -> float:
        """All parts together, by the clock."""
        return sum(part.wall_s for part in self.parts)

    @property
    def cpu_s(self) -> float:
        """All parts together, of processors."""
        return sum(part.cpu_s for part in self.parts)


def bench_train(
    project: str, as_of: str, train_days: int, trainer: str | None = None, on_part: OnPart = lambda part: None
) -> TrainingCost:
    """One retrain as of a date, on `train_days` of training rows, with one trial and all gates.

    First a champion is made as of four weeks before, which is not counted: the gates compare with it.

    Raises:
        LookupError: nothing was ingested.
        NotEnoughHistoryError: there are too few days before `as_of`.
    """
    warehouse = home().warehouse(project)
    if not warehouse.is_dir():
        raise LookupError(f"{project} has no warehouse at {warehouse}: run paceline ingest {project} first")
    with _scratch_home(warehouse):
        on_part("a champion to compare with")
        before = (date.fromisoformat(as_of) - timedelta(days=CHAMPION_DAYS_BEFORE)).isoformat()
        _, evaluation = _retrain(project, before, train_days, trainer, lambda part: None)
        reason = "the benchmark's champion"
        open_ledger().swap_champion(project, None, "1", evaluation["bundle"], "benchmark", reason)
        parts, evaluation = _retrain(project, as_of, train_days, trainer, on_part)
        rows = _rows(evaluation["snapshot"])
    peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return TrainingCost(
        project=project,
        as_of=as_of,
        trainer=evaluation["candidate"]["trainer"],
        rows=rows,
        gates=len(evaluation["gates"]),
        passed=evaluation["passed"],
        parts=tuple(parts),
        peak_mb=max(peaks) / 1024,
    )


def cost_text(found: TrainingCost) -> str:
    """The cost as lines for a terminal."""
    rows = ", ".join(f"{part} {count:,}" for part, count in found.rows.items())
    lines = [f"{found.project} as of {found.as_of}, one trial of {found.trainer}, rows: {rows}"]
    lines += [f"  {part.part:<14}{part.wall_s:>8.1f} s{part.cpu_s:>9.1f} s of processors" for part in found.parts]
    lines.append(f"  {'all':<14}{found.wall_s:>8.1f} s{found.cpu_s:>9.1f} s of processors")
    outcome = "all passed" if found.passed else "one or more failed"
    lines.append(f"{found.gates} gates: {outcome}; at most {found.peak_mb:,.0f} MB resident in one process")
    return "\n".join(lines)


def cost_values(found: TrainingCost) -> dict[str, Any]:
    """The cost for machines."""
    built: dict[str, Any] = msgspec.to_builtins(found)
    return built | {"wall_s": found.wall_s, "cpu_s": found.cpu_s}


@contextmanager
def _scratch_home(warehouse: Path) -> Iterator[None]:
    """A home with the same warehouse and nothing else; what is written there is gone afterwards."""
    names = ("PACELINE_HOME", "PACELINE_EXPECTATIONS", "PACELINE_LEDGER_URL", "PACELINE_MLFLOW_URI")
    before = {name: os.environ.get(name) for name in names}
    with tempfile.TemporaryDirectory(prefix="paceline-bench-") as folder:
        root = Path(folder)
        (root / "home" / "warehouse").mkdir(parents=True)
        (root / "home" / "warehouse" / warehouse.name).symlink_to(warehouse.resolve())
        ignored = shutil.ignore_patterns("uncommitted")
        shutil.copytree(expectations_folder(), root / "expectations", ignore=ignored)
        for name in names:
            os.environ.pop(name, None)
        os.environ |= {"PACELINE_HOME": str(root / "home"), "PACELINE_EXPECTATIONS": str(root / "expectations")}
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


def _retrain(
    project: str, as_of: str, train_days: int, trainer: str | None, on_part: OnPart
) -> tuple[list[PartCost], dict[str, Any]]:
    from pipelines.tasks import judging, optimising, retraining, searching, trial_processes

    costs: list[PartCost] = []

    @contextmanager
    def counted(part: str) -> Iterator[None]:
        on_part(part)
        started, busy = time.monotonic(), _cpu_s()
        yield
        costs.append(PartCost(part=part, wall_s=time.monotonic() - started, cpu_s=_cpu_s() - busy))

    with counted("snapshot"):
        snapshot = retraining.take_snapshot(project, _windows(project, as_of, train_days))
    with counted("validation"):
        retraining.validate(project, snapshot)
    with counted("training"):
        planned = retraining.plan_trials(project, snapshot, None if trainer is None else [trainer])[:1]
        best = searching.best_of(project, planned, trial_processes.run_trials(project, planned))
    with counted("optimisation"):
        candidate = optimising.optimise(project, best)
    with counted("evaluation"):
        evaluation = judging.evaluate(project, candidate)
    if evaluation["passed"]:
        with counted("registration"):
            judging.register(project, evaluation)
    return costs, evaluation


def _windows(project: str, as_of: str, train_days: int) -> dict[str, Any]:
    """The windows of the project's split with other training days."""
    from pipelines.data.snapshots import earliest_day
    from pipelines.data.sources import connect
    from pipelines.data.windows import choose_windows

    found = find_project(project)
    connection = connect()
    events = found.source().events(connection, home().warehouse(project))
    earliest = earliest_day(events, found.schema)
    connection.disconnect()
    fewest = min(found.split.minimum_train_days, train_days)
    rule = msgspec.structs.replace(found.split, train_days=train_days, minimum_train_days=fewest)
    built: dict[str, Any] = msgspec.to_builtins(choose_windows(date.fromisoformat(as_of), found.label, rule, earliest))
    return built


def _rows(snapshot: str) -> dict[str, int]:
    from pipelines.data.snapshots import read_manifest

    return read_manifest(home().snapshots, snapshot).rows_by_part


def _cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)
