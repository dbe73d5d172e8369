"""Rollouts in Airflow's UI: an API and a page over it, for the users whom Airflow knows, with Airflow's permissions.

Whoever may read the DAG `<project>.release` sees the project's rollouts, and whoever may edit it tells them something.
The checks and the ledger's entry are those of the command line: `pipelines.tasks.commanding`.
"""

import secrets
import time
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Any

from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException as StarletteHTTPException

from pipelines.tasks.commanding import CommandError, CommandRefusedError, LedgerUnavailableError
from pipelines.views import RolloutWatch

# every route asks who is there: none of FastAPI's own, which do not
app = FastAPI(title="Paceline", docs_url=None, redoc_url=None, openapi_url=None)
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
_REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"
_KEPT_PAGE = {"Content-Security-Policy": _REPORT_POLICY, "Cache-Control": "no-store"}


class Asked(BaseModel):
    """A command: one of pause, resume, advance, share, abort, rollback, approve, reject.

    `phase` is the one that was seen. `share`, a part of 1, goes with the command of this name. `rollout` says whose
    challenger is meant, where there are several.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    command: str
    reason: str
    phase: str | None = None
    rollout: str | None = None
    share: float | None = None


@cache
def _watch() -> RolloutWatch:
    """One for all requests of this process: it keeps what it has read of the ledger."""
    return RolloutWatch()


def _may_read(project: str, request: Request, user: GetUserDep) -> None:
    requires_access_dag("GET", param_dag_id=f"{project}.release")(request, user)


def _may_command(project: str, request: Request, user: GetUserDep) -> None:
    requires_access_dag("PUT", param_dag_id=f"{project}.release")(request, user)


def _is_allowed(check: Any, project: str, request: Request, user: Any) -> bool:
    try:
        check(project, request, user)
    except HTTPException:
        return False
    return True


@app.get("/api/rollouts")
def overview(request: Request, user: GetUserDep) -> list[dict[str, Any]]:
    """The projects that the user may read, with the version that leads and the rollout that runs."""
    return [each for each in _watch().overview() if _is_allowed(_may_read, each["project"], request, user)]


@app.get("/api/rollouts/{project}", dependencies=[Depends(_may_read)])
def rollouts(project: str, rollout: str | None = None) -> dict[str, Any]:
    """The running rollout of a project (or `rollout`, or the last one), told whole, and the past ones in short."""
    return _watch().rollouts(project, rollout)


@app.get("/api/rollouts/{project}/live", dependencies=[Depends(_may_read)])
def live(project: str, request: Request, user: GetUserDep, rollout: str | None = None) -> dict[str, Any]:
    """What the page shows now, of the rollout that runs unless another is asked for."""
    from pipelines.views.rollout_console import live_parts

    parts = live_parts(_watch().rollouts(project, rollout), time.time())
    return {**parts, "may_command": _is_allowed(_may_command, project, request, user)}


@app.post("/api/rollouts/{project}/commands", status_code=202, dependencies=[Depends(_may_command)])
def command(project: str, asked: Asked, user: GetUserDep) -> dict[str, Any]:
    """Tells the running rollout something, in the user's name; the answer is in its `commands` after the next look."""
    from pipelines.tasks import commanding

    return commanding.command(
        project,
        asked.command,
        by=user.get_name(),
        reason=asked.reason,
        phase=asked.phase,
        rollout=asked.rollout,
        share=asked.share,
    )


@app.get("/weekly/{project}", dependencies=[Depends(_may_read)])
def weekly_report(project: str) -> HTMLResponse:
    """The last weekly report of a project, as it was kept; one that was altered since is not shown."""
    from pipelines.tasks import weekly

    found = weekly.find_weekly_report(project)
    if found["state"] != "as it was":
        raise LookupError(f"the report of {project}, week {found['week']}, is {found['state']}: {found['page']}")
    return HTMLResponse(Path(found["page"]).read_text(encoding="utf-8"), headers=_KEPT_PAGE)


@app.get("/investigations/{project}/{rollout}", dependencies=[Depends(_may_read)])
def investigation(project: str, rollout: str) -> HTMLResponse:
    """What was found out about a rollback, as it was kept; a page whose evidence was altered since is not shown."""
    from pipelines import views

    found = views.investigation(project, rollout)
    if found["files"] != "as it was":
        raise LookupError(f"the evidence of {rollout} is {found['files']}: {found['page']}")
    return HTMLResponse(Path(found["page"]).read_text(encoding="utf-8"), headers=_KEPT_PAGE)


def _reported_week(project: str) -> str | None:
    from pipelines.tasks import weekly

    try:
        return str(weekly.find_weekly_report(project)["week"])
    except LookupError:
        return None


@app.get("/")
def page(request: Request, user: GetUserDep, project: str | None = None, rollout: str | None = None) -> HTMLResponse:
    """The page, of the first project whose rollout runs unless another is asked for."""
    from pipelines.views.rollout_console import rollout_console

    seen = overview(request, user)
    names = [each["project"] for each in seen]
    if not names or (project is not None and project not in names):
        raise HTTPException(HTTPStatus.NOT_FOUND, f"no project {project or ''} that you may see")
    first = next((each["project"] for each in seen if each["running"]), names[0])
    nonce = secrets.token_urlsafe(16)
    shown = project or first
    html = rollout_console(seen, shown, rollout, user.get_name(), nonce, _reported_week(shown))
    headers = {"Content-Security-Policy": _POLICY.format(nonce=nonce), "Cache-Control": "no-store"}
    return HTMLResponse(html, headers=headers)


def _problem(status: int, detail: str) -> JSONResponse:
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    return JSONResponse(body, status, media_type="application/problem+json")


@app.exception_handler(LookupError)
def _not_there(_: Request, error: LookupError) -> JSONResponse:
    if isinstance(error, KeyError | IndexError):  # ours, and no answer to the question
        raise error
    return _problem(404, str(error))


@app.exception_handler(CommandRefusedError)
def _refused(_: Request, error: CommandRefusedError) -> JSONResponse:
    return _problem(409, str(error))


@app.exception_handler(CommandError)
def _wrong(_: Request, error: CommandError) -> JSONResponse:
    return _problem(422, str(error))


@app.exception_handler(RequestValidationError)
def _unreadable(_: Request, error: RequestValidationError) -> JSONResponse:
    found = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
    return _problem(422, found)


@app.exception_handler(StarletteHTTPException)
def _http(_: Request, error: StarletteHTTPException) -> JSONResponse:
    return _problem(error.status_code, str(error.detail))


@app.exception_handler(LedgerUnavailableError)
def _away(_: Request, error: LedgerUnavailableError) -> JSONResponse:
    return _problem(503, str(error))


@app.exception_handler(Exception)
def _failed(_: Request, error: Exception) -> JSONResponse:
    return _problem(500, f"{type(error).__name__}: the API server's log says more")
