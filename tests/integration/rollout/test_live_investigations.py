"""Rollbacks of a real model server: what its own prediction log says in the investigation."""

import asyncio
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contracts.slots import Observation
from pipelines.governance.investigation import EVIDENCE, OPENED
from pipelines.tasks import investigating, releasing
from pipelines.wiring import home, open_ledger
from tests.fixtures.bundles import tiny_record
from tests.fixtures.model_servers import ModelServerProcess
from tests.fixtures.rollbacks import PROJECT, point_at, two_versions
from tests.fixtures.small_installation import free_port, small_projects


class Traffic:
    """A client that asks for one plane after the other, and keeps the status of each answer."""

    def __init__(self, server: ModelServerProcess) -> None:
        self.statuses: list[int] = []
        self._server = server
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def _ask(self) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            record = tiny_record(number % 300, passenger="Ada Lovelace")
            self.statuses.append(self._server.predict(record).status_code)

    def __enter__(self) -> "Traffic":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)


@pytest.fixture
def server(
    model_servers: Callable[..., ModelServerProcess], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> ModelServerProcess:
    """A server with version 1, in an installation of its own whose plan is quick."""
    point_at(tmp_path, monkeypatch)
    monkeypatch.setenv("PACELINE_PROJECTS", str(small_projects(tmp_path / "projects", free_port())))
    started = model_servers(allow_faults="yes", predictions=str(home().predictions(PROJECT)))
    monkeypatch.setenv("PACELINE_SERVER_URL", started.url)
    first, _ = two_versions()
    started.install(first, "1")
    return started


def evidence(subject: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((investigating.investigation_folder(PROJECT, subject) / EVIDENCE).read_text())
    return found


def test_the_log_of_the_server_says_what_failed_and_who_answered_in_its_place(server: ModelServerProcess) -> None:
    opened = releasing.open_rollout(PROJECT, "2")
    assert opened.offer is not None, opened.reason
    broken = threading.Event()

    def break_once(look: Observation) -> None:
        if look.share > 0 and not broken.is_set():
            broken.set()
            server.client.post("/control/fault", json={"error_share": 0.6}).raise_for_status()

    with Traffic(server) as traffic:
        outcome = asyncio.run(releasing.roll_out(PROJECT, opened.offer, break_once))
        releasing.settle(PROJECT, outcome)
    assert outcome["state"] == "rolled_back", outcome
    assert set(traffic.statuses) == {200}
    found = evidence(opened.offer["rollout"])
    assert found["cause"]["name"] in ("hard_limit", "errors")
    failures = [each for each in found["rows"]["failures"] if each["slot"] == "challenger"]
    assert {each["error"] for each in failures} == {"injected fault"}
    assert {(each["version"], each["answered_by"]) for each in failures} == {("2", "1")}
    assert all(json.loads(each["inputs"])["passenger"].startswith("masked:") for each in failures)
    phases = {part["name"] for part in found["rows"]["parts"] if part["arm"] == "challenger"}
    assert {"shadow", "10 %"} <= phases
    (entry,) = open_ledger().entries(PROJECT, (OPENED,))
    assert "No client saw a failure: version 1 answered each of them in its place." in entry.body["affected"]


def test_a_champion_that_a_person_takes_back_is_investigated_with_the_rows_around_that_moment(
    server: ModelServerProcess,
) -> None:
    opened = releasing.open_rollout(PROJECT, "2")
    assert opened.offer is not None, opened.reason
    with Traffic(server):
        outcome = asyncio.run(releasing.roll_out(PROJECT, opened.offer))
        assert outcome["state"] == "promoted", outcome
        releasing.settle(PROJECT, outcome)
        assert open_ledger().entries(PROJECT, (OPENED,)) == []
        releasing.roll_back(PROJECT, reason="the desk saw odd scores", request="by hand", by="ada")
        releasing.roll_back(
            PROJECT, reason="the desk saw odd scores", request="by hand", by="ada"
        )  # a retry opens no second
    (entry,) = open_ledger().entries(PROJECT, (OPENED,))
    assert (entry.body["version"], entry.body["champion"], entry.body["cause"]) == ("2", "1", "by_hand")
    found = evidence(entry.subject)
    assert (found["reason"], found["by"]) == ("the desk saw odd scores", "ada")
    assert {part["arm"] for part in found["rows"]["parts"]} >= {"challenger"}
    assert [moment["what"] for moment in found["timeline"]][-1] == "version 1 was put back"
    assert releasing.open_rollout(PROJECT, "2").offer is None
    investigating.close_investigation(PROJECT, entry.subject, note="a unit was wrong upstream", by="ada")
    assert releasing.open_rollout(PROJECT, "2").offer is not None
