"""The API and the page in Airflow's UI: Airflow's own log-in and permissions, a real ledger, a rollout that runs."""

import os
import re
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from pipelines.ledger import Ledger
from pipelines.wiring import REPOSITORY
from tests.fixtures.rollouts import ASKING, PLAN, PROJECT, ROLLOUT, run_until, running

API = f"/api/rollouts/{PROJECT}"


def as_role(tokens: dict[str, str], role: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {tokens[role]}"}


def test_who_has_not_logged_in_sees_and_commands_nothing(console: TestClient) -> None:
    del console.headers["Authorization"]
    for path in ("/", "/api/rollouts", API, f"{API}/live"):
        assert console.get(path).status_code == 401, path
    refused = console.post(f"{API}/commands", json={"command": "abort", "reason": "x"})
    assert refused.status_code == 401
    assert refused.headers["content-type"] == "application/problem+json"
    assert console.get(API, headers={"Authorization": "Bearer made.up.token"}).status_code == 403


def test_a_viewer_sees_and_does_not_command(
    console: TestClient, rollouts_ledger: Ledger, airflow_tokens: dict[str, str]
) -> None:
    run_until(rollouts_ledger, looks=5)
    viewer = as_role(airflow_tokens, "viewer")
    assert console.get(API, headers=viewer).json()["running"] == ROLLOUT
    assert console.get(f"{API}/live", headers=viewer).json()["may_command"] is False
    refused = console.post(f"{API}/commands", json={"command": "abort", "reason": "x"}, headers=viewer)
    assert refused.status_code == 403
    assert rollouts_ledger.entries(kinds=("rollout.command",)) == []


def test_a_command_is_in_the_ledger_under_the_name_of_the_user(console: TestClient, rollouts_ledger: Ledger) -> None:
    with running(rollouts_ledger) as rollout:
        asked = console.post(f"{API}/commands", json={"command": "resume", "reason": "looked at it", "phase": None})
        assert (asked.status_code, asked.json()["by"], asked.json()["answer"]) == (202, "user-ann", None)
        rollout.join(60)
    told = console.get(API).json()["rollout"]
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
        ({"command": "share", "reason": "x", "share": 0.5}, 409, "the plan gives `20 %` a share of 0.2 at most"),
        ({"command": "share", "reason": "x"}, 422, "the command share says which"),
        ({"command": "share", "reason": "x", "share": 7}, 422, "share lies between 0.0001 and 1, found 7"),
        ({"command": "stop", "reason": "x"}, 422, "no command 'stop'; there are: pause"),
        ({"command": "pause", "reason": " "}, 422, "a command says reason"),
        ({"command": "pause"}, 422, "body.reason: Field required"),
        ({"command": "pause", "reason": "x", "by": "somebody else"}, 422, "body.by: Extra inputs are not permitted"),
    ],
)
def test_the_api_has_the_checks_of_the_command_line(
    console: TestClient, rollouts_ledger: Ledger, asked: dict[str, str], status: int, why: str
) -> None:
    run_until(rollouts_ledger, looks=5)
    answer = console.post(f"{API}/commands", json=asked)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert why in answer.json()["detail"]
    assert rollouts_ledger.entries(kinds=("rollout.command",)) == []


def test_where_nothing_runs_there_is_nothing_to_command(console: TestClient) -> None:
    absent = console.post(f"{API}/commands", json={"command": "abort", "reason": "x"})
    assert (absent.status_code, absent.json()["status"]) == (404, 404)
    assert "no rollout of flight_delay runs" in absent.json()["detail"]
    assert console.get("/api/rollouts/flights").status_code == 404


def test_a_form_of_another_site_commands_nothing(
    console: TestClient, rollouts_ledger: Ledger, airflow_tokens: dict[str, str]
) -> None:
    run_until(rollouts_ledger, looks=5)
    del console.headers["Authorization"]
    console.cookies.set("_token", airflow_tokens["user"])
    body = '{"command": "abort", "reason": "x"}'
    plain = console.post(f"{API}/commands", content=body, headers={"Content-Type": "text/plain"})
    assert plain.status_code == 422
    assert rollouts_ledger.entries(kinds=("rollout.command",)) == []
    assert console.post(f"{API}/commands", json={"command": "abort", "reason": "x"}).status_code == 202


def test_a_ledger_that_is_gone_is_a_problem_that_says_so(console: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACELINE_LEDGER_URL", "sqlite:////dev/null/rollouts_ledger.db")
    answer = console.get(API)
    assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
    assert "cannot be opened" in answer.json()["detail"]


def test_the_page_is_whole_and_runs_no_script_but_its_own(console: TestClient, rollouts_ledger: Ledger) -> None:
    run_until(rollouts_ledger, looks=5)
    answer = console.get("/")
    nonce = re.search(r"script-src 'nonce-([^']+)'", answer.headers["content-security-policy"])
    assert nonce is not None
    assert re.findall(r"<script[^>]*>", answer.text) == [f'<script nonce="{nonce[1]}">']
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", answer.text)  # nothing is loaded from elsewhere
    assert 'data-project="flight_delay"' in answer.text  # its rollout runs: it is shown first
    assert 'data-project="credit_risk"' in console.get("/", params={"project": "credit_risk"}).text
    assert console.get("/", params={"project": "flights"}).status_code == 404


def test_the_live_part_shows_the_phase_and_takes_no_markup_from_a_reason(
    console: TestClient, rollouts_ledger: Ledger
) -> None:
    run_until(rollouts_ledger, looks=5)
    console.post(f"{API}/commands", json={"command": "pause", "reason": "<img src=x onerror=alert(1)>"})
    live = console.get(f"{API}/live").json()
    assert (live["running"], live["phase"], live["may_command"], live["asks"]) == (ROLLOUT, "20 %", True, False)
    assert "<svg" in live["more"]
    assert "&lt;img src=x" in live["more"]
    assert "<img" not in live["more"]
    (entry,) = live["answers"]
    assert live["answers"][entry] is None  # nobody runs it, so nobody has answered


def test_the_live_part_shows_an_open_question(console: TestClient, rollouts_ledger: Ledger) -> None:
    run_until(rollouts_ledger, looks=8, plan=ASKING)
    live = console.get(f"{API}/live").json()
    assert live["asks"]
    assert "May the challenger get its first live traffic?" in live["top"]
    assert "waits for a person" in live["top"]


def test_the_plan_is_shown_with_its_version_before_and_during_a_rollout(
    console: TestClient, rollouts_ledger: Ledger
) -> None:
    before = console.get(f"{API}/live").json()["more"]
    assert "That of the project&#39;s next rollout." in before or "That of the project's next rollout." in before
    run_until(rollouts_ledger, looks=5)
    during = console.get(f"{API}/live").json()["more"]
    assert f"<dd>{PLAN.identity}</dd>" in during
    assert "<dd>20 %: 20 requests, 2 s; 50 %: 20 requests, 2 s; 100 %" in during
    assert "<dt>hard limits</dt><dd>errors 8, window 20" in during


def test_a_past_rollout_is_shown_without_commands(console: TestClient, rollouts_ledger: Ledger) -> None:
    run_until(rollouts_ledger, looks=1000, error_rates={"2": 0.9})
    live = console.get(f"{API}/live", params={"rollout": ROLLOUT}).json()
    assert (live["shown"], live["running"]) == (ROLLOUT, None)
    assert f'href="?project={PROJECT}&amp;rollout={ROLLOUT}"' in live["more"]
    assert f'data-rollout="{ROLLOUT}"' in console.get("/", params={"project": PROJECT, "rollout": ROLLOUT}).text
    assert console.get(f"{API}/live", params={"rollout": "v9"}).status_code == 404


def test_airflow_knows_the_app_and_the_entry_in_its_menu(airflow_database: Path) -> None:
    from airflow import plugins_manager

    assert os.environ["AIRFLOW__CORE__PLUGINS_FOLDER"] == str(REPOSITORY / "plugins")
    apps, _ = plugins_manager.get_fastapi_plugins()
    assert [app["url_prefix"] for app in apps if app["name"] == "Paceline"] == ["/paceline"]
    views, _ = plugins_manager._get_ui_plugins()
    assert [view["href"] for view in views if view["name"] == "Paceline"] == ["paceline/"]


def test_the_last_weekly_report_is_linked_and_shown_as_it_was_kept(
    console: TestClient, rollouts_ledger: Ledger
) -> None:
    from pipelines.tasks import weekly
    from pipelines.wiring import home

    assert "weekly/" not in console.get("/", params={"project": PROJECT}).text
    assert console.get(f"/weekly/{PROJECT}").status_code == 404
    kept = weekly.write_weekly_report(PROJECT, "2013-W27")
    linked = console.get("/", params={"project": PROJECT}).text
    assert f'href="weekly/{PROJECT}">Report of week 2013-W27</a>' in linked
    shown = console.get(f"/weekly/{PROJECT}")
    assert shown.text == (home().root / kept["page"]).read_text()
    assert "script-src" not in shown.headers["content-security-policy"]
    assert shown.headers["content-security-policy"].startswith("default-src 'none'")
    (home().root / kept["page"]).write_text("another page")
    altered = console.get(f"/weekly/{PROJECT}")
    assert altered.status_code == 404
    assert "is altered" in altered.json()["detail"]
    del console.headers["Authorization"]
    assert console.get(f"/weekly/{PROJECT}").status_code == 401
