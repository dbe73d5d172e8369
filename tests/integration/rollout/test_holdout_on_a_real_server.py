"""A challenger that only outcomes can tell from a good one: promoted, and rolled back by the holdout. All is real."""

import asyncio
import json
import shutil
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml  # type: ignore[import-untyped]
from typer.testing import CliRunner

from contracts.bundle import Bundle
from pipelines import views
from pipelines.cli import app
from pipelines.monitoring.predictions import read_holdout
from pipelines.rollout import holdouts
from pipelines.tasks import holding, releasing
from pipelines.wiring import REPOSITORY, home, open_ledger, open_registry
from tests.fixtures.bundles import CARRIERS, tiny_bundle
from tests.fixtures.late_with_distance import BETTER, ENTITIES, FLIGHTS, HONEST, SOURCE, SWAPPED
from tests.fixtures.model_servers import ModelServerProcess

PROJECT = "flight_delay"
AS_OF = "2013-07-03"  # outcomes of events of the first of July are known
STEP = {"minimum_requests": 20, "minimum_s": 0.1, "maximum_s": 300}
ROLLOUT = {
    # its decisions turn over by right: in this world nobody may know that before outcomes do
    "shadow": None,
    "steps": [{"share": share, **STEP} for share in (0.5, 1.0)],
    "error_rate_margin": None,
    "latency_floor_ms": 5000,
    "look_every_s": 0.1,
    "lease_s": 10,
    "holdout": {"share": 0.05, "margin": 0.2, "minimum_outcomes": 20, "maximum_days": 3, "alpha": 0.1},
}


@pytest.fixture
def server(
    model_servers: Callable[..., ModelServerProcess], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> ModelServerProcess:
    """An installation with its server, whose outcomes say what really happened; version 1 leads."""
    folder = tmp_path / "projects" / PROJECT
    shutil.copytree(REPOSITORY / "projects" / PROJECT, folder)
    (folder / "source.py").write_text(SOURCE)
    configuration = yaml.safe_load((folder / "project.yaml").read_text())
    (folder / "project.yaml").write_text(yaml.safe_dump({**configuration, "rollout": ROLLOUT}, sort_keys=False))
    monkeypatch.setenv("PACELINE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PACELINE_PROJECTS", str(tmp_path / "projects"))
    started = model_servers(predictions=str(home().predictions(PROJECT)))
    monkeypatch.setenv("PACELINE_SERVER_URL", started.url)
    honest = register(HONEST, "2013-06-01")
    open_ledger().swap_champion(PROJECT, None, "1", honest.id, "bootstrap", "the first")
    started.install(honest, "1")
    write_outcomes()
    return started


def register(model: dict[str, float], as_of: str) -> Bundle:
    bundle = tiny_bundle(home().bundles, **model)  # type: ignore[arg-type]
    tags = {"as_of": as_of, "commit": "1" * 40, "configuration": "c" * 64}
    open_registry().register(PROJECT, bundle, metrics={"auc": 0.7}, parameters={}, tags=tags)
    return bundle


def write_outcomes() -> None:
    random = np.random.default_rng(4)
    late = [random.random() < 1 / (1 + np.exp(5 - 0.01 * each["distance"])) for each in FLIGHTS]
    table = pa.table(
        {
            "carrier": [each["carrier"] for each in FLIGHTS],
            "flight": [str(number) for number in range(ENTITIES)],
            "origin": ["JFK"] * ENTITIES,
            "scheduled": pa.array([datetime.fromisoformat(each["scheduled"]) for each in FLIGHTS], pa.timestamp("us")),
            "late": pa.array([int(each) for each in late]),
        }
    )
    assert set(table["carrier"].unique().to_pylist()) == set(CARRIERS)
    home().warehouse(PROJECT).mkdir(parents=True)
    pq.write_table(table, home().warehouse(PROJECT) / "outcomes.parquet")


def roll_out(server: ModelServerProcess, version: str) -> dict[str, Any]:
    """The rollout of `version` under traffic, to its end."""
    opened = releasing.open_rollout(PROJECT, version)
    assert opened.offer is not None, opened.reason
    over = threading.Event()
    statuses: list[int] = []

    def ask() -> None:
        place = 0
        while not over.is_set():
            statuses.append(server.predict(*FLIGHTS[place : place + 20]).status_code)
            place = (place + 20) % ENTITIES

    client = threading.Thread(target=ask)
    client.start()
    try:
        outcome = asyncio.run(releasing.roll_out(PROJECT, opened.offer))
    finally:
        over.set()
        client.join(60)
    assert set(statuses) == {200}
    return releasing.settle(PROJECT, outcome)


def fly(server: ModelServerProcess) -> None:
    """Each plane once more, after the promotion; returns when the log has it."""
    for start in range(0, ENTITIES, 100):
        server.predict(*FLIGHTS[start : start + 100]).raise_for_status()
    begun = holdouts.running(open_ledger(), PROJECT)
    assert begun is not None
    deadline = time.monotonic() + 30
    while True:
        names = {"new": begun.new, "old": begun.old, "since": begun.since}
        rows = read_holdout(home().predictions(PROJECT), begun.rollout, **names).table  # type: ignore[arg-type]
        if len(set(rows["entity"].to_pylist())) == ENTITIES:
            return
        assert time.monotonic() < deadline, f"{rows.num_rows} rows are in the log"
        time.sleep(0.05)


def test_swapped_labels_pass_every_step_and_are_rolled_back_by_the_outcomes(server: ModelServerProcess) -> None:
    register(SWAPPED, "2013-06-08")
    promoted = roll_out(server, "2")
    assert promoted["state"] == "promoted", promoted["reason"]
    observed = server.observe()
    assert (observed["champion"]["version"], observed["holdout"]["counts"]["version"]) == ("2", "1")
    fly(server)
    assert holding.judge(PROJECT, "2013-07-01")["state"] == "wait", "no outcome is known yet"
    judged = holding.judge(PROJECT, AS_OF)
    assert judged["state"] == "rollback", judged["reason"]
    assert sum(judged["verdict"]["with_outcome"]) == ENTITIES
    observed = server.observe()
    assert (observed["champion"]["version"], observed["holdout"], observed["challenger"]) == ("1", None, None)
    champion = open_registry().version(PROJECT, "champion")
    assert champion is not None
    assert champion.version == "1"
    assert "version 2 was rolled back by its holdout" in releasing.open_rollout(PROJECT, "2").reason
    assert holding.judge(PROJECT, AS_OF)["state"] == "none", "it is over"


def test_an_honest_version_is_kept_and_then_the_next_one_may_come(server: ModelServerProcess) -> None:
    register(BETTER, "2013-06-08")
    assert roll_out(server, "2")["state"] == "promoted"
    fly(server)
    register({"bias": -5.2, "slope": 0.0105}, "2013-06-15")
    waiting = releasing.open_rollout(PROJECT, "3")
    assert (waiting.offer, waiting.waits) == (None, "3")
    judged = holding.judge(PROJECT, AS_OF)
    assert judged["state"] == "keep", judged["reason"]
    assert "at most 0.2 worse" in judged["reason"]
    observed = server.observe()
    assert (observed["champion"]["version"], observed["holdout"]) == ("2", None)
    assert {each["model_version"] for each in server.predict(*FLIGHTS).json()["predictions"]} == {"2"}
    assert f"the holdout of {PROJECT}-v2-1 ended: keep" in views.status_text(views.status(PROJECT))
    told = CliRunner().invoke(app, ["holdout", PROJECT, "--as-of", AS_OF, "--json"])
    assert (told.exit_code, json.loads(told.stdout)["state"]) == (0, "none")
    assert holding.next_offer(PROJECT) == {"version": "3", "note": None}
