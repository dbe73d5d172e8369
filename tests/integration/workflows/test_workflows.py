"""The workflows as Airflow runs them (`dag.test()`), on a slice of the real flights, with a real model server."""

import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from pipelines import views
from pipelines.tasks import judging, releasing, retraining
from pipelines.wiring import home, open_ledger, open_registry, projects_folder
from tests.fixtures.prediction_log import logged_rows

PROJECT = "flight_delay"
Run = Callable[..., Any]


@pytest.fixture(scope="module")
def run(airflow_database: Path, small_home: Path) -> Run:
    """Runs a workflow with its parameters, in this process, and returns the DAG run."""
    from airflow.dag_processing.dagbag import DagBag

    from pipelines.wiring import REPOSITORY

    dags = DagBag(str(REPOSITORY / "dags")).dags

    def run_workflow(workflow: str, **conf: Any) -> Any:
        return dags[f"{PROJECT}.{workflow}"].test(logical_date=None, run_conf=conf)

    return run_workflow


def states(dag_run: Any) -> dict[str, str]:
    return {instance.task_id: str(instance.state) for instance in dag_run.get_task_instances()}


def test_a_retrain_registers_a_challenger_and_a_release_makes_it_the_first_champion(
    run: Run, model_server: str
) -> None:
    retrained = run("retrain", as_of="2013-04-01", trigger="manual", reason="the first")
    assert states(retrained)["register"] == "success", states(retrained)
    registered = open_registry().version(PROJECT, "challenger")
    assert registered is not None
    assert httpx.get(f"{model_server}/readyz").status_code == 503
    assert told(retrained, "evaluate")[1] == told(retrained, "register")[0] == {"bundle": registered.bundle}
    assert told(retrained, "register")[1] == {"version": registered.version}
    assert told(retrained, "best_of")[1] == told(retrained, "optimise")[0]
    assert told(retrained, "optimise")[1].items() <= told(retrained, "evaluate")[0].items()
    assert told(retrained, "train")[1].keys() == {"trial"}

    released = run("release", version=registered.version)
    assert str(released.state) == "success", states(released)
    assert open_ledger().champion(PROJECT).version == registered.version  # type: ignore[union-attr]
    assert httpx.get(f"{model_server}/readyz").status_code == 200
    assert set(open_registry().version(PROJECT, "champion").aliases) == {"champion"}  # type: ignore[union-attr]
    assert told(released, "roll_out") == ({"version": registered.version}, {"champion": registered.version})
    gaps = views.trace(f"{PROJECT}:champion")["gaps"]
    assert [gap for gap in gaps if "commit" not in gap] == []  # there is none where the tests run outside of a clone


def told(dag_run: Any, task: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the task would tell OpenLineage: the versions of its inputs and outputs by their names."""
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session

    with create_session() as session:
        query = XComModel.get_many(key="return_value", run_id=dag_run.run_id, dag_ids=dag_run.dag_id, task_ids=task)
        value = XComModel.deserialize_value(session.scalars(query).first())
    found = views.exchange(PROJECT, dag_run.dag_id.rpartition(".")[2], task, value)
    inputs, outputs = (
        {each["name"].removeprefix(f"{PROJECT}."): each["version"] for each in found[side]}
        for side in ("inputs", "outputs")
    )
    return inputs, outputs


@pytest.mark.parametrize(
    ("poison", "expectation"),
    [
        (
            "events.mutate(distance_miles=-events.distance_miles)",
            "expect_column_values_to_be_between of distance_miles",
        ),
        ("events.drop('distance_miles')", "expect_column_to_exist of distance_miles"),
        ("events.filter(events.flight % 10 == 0)", "expect_table_row_count_to_be_between"),
    ],
    ids=["negative distances", "a missing column", "a tenth of the rows"],
)
def test_a_poisoned_snapshot_stops_the_retrain_and_the_champion_stays(
    run: Run, model_server: str, poison: str, expectation: str
) -> None:
    champion = open_ledger().champion(PROJECT)
    source = projects_folder() / PROJECT / "source.py"
    sound = source.read_text()
    poisoned = (
        "\n\n_sound = events\n\n\ndef events(connection, warehouse):\n    events = _sound(connection, warehouse)\n"
    )
    try:
        source.write_text(f"{sound}{poisoned}    return {poison}\n")
        retrained = run("retrain", as_of="2013-04-08", trigger="manual")
    finally:
        source.write_text(sound)
    assert str(retrained.state) == "failed"
    assert states(retrained)["validate"] == "failed", states(retrained)
    assert states(retrained)["train"] == "upstream_failed"
    assert states(retrained)["best_of"] == "upstream_failed"
    failure = open_ledger().entries(project=PROJECT, kinds=("failure",))[-1].body["error"]
    assert expectation in failure, failure
    assert open_ledger().champion(PROJECT) == champion


def test_a_challenger_of_newer_data_is_promoted_under_live_traffic(run: Run, model_server: str, traffic: Path) -> None:
    before = open_ledger().champion(PROJECT)
    assert before is not None
    retrained = run("retrain", as_of="2013-04-15", trigger="schedule")
    assert states(retrained)["register"] == "success", views.status(PROJECT)["gates"]
    released = run("release", version=open_registry().version(PROJECT, "challenger").version)  # type: ignore[union-attr]
    assert str(released.state) == "success", views.status(PROJECT)["releases"]
    after = open_ledger().champion(PROJECT)
    assert after is not None
    assert after.version != before.version
    assert open_registry().version(PROJECT, "previous").version == before.version  # type: ignore[union-attr]
    assert _failures(traffic) == []


def test_a_challenger_that_breaks_is_rolled_back_and_no_client_notices(
    run: Run, model_server: str, traffic: Path
) -> None:
    champion = open_ledger().champion(PROJECT)
    retrained = run("retrain", as_of="2013-04-22", trigger="manual")
    assert states(retrained)["register"] == "success", views.status(PROJECT)["gates"]
    version = open_registry().version(PROJECT, "challenger").version  # type: ignore[union-attr]
    opened = releasing.open_rollout(PROJECT, version)
    assert opened.offer is not None
    broken = False

    def break_it(look: Any) -> None:
        nonlocal broken
        if not broken and look.share > 0:
            httpx.post(f"{model_server}/control/fault", json={"error_share": 0.5}).raise_for_status()
            broken = True

    import asyncio

    outcome = asyncio.run(releasing.roll_out(PROJECT, opened.offer, break_it))
    releasing.settle(PROJECT, outcome)
    assert outcome["state"] == "rolled_back", outcome
    assert open_ledger().champion(PROJECT) == champion
    assert _failures(traffic) == []

    again = releasing.open_rollout(PROJECT, version)
    assert again.offer is None
    assert "note" in again.reason
    with_note = releasing.open_rollout(PROJECT, version, note="the fault was injected", by="ann")
    assert with_note.offer is not None
    releasing.settle(PROJECT, {**outcome, "rollout": with_note.offer["rollout"], "reason": "ended by the test"})


def test_older_data_does_not_replace_a_newer_champion(model_server: str) -> None:
    first = open_registry().versions(PROJECT)[0]
    opened = releasing.open_rollout(PROJECT, first.version, note="as a backfill would", by="ann")
    assert opened.offer is None
    assert "older data does not replace newer" in opened.reason


def test_a_rollback_puts_the_previous_version_back(run: Run, model_server: str) -> None:
    previous = open_registry().version(PROJECT, "previous")
    assert previous is not None
    rolled_back = run("rollback", reason="for the test")
    assert str(rolled_back.state) == "success"
    assert states(rolled_back)["tell"] == "success"
    assert views.investigations(PROJECT)[-1]["reason"] == "for the test"
    assert open_ledger().champion(PROJECT).version == previous.version  # type: ignore[union-attr]
    observed = httpx.get(f"{model_server}/control/observation").json()
    assert observed["champion"]["version"] == previous.version


def test_the_same_snapshot_and_parameters_give_the_same_bundle(small_home: Path) -> None:
    windows = retraining.choose_window(PROJECT, "2013-04-01")
    snapshot = retraining.take_snapshot(PROJECT, windows)
    trials = retraining.plan_trials(PROJECT, snapshot, ["boosted_trees"])
    first, second = (retraining.train(PROJECT, trials[0]) for _ in range(2))
    assert first.pop("spent") != second.pop("spent")  # what it took is no part of what it made
    assert first == second


def test_a_watch_measures_quality_and_drift_and_writes_its_report(
    run: Run, model_server: str, traffic: Path, as_of: date
) -> None:
    _wait_for_predictions()
    watched = run("watch", as_of="2013-04-20", days=30)
    assert states(watched)["report"] == "success", states(watched)
    assert states(watched)["compact_log"] == "success", states(watched)
    seen = open_ledger().entries(project=PROJECT, kinds=("watch",))[-1].body
    assert seen["predictions"] > 100
    assert seen["coverage"]["labelled"] > 100
    assert any(quality["auc"] is not None for quality in seen["quality"])
    assert list(home().reports(PROJECT).glob("drift-2013-04-20-*.html"))
    assert states(watched)["compare_features"] == "success", states(watched)
    compared = open_ledger().entries(project=PROJECT, kinds=("skew",))[-1].body
    assert compared["sampled"] == compared["encoding"]["rows"] > 5, compared
    assert compared["source"]["rows"] > 5, compared
    assert compared["encoding"]["differing"] == compared["source"]["differing"] == 0, compared


def test_a_due_retrain_starts_the_retrain_workflow_with_its_trigger_and_reason(
    run: Run, model_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session

    configuration = projects_folder() / PROJECT / "project.yaml"
    before = configuration.read_text()
    sensitive = yaml.safe_load(before)
    sensitive["monitoring"] = {
        "drift": {
            "psi_minimum": 1e-6,
            "score_psi_minimum": 1e-6,
            "minimum_rows": 50,
            "false_discovery": 0.5,
            "false_alarms_per_year": None,  # a small home has too few days to tell what is usual
        },
        "triggers": {"cooldown_days": 0, "minimum_new_labels": 0},
    }
    try:
        configuration.write_text(yaml.safe_dump(sensitive))
        watched = run("watch", as_of="2013-04-28", days=60)
    finally:
        configuration.write_text(before)
    decision = open_ledger().entries(project=PROJECT, kinds=("watch",))[-1].body["decision"]
    assert decision["trigger"] == "drift", decision
    assert states(watched)["start_retrain"] == "success", states(watched)
    with create_session() as session:
        started = session.query(DagRun).filter(DagRun.dag_id == f"{PROJECT}.retrain").order_by(DagRun.id.desc()).first()
    assert started.conf["trigger"] == "drift"
    assert started.conf["as_of"] == "2013-04-28"
    assert started.conf["reason"] == decision["reason"][:500]


def test_a_watch_without_a_reason_starts_nothing(run: Run, model_server: str) -> None:
    watched = run("watch", as_of="2013-04-28", days=60)
    assert states(watched)["start_retrain"] == "skipped", states(watched)


def test_a_prediction_is_traced_to_its_data(model_server: str) -> None:
    from pipelines.demo.evidence import random_prediction

    champion = open_ledger().champion(PROJECT)
    assert champion is not None
    prediction = random_prediction(home().predictions(PROJECT), champion.version)
    assert prediction is not None
    found = views.lineage(prediction)
    assert not found["gaps"]
    assert found["bundle"] == champion.bundle
    assert {gate["name"] for gate in found["gates"]}
    assert found["snapshot"] in views.lineage_text(found)


def test_a_failed_gate_keeps_a_challenger_out_of_the_registry() -> None:
    failed = {"bundle": "0" * 64, "passed": False, "gates": [{"name": "auc", "passed": False, "reason": "0.5 < 0.7"}]}
    with pytest.raises(PermissionError, match=r"auc: 0\.5 < 0\.7"):
        judging.register(PROJECT, failed)


def _failures(answers: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in answers.read_text().splitlines() if line.endswith("}")]
    assert found, "the replay sent nothing"
    return [answer for answer in found if answer["error"] is not None]


def _wait_for_predictions() -> None:
    import time

    deadline = time.monotonic() + 300
    while len(logged_rows(home().predictions(PROJECT))) <= 500:
        assert time.monotonic() < deadline, "the prediction log stays small"
        time.sleep(0.2)
