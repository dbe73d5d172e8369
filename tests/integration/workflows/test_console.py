"""The API and the page in Airflow's UI: Airflow's own log-in and permissions, a real ledger, a rollout that runs."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from pipelines.ledger import Ledger
from pipelines.wiring import REPOSITORY, open_ledger
from tests.fixtures.rollouts import ASKING, PROJECT, ROLLOUT, run_until, running

API = f"/api/rollouts/{PROJECT}"


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    monkeypatch.setenv("PACELINE_HOME", str(tmp_path))
    for name in ("PACELINE_LEDGER_URL", "PACELINE_PROJECTS"):
        monkeypatch.delenv(name, raising=False)
    with open_ledger() as opened:
        yield opened


@pytest.fixture(scope="module")
def tokens(airflow_database: Path) -> dict[str, str]:
    """A token of Airflow's simple auth manager for each role."""
    from airflow.api_fastapi.app import init_auth_manager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser

    manager: Any = init_auth_manager()
    return {
        role: manager.generate_jwt(SimpleAuthManagerUser(username=f"{role}-ann", role=role))
        for role in ("viewer", "user", "admin")
    }


@pytest.fixture
def client(ledger: Ledger, tokens: dict[str, str]) -> Iterator[TestClient]:
    """The app as Airflow mounts it, asked by a user who may edit DAGs."""
    import sys

    sys.path.append(str(REPOSITORY / "plugins"))  # as Airflow does for its plugins folder
    from delivery import console

    console._watch.cache_clear()  # the ledger of the test before
    headers = {"Authorization": f"Bearer {tokens['user']}"}
    with TestClient(console.app, headers=headers, raise_server_exceptions=False) as opened:
        yield opened


def as_role(tokens: dict[str, str], role: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {tokens[role]}"}


def test_who_has_not_logged_in_sees_and_commands_nothing(client: TestClient) -> None:
    del client.headers["Authorization"]
    for path in ("/", "/api/rollouts", API, f"{API}/live"):
        assert client.get(path).status_code == 401, path
    refused = client.post(f"{API}/commands", json={"command": "abort", "reason": "x"})
    assert refused.status_code == 401
    assert refused.headers["content-type"] == "application/problem+json"
    assert client.get(API, headers={"Authorization": "Bearer made.up.token"}).status_code == 403


def test_a_viewer_sees_and_does_not_command(client: TestClient, ledger: Ledger, tokens: dict[str, str]) -> None:
    run_until(ledger, looks=5)
    viewer = as_role(tokens, "viewer")
    assert client.get(API, headers=viewer).json()["running"] == ROLLOUT
    assert client.get(f"{API}/live", headers=viewer).json()["may_command"] is False
    refused = client.post(f"{API}/commands", json={"command": "abort", "reason": "x"}, headers=viewer)
    assert refused.status_code == 403
    assert ledger.entries(kinds=("rollout.command",)) == []


def test_a_command_is_in_the_ledger_under_the_name_of_the_user(client: TestClient, ledger: Ledger) -> None:
    with running(ledger) as rollout:
        asked = client.post(f"{API}/commands", json={"command": "resume", "reason": "looked at it", "phase": None})
        assert (asked.status_code, asked.json()["by"], asked.json()["answer"]) == (202, "user-ann", None)
        rollout.join(60)
    told = client.get(API).json()["rollout"]
    assert told["state"] == "promoted"
    assert [(c["command"], c["by"], c["answer"]) for c in told["commands"]][:2] == [
        ("pause", "the test", "obeyed"),
        ("resume", "user-ann", "obeyed"),
    ]


@pytest.mark.parametrize(
    ("asked", "status", "why"),
    [
        ({"command": "approve", "reason": "x"}, 409, "nothing is asked in `20 %`"),
        ({"command": "advance", "reason": "x", "phase": "shadow"}, 409, "meant for `shadow`"),
        ({"command": "stop", "reason": "x"}, 422, "no command 'stop'; there are: pause"),
        ({"command": "pause", "reason": " "}, 422, "a command says reason"),
        ({"command": "pause"}, 422, "body.reason: Field required"),
        ({"command": "pause", "reason": "x", "by": "somebody else"}, 422, "body.by: Extra inputs are not permitted"),
    ],
)
def test_the_api_has_the_checks_of_the_command_line(
    client: TestClient, ledger: Ledger, asked: dict[str, str], status: int, why: str
) -> None:
    run_until(ledger, looks=5)
    answer = client.post(f"{API}/commands", json=asked)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert why in answer.json()["detail"]
    assert ledger.entries(kinds=("rollout.command",)) == []


def test_where_nothing_runs_there_is_nothing_to_command(client: TestClient) -> None:
    absent = client.post(f"{API}/commands", json={"command": "abort", "reason": "x"})
    assert (absent.status_code, absent.json()["status"]) == (404, 404)
    assert "no rollout of flight_delay runs" in absent.json()["detail"]
    assert client.get("/api/rollouts/flights").status_code == 404


def test_a_form_of_another_site_commands_nothing(client: TestClient, ledger: Ledger, tokens: dict[str, str]) -> None:
    run_until(ledger, looks=5)
    del client.headers["Authorization"]
    client.cookies.set("_token", tokens["user"])
    body = '{"command": "abort", "reason": "x"}'
    plain = client.post(f"{API}/commands", content=body, headers={"Content-Type": "text/plain"})
    assert plain.status_code == 422
    assert ledger.entries(kinds=("rollout.command",)) == []
    assert client.post(f"{API}/commands", json={"command": "abort", "reason": "x"}).status_code == 202


def test_a_ledger_that_is_gone_is_a_problem_that_says_so(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACELINE_LEDGER_URL", "sqlite:////dev/null/ledger.db")
    answer = client.get(API)
    assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
    assert "cannot be opened" in answer.json()["detail"]


def test_the_page_is_whole_and_runs_no_script_but_its_own(client: TestClient, ledger: Ledger) -> None:
    run_until(ledger, looks=5)
    answer = client.get("/")
    nonce = re.search(r"script-src 'nonce-([^']+)'", answer.headers["content-security-policy"])
    assert nonce is not None
    assert re.findall(r"<script[^>]*>", answer.text) == [f'<script nonce="{nonce[1]}">']
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", answer.text)  # nothing is loaded from elsewhere
    assert 'data-project="flight_delay"' in answer.text  # its rollout runs: it is shown first
    assert 'data-project="credit_risk"' in client.get("/", params={"project": "credit_risk"}).text
    assert client.get("/", params={"project": "flights"}).status_code == 404


def test_the_live_part_shows_the_phase_and_takes_no_markup_from_a_reason(client: TestClient, ledger: Ledger) -> None:
    run_until(ledger, looks=5)
    client.post(f"{API}/commands", json={"command": "pause", "reason": "<img src=x onerror=alert(1)>"})
    live = client.get(f"{API}/live").json()
    assert (live["running"], live["phase"], live["may_command"], live["asks"]) == (ROLLOUT, "20 %", True, False)
    assert "<svg" in live["more"]
    assert "&lt;img src=x" in live["more"]
    assert "<img" not in live["more"]
    (entry,) = live["answers"]
    assert live["answers"][entry] is None  # nobody runs it, so nobody has answered


def test_the_live_part_shows_an_open_question(client: TestClient, ledger: Ledger) -> None:
    run_until(ledger, looks=8, plan=ASKING)
    live = client.get(f"{API}/live").json()
    assert live["asks"]
    assert "May the challenger get its first live traffic?" in live["top"]
    assert "waits for a person" in live["top"]


def test_airflow_knows_the_app_and_the_entry_in_its_menu(airflow_database: Path) -> None:
    from airflow import plugins_manager

    assert os.environ["AIRFLOW__CORE__PLUGINS_FOLDER"] == str(REPOSITORY / "plugins")
    apps, _ = plugins_manager.get_fastapi_plugins()
    assert [app["url_prefix"] for app in apps if app["name"] == "Paceline"] == ["/paceline"]
    views, _ = plugins_manager._get_ui_plugins()
    assert [view["href"] for view in views if view["name"] == "Paceline"] == ["paceline/"]
