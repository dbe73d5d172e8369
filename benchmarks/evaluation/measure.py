"""How long an evaluation takes and how much memory, by test rows and resamples; on the real flights.

`python benchmarks/evaluation/measure.py [--readme]`; each evaluation runs in a process of its own, against a champion,
with every section and gate. With the argument `one` it is that process.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from pipelines.wiring import REPOSITORY

PROJECT = "flight_delay"
AS_OF = "2014-01-01"
TRAIN_DAYS, VALIDATION_DAYS = 21, 7
TEST_DAYS = {"50,000": 57, "300,000": 335}
RESAMPLES = (500, 5000)
MARK = "<!-- results: written by measure.py --readme -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--readme", action="store_true", help="write the results into the README beside this file")
    parser.add_argument("one", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("candidate", nargs="?", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(_evaluate_here(options.candidate)))  # noqa: T201
        return
    with tempfile.TemporaryDirectory(prefix="paceline-bench-evaluation-") as folder:
        text = _table([row for days in TEST_DAYS.values() for row in _measure(Path(folder), days)])
    print(text)  # noqa: T201
    if options.readme:
        readme = Path(__file__).parent / "README.md"
        readme.write_text(readme.read_text().split(MARK)[0] + MARK + "\n" + text + "\n")


def _measure(folder: Path, test_days: int) -> list[dict[str, Any]]:
    """One row for each number of resamples, over one test window."""
    home = folder / str(test_days)
    environment = os.environ | {"PACELINE_HOME": str(home), "PACELINE_PROJECTS": str(home / "projects")}
    os.environ.update(environment)
    _write_project(home, test_days, RESAMPLES[0])
    candidate = _champion_and_candidate()
    rows = []
    for resamples in RESAMPLES:
        _write_project(home, test_days, resamples)
        for file in (home / "cache" / "features").glob("*-test.npz"):
            file.unlink()  # a retrain encodes its test rows while it evaluates
        command = [sys.executable, str(Path(__file__)), "one", candidate]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"the evaluation failed:\n{done.stderr}")
        rows.append({"resamples": resamples, **json.loads(done.stdout.splitlines()[-1])})
        print(rows[-1], file=sys.stderr, flush=True)  # noqa: T201
    return rows


def _write_project(home: Path, test_days: int, resamples: int) -> None:
    folder = home / "projects" / PROJECT
    folder.mkdir(parents=True, exist_ok=True)
    original = REPOSITORY / "projects" / PROJECT
    (folder / "source.py").write_bytes((original / "source.py").read_bytes())
    configuration = yaml.safe_load((original / "project.yaml").read_text())
    configuration["split"] = {
        "train_days": TRAIN_DAYS,
        "validation_days": VALIDATION_DAYS,
        "test_days": test_days,
        "minimum_train_days": TRAIN_DAYS,
    }
    configuration["gates"]["resamples"] = resamples
    (folder / "project.yaml").write_text(yaml.safe_dump(configuration, sort_keys=False))


def _champion_and_candidate() -> str:
    """Trains two models; the first leads, the id of the second one's candidate is returned."""
    from pipelines.tasks import artifacts, ingesting, judging, optimising, retraining, searching
    from pipelines.wiring import open_ledger

    ingesting.ingest(PROJECT)
    snapshot = retraining.take_snapshot(PROJECT, retraining.choose_window(PROJECT, AS_OF))
    candidates = []
    for seed in (1, 2):
        planned = [{**trial, "seed": seed} for trial in retraining.plan_trials(PROJECT, snapshot, ["boosted_trees"])]
        best = searching.best_of(PROJECT, planned, [searching.run_trial(PROJECT, trial) for trial in planned])
        candidates.append(optimising.optimise(PROJECT, best, form="fp32"))
    bundle = judging.build_bundle(PROJECT, candidates[0]).id
    assert open_ledger().swap_champion(PROJECT, None, "1", bundle, "benchmark", "the first")
    return artifacts.keep_json(candidates[1])


def _evaluate_here(candidate: str) -> dict[str, Any]:
    from pipelines.tasks import artifacts, judging

    read = artifacts.read_json(candidate)
    started_s, cpu_s = time.perf_counter(), time.process_time()
    judged = judging.evaluate(PROJECT, read)
    return {
        "rows": judged["comparison"]["rows"],
        "days": judged["comparison"]["blocks"],
        "wall_s": time.perf_counter() - started_s,
        "cpu_s": time.process_time() - cpu_s,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "gates": len(judged["gates"]),
        "slices": next(gate["reason"].split(" slices")[0] for gate in judged["gates"] if "found" in gate["name"]),
    }


def _table(rows: list[dict[str, Any]]) -> str:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True)
    lines = [
        f"Run of {date.today()} at commit {commit.stdout.strip()}: {os.cpu_count()} cores, Python "
        f"{platform.python_version()}; load of the machine before the run {os.getloadavg()[2]:.1f}.",
        "",
        "| test rows | days | resamples | slices looked at | gates | wall, s | CPU, s | peak memory, MB |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row['rows']:,} | {row['days']} | {row['resamples']:,} | {row['slices']} | {row['gates']} | "
        f"{row['wall_s']:.1f} | {row['cpu_s']:.1f} | {row['peak_mb']:,.0f} |"
        for row in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
