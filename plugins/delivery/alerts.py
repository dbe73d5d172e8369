"""The webhook that Alertmanager calls: an alert that asks for it starts `<project>.retrain` on the emergency plan.

Airflow mounts this app without any authentication, so it has its own: a shared secret as bearer token, which is what
Alertmanager can send, or as the key of an HMAC-SHA-256 of the body. The run is started by Airflow's own public API,
asked in the same process, so that its checks of the run's parameters hold here as well.
"""

import hashlib
import hmac
import logging
import os
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException as StarletteHTTPException

from pipelines.tasks import alerting

logger = logging.getLogger(__name__)
app = FastAPI(title="Paceline alerts", docs_url=None, redoc_url=None, openapi_url=None)

BODY_BYTES = 1 << 20  # a thousand alerts of a kilobyte
SECRET_CHARACTERS = 16
TOKEN_S = 60  # of the token that asks Airflow's API
SECRET, SECRET_FILE = "PACELINE_ALERT_TOKEN", "PACELINE_ALERT_TOKEN_FILE"
AIRFLOW_TOKEN_FILE = "PACELINE_AIRFLOW_TOKEN_FILE"
SIGNATURE_HEADER = "x-paceline-signature"
AIRFLOW = "paceline.airflow"  # where the plugin leaves Airflow's own app in the scope
_USER = "alertmanager"


class NotSetUpError(RuntimeError):
    """The installation lacks a secret: nobody may call, or no run can be started."""


@app.post("/alertmanager")
async def alertmanager(request: Request) -> dict[str, Any]:
    """Takes a notification of Alertmanager's webhook, version 4; the answer says what was new and which runs started.

    Told again it starts nothing again, so Alertmanager may repeat whatever it has no answer to.
    """
    body = await _authenticated_body(request)
    taken = await run_in_threadpool(alerting.take, body)
    for start in taken.starts:
        await _start(request, start)
        await run_in_threadpool(alerting.record_started, start)
    return {**taken.answer, "started": [start.run for start in taken.starts]}


async def _authenticated_body(request: Request) -> bytes:
    """The body of a caller who has the secret. The bearer is asked before a byte of the body is kept."""
    secret = _secret()
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    signature = request.headers.get(SIGNATURE_HEADER)
    is_bearer = scheme.lower() == "bearer" and _same(token.strip(), secret)
    if not is_bearer and signature is None:
        raise HTTPException(401, "no credentials: send the secret as bearer token", {"WWW-Authenticate": "Bearer"})
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_BYTES:
            raise HTTPException(413, f"the body has more than {BODY_BYTES:,} bytes; lower max_alerts of the receiver")
    if not is_bearer and not _same(signature or "", _signature(bytes(body), secret)):
        raise HTTPException(401, f"{SIGNATURE_HEADER} does not fit the body", {"WWW-Authenticate": "Bearer"})
    return bytes(body)


def _secret() -> str:
    named = os.environ.get(SECRET_FILE)
    try:
        secret = Path(named).read_text().strip() if named else os.environ.get(SECRET, "")
    except OSError as error:
        raise NotSetUpError(f"{SECRET_FILE} names a file that cannot be read: {error.strerror}") from error
    if len(secret) < SECRET_CHARACTERS:
        raise NotSetUpError(
            f"nobody may call this webhook: set {SECRET_FILE} or {SECRET} to a secret of at least "
            f"{SECRET_CHARACTERS} characters (docs/observability.md)"
        )
    return secret


def _same(found: str, expected: str) -> bool:
    """Compares in a time that depends on neither: of digests, which have one length."""
    return hmac.compare_digest(hashlib.sha256(found.encode()).digest(), hashlib.sha256(expected.encode()).digest())


def _signature(body: bytes, secret: str) -> str:
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


async def _start(request: Request, start: alerting.Start) -> None:
    """Has Airflow create the run, unless it has it already.

    Raises:
        HTTPException: Airflow refused: 503, so that Alertmanager asks again.
    """
    transport = httpx.ASGITransport(app=request.scope[AIRFLOW], raise_app_exceptions=False)
    path = f"/api/v2/dags/{start.project}.retrain/dagRuns"
    asked = {"dag_run_id": start.run, "logical_date": None, "conf": start.conf, "note": start.conf.get("reason")}
    headers = {"Authorization": f"Bearer {_airflow_token()}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://airflow") as client:
        answered = await client.post(path, json=asked, headers=headers)
    if answered.is_success or answered.status_code == HTTPStatus.CONFLICT:
        return
    logger.error("%s was not started: Airflow answered %s: %s", start.run, answered.status_code, answered.text[:500])
    raise HTTPException(503, f"Airflow refused the run {start.run} with {answered.status_code}: its log says why")


def _airflow_token() -> str:
    """A token for Airflow's API: from a file, or of the simple auth manager, made here and valid for a minute."""
    if named := os.environ.get(AIRFLOW_TOKEN_FILE):
        return Path(named).read_text().strip()
    from airflow.api_fastapi.app import get_auth_manager
    from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser

    manager = get_auth_manager()
    if not isinstance(manager, SimpleAuthManager):
        raise NotSetUpError(f"{type(manager).__name__} makes no token here: name one's file in {AIRFLOW_TOKEN_FILE}")
    user = SimpleAuthManagerUser(username=_USER, role="user")
    return manager.generate_jwt(user, expiration_time_in_seconds=TOKEN_S)


def _problem(status: int, detail: str, headers: Any = None) -> JSONResponse:
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    return JSONResponse(body, status, headers, media_type="application/problem+json")


@app.exception_handler(alerting.MalformedAlertsError)
def _malformed(_: Request, error: Exception) -> JSONResponse:
    return _problem(422, str(error))


@app.exception_handler(alerting.UnknownProjectError)
def _unknown(_: Request, error: Exception) -> JSONResponse:
    return _problem(404, str(error))


@app.exception_handler(alerting.ReplayedAlertsError)
def _replayed(_: Request, error: Exception) -> JSONResponse:
    return _problem(409, str(error))


@app.exception_handler(alerting.LedgerUnavailableError)
@app.exception_handler(NotSetUpError)
def _not_now(_: Request, error: Exception) -> JSONResponse:
    logger.error("%s", error)
    return _problem(503, str(error))


@app.exception_handler(StarletteHTTPException)
def _http(_: Request, error: StarletteHTTPException) -> JSONResponse:
    return _problem(error.status_code, str(error.detail), error.headers)


@app.exception_handler(Exception)
def _failed(_: Request, error: Exception) -> JSONResponse:
    return _problem(500, f"{type(error).__name__}: the API server's log says more")
