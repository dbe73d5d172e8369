"""Who is still to be told of a rollback or an emergency retrain: an outbox; what the ledger does not call sent is open.

Whoever can reach people (Airflow by its notifiers, the command line by `sending`) takes `deliveries`, and says of each
how it went. What was not delivered is tried again by the next run, for some days.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pipelines.governance import emergency_message as emergency
from pipelines.governance import rollback_message as rollback
from pipelines.governance.investigation import CLOSED, OPENED
from pipelines.wiring import find_project, home, open_ledger

TOLD_FOR = timedelta(days=3)  # older rollbacks are no news: a channel that is new is not told the past
logger = logging.getLogger("paceline")


class NotOursError(Exception):
    """Whoever sends cannot: somebody else has the connection. Nothing has failed."""


@dataclass(frozen=True)
class Delivery:
    """One message for one channel, as its notifier takes it. `about` is the rollout, or the emergency's run.

    `kind` is webhook, email or slack. Of a webhook `body` is what is posted to `endpoint`, signed with the password of
    the connection `signing_connection` if there is one; of a mail `body` is HTML; of Slack `blocks` are the message.
    """

    project: str
    about: str
    channel: str
    kind: str
    connection: str
    subject: str
    body: str = ""
    blocks: tuple[dict[str, Any], ...] = ()
    endpoint: str = ""
    signing_connection: str | None = None
    to: tuple[str, ...] = ()
    sender: str | None = None


def deliveries(project: str, now: datetime | None = None) -> list[Delivery]:
    """What is to be sent now, the oldest first. `now` is the present, in UTC, unless given."""
    found, ledger = find_project(project), open_ledger()
    since = (now or datetime.now(UTC)) - TOLD_FOR
    sent = {(entry.subject, entry.body["channel"]) for entry in ledger.entries(project, (rollback.SENT,))}
    closed = {entry.subject for entry in ledger.entries(project, (CLOSED,))}
    open_ = []
    for entry in ledger.entries(project, (OPENED, emergency.ENDED)):
        if entry.at < since or entry.subject in closed:
            continue
        message = rollback.message if entry.kind == OPENED else emergency.message
        told = message(
            project,
            found.title,
            entry.subject,
            entry.body,
            page=str(home().root / entry.body["page"]),
            pages_url=found.notify.pages_url,
        )
        for channel in found.notify.channels:
            is_sent = (entry.subject, rollback.channel_name(channel)) in sent
            if not is_sent and (channel.notices or told.severity == "page"):
                open_.append(_delivery(project, entry.subject, channel, told))
    return open_


def send_all(project: str, send: Callable[[Delivery], None], why: Callable[[Exception], str]) -> dict[str, list[str]]:
    """Gives `send` what is to be sent now; the channels that were reached, those that failed, and those that are left.

    `why` says of an error what may stand in the ledger: an address of a webhook may hold a secret. What cannot be told
    is logged and never raised: whoever calls has done what it was for.
    """
    told: dict[str, list[str]] = {"sent": [], "failed": [], "left": []}
    try:
        open_ = deliveries(project)
    except Exception:
        logger.warning("nobody is told of %s: what to tell cannot be read", project, exc_info=True)
        return told
    for delivery in open_:
        try:
            send(delivery)
            record_sent(delivery)
            told["sent"].append(delivery.channel)
        except NotOursError as error:
            logger.info("%s is not told of %s from here: %s", delivery.channel, delivery.about, error)
            told["left"].append(delivery.channel)
        except Exception as error:  # noqa: BLE001
            reason = why(error)
            logger.warning("%s was not told of %s: %s", delivery.channel, delivery.about, reason)
            told["failed"].append(delivery.channel)
            _try_to_record_failed(delivery, reason)
    return told


def _try_to_record_failed(delivery: Delivery, why: str) -> None:
    try:
        record_failed(delivery, why)
    except Exception:
        logger.warning("that %s was not told is not in the ledger", delivery.channel, exc_info=True)


def signature_header(delivery: Delivery, secret: str) -> dict[str, str]:
    """The header that shows a webhook's receiver who sent the body."""
    return {rollback.SIGNATURE_HEADER: rollback.signature(delivery.body.encode(), secret)}


def record_sent(delivery: Delivery) -> None:
    """Writes down that the message arrived; once."""
    _append(delivery, rollback.SENT, {}, key=f"{rollback.SENT}/{delivery.about}/{delivery.channel}")


def record_failed(delivery: Delivery, error: str) -> None:
    """Writes down that it did not. `error` must have nothing secret in it: an address of a webhook may."""
    _append(delivery, rollback.FAILED, {"error": error[:500]}, key=None)


def _append(delivery: Delivery, kind: str, more: dict[str, Any], key: str | None) -> None:
    body = {"channel": delivery.channel, **more}
    open_ledger().append(delivery.project, kind, delivery.about, body, key=key)


def _delivery(project: str, subject: str, channel: rollback.Channel, told: rollback.Message) -> Delivery:
    named: dict[str, Any] = {
        "project": project,
        "about": subject,
        "channel": rollback.channel_name(channel),
        "connection": channel.connection,
        "subject": told.subject,
    }
    if isinstance(channel, rollback.WebhookChannel):
        return Delivery(
            **named,
            kind="webhook",
            body=rollback.webhook_body(told).decode(),
            endpoint=channel.endpoint,
            signing_connection=channel.signing_connection,
        )
    if isinstance(channel, rollback.EmailChannel):
        return Delivery(**named, kind="email", body=rollback.email_html(told), to=channel.to, sender=channel.sender)
    return Delivery(**named, kind="slack", blocks=tuple(rollback.slack_blocks(told)))
