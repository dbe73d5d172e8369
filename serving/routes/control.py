"""The control routes: whoever runs a rollout loads, shares, renews, promotes, drops and observes by them."""

import asyncio
import hmac
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import APIRouter, Depends, Query, Request, Response

from contracts.problem import Problem
from contracts.slots import InjectFault, LoadSlot, Observation, PromoteSlot, RenewLease, SetShare
from serving.admission import JSON_TYPE, RequestRefusedError
from serving.champion_file import Remembered
from serving.engine import ModelRefusedError, load_model
from serving.slots import SlotConflictError, SlotMessageError, Slots

MAXIMUM_MESSAGE_BYTES = 64 << 10
MAXIMUM_LOAD_S = 120.0
Message = TypeVar("Message")


class Control:
    """What the routes act on. One action at a time: a lock orders them, a bundle loads in a thread meanwhile."""

    def __init__(
        self,
        *,
        project: str,
        slots: Slots,
        remember: Callable[[Remembered], None],
        token: str | None,
        allow_faults: bool,
    ) -> None:
        self._project = project
        self._slots = slots
        self._remember = remember
        self._token = token
        self._allow_faults = allow_faults
        self._lock = asyncio.Lock()

    async def authorise(self, request: Request) -> None:
        """Refuses a request without the token, where the settings name one."""
        if self._token is None:
            return
        given = request.headers.get("authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {self._token}".encode()):
            raise RequestRefusedError(401, "this route needs the header `Authorization: Bearer <control token>`")

    async def load(self, message: LoadSlot) -> Observation:
        """Verifies the bundle, replays its golden rows, puts it into the challenger's slot."""
        async with self._lock:
            if not self._slots.is_in_place(message):
                model = await asyncio.wait_for(
                    asyncio.to_thread(load_model, Path(message.path), message.bundle, message.version, self._project),
                    MAXIMUM_LOAD_S,
                )
                self._slots.place(message, model)
            return self._slots.observe()

    async def set_share(self, message: SetShare) -> Observation:
        """Sets share or shadow, with a lease."""
        async with self._lock:
            self._slots.set_share(message)
            return self._slots.observe()

    async def renew(self, message: RenewLease) -> Observation:
        """Renews the lease; does not wait for other actions, since a bundle that loads must not cost a lease."""
        self._slots.renew(message)
        return self._slots.observe()

    async def promote(self, message: PromoteSlot) -> Observation:
        """Compare-and-swap; the state file is written on the event loop, a few milliseconds once a promotion."""
        async with self._lock:
            self._slots.promote(message, self._remember)
            return self._slots.observe()

    async def drop(self, rollout: str) -> Observation:
        """Empties the challenger's slot of this rollout; nothing to do is a success."""
        async with self._lock:
            self._slots.drop(rollout)
            return self._slots.observe()

    async def observe(self) -> Observation:
        """Both slots now."""
        return self._slots.observe()

    async def inject_fault(self, message: InjectFault) -> Observation:
        """Where the settings allow it."""
        if not self._allow_faults:
            raise RequestRefusedError(403, "this server injects no faults: PACELINE_SERVING_ALLOW_FAULTS is not set")
        self._slots.inject_fault(message.error_share)
        return self._slots.observe()


def control_router(control: Control) -> APIRouter:
    """The routes below `/control`. Each answers with the observation after it."""
    router = APIRouter(prefix="/control", tags=["control"], dependencies=[Depends(control.authorise)])

    def describes(message: type[Any] | None) -> dict[str, Any]:
        answers: dict[str, Any] = {
            "200": {"description": "The slots after it", "content": {JSON_TYPE: {"schema": _reference(Observation)}}},
            "default": {
                "description": "A problem",
                "content": {"application/problem+json": {"schema": _reference(Problem)}},
            },
        }
        described: dict[str, Any] = {"responses": answers}
        if message is not None:
            described["requestBody"] = {"required": True, "content": {JSON_TYPE: {"schema": _reference(message)}}}
        return described

    @router.put("/challenger", summary="Load a bundle as challenger", openapi_extra=describes(LoadSlot))
    async def load(request: Request) -> Response:
        return _answer(await control.load(await _message(request, LoadSlot)))

    @router.put("/share", summary="Give the challenger a share, or let it shadow", openapi_extra=describes(SetShare))
    async def set_share(request: Request) -> Response:
        return _answer(await control.set_share(await _message(request, SetShare)))

    @router.put("/lease", summary="Renew the challenger's lease", openapi_extra=describes(RenewLease))
    async def renew(request: Request) -> Response:
        return _answer(await control.renew(await _message(request, RenewLease)))

    @router.post("/promote", summary="Make the challenger the champion", openapi_extra=describes(PromoteSlot))
    async def promote(request: Request) -> Response:
        return _answer(await control.promote(await _message(request, PromoteSlot)))

    @router.delete("/challenger", summary="Drop the challenger of a rollout", openapi_extra=describes(None))
    async def drop(rollout: Annotated[str, Query()]) -> Response:
        return _answer(await control.drop(rollout))

    @router.get("/observation", summary="Observe both slots", openapi_extra=describes(None))
    async def observe() -> Response:
        return _answer(await control.observe())

    @router.post("/fault", summary="Make the challenger fail", openapi_extra=describes(InjectFault))
    async def inject_fault(request: Request) -> Response:
        return _answer(await control.inject_fault(await _message(request, InjectFault)))

    return router


CONTROL_MESSAGES: tuple[type[Any], ...] = (LoadSlot, SetShare, RenewLease, PromoteSlot, InjectFault, Observation)


def control_refusal(error: Exception) -> RequestRefusedError | None:
    """The refusal that an error of these routes stands for."""
    if isinstance(error, SlotConflictError):
        return RequestRefusedError(409, str(error))
    if isinstance(error, SlotMessageError | ModelRefusedError):
        return RequestRefusedError(422, str(error))
    if isinstance(error, TimeoutError):
        return RequestRefusedError(503, f"the bundle was not loaded after {MAXIMUM_LOAD_S:g} s")
    if isinstance(error, OSError):
        return RequestRefusedError(503, f"the champion cannot be remembered, nothing has changed: {error}")
    return None


def _reference(message: type[Any]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{message.__name__}"}


async def _message(request: Request, kind: type[Message]) -> Message:
    # a page elsewhere could send a plain-text form to loopback; JSON makes the browser ask first, and it is refused
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != JSON_TYPE:
        raise RequestRefusedError(415, f"found {request.headers.get('content-type')!r}, expected {JSON_TYPE}")
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAXIMUM_MESSAGE_BYTES:
            raise RequestRefusedError(413, f"the message is larger than {MAXIMUM_MESSAGE_BYTES} bytes")
    try:
        return msgspec.json.decode(bytes(body), type=kind)
    except msgspec.ValidationError as error:
        raise RequestRefusedError(422, f"this is no {kind.__name__}: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestRefusedError(400, f"the message is not JSON: {error}") from error


def _answer(observation: Observation) -> Response:
    return Response(msgspec.json.encode(observation), media_type=JSON_TYPE)
