"""A search over a slice of the real flights: as Airflow runs it, and in processes of its own."""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from contracts.hashing import canonical_json
from pipelines.tasks import artifacts, optimising, retraining, searching, trial_processes
from pipelines.wiring import REPOSITORY, home, open_ledger, projects_folder
from tests.fixtures.small_installation import PROJECT

SEARCH = {"trials": 4, "minutes": 30, "parallel": 2, "space": {"boosted_trees": {"leaves": {"low": 4, "high": 16}}}}
PLAN = {
    "seed": 1,
    "trials": [{"trainer": "boosted_trees", "parameters": {"trees": 20}}],
    "search": SEARCH,
}


@pytest.fixture(scope="module")
def snapshot(small_home: Path) -> str:
    return retraining.take_snapshot(PROJECT, retraining.choose_window(PROJECT, "2013-04-01"))


@pytest.fixture
def configured(small_home: Path) -> Iterator[Any]:
    """Sets what the project's plan says of training; each test gets its own seed, hence a search of its own."""
    file = projects_folder() / PROJECT / "project.yaml"
    before = file.read_text()

    def configure(**changed: Any) -> None:
        file.write_text(yaml.safe_dump(yaml.safe_load(before) | {"training": PLAN | changed}, sort_keys=False))

    yield configure
    file.write_text(before)


def states_of(outcomes: list[dict[str, Any]]) -> list[str]:
    return [outcome["state"] for outcome in outcomes]


def test_airflow_goes_on_without_the_trials_that_fail_in_each_way(
    airflow_database: Path, small_home: Path, configured: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.dag_processing.dagbag import DagBag
    from airflow.sdk.exceptions import AirflowFailException, AirflowTaskTimeout

    configured(seed=2)
    dag = DagBag(str(REPOSITORY / "dags")).dags[f"{PROJECT}.retrain"]
    assert dag.get_task("train").max_active_tis_per_dagrun == 2
    train = retraining.train

    def failing(project: str, trial: dict[str, Any], on_step: Any = None) -> dict[str, Any]:
        if trial["number"] == 1:
            raise MemoryError("in the middle of the trial")
        if trial["number"] == 2:
            raise AirflowTaskTimeout("after its minutes")
        return train(project, trial, on_step)

    run_trial = searching.run_trial

    def dying(project: str, trial: dict[str, Any]) -> dict[str, Any]:
        if trial["number"] == 3:
            raise AirflowFailException("as Airflow says of a process that died")
        return run_trial(project, trial)

    monkeypatch.setattr(retraining, "train", failing)
    monkeypatch.setattr(searching, "run_trial", dying)
    run = dag.test(logical_date=None, run_conf={"as_of": "2013-04-01", "trigger": "manual"})
    instances = {(one.task_id, one.map_index): one for one in run.get_task_instances()}
    assert [str(instances["train", number].state) for number in range(3)] == ["success"] * 3
    assert str(instances["train", 3].state) == "failed"
    assert instances["train", 0].rendered_map_index == "boosted_trees 0"
    assert str(instances["optimise", -1].state) == "success"
    assert str(run.state) == "success"
    found = open_ledger().entries(project=PROJECT, kinds=("search",))[-1].body
    assert found["chosen"] == "boosted_trees 0"
    assert states_of(found["trials"]) == ["finished", "failed", "out of time", "failed"]
    assert [trial.get("error") for trial in found["trials"]][1:3] == [
        "MemoryError: in the middle of the trial",
        "after its minutes",
    ]
    assert "killed" in found["trials"][3]["error"]


def test_a_killed_trial_fails_alone_and_the_same_search_goes_on(
    snapshot: str, configured: Any, caplog: pytest.LogCaptureFixture
) -> None:
    configured(seed=4)
    planned = retraining.plan_trials(PROJECT, snapshot, trials=3)
    killed: list[str] = []

    def kill_the_second(now: trial_processes.Standing) -> None:
        for process in multiprocessing.active_children():
            if process.name == "boosted_trees 1" and not killed and "boosted_trees 1: {" in caplog.text:
                assert process.pid is not None
                os.kill(process.pid, signal.SIGKILL)
                killed.append(process.name)

    with caplog.at_level("INFO", "paceline"):
        outcomes = trial_processes.run_trials(PROJECT, planned, kill_the_second)
    assert states_of(outcomes) == ["finished", "failed", "finished"]
    assert outcomes[1]["error"] == "its process was ended by SIGKILL, perhaps for its memory"
    chosen = searching.best_of(PROJECT, planned, outcomes)
    assert chosen["state"] == "finished"
    assert [trial["name"] for trial in chosen["trials"]] == [f"boosted_trees {number}" for number in range(3)]
    assert optimising.optimise(PROJECT, chosen)["trained_graph"] == chosen["graph"]

    caplog.clear()
    (artifact := home().artifacts / outcomes[2]["graph"][:2] / outcomes[2]["graph"]).unlink()
    with caplog.at_level("INFO", "paceline"):
        again = trial_processes.run_trials(PROJECT, retraining.plan_trials(PROJECT, snapshot, trials=3))
    assert states_of(again) == ["finished"] * 3
    assert canonical_json(again[0]) == canonical_json(outcomes[0])
    assert "boosted_trees 0 is taken from the search so far: finished" in caplog.text
    assert "boosted_trees 2 is trained again" in caplog.text
    assert artifact.exists()  # the same bytes
    assert outcomes[1]["parameters"].keys() == {"leaves"}
    assert again[1]["parameters"] == outcomes[1]["parameters"]


def test_trials_end_by_their_own_minutes_and_begin_within_those_of_the_search(snapshot: str, configured: Any) -> None:
    configured(seed=5, trial_minutes=0.001)
    planned = retraining.plan_trials(PROJECT, snapshot, trials=2)
    outcomes = trial_processes.run_trials(PROJECT, planned)
    assert states_of(outcomes) == ["out of time"] * 2
    with pytest.raises(searching.SearchFailedError, match=r"no trial finished.*boosted_trees 0 out of time: it took"):
        searching.best_of(PROJECT, planned, outcomes)
    configured(seed=5)
    minutes = 1e-5
    again = retraining.plan_trials(PROJECT, snapshot, trials=2, minutes=minutes)
    outcomes = [searching.run_trial(PROJECT, trial) for trial in again]
    assert states_of(outcomes) == ["over budget"] * 2
    assert "the search's 1e-05 minutes of training are used up" in outcomes[0]["error"]


def test_a_plan_without_a_search_keeps_no_study_and_trains_each_time(snapshot: str, configured: Any) -> None:
    configured(search=None)
    planned = retraining.plan_trials(PROJECT, snapshot)
    first, second = (searching.run_trial(PROJECT, planned[0]) for _ in range(2))
    assert first["graph"] == second["graph"]
    assert "search" not in first
    chosen = searching.best_of(PROJECT, planned, [first])
    assert (chosen["importances"], chosen["reason"].split(" (")[0]) == (
        {},
        "boosted_trees 0 is the only trial that finished",
    )
    assert artifacts.read(chosen["graph"])
