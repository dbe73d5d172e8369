"""Alerts as Alertmanager tells them: its webhook's JSON, and what in it is new to the ledger. Pure.

An alert is known by its fingerprint (Alertmanager's hash of the labels) and the instant since which it fires: the same
rule that fires again later is another alert. Source of the format: Prometheus' documentation of Alertmanager,
"webhook_config", version 4.
"""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Annotated, Literal

import msgspec

FIRING, RESOLVED = "alert.firing", "alert.resolved"
RETRAIN, STARTED = "alert.retrain", "alert.started"
PROJECT_LABEL, RETRAIN_LABEL, EMERGENCY = "project", "retrain", "emergency"
MAXIMUM_ALERTS = 1000
_NAME = "alertname"
_SHOWN_CHARACTERS = 400

Label = Annotated[str, msgspec.Meta(max_length=4096)]
Labels = dict[Annotated[str, msgspec.Meta(min_length=1, max_length=256)], Label]


class AlertsRefusedError(ValueError):
    """A notification that starts nothing: its text says what was found, and what is expected."""


class MalformedAlertsError(AlertsRefusedError):
    """It is not what Alertmanager sends."""


class ReplayedAlertsError(AlertsRefusedError):
    """It tells again, as firing, what the ledger knows to have ended."""


class Alert(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, rename="camel"):
    """One alert of a notification. `ends_at` is in the year 1 while it fires."""

    status: Literal["firing", "resolved"]
    labels: Labels
    annotations: Labels
    starts_at: Annotated[datetime, msgspec.Meta(tz=True)]
    ends_at: Annotated[datetime, msgspec.Meta(tz=True)]
    generator_url: str = msgspec.field(name="generatorURL", default="")
    fingerprint: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{16}$")]

    @property
    def key(self) -> str:
        """What makes it the same alert when it is told again."""
        return f"{self.fingerprint}@{self.starts_at.isoformat()}"

    @property
    def name(self) -> str:
        return self.labels[_NAME]

    @property
    def project(self) -> str:
        return self.labels[PROJECT_LABEL]

    @property
    def wants_retrain(self) -> bool:
        """Whether its rule asks for an emergency retrain."""
        return self.labels.get(RETRAIN_LABEL) == EMERGENCY

    @property
    def told(self) -> str:
        """Its name and its summary, on one line."""
        summary = " ".join(self.annotations.get("summary", "").split())
        return f"{self.name}: {summary}" if summary else self.name


class Notification(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, rename="camel"):
    """What Alertmanager posts to a webhook: the alerts of one group."""

    version: Literal["4"]
    group_key: str
    truncated_alerts: Annotated[int, msgspec.Meta(ge=0)] = 0
    status: Literal["firing", "resolved"]
    receiver: str
    group_labels: Labels
    common_labels: Labels
    common_annotations: Labels
    external_url: str = msgspec.field(name="externalURL")
    alerts: Annotated[tuple[Alert, ...], msgspec.Meta(min_length=1, max_length=MAXIMUM_ALERTS)]


class Sorted(msgspec.Struct, frozen=True, kw_only=True):
    """The alerts of a notification by what the ledger has of them.

    `begun` are new, `again` were told before and still fire, `over` are told as firing though the ledger has their end,
    `ended` have their end told the first time, `ended_again` once more.
    """

    begun: tuple[Alert, ...]
    again: tuple[Alert, ...]
    over: tuple[Alert, ...]
    ended: tuple[Alert, ...]
    ended_again: tuple[Alert, ...]


def parse_notification(body: bytes) -> Notification:
    """The notification in `body`.

    Raises:
        MalformedAlertsError: it is no notification of version 4, or an alert has no name or no project.
    """
    try:
        parsed = msgspec.json.decode(body, type=Notification)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise MalformedAlertsError(f"no notification of Alertmanager, version 4: {error}") from error
    for position, alert in enumerate(parsed.alerts):
        for label in (_NAME, PROJECT_LABEL):
            if not alert.labels.get(label):
                found = ", ".join(sorted(alert.labels))[:_SHOWN_CHARACTERS] or "none"
                raise MalformedAlertsError(
                    f"alerts[{position}].labels: found {found}, expected {label!r} as well "
                    "(the scrape configuration gives each target its project: docs/observability.md)"
                )
    return parsed


def sort_alerts(alerts: Collection[Alert], begun: Collection[str], ended: Collection[str]) -> Sorted:
    """What is new of `alerts`, when the ledger has the keys `begun` as firing and `ended` as resolved.

    Raises:
        ReplayedAlertsError: nothing is new, and something fires that has ended: an old message, sent again.
    """
    firing = [alert for alert in alerts if alert.status == "firing"]
    resolved = [alert for alert in alerts if alert.status == "resolved"]
    found = Sorted(
        begun=tuple(alert for alert in firing if alert.key not in begun and alert.key not in ended),
        again=tuple(alert for alert in firing if alert.key in begun and alert.key not in ended),
        over=tuple(alert for alert in firing if alert.key in ended),
        ended=tuple(alert for alert in resolved if alert.key not in ended),
        ended_again=tuple(alert for alert in resolved if alert.key in ended),
    )
    if found.over and not (found.begun or found.again or found.ended):
        first = found.over[0]
        raise ReplayedAlertsError(
            f"{first.name} with the fingerprint {first.fingerprint}, firing since {first.starts_at.isoformat()}, has "
            "ended: this notification was sent before, and starts nothing"
        )
    return found


def run_id(alert: Alert) -> str:
    """The id of the run that this alert starts: the same again for the same alert."""
    return f"alert__{alert.starts_at:%Y%m%dT%H%M%S%f}__{alert.fingerprint}"


def why(alerts: Collection[Alert]) -> str:
    """The reason for the ledger and for the run's form: the first alerts, and how many more there are.

    >>> why([])
    'no alert'
    """
    told = [alert.told[:_SHOWN_CHARACTERS] for alert in alerts]
    if not told:
        return "no alert"
    more = "" if len(told) == 1 else f" (and {len(told) - 1} more: {', '.join(sorted({a.name for a in alerts}))})"
    return f"{told[0]}{more}"[:500]


def as_body(alert: Alert) -> Mapping[str, object]:
    """What the ledger keeps of an alert."""
    return {
        "key": alert.key,
        "alert": alert.name,
        "severity": alert.labels.get("severity", ""),
        "summary": alert.annotations.get("summary", "")[:_SHOWN_CHARACTERS],
        "labels": alert.labels,
        "starts_at": alert.starts_at,
        "retrain": alert.wants_retrain,
    }
