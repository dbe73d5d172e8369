"""The model server as one ASGI application: what it is made of, how it starts and stops."""

import asyncio
import contextlib
import logging
import os
import secrets
import tempfile
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from prometheus_client.core import Metric
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import Response

from contracts.masking import MASK_KEY_FILE
from contracts.problem import CONTENT_TYPE as PROBLEM_TYPE
from serving.access import Access, open_access, scope_of
from serving.access.asgi import admitted, head_of, respond_refused, with_headers
from serving.access.openapi import secure
from serving.admission import ClientGoneError, Receive, RequestRefusedError, Scope, Send, problem_body
from serving.answering import Answerer
from serving.batching import Batcher
from serving.cache import ScoreCache
from serving.champion_file import Remembered, State, StateError, first_state, write_state
from serving.engine import Model, ModelRefusedError, load_model
from serving.flags import write_flags
from serving.held import Held
from serving.metrics import Metrics
from serving.prediction_writer import Mask, PredictionIds, PredictionWriter
from serving.resident import resident_memory_mb
from serving.routes.control import Commands, SlotCommands, control_refusal, control_routes
from serving.routes.health import health_routes
from serving.routes.model_status import model_status_routes
from serving.routes.openapi import docs_routes
from serving.routes.predict import PredictionRoutes
from serving.settings import PREFIX, Settings, SettingsError
from serving.shadow import Shadow
from serving.short_way import ShortWay
from serving.slots import Slots, adopt_remembered_flags
from serving.tracing import open_tracer

LEASE_CHECK_EVERY_S = 0.2
_MASK_KEY_BYTES = 32
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Member:
    """What a worker has from those that it serves with: slots that follow, and what is asked of all of them."""

    slots: Slots
    commands: Commands
    exposition: Callable[[], Awaitable[bytes]]
    not_ready: Callable[[], str | None]


class ModelServer:
    """One model server. An ASGI application; its lifespan starts and stops what runs beside the requests.

    A server of one process has its own slots and commands. One of several workers is given both, follows what is
    decided for all, and so loads no champion by itself.
    """

    def __init__(self, settings: Settings, member: Member | None = None) -> None:
        self._settings = settings
        self._member = member
        self._access = open_access(settings)
        self._tracer = open_tracer(os.environ, settings.project)
        self._not_ready: str | None = "there is no champion yet: load a bundle and promote it"
        remembered = self._read_state()
        self._remembered = remembered
        self.slots = member.slots if member else Slots(server=secrets.token_hex(6), remembered=remembered)
        if member is None:
            adopt_remembered_flags(self.slots, settings.state)
        batcher = Batcher(wait_s=settings.batch_wait_s)
        cache = ScoreCache(seconds=settings.cache_s, rows=settings.cache_rows) if settings.cache_s else None
        _check_log(settings)
        self.writer = PredictionWriter(
            settings.predictions,
            project=settings.project,
            mask=Mask(_mask_key(settings)),
            policy=settings.log_policy,
            features_share=settings.features_share,
        )
        self.metrics = _Metrics(self.slots, self.writer, batcher, cache, access=self._access)
        ids = PredictionIds()
        self._shadow = Shadow(slots=self.slots, metrics=self.metrics, writer=self.writer, ids=ids)
        answerer = Answerer(
            slots=self.slots,
            metrics=self.metrics,
            writer=self.writer,
            shadow=self._shadow,
            ids=ids,
            batcher=batcher,
            cache=cache,
        )
        self.predictions = PredictionRoutes(
            project=settings.project,
            slots=self.slots,
            answerer=answerer,
            metrics=self.metrics,
            ids=ids,
            access=self._access,
            timeout_s=settings.timeout_s,
        )
        if self._tracer is not None:
            self.predictions.trace_by(self._tracer)
        self.short_way = ShortWay(
            routes=self.predictions,
            slots=self.slots,
            metrics=self.metrics,
            writer=self.writer,
            shadow=self._shadow,
            ids=ids,
            batcher=batcher,
            access=self._access,
            is_open=settings.log_policy == "drop" and cache is None and self._tracer is None,
        )
        self._api = self._build_api()
        self._timers: list[asyncio.Task[None]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Every route but the predictions, which `serving.connection` answers, for who may call it."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        if self._access is not None:
            needed = scope_of(scope["path"])
            if needed is not None:
                try:
                    admission = self._access.admit(head_of(scope), needed)
                    receive = await admitted(scope, receive, admission)
                except RequestRefusedError as refused:
                    await respond_refused(scope, send, refused)
                    return
                except ClientGoneError:
                    return
                send = with_headers(send, admission.headers)
        await self._api(scope, receive, send)

    async def start(self) -> None:
        """Loads what is remembered and starts the log, the shadow, and the timers of the lease and the keys."""
        self.writer.start(asyncio.get_running_loop())
        await self._load_remembered()
        self._shadow.start()
        loop = asyncio.get_running_loop()
        self._timers.append(loop.create_task(self._watch_lease()))
        if self._access is not None:
            self._timers.append(loop.create_task(self._access.watch()))

    async def stop(self) -> None:
        """Ends what `start` began; the log is flushed last."""
        for timer in self._timers:
            timer.cancel()
        await asyncio.gather(*self._timers, return_exceptions=True)
        self._timers.clear()
        await self._shadow.stop()
        await asyncio.to_thread(self.writer.stop)
        if self._tracer is not None:
            await asyncio.to_thread(self._tracer.stop)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self.start()
        except OSError as error:
            logger.exception("the server cannot start")
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.stop()
        await send({"type": "lifespan.shutdown.complete"})

    def _read_state(self) -> State | None:
        try:
            return first_state(self._settings)
        except StateError as error:
            logger.error("%s", error)
            self._not_ready = str(error)
            return None

    async def _load_remembered(self) -> None:
        """Comes up on the champion, and the holdout beside it.

        A champion that cannot be loaded leaves the server alive, not ready, saying why; without its holdout it leads.
        """
        remembered = self._remembered
        if remembered is None or self._member is not None:
            return
        try:
            self.slots.install_champion(await self._load(remembered.champion))
        except ModelRefusedError as error:
            self._not_ready = f"the champion, version {remembered.champion.version}, cannot be loaded: {error}"
            logger.error("%s", self._not_ready)
            return
        if (holdout := remembered.holdout) is not None:
            try:
                self.slots.holdout = Held.begin(await self._load(holdout.model), holdout.rollout, holdout.share)
            except ModelRefusedError as error:
                logger.error("the holdout, version %s, cannot be loaded: %s", holdout.model.version, error)

    async def _load(self, name: Remembered) -> Model:
        settings = self._settings
        return await asyncio.to_thread(
            load_model,
            Path(name.path),
            name.bundle,
            name.version,
            settings.project,
            settings.execution,
            settings.trusted_keys,
        )

    def _why_not_ready(self) -> str | None:
        if self.slots.champion is not None:
            return None
        return (self._member.not_ready() if self._member else None) or self._not_ready

    async def _watch_lease(self) -> None:
        while True:
            await asyncio.sleep(LEASE_CHECK_EVERY_S)
            self.slots.expire()
            if (resident_mb := resident_memory_mb()) is not None:
                self.slots.check_memory(resident_mb)

    def _build_api(self) -> Starlette:
        settings = self._settings
        member = self._member
        commands = (
            member.commands
            if member
            else SlotCommands(
                project=settings.project,
                slots=self.slots,
                remember=partial(write_state, settings.state),
                remember_flags=partial(write_flags, settings.state),
                execution=settings.execution,
                trusted=settings.trusted_keys,
            )
        )
        exposition = member.exposition if member else self.metrics.exposition
        reason = self._why_not_ready
        routes = [
            *health_routes(
                project=settings.project,
                slots=self.slots,
                metrics=self.metrics,
                exposition=exposition,
                reason=reason,
            ),
            *model_status_routes(project=settings.project, slots=self.slots, reason=reason),
            *control_routes(commands, self.slots, token=settings.control_token, allow_faults=settings.allow_faults),
        ]
        secured = partial(secure, access=self._access, has_control_token=settings.control_token is not None)
        return Starlette(
            routes=[*routes, *docs_routes(routes, project=settings.project, slots=self.slots, secure=secured)],
            middleware=[Middleware(BaseHTTPMiddleware, dispatch=_answer_with_problems)],
            exception_handlers={HTTPException: _on_http_error},
        )


@dataclass(eq=False)
class _Metrics(Metrics):
    """The metrics of the server, and those of its guard."""

    access: Access | None = None

    def collect(self) -> Iterable[Metric]:
        """The metric families at this instant."""
        yield from super().collect()
        if self.access is not None:
            yield from self.access.collect()


async def _answer_with_problems(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
    try:
        return await call(request)
    except RequestRefusedError as refused:
        return _problem(request, refused)
    except Exception as error:
        refusal = control_refusal(error) if request.url.path.startswith("/control") else None
        if refusal is None:
            logger.exception("%s %s failed", request.method, request.url.path)
            refusal = RequestRefusedError(500, "the server failed on this request; its log has the reason")
        return _problem(request, refusal)


async def _on_http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    detail = f"{request.method} {request.url.path}: {getattr(error, 'detail', error)}; /docs lists the routes"
    return _problem(request, RequestRefusedError(status, detail), getattr(error, "headers", None))


def _problem(request: Request, refused: RequestRefusedError, headers: dict[str, str] | None = None) -> Response:
    body = problem_body(
        refused.status,
        refused.detail,
        refused.errors,
        is_open_inference=request.url.path.startswith(("/v2", "/v1/models")),
    )
    return Response(body, status_code=refused.status, media_type=PROBLEM_TYPE, headers=headers)


def _check_log(settings: Settings) -> None:
    """Says when the prediction log cannot be written; with the policy `fail` that is a SettingsError."""
    try:
        settings.predictions.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=settings.predictions):
            return
    except OSError as error:
        told = f"{PREFIX}PREDICTIONS is {settings.predictions}, which cannot be written: {error}"
        remedy = "let the server's user write there, or name another folder"
        if settings.log_policy == "fail":
            raise SettingsError(f"{told}; with the log's policy fail nobody would get an answer: {remedy}") from error
        logger.error("%s; predictions are answered and not logged until it can: %s", told, remedy)


def _mask_key(settings: Settings) -> bytes:
    """The key of the settings, or one that is made once and kept beside the state, readable by its owner alone."""
    if settings.mask_key is not None:
        return settings.mask_key.encode()
    path = settings.state / MASK_KEY_FILE
    try:
        settings.state.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(secrets.token_bytes(_MASK_KEY_BYTES))
        key = path.read_bytes()
    except OSError as error:
        raise SettingsError(
            f"{PREFIX}STATE is {settings.state}, which cannot be used: {error}; let the server's user write there, or "
            "name another folder (`paceline serve` takes one below PACELINE_HOME)"
        ) from error
    if len(key) != _MASK_KEY_BYTES:
        raise SettingsError(
            f"{path} has {len(key)} bytes, expected {_MASK_KEY_BYTES}: remove it, or set {PREFIX}MASK_KEY"
        )
    return key
