"""Outcomes that arrive at once, in the rollout itself: a real server, its log, the outcome store and the ledger."""

import asyncio
import shutil
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml  # type: ignore[import-untyped]

from pipelines.rollout.course import retell
from pipelines.rollout.story import EVENT, lengthen
from pipelines.tasks import labelling, releasing
from pipelines.wiring import REPOSITORY, home, open_ledger, open_registry
from tests.fixtures.bundles import tiny_bundle
from tests.fixtures.late_with_distance import BETTER, ENTITIES, FLIGHTS, HONEST, SOURCE, SWAPPED
from tests.fixtures.model_servers import ModelServerProcess

PROJECT = "flight_delay"
STEP = {"minimum_requests": 20, "minimum_s": 0.1, "maximum_s": 300}
ROLLOUT = {
    "shadow": None,
    "steps": [{"share": share, **STEP} for share in (0.5, 1.0)],
    "alpha_shares": {"errors": 0.25, "quality": 0.2},
    "quality": {"margin": 0.2, "every_s": 1},
    "error_rate_margin": None,
    "latency_floor_ms": 5000,
    "look_every_s": 0.1,
    "lease_s": 10,
}
# decisions may turn over and scores may move as they like: then only outcomes can tell
SHADOW = {
    "minimum_pairs": 20, "minimum_s": 0.1, "maximum_s": 300, "maximum_flip_share": 1.0, "maximum_shift": None
}  # fmt: skip
RANDOM = np.random.default_rng(4)
LATE = [bool(RANDOM.random() < 1 / (1 + np.exp(5 - 0.01 * each["distance"]))) for each in FLIGHTS]


@pytest.fixture
def server(
    model_servers: Callable[..., ModelServerProcess], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> ModelServerProcess:
    """An installation with its server, whose warehouse knows nothing of what happens now; version 1 leads."""
    monkeypatch.setenv("PACELINE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PACELINE_PROJECTS", str(tmp_path / "projects"))
    shutil.copytree(REPOSITORY / "projects" / PROJECT, tmp_path / "projects" / PROJECT)
    (tmp_path / "projects" / PROJECT / "source.py").write_text(SOURCE)
    started = model_servers(predictions=str(home().predictions(PROJECT)))
    monkeypatch.setenv("PACELINE_SERVER_URL", started.url)
    columns = {name: pa.array([], pa.string()) for name in ("carrier", "flight", "origin")}
    columns |= {"scheduled": pa.array([], pa.timestamp("us")), "late": pa.array([], pa.int64())}
    home().warehouse(PROJECT).mkdir(parents=True)
    pq.write_table(pa.table(columns), home().warehouse(PROJECT) / "outcomes.parquet")
    honest = tiny_bundle(home().bundles, **HONEST)
    register(honest, "2013-06-01")
    open_ledger().swap_champion(PROJECT, None, "1", honest.id, "bootstrap", "the first")
    started.install(honest, "1")
    return started


def register(bundle: Any, as_of: str) -> None:
    tags = {"as_of": as_of, "commit": "1" * 40, "configuration": "c" * 64}
    open_registry().register(PROJECT, bundle, metrics={"auc": 0.7}, parameters={}, tags=tags)


def plan(folder: Path, **changed: Any) -> None:
    """The project's plan, and a label that is known without any delay."""
    file = folder / "projects" / PROJECT / "project.yaml"
    body = yaml.safe_load(file.read_text())
    body["label"]["delay_days"] = 0
    body.pop("rollout_on", None)
    file.write_text(yaml.safe_dump({**body, "rollout": {**ROLLOUT, **changed}}, sort_keys=False))


def roll_out(server: ModelServerProcess, model: dict[str, float]) -> dict[str, Any]:
    """The rollout of `model` under traffic, to its end; what became of each flight is told a moment after it."""
    register(tiny_bundle(home().bundles, **model), "2013-06-08")  # type: ignore[arg-type]
    opened = releasing.open_rollout(PROJECT, "2")
    assert opened.offer is not None, opened.reason
    over, lock = threading.Event(), threading.Lock()
    statuses: set[int] = set()
    told: list[dict[str, Any]] = []

    def ask() -> None:
        place = 0
        while not over.is_set():
            answer = server.predict(*FLIGHTS[place : place + 20])
            statuses.add(answer.status_code)
            with lock:
                for number, each in enumerate(answer.json()["predictions"], place):
                    told.append({"prediction_id": each["prediction_id"], "value": LATE[number]})
            place = (place + 20) % ENTITIES
            time.sleep(0.01)

    def tell() -> None:
        while not over.wait(0.5):
            with lock:
                rows, told[:] = list(told), []
            labelling.add_rows(PROJECT, rows, "arrivals", now=datetime.now(UTC))

    threads = [threading.Thread(target=ask), threading.Thread(target=tell)]
    for each in threads:
        each.start()
    try:
        outcome = asyncio.run(releasing.roll_out(PROJECT, opened.offer))
    finally:
        over.set()
        for each in threads:
            each.join(60)
    assert statuses == {200}
    settled = releasing.settle(PROJECT, outcome)
    events = [lengthen(entry.body) for entry in open_ledger().entries(PROJECT, (EVENT,), settled["rollout"])]
    assert retell(events).state.phase == settled["state"], "the ledger's events tell the same"
    return settled


def of_outcomes(step: dict[str, Any]) -> dict[str, Any]:
    return next(each for each in step["findings"] if each["name"] == "outcomes")


def test_swapped_labels_that_pass_everything_else_are_rolled_back_in_the_step(
    server: ModelServerProcess, tmp_path: Path
) -> None:
    plan(tmp_path)
    ended = roll_out(server, SWAPPED)
    assert ended["state"] == "rolled_back"
    assert ended["reason"].startswith("mean Brier score of an entity 0.")
    step = ended["steps"][-1]
    assert step["name"] == "50 %"
    assert [each["name"] for each in step["findings"] if each["e_value"] > each["limit"]] == ["outcomes"]
    observed = server.observe()
    assert (observed["champion"]["version"], observed["challenger"]) == ("1", None)


def test_swapped_labels_are_rolled_back_in_the_shadow_before_any_client_saw_them(
    server: ModelServerProcess, tmp_path: Path
) -> None:
    plan(tmp_path, shadow=SHADOW)
    ended = roll_out(server, SWAPPED)
    assert ended["state"] == "rolled_back"
    assert [each["name"] for each in ended["steps"]] == ["shadow"]
    shadow = ended["steps"][0]
    assert [each["name"] for each in shadow["findings"] if each["e_value"] > each["limit"]] == ["outcomes"]


def test_a_challenger_that_is_right_as_often_is_promoted_once_each_phase_has_shown_it(
    server: ModelServerProcess, tmp_path: Path
) -> None:
    plan(tmp_path, shadow=SHADOW)
    ended = roll_out(server, BETTER)
    assert ended["state"] == "promoted", ended["reason"]
    assert [each["name"] for each in ended["steps"]] == ["shadow", "50 %", "100 %"]
    assert all("shown to be at most 0.2 worse" in of_outcomes(each)["what"] for each in ended["steps"][:2])
