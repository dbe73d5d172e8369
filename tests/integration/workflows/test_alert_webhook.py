"""Alertmanager's webhook in Airflow's own app: its API creates the runs, a real ledger has the alerts."""

import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from pipelines.ledger import Ledger
from pipelines.tasks import retraining
from pipelines.wiring import REPOSITORY
from tests.fixtures.notifications import PROJECT, SINCE, alert, notification

HOOK = "/paceline/hooks/alertmanager"
SECRET = "a secret of the test, long enough"
DAG = f"{PROJECT}.retrain"
AS_OF = "2013-07-15"
KINDS = ("alert.firing", "alert.resolved", "alert.retrain", "alert.started")


@pytest.fixture(scope="module")
def airflow_app(airflow_database: Path) -> FastAPI:
    """Airflow's API server as an app, with our plugin, and a database that knows the DAGs of `retrain.py`."""
    from airflow.api_fastapi.app import create_app
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db

    DagBundlesManager().sync_bundles_to_db()
    folder = REPOSITORY / "dags"
    bag = DagBag(str(folder / "retrain.py"), bundle_path=folder, bundle_name="dags-folder")
    assert bag.import_errors == {}
    sync_bag_to_db(bag, "dags-folder", None)
    return create_app()


@pytest.fixture
def hook(airflow_app: FastAPI, rollouts_ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """Who has the secret; the ledger is that of an empty home, and no run is left behind."""
    monkeypatch.setenv("PACELINE_ALERT_TOKEN", SECRET)
    monkeypatch.delenv("PACELINE_ALERT_TOKEN_FILE", raising=False)
    monkeypatch.setenv("PACELINE_AS_OF", AS_OF)
    headers = {"Authorization": f"Bearer {SECRET}"}
    yield TestClient(airflow_app, headers=headers, raise_server_exceptions=False)
    for run in runs():
        api(airflow_app, "DELETE", f"/api/v2/dags/{DAG}/dagRuns/{run}")


def api(app: FastAPI, method: str, path: str) -> httpx.Response:
    from airflow.api_fastapi.app import get_auth_manager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser

    manager: Any = get_auth_manager()
    token = manager.generate_jwt(SimpleAuthManagerUser(username="ann", role="admin"))
    asked: httpx.Response = TestClient(app).request(method, path, headers={"Authorization": f"Bearer {token}"})
    return asked


def runs() -> dict[str, dict[str, Any]]:
    """The runs that Airflow's database has, by their ids → their parameters."""
    from airflow.models.dagrun import DagRun

    return {run.run_id: run.conf for run in DagRun.find(dag_id=DAG)}


def post(hook: TestClient, body: bytes, **headers: str) -> httpx.Response:
    answered: httpx.Response = hook.post(HOOK, content=body, headers=headers)
    return answered


def kinds(ledger: Ledger) -> list[str]:
    return [entry.kind for entry in ledger.entries(PROJECT, KINDS)]


def test_an_alert_starts_the_emergency_retrain_and_the_ledger_says_why(
    hook: TestClient, rollouts_ledger: Ledger
) -> None:
    answered = post(hook, notification(alert()))
    assert answered.status_code == 200, answered.text
    ((run, conf),) = runs().items()
    assert run == "alert__20261130T030000123000__0000000000000001"
    assert (conf["trigger"], conf["as_of"]) == ("alert", AS_OF)
    assert "PacelineInputsBroken: Half of the rows are unlike" in conf["reason"]
    assert answered.json()["started"] == [run]
    assert (answered.json()["begun"], answered.json()["again"]) == (1, 0)
    assert kinds(rollouts_ledger) == ["alert.firing", "alert.retrain", "alert.started"]
    told = rollouts_ledger.entries(PROJECT, ("alert.firing",))[0]
    assert (told.subject, told.body["severity"]) == ("0000000000000001", "page")


def test_told_again_it_starts_nothing_again(hook: TestClient, rollouts_ledger: Ledger) -> None:
    first = post(hook, notification(alert()))
    second = post(hook, notification(alert()))
    assert (first.status_code, second.status_code) == (200, 200)
    assert (second.json()["begun"], second.json()["again"], second.json()["started"]) == (0, 1, [])
    assert len(runs()) == 1
    assert kinds(rollouts_ledger) == ["alert.firing", "alert.retrain", "alert.started"]


def test_an_end_is_written_down_and_starts_nothing(hook: TestClient, rollouts_ledger: Ledger) -> None:
    post(hook, notification(alert()))
    for _ in range(2):
        ended = post(hook, notification(alert(status="resolved")))
        assert ended.status_code == 200
    assert len(runs()) == 1
    (entry,) = rollouts_ledger.entries(PROJECT, ("alert.resolved",))
    assert entry.body["ends_at"].startswith("2026-11-30T03:10:00")


def test_an_old_message_is_refused_after_the_alert_has_ended(hook: TestClient, rollouts_ledger: Ledger) -> None:
    post(hook, notification(alert()))
    post(hook, notification(alert(status="resolved")))
    replayed = post(hook, notification(alert()))
    assert (replayed.status_code, replayed.headers["content-type"]) == (409, "application/problem+json")
    assert "was sent before, and starts nothing" in replayed.json()["detail"]
    assert len(runs()) == 1


def test_an_end_that_comes_first_leaves_no_run(hook: TestClient, rollouts_ledger: Ledger) -> None:
    post(hook, notification(alert(status="resolved")))
    assert post(hook, notification(alert())).status_code == 409
    assert runs() == {}


def test_a_storm_is_one_run(hook: TestClient, rollouts_ledger: Ledger) -> None:
    storm = [alert(number, alertname=f"Storm{number}") for number in range(1, 9)]
    assert len(post(hook, notification(*storm[:5])).json()["started"]) == 1
    later = post(hook, notification(*storm))
    assert later.json()["started"] == []
    assert "one run for all" in later.json()["retrains"][0]["why"]
    assert len(runs()) == 1
    assert len(rollouts_ledger.entries(PROJECT, ("alert.firing",))) == 8


def test_a_storm_of_messages_at_once_is_one_run(hook: TestClient, rollouts_ledger: Ledger) -> None:
    answers: list[int] = []

    def send(number: int) -> None:
        answers.append(post(hook, notification(alert(number))).status_code)

    threads = [threading.Thread(target=send, args=(number,)) for number in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert answers == [200] * 6
    assert len(runs()) == 1
    assert sum(entry.body["due"] for entry in rollouts_ledger.entries(PROJECT, ("alert.retrain",))) == 1


def test_a_retrain_that_was_killed_between_its_decision_and_its_run_is_started_by_the_next_message(
    hook: TestClient, rollouts_ledger: Ledger
) -> None:
    from pipelines.tasks import alerting

    lost = alerting.take(notification(alert()))
    assert runs() == {}
    again = post(hook, notification(alert()))
    assert again.json()["started"] == [lost.starts[0].run]
    assert list(runs()) == [lost.starts[0].run]


def test_a_run_that_airflow_has_already_is_not_started_twice(hook: TestClient, rollouts_ledger: Ledger) -> None:
    from pipelines.tasks import alerting

    taken = alerting.take(notification(alert()))
    first = TestClient(hook.app).post(HOOK, content=notification(alert()), headers=dict(hook.headers))
    assert first.json()["started"] == [taken.starts[0].run]
    assert taken.starts[0].run in runs()
    assert post(hook, notification(alert())).json()["started"] == []


def test_an_alert_that_does_not_ask_for_it_starts_no_retrain(hook: TestClient, rollouts_ledger: Ledger) -> None:
    answered = post(hook, notification(alert(retrain="")))
    assert (answered.status_code, answered.json()["retrains"]) == (200, [])
    assert runs() == {}
    assert kinds(rollouts_ledger) == ["alert.firing"]


def test_an_alert_that_begins_again_is_another_one(hook: TestClient, rollouts_ledger: Ledger) -> None:
    post(hook, notification(alert()))
    post(hook, notification(alert(status="resolved")))
    again = post(hook, notification(alert(since=SINCE + timedelta(hours=1))))
    assert (again.status_code, again.json()["begun"]) == (200, 1)


@pytest.mark.parametrize(
    ("body", "status", "why"),
    [
        (b"", 422, "no notification of Alertmanager, version 4"),
        (b"{", 422, "no notification"),
        (b"\xff\xfe", 422, "no notification"),
        (notification(), 422, "Expected `array` of length >= 1"),
        (notification(alert(), version="3"), 422, "version"),
        (notification(alert(), more=1), 422, "unknown field `more`"),
        (notification(alert(project="")), 422, "expected 'project' as well"),
        (notification(alert(alertname="")), 422, "expected 'alertname' as well"),
        (notification({**alert(), "startsAt": "yesterday"}), 422, "startsAt"),
        (notification({**alert(), "startsAt": "2026-11-30T03:00:00"}), 422, "startsAt"),
        (notification({**alert(), "fingerprint": "../../etc"}), 422, "fingerprint"),
        (notification({**alert(), "status": "maybe"}), 422, "status"),
        (notification(alert(project="flights")), 404, "no project 'flights'"),
        (notification(alert(), alert(2, project="../x")), 404, "no project '../x'"),
    ],
    ids=lambda value: str(value)[:24] if isinstance(value, str) else "",
)
def test_what_is_no_notification_of_ours_is_refused_and_starts_nothing(
    hook: TestClient, rollouts_ledger: Ledger, body: bytes, status: int, why: str
) -> None:
    refused = post(hook, body)
    assert (refused.status_code, refused.headers["content-type"]) == (status, "application/problem+json")
    assert why in refused.json()["detail"]
    assert runs() == {}
    assert kinds(rollouts_ledger) == []


@pytest.mark.parametrize("bearer", [None, "Bearer", "Bearer ", f"Basic {SECRET}", "Bearer wrong", f"Bearer {SECRET}x"])
def test_who_has_not_the_secret_starts_nothing(hook: TestClient, rollouts_ledger: Ledger, bearer: str | None) -> None:
    del hook.headers["Authorization"]
    refused = post(hook, notification(alert()), **({"Authorization": bearer} if bearer else {}))
    assert (refused.status_code, refused.headers["content-type"]) == (401, "application/problem+json")
    assert runs() == {}
    assert kinds(rollouts_ledger) == []


def test_a_body_may_be_signed_with_the_secret_instead(hook: TestClient, rollouts_ledger: Ledger) -> None:
    del hook.headers["Authorization"]
    body = notification(alert())
    header = {"X-Paceline-Signature": "sha256=" + hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()}
    assert post(hook, body.replace(b"page", b"none"), **header).status_code == 401
    assert runs() == {}
    assert post(hook, body, **header).status_code == 200
    assert len(runs()) == 1


def test_a_body_that_is_too_large_is_refused_while_it_comes(hook: TestClient, rollouts_ledger: Ledger) -> None:
    refused = post(hook, b" " * ((1 << 20) + 1))
    assert (refused.status_code, refused.headers["content-type"]) == (413, "application/problem+json")
    assert "max_alerts" in refused.json()["detail"]


@pytest.mark.parametrize("secret", ["", "short"])
def test_without_a_secret_of_some_length_nobody_may_call(
    hook: TestClient, rollouts_ledger: Ledger, monkeypatch: pytest.MonkeyPatch, secret: str
) -> None:
    monkeypatch.setenv("PACELINE_ALERT_TOKEN", secret)
    refused = post(hook, notification(alert()), Authorization=f"Bearer {secret}")
    assert refused.status_code == 503
    assert "PACELINE_ALERT_TOKEN_FILE" in refused.json()["detail"]
    assert runs() == {}


def test_the_secret_may_be_in_a_file(
    hook: TestClient, rollouts_ledger: Ledger, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "secret"
    monkeypatch.setenv("PACELINE_ALERT_TOKEN_FILE", str(file))
    absent = post(hook, notification(alert()))
    assert absent.status_code == 503
    assert str(file) not in absent.text
    file.write_text("another secret of this test\n")
    assert post(hook, notification(alert())).status_code == 401
    answered = post(hook, notification(alert()), Authorization="Bearer another secret of this test")
    assert answered.status_code == 200


def test_a_ledger_that_is_away_is_said_and_alertmanager_asks_again(
    hook: TestClient, rollouts_ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PACELINE_LEDGER_URL", "sqlite:////dev/null/ledger.db")
    answered = post(hook, notification(alert()))
    assert (answered.status_code, answered.headers["content-type"]) == (503, "application/problem+json")
    assert runs() == {}


def test_a_project_whose_dag_airflow_does_not_know_is_tried_again(
    hook: TestClient, rollouts_ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.models.dag import DagModel
    from airflow.utils.session import create_session

    def is_stale(value: bool) -> None:
        with create_session() as session:
            session.get(DagModel, DAG).is_stale = value

    is_stale(True)
    try:
        refused = post(hook, notification(alert()))
        assert (refused.status_code, runs()) == (503, {})
    finally:
        is_stale(False)
    assert post(hook, notification(alert())).json()["started"] == list(runs())
    assert len(runs()) == 1


def test_who_has_the_secret_sees_nothing_else_of_airflow(hook: TestClient, rollouts_ledger: Ledger) -> None:
    assert hook.get("/paceline/api/rollouts").status_code in (401, 403)
    assert hook.get(HOOK).status_code == 405
    assert hook.get("/paceline/hooks/docs").status_code == 404
    assert hook.get("/paceline/hooks/openapi.json").status_code == 404


def test_the_as_of_is_the_day_on_which_the_last_labelled_day_is_known(
    rollouts_ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datetime import date

    from pipelines.tasks import alerting

    monkeypatch.setenv("PACELINE_AS_OF", "soon")
    with pytest.raises(ValueError, match="soon"):
        alerting.take(notification(alert()))
    monkeypatch.delenv("PACELINE_AS_OF")
    monkeypatch.setattr(retraining, "latest_day", lambda project: date(2013, 4, 30))
    taken = alerting.take(notification(alert()))
    assert taken.starts[0].conf["as_of"] == "2013-05-02"  # labels of flights are a day late


def test_the_bodies_of_the_ledger_are_json(hook: TestClient, rollouts_ledger: Ledger) -> None:
    post(hook, notification(alert()))
    assert all(json.dumps(entry.body) for entry in rollouts_ledger.entries(PROJECT, KINDS))
