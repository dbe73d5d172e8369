"""How autoscalers follow traffic: queue depth against CPU, on a recorded day, a spike and a sawtooth.

`make bench-capacity` plays them with what one replica was measured to do (`measured.json`); `ARGS=--readme` writes the
tables into this folder's README and draws the plots, `ARGS=--measure` measures the replica again before.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.capacity.settings import autoscalers
from pipelines.capacity.autoscaler import Autoscaler
from pipelines.capacity.measured import MeasuredServer, read_measured
from pipelines.capacity.simulation import Course, Outcome, Replica, simulate
from pipelines.capacity.traffic_shapes import HOUR_S, Rates, day, sawtooth, spike

FOLDER = Path(__file__).parent
README, MEASURED = FOLDER / "README.md", FOLDER / "measured.json"
BEGIN, END = "<!-- results -->", "<!-- end of results -->"
PROJECT, DAY, OBJECTIVE_MS = "flight_delay", "2013-07-18", 20.0
REPLICAS_AT_BASE = 7  # saturated ones: the rates are those of a service that needs a dozen
SPIKE_FROM_S = 600  # the quarter of an hour before the spike is for the autoscaler to settle
SLOW_START_S = 30.0  # a node that has to fetch the image
BEYOND_TIMES_MAX, SAWTOOTH_EVENTS_MAX = 0.1, 4
console = Console(stderr=True)


@dataclass(frozen=True)
class Case:
    """One course of traffic; `replica` may be slower to start."""

    name: str
    rates: Rates
    replica: Replica
    from_s: int = 0


def main() -> int:
    """Exit code 1 when a goal is not reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readme", action="store_true", help="write the tables into the README, and draw the plots")
    parser.add_argument("--measure", action="store_true", help="measure one replica of a model of real flights before")
    parser.add_argument("--home", type=Path, help="a folder that keeps that model for the next time")
    parser.add_argument("--seeds", type=int, default=20, help="how often each case is played")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="paceline-capacity-") as name:
        os.environ["PACELINE_HOME"] = str((options.home or Path(name)).absolute())
        with console.status("reading the flights of a day"):
            by_hour = hours_of(DAY)
        if options.measure:
            with console.status("measuring one replica") as status:
                _measure(Path(name), status.update)
    measured = read_measured(MEASURED)
    results = play(cases(measured, by_hour), autoscalers(_replica(measured)), options.seeds)
    text = text_of(measured, results, options.seeds)
    sys.stdout.write(text)
    if options.readme:
        _plots(cases(measured, by_hour), autoscalers(_replica(measured)))
        before, _, rest = README.read_text().partition(BEGIN)
        README.write_text(f"{before}{BEGIN}\n{text}{END}{rest.partition(END)[2]}")
    return 0 if reached(results) else 1


def hours_of(day_: str) -> list[int]:
    """Flights that were scheduled in each hour of a day, from the project's warehouse."""
    import duckdb

    from pipelines.tasks import ingesting
    from pipelines.wiring import home

    ingesting.ingest(PROJECT)
    flights = home().warehouse(PROJECT) / "flights.parquet"
    when = date.fromisoformat(day_)
    with duckdb.connect() as connection:
        counted = dict(
            connection.execute(
                f"SELECT hour, count(*) FROM '{flights}' WHERE month = {when.month} AND day = {when.day} GROUP BY hour"
            ).fetchall()
        )
    return [int(counted.get(hour, 0)) for hour in range(24)]


def _replica(measured: MeasuredServer, start_s: float | None = None) -> Replica:
    return Replica(
        saturation_per_s=measured.saturation_per_s,
        objective_s=measured.objective_ms / 1e3,
        start_s=measured.start_s if start_s is None else start_s,
    )


def cases(measured: MeasuredServer, by_hour: Sequence[int]) -> tuple[Case, ...]:
    """The same traffic for everybody."""
    base, replica = REPLICAS_AT_BASE * measured.saturation_per_s, _replica(measured)
    return (
        Case("spike", spike(base), replica, SPIKE_FROM_S),
        Case("spike, slow start", spike(base), _replica(measured, SLOW_START_S), SPIKE_FROM_S),
        Case("sawtooth", sawtooth(base), replica),
        Case("day", day(by_hour, 2 * base), replica),
    )


def play(found: Sequence[Case], settings: Sequence[Autoscaler], seeds: int) -> dict[tuple[str, str], list[Outcome]]:
    """All outcomes, by case and autoscaler; a day is long, and is played a fifth as often."""
    jobs = [
        (case, each, seed)
        for case in found
        for each in settings
        for seed in range(max(1, seeds // 5) if case.name == "day" else seeds)
    ]
    results: dict[tuple[str, str], list[Outcome]] = {}
    with ProcessPoolExecutor() as pool:
        for (case, each, _), outcome in zip(jobs, pool.map(_play, jobs, chunksize=4), strict=True):
            results.setdefault((case.name, each.name), []).append(outcome)
    return results


def _play(job: tuple[Case, Autoscaler, int]) -> Outcome:
    case, settings, seed = job
    return _course(case, settings, seed).outcome


def _course(case: Case, settings: Autoscaler, seed: int) -> Course:
    return simulate(case.rates, case.replica, settings, seed=seed, from_s=case.from_s)


def reached(results: dict[tuple[str, str], list[Outcome]]) -> bool:
    """Whether the settings found meet both goals: against CPU with Kubernetes' defaults, and in every sawtooth hour."""
    ours = list(results)[-1][1]
    is_better = next(iter(_ratios(results).values())) <= BEYOND_TIMES_MAX
    return is_better and max(each.worst_hour_events for each in results["sawtooth", ours]) <= SAWTOOTH_EVENTS_MAX


def _ratios(results: dict[tuple[str, str], list[Outcome]]) -> dict[str, float]:
    """Late requests of the settings found at the spike, over those of each CPU-based autoscaler."""
    names = list(dict.fromkeys(name for _, name in results))
    late = {name: float(np.mean([each.beyond for each in results["spike", name]])) for name in names}
    return {name: late[names[-1]] / max(late[name], 1e-9) for name in names if name.startswith("CPU")}


def text_of(measured: MeasuredServer, results: dict[tuple[str, str], list[Outcome]], seeds: int) -> str:
    lines = [
        f"Played on {date.today()}, {seeds} times each (the day {max(1, seeds // 5)} times), with a replica measured",
        f"on {measured.measured[:10]} ({measured.machine}):",
        f"{measured.saturation_per_s:,.0f} requests a second at p99 ≤ {measured.objective_ms:g} ms, ready "
        f"{measured.start_s:.2f} s after its start, and 5 s before that for the pod.",
        f"Goals {'reached' if reached(results) else 'NOT reached'}. Late requests at the spike, over those of "
        + ", ".join(f"{name}: {ratio:.3f}" for name, ratio in _ratios(results).items())
        + ".",
        "",
        "| case | autoscaler | beyond the objective | requests beyond it | scale events | most in an hour | "
        "replica-hours | most replicas |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (case, name), outcomes in results.items():
        mean = {key: float(np.mean([getattr(each, key) for each in outcomes])) for key in _MEANS}
        lines.append(
            f"| {case} | {name} | {mean['share_beyond']:.4%} | {mean['beyond']:,.0f} | {mean['scale_events']:.1f} | "
            f"{max(each.worst_hour_events for each in outcomes)} | {mean['replica_hours']:.1f} | "
            f"{max(each.most_replicas for each in outcomes)} |"
        )
    return "\n".join([*lines, ""])


_MEANS = ("share_beyond", "beyond", "scale_events", "replica_hours")


def _measure(folder: Path, say: Callable[[str], None]) -> None:
    import shutil

    from benchmarks.broken.installation import Server, train
    from pipelines.tasks import benching, sizing
    from pipelines.wiring import home

    served = train(home().root)
    server = Server(folder / "served")
    try:
        server.install(served)
        shutil.copytree(folder / "served" / "state", home().serving(PROJECT), dirs_exist_ok=True)
        start_s = sizing.measured_start(PROJECT)
        with benching.event_loop() as runner:
            found = runner.run(sizing.measure_server(PROJECT, OBJECTIVE_MS, start_s=start_s, url=server.url, say=say))
    finally:
        server.stop()
    sizing.save(found, MEASURED)


def _plots(found: Sequence[Case], settings: Sequence[Autoscaler]) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "paceline", "font.size": 10, "axes.spines.top": False})
    matplotlib.rcParams["axes.spines.right"] = False
    for case in found:
        if case.name in ("spike", "sawtooth", "day"):
            shown = [settings[0], settings[1], settings[-1]]
            figure = _draw(case, [(each.name, _course(case, each, 1)) for each in shown])
            figure.savefig(FOLDER / f"{case.name}.svg", metadata={"Date": None})


def _draw(case: Case, courses: Sequence[tuple[str, Course]]) -> Any:
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(2, 1, figsize=(9, 5.2), layout="constrained", sharex=True)
    hours = case.name == "day"
    unit, bin_s = (HOUR_S, 60) if hours else (60, 10)
    times = np.arange(0, len(case.rates), bin_s) / unit
    needed = case.rates / case.replica.saturation_per_s
    above.fill_between(times, needed[::bin_s], color="#94a3b8", alpha=0.3, label="load, in saturated replicas")
    tones = ("#b45309", "#7c3aed", "#0f766e")
    for (name, course), tone in zip(courses, tones, strict=True):
        above.step(times, course.ready[::bin_s], color=tone, label=name, where="post")
        over = np.add.reduceat(course.beyond, np.arange(0, len(course.beyond), bin_s))
        came = np.add.reduceat(case.rates, np.arange(0, len(course.beyond), bin_s))
        below.plot(times, 100 * over / np.maximum(came, 1e-9), color=tone, linewidth=1)
    above.set_ylabel("replicas that are ready")
    above.legend(frameon=False, loc="upper left", fontsize=9)
    below.set_ylabel("requests beyond\nthe objective, %")
    below.set_xlabel("hour" if hours else "minute")
    below.set_xlim(*((0, 24) if hours else (SPIKE_FROM_S / 60, 30) if case.name == "spike" else (0, 60)))
    return figure


if __name__ == "__main__":
    sys.exit(main())
