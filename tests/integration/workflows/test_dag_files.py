"""What the DAG files say, without running them."""

import subprocess
import sys
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from pipelines.wiring import REPOSITORY

PROJECTS = ("credit_risk", "flight_delay")
DAG_FILES = sorted((REPOSITORY / "dags").glob("*.py"))
HEAVY = (
    "duckdb",
    "evidently",
    "great_expectations",
    "ibis",
    "mlflow",
    "onnx",
    "onnxruntime",
    "pandas",
    "pyarrow",
    "sklearn",
    "sqlalchemy_utils",
    "torch",
)
IMPORT = """
import runpy, sys
import airflow.sdk, airflow.triggers.base
before = set(sys.modules)
runpy.run_path(sys.argv[1])
loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
print(",".join(sorted(loaded & set(sys.argv[2].split(",")))))
"""


@pytest.mark.parametrize("file", DAG_FILES, ids=lambda file: file.name)
def test_a_dag_file_loads_nothing_heavy(file: Path, airflow_database: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IMPORT, str(file), ",".join(HEAVY)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip().splitlines()[-1:] in ([], [""]), f"{file.name} loads {found.stdout}"


@pytest.fixture(scope="module")
def dags(airflow_database: Path) -> dict[str, Any]:
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(str(REPOSITORY / "dags"))
    assert bag.import_errors == {}
    return dict(bag.dags)


def test_each_project_has_each_workflow(dags: dict[str, Any]) -> None:
    workflows = ("ingest", "retrain", "release", "watch", "rollback", "reproduce")
    assert set(dags) == {f"{project}.{name}" for project in PROJECTS for name in workflows}


@pytest.mark.parametrize("project", PROJECTS)
def test_the_retrain_goes_from_window_to_registration(dags: dict[str, Any], project: str) -> None:
    dag = dags[f"{project}.retrain"]
    order = "choose_window take_snapshot validate plan_trials train best_of optimise evaluate register"
    for before, after in pairwise(order.split()):
        assert after in dag.get_task(before).downstream_task_ids
    assert dag.get_task("train").is_mapped


@pytest.mark.parametrize("project", PROJECTS)
def test_an_emergency_is_concluded_whatever_failed_and_hides_no_failure(dags: dict[str, Any], project: str) -> None:
    task = dags[f"{project}.retrain"].get_task("conclude_emergency")
    assert (task.is_teardown, task.upstream_task_ids) == (True, {"register"})  # a run's state is not that of a teardown
    assert task.trigger_rule == "all_done_setup_success"


@pytest.mark.parametrize("project", PROJECTS)
def test_the_log_is_compacted_whether_or_not_there_is_a_champion_to_watch(dags: dict[str, Any], project: str) -> None:
    task = dags[f"{project}.watch"].get_task("compact_log")
    assert (task.upstream_task_ids, task.downstream_task_ids) == (set(), {"archive_versions"})


@pytest.mark.parametrize("project", PROJECTS)
def test_features_are_compared_whether_or_not_there_is_a_champion_and_the_report_waits(
    dags: dict[str, Any], project: str
) -> None:
    task = dags[f"{project}.watch"].get_task("compare_features")
    assert (task.upstream_task_ids, task.downstream_task_ids) == (set(), {"report_week"})


@pytest.mark.parametrize("project", PROJECTS)
def test_who_was_not_told_of_a_rollback_is_told_whatever_there_is_to_watch(dags: dict[str, Any], project: str) -> None:
    task = dags[f"{project}.watch"].get_task("tell")
    assert (task.trigger_rule, task.upstream_task_ids, task.downstream_task_ids) == (
        "all_done",
        {"judge_holdout"},
        set(),
    )


@pytest.mark.parametrize("project", PROJECTS)
def test_a_holdout_is_judged_whatever_there_is_to_watch_and_who_waited_for_it_follows(
    dags: dict[str, Any], project: str
) -> None:
    dag = dags[f"{project}.watch"]
    assert dag.get_task("judge_holdout").upstream_task_ids == set()
    assert {"is_kept", "whose_turn", "tell"} <= dag.get_task("judge_holdout").downstream_task_ids
    assert dag.get_task("is_kept").retries == 0, "the version is rolled back: another try changes nothing"
    assert dag.get_task("release_next").upstream_task_ids == {"whose_turn"}


def test_versions_are_archived_whatever_became_of_the_log_and_of_the_watch(dags: dict[str, Any]) -> None:
    task = dags["flight_delay.watch"].get_task("archive_versions")
    assert (task.trigger_rule, task.upstream_task_ids, task.downstream_task_ids) == (
        "all_done",
        {"compact_log"},
        set(),
    )


@pytest.mark.parametrize("project", PROJECTS)
def test_one_retrain_and_one_release_run_at_a_time(dags: dict[str, Any], project: str) -> None:
    for name in ("retrain", "release"):
        assert dags[f"{project}.{name}"].max_active_runs == 1
    assert {task.pool for task in dags[f"{project}.retrain"].tasks} == {f"{project}.retrain"}


def test_every_task_has_a_timeout_and_reports_its_failure(dags: dict[str, Any]) -> None:
    for dag in dags.values():
        for task in dag.tasks:
            assert task.execution_timeout is not None, task
            assert task.on_failure_callback, task


@pytest.mark.parametrize("project", PROJECTS)
@pytest.mark.parametrize(
    ("workflow", "conf"),
    [
        ("retrain", {"as_of": "yesterday"}),
        ("retrain", {"trigger": "because"}),
        ("retrain", {"trainers": []}),
        ("retrain", {"trainers": ["crystal_ball"]}),
        ("release", {"version": "latest"}),
        ("rollback", {"reason": ""}),
        ("reproduce", {"version": "latest"}),
        ("reproduce", {"tolerance": 2}),
        ("watch", {"days": 0}),
    ],
)
def test_a_wrong_parameter_is_refused_before_any_task(
    dags: dict[str, Any], project: str, workflow: str, conf: dict[str, Any]
) -> None:
    from airflow.sdk.exceptions import ParamValidationError

    params = deepcopy(dags[f"{project}.{workflow}"].params)
    with pytest.raises(ParamValidationError):
        params.update(conf)


def test_the_defaults_of_every_form_are_allowed(dags: dict[str, Any]) -> None:
    for dag in dags.values():
        dag.params.validate()
