"""The control routes: whoever runs a rollout loads, shares, renews, promotes, drops and observes by them."""

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from functools import wraps
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from contracts.flags import FlagsInForce, SetFlags
from contracts.slots import InjectFault, LoadSlot, Observation, PromoteSlot, RenewLease, SetShare
from serving.admission import JSON_TYPE, RequestRefusedError
from serving.challenger import require_slices
from serving.champion_file import State
from serving.engine import ModelRefusedError, load_model
from serving.execution import AS_BUNDLED, Execution
from serving.faulty import FaultError, faulty
from serving.flags import unknown_field
from serving.routes.described import DescribedRoute, json_answer
from serving.slots import SlotConflictError, SlotMessageError, Slots

MAXIMUM_MESSAGE_BYTES = 64 << 10
MAXIMUM_LOAD_S = 120.0
Message = TypeVar("Message")


class Commands(Protocol):
    """What the routes ask for, of one process or of all workers; each answers with the observation after it."""

    async def load(self, message: LoadSlot) -> Observation:
        """Verifies the bundle, replays its golden rows, puts it into the challenger's slot."""

    async def set_share(self, message: SetShare) -> Observation:
        """Sets share or shadow, with a lease."""

    async def renew(self, message: RenewLease) -> Observation:
        """Renews the lease; does not wait for other actions, since a bundle that loads must not cost a lease."""

    async def promote(self, message: PromoteSlot) -> Observation:
        """Compare-and-swap."""

    async def drop(self, rollout: str) -> Observation:
        """Empties the challenger's slot of this rollout; nothing to do is a success."""

    async def end_holdout(self, rollout: str) -> Observation:
        """The champion answers all entities, if it was `rollout` that left some out; nothing to do is a success."""

    async def observe(self, rollout: str | None = None) -> Observation:
        """The slots now; of several challengers that of `rollout`, or the first."""

    async def inject_fault(self, message: InjectFault) -> Observation:
        """Makes the challenger fail."""

    async def set_flags(self, message: SetFlags) -> FlagsInForce:
        """Puts other flags in force; what is in force after it."""


class SlotCommands:
    """The commands of one process. One at a time: a lock orders them, a bundle loads in a thread meanwhile."""

    def __init__(
        self,
        *,
        project: str,
        slots: Slots,
        remember: Callable[[State], None],
        remember_flags: Callable[[FlagsInForce], None],
        execution: Execution = AS_BUNDLED,
        trusted: Path | None = None,
    ) -> None:
        self._project = project
        self._slots = slots
        self._remember = remember
        self._remember_flags = remember_flags
        self._execution = execution
        self._trusted = trusted
        self._lock = asyncio.Lock()

    async def load(self, message: LoadSlot) -> Observation:
        """Verifies the bundle, replays its golden rows, puts it into the challenger's slot."""
        async with self._lock:
            if not self._slots.is_in_place(message):
                loading = asyncio.to_thread(
                    load_model,
                    Path(message.path),
                    message.bundle,
                    message.version,
                    self._project,
                    self._execution,
                    self._trusted,
                )
                model = await asyncio.wait_for(loading, MAXIMUM_LOAD_S)
                require_slices(message, model)
                self._slots.place(message, model)
            return self._slots.observe(message.rollout)

    async def set_share(self, message: SetShare) -> Observation:
        """Sets share or shadow, with a lease."""
        async with self._lock:
            self._slots.set_share(message)
            return self._slots.observe(message.rollout)

    async def renew(self, message: RenewLease) -> Observation:
        """Renews the lease; does not wait for other actions, since a bundle that loads must not cost a lease."""
        self._slots.renew(message)
        return self._slots.observe(message.rollout)

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

    async def end_holdout(self, rollout: str) -> Observation:
        """The champion answers all entities, if it was `rollout` that left some out; nothing to do is a success."""
        async with self._lock:
            self._slots.end_holdout(rollout, self._remember)
            return self._slots.observe()

    async def observe(self, rollout: str | None = None) -> Observation:
        """The slots now; of several challengers that of `rollout`, or the first."""
        return self._slots.observe(rollout)

    async def inject_fault(self, message: InjectFault) -> Observation:
        """The challenger fails from now on."""
        self._slots.inject_fault(message)
        return self._slots.observe(message.rollout)

    async def set_flags(self, message: SetFlags) -> FlagsInForce:
        """Puts other flags in force."""
        async with self._lock:
            self._slots.set_flags(message, self._remember_flags)
            return self._slots.flags


def control_routes(control: Commands, slots: Slots, *, token: str | None, allow_faults: bool) -> list[DescribedRoute]:
    """The routes below `/control`. `token` is what they ask for, None for nothing."""

    async def load(request: Request) -> Observation:
        return await control.load(await _message(request, LoadSlot))

    async def set_share(request: Request) -> Observation:
        return await control.set_share(await _message(request, SetShare))

    async def renew(request: Request) -> Observation:
        return await control.renew(await _message(request, RenewLease))

    async def promote(request: Request) -> Observation:
        return await control.promote(await _message(request, PromoteSlot))

    async def drop(request: Request) -> Observation:
        return await control.drop(_rollout(request))

    async def end_holdout(request: Request) -> Observation:
        return await control.end_holdout(_rollout(request))

    async def observe(request: Request) -> Observation:
        return await control.observe(request.query_params.get("rollout"))

    async def inject_fault(request: Request) -> Observation:
        if not allow_faults:
            raise RequestRefusedError(403, "this server injects no faults: PACELINE_SERVING_ALLOW_FAULTS is not set")
        message = await _message(request, InjectFault)
        _require_possible(message, slots)
        return await control.inject_fault(message)

    async def flags(_: Request) -> FlagsInForce:
        return slots.flags

    async def set_flags(request: Request) -> FlagsInForce:
        message = await _message(request, SetFlags)
        champion = slots.champion
        if champion is not None and (problem := unknown_field(message.flags, champion.model.schema)):
            raise RequestRefusedError(422, problem)
        return await control.set_flags(message)

    def route(
        method: str, path: str, action: Callable[[Request], Awaitable[object]], summary: str, **more: Any
    ) -> DescribedRoute:
        @wraps(action)
        async def guarded(request: Request) -> Response:
            _authorise(request, token)
            return json_answer(await action(request))

        return DescribedRoute(
            method,
            f"/control/{path}",
            guarded,
            tag="control",
            summary=summary,
            **{"says": "The slots after it", "answer": Observation, **more},
        )

    return [
        route("PUT", "challenger", load, "Load a bundle as challenger", message=LoadSlot),
        route("PUT", "share", set_share, "Give the challenger a share, or let it shadow", message=SetShare),
        route("PUT", "lease", renew, "Renew the challenger's lease", message=RenewLease),
        route("POST", "promote", promote, "Make the challenger the champion", message=PromoteSlot),
        route("DELETE", "challenger", drop, "Drop the challenger of a rollout", query=["rollout"]),
        route("DELETE", "holdout", end_holdout, "End the holdout that a rollout has left", query=["rollout"]),
        route("GET", "observation", observe, "Observe the slots, of several challengers one", may=["rollout"]),
        route("POST", "fault", inject_fault, "Make the challenger fail", message=InjectFault),
        route("GET", "flags", flags, "The feature flags in force", says="The flags", answer=FlagsInForce),
        route(
            "PUT",
            "flags",
            set_flags,
            "Say which clients may see a challenger, and by what requests stick",
            says="The flags after it",
            answer=FlagsInForce,
            message=SetFlags,
        ),
    ]


CONTROL_MESSAGES: tuple[type[Any], ...] = (
    LoadSlot,
    SetShare,
    RenewLease,
    PromoteSlot,
    InjectFault,
    SetFlags,
    FlagsInForce,
    Observation,
)


def control_refusal(error: Exception) -> RequestRefusedError | None:
    """The refusal that an error of these routes stands for."""
    if isinstance(error, SlotConflictError):
        return RequestRefusedError(409, str(error))
    if isinstance(error, SlotMessageError | ModelRefusedError):
        return RequestRefusedError(422, str(error))
    if isinstance(error, TimeoutError):
        return RequestRefusedError(503, f"the bundle was not loaded after {MAXIMUM_LOAD_S:g} s")
    if isinstance(error, OSError):
        return RequestRefusedError(503, f"this cannot be remembered, nothing has changed: {error}")
    return None


def _require_possible(message: InjectFault, slots: Slots) -> None:
    """Raises RequestRefusedError for a fault that the challenger's model cannot have."""
    if slots.challengers and message.fault is not None:
        try:
            faulty(slots.to_fail(message).sound, message.fault)
        except FaultError as error:
            raise RequestRefusedError(422, str(error)) from error


def _authorise(request: Request, token: str | None) -> None:
    if token is None:
        return
    given = request.headers.get("authorization", "")
    if not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
        raise RequestRefusedError(401, "this route needs the header `Authorization: Bearer <control token>`")


def _rollout(request: Request) -> str:
    rollout = request.query_params.get("rollout")
    if rollout is None:
        raise RequestRefusedError(422, f"the query names no rollout: DELETE {request.url.path}?rollout=…")
    return rollout


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
