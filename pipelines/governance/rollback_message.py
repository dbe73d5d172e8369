"""What people are told of a rollback, and by which channels: what, why with numbers, who is affected, what next. Pure.

The texts are data and no templates: a reason may have any characters in it.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping
from html import escape
from typing import Annotated, Any

import msgspec

SENT, FAILED = "notification.sent", "notification.failed"
SIGNATURE_HEADER = "X-Paceline-Signature"
_SUBJECT_CHARACTERS = 200
_SLACK_CHARACTERS = 2_900  # of a section; Slack takes 3,000
Connection = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.-]{1,250}$")]
Address = Annotated[str, msgspec.Meta(pattern=r"^[^@\s,;<>]+@[^@\s,;<>]+$")]


class WebhookChannel(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="webhook", tag_field="kind"
):
    """A JSON body is posted to `endpoint` below the URL of an HTTP connection.

    With `signing_connection` the header `X-Paceline-Signature` has `sha256=` and the HMAC of the body by that
    connection's password.
    """

    connection: Connection
    endpoint: str = ""
    signing_connection: Connection | None = None
    notices: bool = True


class EmailChannel(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="email", tag_field="kind"
):
    """A mail by an SMTP connection; without `sender` the connection's own."""

    connection: Connection
    to: tuple[Address, ...]
    sender: Address | None = None
    notices: bool = False

    def __post_init__(self) -> None:
        if not self.to:
            raise ValueError("to names at least one address, found none")


class SlackChannel(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="slack", tag_field="kind"
):
    """A message by a Slack incoming webhook's connection."""

    connection: Connection
    notices: bool = True


Channel = WebhookChannel | EmailChannel | SlackChannel


class NotifyPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who is told of a rollback, and of what came of an emergency retrain.

    Connections are Airflow's, by their ids: nothing secret is in a project. `pages_url` is where the folder of reports
    is served; without it, messages name the page's path. A channel with `notices: false` is left out where nothing
    speaks against the version (somebody aborted, too little traffic), or nothing is to be done.
    """

    channels: tuple[Channel, ...] = ()
    pages_url: Annotated[str, msgspec.Meta(pattern=r"^https?://[^@\s]+$")] | None = None

    def __post_init__(self) -> None:
        names = [channel_name(channel) for channel in self.channels]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"channels: found twice: {', '.join(twice)}")


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """What is said of an `event`. `facts` are the ledger's, for machines."""

    event: str = "paceline.rollback"
    subject: str
    what: str
    why: str
    affected: str
    link: str
    next: tuple[str, ...]
    severity: str
    facts: dict[str, Any]


def channel_name(channel: Channel) -> str:
    """What the ledger and people call it."""
    kind = type(channel).__name__.removesuffix("Channel").lower()
    return f"{kind}:{channel.connection}"


def message(
    project: str, title: str, rollout: str, opened: Mapping[str, Any], *, page: str, pages_url: str | None
) -> Message:
    """The message for the investigation that `opened` is the ledger's entry of; `page` is its file."""
    state = opened["state"].replace("_", " ")
    phase = f" at {opened['phase']}" if opened["phase"] else ""
    what = f"Version {opened['version']} was {state}{phase}."
    if opened["champion"] is not None:
        what += f" Version {opened['champion']} has all traffic."
    link = page if pages_url is None else f"{pages_url.rstrip('/')}/{opened['page'].removeprefix('reports/')}"
    why = f"{opened['title']}: {opened['reason']}"
    if opened["by"]:
        why += f" (by {opened['by']})"
    if opened["where"]:
        why += f"; {opened['where']}"
    close = f"Write down what was found: paceline investigation close {project} {rollout} --note … --by …"
    subject = f"[{project}] version {opened['version']} was {state}: {opened['title'][:1].lower()}{opened['title'][1:]}"
    return Message(
        subject=re.sub(r"\s+", " ", subject)[:_SUBJECT_CHARACTERS],
        what=f"{title}: {what}",
        why=why,
        affected=opened["affected"],
        link=link,
        next=(*opened["next"], close),
        severity=opened["severity"],
        facts={"project": project, "rollout": rollout, **{name: opened[name] for name in _FACTS}},
    )


_FACTS = ("version", "champion", "state", "cause", "phase", "by", "evidence")


def webhook_body(told: Message) -> bytes:
    """The JSON that a webhook gets."""
    return msgspec.json.encode(told)


def signature(body: bytes, secret: str) -> str:
    """`sha256=` and the HMAC-SHA-256 of the body, as GitHub's webhooks have it (RFC 2104).

    >>> signature(b"{}", "key")
    'sha256=a777724d943eb48dc69bca8a4a6d57a04db3f9ec7e1de4e581e860265bdf3032'
    """
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def email_html(told: Message) -> str:
    """The mail's body."""
    steps = "".join(f"<li>{escape(step)}</li>" for step in told.next)
    link = escape(told.link)
    shown = f'<a href="{link}">{link}</a>' if told.link.startswith("http") else f"<code>{link}</code>"
    return (
        f"<p><strong>{escape(told.what)}</strong></p><p>{escape(told.why)}</p><p>{escape(told.affected)}</p>"
        f"<p>All evidence: {shown}</p><p>What to do next:</p><ul>{steps}</ul>"
    )


def slack_blocks(told: Message) -> list[dict[str, Any]]:
    """The message in Slack's blocks; its three special characters are escaped."""
    link = f"<{told.link}|All evidence>" if told.link.startswith("http") else f"All evidence: `{told.link}`"
    steps = "\n".join(f"• {_slack(step)}" for step in told.next)
    parts = [f"*{_slack(told.what)}*\n{_slack(told.why)}", _slack(told.affected), link, f"*What to do next*\n{steps}"]
    return [{"type": "section", "text": {"type": "mrkdwn", "text": part[:_SLACK_CHARACTERS]}} for part in parts]


def _slack(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
