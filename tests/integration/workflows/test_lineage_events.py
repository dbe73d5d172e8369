"""OpenLineage events: none by default, and with a transport what our tasks read and made. Airflow runs in processes."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipelines.wiring import REPOSITORY
from tests.fixtures.small_installation import PROJECT, copy_of_expectations, free_port, small_projects

RUN = """
import sys
from airflow.dag_processing.dagbag import DagBag
dags = DagBag(sys.argv[1]).dags
dags["flight_delay.ingest"].test(logical_date=None)
begun = dags["flight_delay.retrain"].partial_subset("take_snapshot", include_downstream=False, include_upstream=True)
begun.test(logical_date=None, run_conf={"as_of": "2013-04-01", "trigger": "manual"})
"""
STATE_OF_THE_PROVIDER = """
import sys
import airflow.plugins_manager as plugins
from airflow.providers.openlineage import conf
from airflow.providers.openlineage.plugins.openlineage import OpenLineageProviderPlugin as plugin
from delivery.lineage import tell_lineage

class Operator:
    dag_id, task_id, inlets, outlets = "flight_delay.retrain", "validate", [], []

tell_lineage({"task": Operator}, "5" * 64)
assert "openlineage.client" not in sys.modules or conf.is_disabled() is False
print(conf.is_disabled(), len(plugin.listeners), len(Operator.inlets))
"""


def _environment(folder: Path, **more: str) -> dict[str, str]:
    configured = {name: value for name, value in os.environ.items() if not name.startswith(("OPENLINEAGE", "PACELINE"))}
    return configured | {
        "PACELINE_HOME": str(folder / "home"),
        "PACELINE_PROJECTS": str(folder / "projects"),
        "PACELINE_EXPECTATIONS": str(folder / "great_expectations"),
        **more,
    }


def _run(script: str, environment: dict[str, str]) -> str:
    command = [sys.executable, "-c", script, str(REPOSITORY / "dags")]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    return ended.stdout


@pytest.fixture(scope="module")
def events(airflow_database: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Those of an ingest, and of a retrain as far as its snapshot."""
    folder = tmp_path_factory.mktemp("lineage")
    small_projects(folder / "projects", free_port())
    copy_of_expectations(folder / "great_expectations")
    log = folder / "events.jsonl"
    transport = json.dumps({"type": "file", "log_file_path": str(log), "append": True})
    _run(
        RUN,
        _environment(folder, AIRFLOW__OPENLINEAGE__TRANSPORT=transport, AIRFLOW__OPENLINEAGE__NAMESPACE="paceline"),
    )
    return [json.loads(line) for line in log.read_text().splitlines()]


def _of(events: list[dict[str, Any]], task: str) -> dict[str, Any]:
    found = [each for each in events if each["job"]["name"] == f"{PROJECT}.{task}" and each["eventType"] == "COMPLETE"]
    assert len(found) == 1, [(each["eventType"], each["job"]["name"]) for each in events]
    return found[0]


def _versions(datasets: list[dict[str, Any]]) -> dict[str, str]:
    assert {each["namespace"] for each in datasets} <= {"paceline"}
    return {each["name"]: each["facets"]["version"]["datasetVersion"] for each in datasets}


def test_an_ingest_goes_from_the_packages_files_to_the_warehouse(events: list[dict[str, Any]]) -> None:
    event = _of(events, "ingest.load")
    read, made = _versions(event["inputs"]), _versions(event["outputs"])
    assert f"{PROJECT}.source.flights.csv.zip" in read
    assert f"{PROJECT}.warehouse.flights" in made
    assert all(len(version) == 64 for version in (*read.values(), *made.values()))


def test_a_snapshot_is_made_of_the_warehouse_as_the_ingest_left_it(events: list[dict[str, Any]]) -> None:
    ingested = _versions(_of(events, "ingest.load")["outputs"])
    event = _of(events, "retrain.take_snapshot")
    read = _versions(event["inputs"])
    assert set(read) == {f"{PROJECT}.warehouse.{name}" for name in ("airports", "flights", "planes", "weather")}
    assert read.items() <= ingested.items()
    (snapshot,) = event["outputs"]
    assert snapshot["name"] == f"{PROJECT}.snapshot"
    assert {field["name"]: field["type"] for field in snapshot["facets"]["schema"]["fields"]}["late"] == "bool"
    assert snapshot["facets"]["dataSource"]["uri"].endswith(snapshot["facets"]["version"]["datasetVersion"])


def test_by_default_nothing_listens_and_nothing_is_told(airflow_database: Path, tmp_path: Path) -> None:
    assert _run(STATE_OF_THE_PROVIDER, _environment(tmp_path)).split()[-3:] == ["True", "0", "0"]
    transport = json.dumps({"type": "console"})
    told = _run(STATE_OF_THE_PROVIDER, _environment(tmp_path, AIRFLOW__OPENLINEAGE__TRANSPORT=transport))
    assert told.split()[-3:] == ["False", "1", "1"]


def test_a_task_does_not_fail_when_it_cannot_be_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from airflow.providers.openlineage import conf
    from delivery.lineage import tell_lineage

    from pipelines import views

    class Operator:
        dag_id, task_id, inlets, outlets = f"{PROJECT}.retrain", "validate", list[Any](), list[Any]()

    def no_ledger(*_: Any) -> Any:
        raise OSError("the disk is full")

    logging.getLogger("delivery.lineage").addHandler(caplog.handler)  # Airflow's do not hand on
    monkeypatch.setattr(conf, "is_disabled", lambda: False)
    monkeypatch.setattr(views, "exchange", no_ledger)
    tell_lineage({"task": Operator}, "5" * 64)
    assert Operator.inlets == []
    assert "are not told to OpenLineage" in caplog.text
