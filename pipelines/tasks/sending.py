"""Tells people without Airflow: the outbox of `telling`, by webhook, SMTP and Slack, when a command has ended.

The channels are the project's, the connections Airflow's, as the environment has them (`AIRFLOW_CONN_<ID>`): one
configuration for both. What needs a connection that is not there is left to Airflow's next run.
"""

import os
import smtplib
import ssl
from email.message import EmailMessage
from email.policy import SMTP

import httpx

from pipelines.governance.connections import Connection, find_connection
from pipelines.tasks.telling import Delivery, NotOursError, send_all, signature_header

TIMEOUT_S = 10.0
LINE_MAX = 998  # of RFC 5322; a shorter one folds a subject behind its colon, and clients show a space before it


def tell_people(project: str) -> dict[str, list[str]]:
    """Sends what the people of `project` are still to be told; which channels were reached, which not, which are left.

    Never raises for a channel: what failed is in the ledger, and is tried again by whoever sends next.
    """
    return send_all(project, _send, _why)


def _send(delivery: Delivery) -> None:
    connection = _connection(delivery.connection)
    if delivery.kind == "webhook":
        signed = {} if delivery.signing_connection is None else _signature(delivery, delivery.signing_connection)
        url = f"{connection.base_url.rstrip('/')}/{delivery.endpoint.lstrip('/')}".rstrip("/")
        _post(url, delivery.body.encode(), signed, (connection.login, connection.password))
    elif delivery.kind == "email":
        _mail(delivery, connection)
    else:
        message = {"text": delivery.subject, "blocks": list(delivery.blocks)}
        body = httpx.Request("POST", "http://slack", json=message).content
        _post(_slack_url(connection), body, {})


def _connection(identity: str) -> Connection:
    found = find_connection(identity, os.environ)
    if found is None:
        raise NotOursError(f"the environment has no connection {identity}")
    return found


def _signature(delivery: Delivery, identity: str) -> dict[str, str]:
    secret = _connection(identity).password
    if not secret:
        raise ValueError(f"the connection {identity} has no password to sign with")
    return signature_header(delivery, secret)


def _post(url: str, body: bytes, headers: dict[str, str], basic: tuple[str, str] = ("", "")) -> None:
    sent = {"Content-Type": "application/json", **headers}
    auth = basic if basic[0] else None
    httpx.post(url, content=body, headers=sent, auth=auth, timeout=TIMEOUT_S).raise_for_status()


def _slack_url(connection: Connection) -> str:
    if "://" in connection.password:
        return connection.password
    host = connection.host or "hooks.slack.com/services"
    base = host if "://" in host else f"{connection.schema or 'https'}://{host}"
    return f"{base.rstrip('/')}/{connection.password.lstrip('/')}"


def _mail(delivery: Delivery, connection: Connection) -> None:
    """As Airflow does: TLS from the first byte, with `disable_ssl` by STARTTLS, with `disable_tls` too by neither."""
    extra = connection.extra
    if extra.get("auth_type", "basic") != "basic":
        raise NotOursError("a mail server that asks for OAuth is Airflow's")
    letter = EmailMessage(policy=SMTP.clone(max_line_length=LINE_MAX))
    letter["Subject"] = delivery.subject
    letter["From"] = delivery.sender or str(extra.get("from_email") or connection.login)
    letter["To"] = ", ".join(delivery.to)
    letter.set_content(delivery.body, subtype="html")
    trust = ssl.create_default_context()
    port = connection.port or 0
    if _is_true(extra.get("disable_ssl")):
        client = smtplib.SMTP(connection.host, port, timeout=TIMEOUT_S)
    else:
        client = smtplib.SMTP_SSL(connection.host, port, timeout=TIMEOUT_S, context=trust)
    with client:
        if _is_true(extra.get("disable_ssl")) and not _is_true(extra.get("disable_tls")):
            client.starttls(context=trust)
        if connection.login and connection.password:
            client.login(connection.login, connection.password)
        client.send_message(letter)


def _is_true(value: object) -> bool:
    return str(value).lower() in ("true", "1")


def _why(error: Exception) -> str:
    """The error's kind and the status of HTTP: texts have addresses, which hold secrets."""
    status = f" {error.response.status_code}" if isinstance(error, httpx.HTTPStatusError) else ""
    return f"{type(error).__name__}{status}"
