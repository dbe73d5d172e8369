"""Tells people of rollbacks and of what came of emergency retrains, by Airflow's own notifiers and connections.

A notifier is called directly: its templates would be rendered in texts that are data (a challenger's error may hold
`{{`). One that fails is logged and tried again by the next run; it never fails the task that calls.
"""

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.tasks.telling import Delivery

_TIMEOUT_S = 10
_STATUS = re.compile(r"\d{3}:[^/]{0,100}")


def tell_people(project: str) -> dict[str, list[str]]:
    """Sends what the people of the project are still to be told; the channels that were reached, and the others."""
    from pipelines.tasks import telling

    return telling.send_all(project, lambda delivery: _notifier(delivery).notify({}), _why)


def _notifier(delivery: "Delivery") -> Any:
    if delivery.kind == "webhook":
        from airflow.providers.http.notifications.http import HttpNotifier

        return HttpNotifier(
            http_conn_id=delivery.connection,
            endpoint=delivery.endpoint,
            data=delivery.body.encode(),
            headers={"Content-Type": "application/json", **_signature(delivery)},
            extra_options={"timeout": _TIMEOUT_S},
        )
    if delivery.kind == "email":
        from airflow.providers.smtp.notifications.smtp import SmtpNotifier

        return SmtpNotifier(
            smtp_conn_id=delivery.connection,
            from_email=delivery.sender,
            to=list(delivery.to),
            subject=delivery.subject,
            html_content=delivery.body,
        )
    from airflow.providers.slack.notifications.slack_webhook import SlackWebhookNotifier

    return SlackWebhookNotifier(
        slack_webhook_conn_id=delivery.connection,
        text=delivery.subject,
        blocks=list(delivery.blocks),
        timeout=_TIMEOUT_S,
    )


def _signature(delivery: "Delivery") -> dict[str, str]:
    if delivery.signing_connection is None:
        return {}
    from airflow.sdk.bases.hook import BaseHook

    from pipelines.tasks.telling import signature_header

    secret = BaseHook.get_connection(delivery.signing_connection).password
    if not secret:
        raise ValueError(f"the connection {delivery.signing_connection} has no password to sign with")
    return signature_header(delivery, secret)


def _why(error: Exception) -> str:
    """The error's kind and an HTTP status, and no more: texts of HTTP libraries have addresses, which hold secrets."""
    status = _STATUS.match(str(error))
    return f"{type(error).__name__}{f' {status[0]}' if status else ''}"
