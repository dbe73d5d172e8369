"""Rollbacks are told, by Airflow's own notifiers and without Airflow alike, to real HTTP and mail servers."""

import hashlib
import hmac
import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from contracts.bundle import Bundle
from pipelines import views
from pipelines.governance.rollback_message import FAILED, SENT
from pipelines.tasks import investigating, releasing, sending, telling
from pipelines.wiring import REPOSITORY, home, open_ledger
from tests.fixtures.mailboxes import HttpMailbox, SmtpMailbox, listening
from tests.fixtures.rollbacks import PROJECT, point_at, rolled_back, two_versions

SECRET = "correct horse battery staple"
NOTIFY = {
    "pages_url": "https://paceline.example.org/reports",
    "channels": [
        {"kind": "webhook", "connection": "hook", "endpoint": "rollbacks", "signing_connection": "hook_key"},
        {"kind": "email", "connection": "mail", "to": ["desk@example.org", "ada@example.org"]},
        {"kind": "slack", "connection": "slack"},
    ],
}
ALL = ["webhook:hook", "email:mail", "slack:slack"]
FAILING = {"1": 0.005, "2": 0.5}
NUMBERS = itertools.count(1)  # of rollouts
Tell = Callable[[str], dict[str, list[str]]]


@pytest.fixture(scope="module")
def challenger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bundle]:
    """Version 2 of an installation whose project tells a webhook, a mail server and Slack."""
    folder = tmp_path_factory.mktemp("notifying")
    with pytest.MonkeyPatch.context() as patch:
        point_at(folder, patch)
        shutil.copytree(REPOSITORY / "projects" / PROJECT, folder / "projects" / PROJECT)
        file = folder / "projects" / PROJECT / "project.yaml"
        file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), "notify": NOTIFY}))
        patch.setenv("PACELINE_PROJECTS", str(folder / "projects"))
        yield two_versions()[1]


@pytest.fixture
def web() -> Iterator[HttpMailbox]:
    mailbox = HttpMailbox()
    with listening(mailbox):
        yield mailbox


@pytest.fixture
def mail() -> Iterator[SmtpMailbox]:
    mailbox = SmtpMailbox()
    with listening(mailbox):
        yield mailbox


@pytest.fixture
def connections(web: HttpMailbox, mail: SmtpMailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow's connections, as an operator sets them in the environment."""
    plain = {"disable_ssl": True, "disable_tls": True, "from_email": "paceline@example.org"}
    for name, connection in {
        "hook": {"conn_type": "http", "host": web.url},
        "hook_key": {"conn_type": "generic", "password": SECRET},
        "mail": {"conn_type": "smtp", "host": "127.0.0.1", "port": mail.port, "extra": plain},
        "slack": {"conn_type": "slackwebhook", "host": f"{web.url}/services", "password": "T0/B0/token"},
    }.items():
        monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps(connection))


@pytest.fixture(params=["airflow", "alone"])
def tell_people(request: pytest.FixtureRequest) -> Tell:
    """Whoever tells: the tasks of the DAGs, or the command line, by the same channels and connections."""
    if request.param == "alone":
        return sending.tell_people
    from delivery import notifying

    return cast("Tell", notifying.tell_people)


def ended(challenger: Bundle, name: str, **how: Any) -> str:
    """A rollout of version 2 that was rolled back and settled; its name."""
    name = f"{name}-{next(NUMBERS)}"
    outcome = rolled_back(challenger, how.pop("error_rates", FAILING), name=name, **how)
    releasing.settle(PROJECT, outcome)
    return name


def close(rollout: str) -> None:
    """So that no other test is told of it."""
    investigating.close_investigation(PROJECT, rollout, note="seen", by="the test")


def test_a_rollback_is_told_by_webhook_mail_and_slack_and_each_message_has_all_that_counts(
    challenger: Bundle, tell_people: Tell, connections: None, web: HttpMailbox, mail: SmtpMailbox
) -> None:
    rollout = ended(challenger, f"{PROJECT}-v2-told", bad_from_share=0.25)
    assert tell_people(PROJECT) == {"sent": ALL, "failed": [], "left": []}
    hook, slack = web.posted
    assert (hook.path, slack.path) == ("/rollbacks", "/services/T0/B0/token")
    told = json.loads(hook.body)
    link = f"https://paceline.example.org/reports/{PROJECT}/investigations/{rollout}/index.html"
    assert (told["event"], told["link"], told["severity"]) == ("paceline.rollback", link, "page")
    assert told["facts"]["rollout"] == rollout
    assert told["facts"]["cause"] == "hard_limit"
    assert "Version 2 was rolled back at 25 %. Version 1 has all traffic." in told["what"]
    assert "8 errors in the last 20 challenger requests" in told["why"]
    assert "carrier UA failed most: " in told["why"]
    assert "No client saw a failure" in told["affected"]
    assert any(f"paceline investigation close {PROJECT} {rollout}" in step for step in told["next"])

    ((recipients, letter),) = mail.mails
    assert recipients == ["desk@example.org", "ada@example.org"]
    assert letter["From"] == "paceline@example.org"
    assert letter["Subject"] == f"[{PROJECT}] version 2 was rolled back: the server's hard limit was reached"
    body = letter.get_body(("html",))
    assert body is not None
    for said in (told["what"], told["affected"], f'href="{link}"', "What to do next"):
        assert said in body.get_content().replace("&#x27;", "'")
    blocks = json.dumps(json.loads(slack.body)["blocks"], ensure_ascii=False)
    for said in (told["what"], told["affected"], f"<{link}|All evidence>", "What to do next"):
        assert said in blocks

    assert [each["channel"] for each in views.investigation(PROJECT, rollout)["told"]] == ALL
    assert tell_people(PROJECT) == {"sent": [], "failed": [], "left": []}  # nobody is told twice
    close(rollout)


def test_the_receiver_of_a_webhook_can_check_who_sent_it(
    challenger: Bundle, tell_people: Tell, connections: None, web: HttpMailbox
) -> None:
    rollout = ended(challenger, f"{PROJECT}-v2-signed")
    tell_people(PROJECT)
    hook = web.posted[0]
    expected = hmac.new(SECRET.encode(), hook.body, hashlib.sha256).hexdigest()
    assert hook.headers["X-Paceline-Signature"] == f"sha256={expected}"
    assert hook.headers["Content-Type"] == "application/json"
    close(rollout)


def test_a_channel_that_fails_breaks_nothing_and_is_tried_again_by_the_next_run(
    challenger: Bundle, tell_people: Tell, connections: None, web: HttpMailbox, mail: SmtpMailbox
) -> None:
    rollout = ended(challenger, f"{PROJECT}-v2-unheard")
    web.status = 500
    assert tell_people(PROJECT) == {"sent": ["email:mail"], "failed": ["webhook:hook", "slack:slack"], "left": []}
    failures = {
        entry.body["channel"]: entry.body["error"] for entry in open_ledger().entries(PROJECT, (FAILED,), rollout)
    }
    assert failures.keys() == {"webhook:hook", "slack:slack"}
    assert "500" in failures["webhook:hook"]
    web.status = 200
    assert tell_people(PROJECT)["sent"] == ["webhook:hook", "slack:slack"]
    assert len(mail.mails) == 1
    assert len(open_ledger().entries(PROJECT, (SENT,), rollout)) == 3
    close(rollout)


def test_nothing_secret_of_a_channel_that_cannot_be_reached_is_written_down(
    challenger: Bundle,
    tell_people: Tell,
    connections: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    nowhere = {"conn_type": "http", "host": "http://127.0.0.1:9/services/token-in-a-path"}
    monkeypatch.setenv("AIRFLOW_CONN_HOOK", json.dumps(nowhere))
    rollout = ended(challenger, f"{PROJECT}-v2-secret")
    assert tell_people(PROJECT)["failed"] == ["webhook:hook"]
    (failure,) = open_ledger().entries(PROJECT, (FAILED,), rollout)
    assert failure.body["error"].endswith("Error")
    assert "token-in-a-path" not in "".join(
        record.getMessage() for record in caplog.records if record.name in ("paceline", "delivery.notifying")
    )
    close(rollout)


def test_a_text_that_looks_like_a_template_is_sent_as_it_is(
    challenger: Bundle, tell_people: Tell, connections: None, web: HttpMailbox
) -> None:
    rollout = f"{PROJECT}-v2-braces-{next(NUMBERS)}"
    reason = "the desk wrote {{ conn.hook_key.password }} & <b>bold</b>"
    outcome = {**rolled_back(challenger, FAILING, name=rollout), "reason": reason}
    releasing.settle(PROJECT, outcome)
    tell_people(PROJECT)
    assert reason in json.loads(web.posted[0].body)["why"]
    assert SECRET not in "".join(posted.body.decode() for posted in web.posted)
    assert "&lt;b&gt;bold" in json.dumps(json.loads(web.posted[1].body)["blocks"])
    close(rollout)


def test_a_notice_wakes_nobody_by_mail(
    challenger: Bundle, connections: None, web: HttpMailbox, mail: SmtpMailbox
) -> None:
    from delivery.notifying import tell_people

    rollout = ended(challenger, f"{PROJECT}-v2-stopped", error_rates={}, stop_after_s=10)
    assert tell_people(PROJECT)["sent"] == ["webhook:hook", "slack:slack"]
    assert json.loads(web.posted[0].body)["severity"] == "notice"
    assert mail.mails == []
    close(rollout)


def test_what_only_airflow_can_reach_is_left_to_it(
    challenger: Bundle, connections: None, web: HttpMailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_HOOK")
    oauth = {"conn_type": "smtp", "host": "127.0.0.1", "extra": {"auth_type": "oauth2"}}
    monkeypatch.setenv("AIRFLOW_CONN_MAIL", json.dumps(oauth))
    rollout = ended(challenger, f"{PROJECT}-v2-left")
    told = sending.tell_people(PROJECT)
    assert told == {"sent": ["slack:slack"], "failed": [], "left": ["webhook:hook", "email:mail"]}
    assert open_ledger().entries(PROJECT, (FAILED,), rollout) == []
    assert [each.channel for each in telling.deliveries(PROJECT)] == ["webhook:hook", "email:mail"]
    close(rollout)


def test_what_is_old_or_closed_is_no_news(challenger: Bundle) -> None:
    rollout = ended(challenger, f"{PROJECT}-v2-old")
    assert [each.about for each in telling.deliveries(PROJECT)] == [rollout] * 3
    later = datetime.now(UTC) + telling.TOLD_FOR + timedelta(minutes=1)
    assert telling.deliveries(PROJECT, now=later) == []
    close(rollout)
    assert telling.deliveries(PROJECT) == []


def test_a_ledger_that_cannot_be_read_fails_no_task(
    challenger: Bundle, tell_people: Tell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PACELINE_LEDGER_URL", "oracle://nowhere")
    assert tell_people(PROJECT) == {"sent": [], "failed": [], "left": []}


def test_without_a_link_of_its_own_the_message_names_the_file(
    challenger: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copytree(REPOSITORY / "projects" / PROJECT, tmp_path / PROJECT)
    file = tmp_path / PROJECT / "project.yaml"
    channels = {"channels": [{"kind": "webhook", "connection": "hook"}]}
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), "notify": channels}))
    monkeypatch.setenv("PACELINE_PROJECTS", str(tmp_path))
    rollout = ended(challenger, f"{PROJECT}-v2-linkless")
    (delivery,) = telling.deliveries(PROJECT)
    assert json.loads(delivery.body)["link"] == str(home().reports(PROJECT) / "investigations" / rollout / "index.html")
    assert delivery.signing_connection is None
    close(rollout)
