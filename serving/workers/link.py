"""A worker's end of the socket pair to the supervisor: it follows what it is told, and asks what clients ask of it."""

import asyncio
import logging
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal, NamedTuple, cast

from prometheus_client.core import Metric

from contracts.flags import FlagsInForce, SetFlags
from contracts.slots import InjectFault, LoadSlot, Observation, PromoteSlot, RenewLease, SetShare
from serving.challenger import require_slices
from serving.champion_file import Remembered
from serving.engine import Model, ModelRefusedError, load_model
from serving.execution import Execution
from serving.routes.control import MAXIMUM_LOAD_S
from serving.slots import SlotConflictError, SlotMessageError
from serving.workers.messages import (
    Answer,
    Ask,
    CommandName,
    DropChallenger,
    EndHoldout,
    Follow,
    Followed,
    Frames,
    FromWorker,
    Load,
    Loaded,
    Look,
    ObserveSlots,
    Open,
    Opened,
    Refusal,
    Scrape,
    Scraped,
    Seen,
    ToWorker,
    View,
    decode_to_worker,
    framed,
    packed,
)
from serving.workers.shared_slots import SharedSlots
from serving.workers.totals import exposition, families_of

ANSWER_S = 150.0  # longer than the supervisor takes for anything
logger = logging.getLogger(__name__)


class SupervisorGoneError(OSError):
    """The supervisor has ended: this worker ends as well."""


class Link(asyncio.Protocol):
    """The commands of the control routes, decided by the supervisor; and what it wants of this worker.

    `models` are those that were loaded before the fork. `collect` gives this worker's metrics.
    """

    def __init__(
        self,
        *,
        project: str,
        execution: Execution,
        trusted: Path | None = None,
        slots: SharedSlots,
        models: dict[Remembered, Model],
        on_gone: Callable[[], None],
    ) -> None:
        self._project = project
        self._execution = execution
        self._trusted = trusted
        self._slots = slots
        self._models = models
        self._on_gone = on_gone
        self._frames = Frames()
        self._transport: asyncio.Transport | None = None
        self._orders: asyncio.Queue[Follow | Load] = asyncio.Queue()
        self._following: asyncio.Task[None] | None = None
        self._is_open = asyncio.Event()
        self._is_gone = False
        self._asks: dict[int, asyncio.Future[Answer]] = {}
        self._ask = 0
        self.collect: Callable[[], Iterable[Metric]] = tuple
        self.not_ready: str | None = None

    # -- its life --------------------------------------------------------------------------------------------------

    async def join(self, connection: socket.socket) -> None:
        """Returns when this worker is in the state that the others are in.

        Raises:
            SupervisorGoneError: there is no supervisor any more.
        """
        loop = asyncio.get_running_loop()
        self._following = loop.create_task(self._follow_orders())
        await loop.create_unix_connection(lambda: self, sock=connection)
        await self._is_open.wait()
        if self._is_gone:
            raise SupervisorGoneError("the supervisor ended while this worker started")

    def opened(self) -> None:
        """This worker takes connections now."""
        self._send(Opened())

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket pair is this loop's."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass

    def connection_lost(self, exc: Exception | None) -> None:
        """The supervisor has ended, whatever ended it."""
        self._is_gone = True
        self._is_open.set()
        for ask in self._asks.values():
            if not ask.done():
                ask.set_exception(SupervisorGoneError("the supervisor has ended; nothing was decided"))
        if self._following is not None:
            self._following.cancel()
        self._on_gone()

    def data_received(self, data: bytes) -> None:
        """Messages, or parts of them."""
        for body in self._frames.feed(data):
            self._take(decode_to_worker(body))

    def _take(self, message: ToWorker) -> None:
        match message:
            case Follow() | Load():
                self._orders.put_nowait(message)
            case Open():
                self._is_open.set()
            case Look():
                strata = self._slots.handed_over()
                first, *beside = self._slots.observe_all()
                self._send(Seen(round=message.round, observation=first, beside=beside, strata=strata))
            case Scrape():
                self._send(Scraped(round=message.round, metrics=families_of(self.collect())))
            case Answer():
                ask = self._asks.get(message.ask)
                if ask is not None and not ask.done():
                    ask.set_result(message)

    def _send(self, message: FromWorker) -> None:
        if self._transport is not None and not self._is_gone:
            self._transport.write(framed(message))

    # -- what it is told -------------------------------------------------------------------------------------------

    async def _follow_orders(self) -> None:
        """One after the other, in the order in which they were decided."""
        while True:
            order = await self._orders.get()
            if isinstance(order, Follow):
                self._send(await self._follow(order))
            else:
                name = Remembered(version=order.message.version, bundle=order.message.bundle, path=order.message.path)
                refusal = await self._hold(name) or self._unsliced(order.message, self._models[name])
                self._send(Loaded(round=order.round, refusal=refusal))

    async def _follow(self, order: Follow) -> Followed:
        view = order.view
        needed = _needed(view)
        for each in needed:
            # a challenger that has tripped is loaded by nobody who has not: it may end this process as well
            refusal = None if each.is_tripped else await self._hold(each.name)
            if refusal is not None:
                return Followed(
                    round=order.round,
                    generation=view.generation,
                    refusal=refusal,
                    refused=each.place,
                    rollout=each.rollout,
                )
        self._slots.follow(view, self._models)
        self.not_ready = view.not_ready
        names = [each.name for each in needed]
        self._models = {name: model for name, model in self._models.items() if name in names}
        first, *beside = self._slots.observe_all()
        return Followed(round=order.round, generation=view.generation, observation=first, beside=beside)

    def _unsliced(self, message: LoadSlot, model: Model) -> Refusal | None:
        try:
            require_slices(message, model)
        except ModelRefusedError as error:
            return Refusal(kind="model", text=str(error))
        return None

    async def _hold(self, name: Remembered) -> Refusal | None:
        """Loads the model that is called `name`, unless this worker has it."""
        if name in self._models:
            return None
        loading = asyncio.to_thread(
            load_model, Path(name.path), name.bundle, name.version, self._project, self._execution, self._trusted
        )
        try:
            self._models[name] = await asyncio.wait_for(loading, MAXIMUM_LOAD_S)
        except ModelRefusedError as error:
            return Refusal(kind="model", text=str(error))
        except TimeoutError:
            return Refusal(kind="late", text=f"the bundle was not loaded after {MAXIMUM_LOAD_S:g} s")
        except Exception as error:  # whatever a bundle does to this worker, the supervisor waits for a word
            logger.exception("version %s cannot be loaded", name.version)
            return Refusal(kind="failed", text=f"{type(error).__name__}: {error}")
        return None

    # -- what clients ask ------------------------------------------------------------------------------------------

    async def load(self, message: LoadSlot) -> Observation:
        """As `SlotCommands.load`, in all workers; where one refuses the bundle, none keeps it."""
        return await self._observation("load", message)

    async def set_share(self, message: SetShare) -> Observation:
        """Sets share or shadow in all workers, with one lease."""
        return await self._observation("share", message)

    async def renew(self, message: RenewLease) -> Observation:
        """Renews the lease of all workers; does not wait for other actions."""
        return await self._observation("renew", message)

    async def promote(self, message: PromoteSlot) -> Observation:
        """Compare-and-swap, once for all workers."""
        return await self._observation("promote", message)

    async def drop(self, rollout: str) -> Observation:
        """Empties the challenger's slot of this rollout in all workers."""
        return await self._observation("drop", DropChallenger(rollout=rollout))

    async def end_holdout(self, rollout: str) -> Observation:
        """The champion of all workers answers all entities."""
        return await self._observation("end_holdout", EndHoldout(rollout=rollout))

    async def observe(self, rollout: str | None = None) -> Observation:
        """The slots now, with what all workers have counted; of several challengers that of `rollout`."""
        return await self._observation("observe", ObserveSlots(rollout=rollout))

    async def inject_fault(self, message: InjectFault) -> Observation:
        """In all workers."""
        return await self._observation("fault", message)

    async def set_flags(self, message: SetFlags) -> FlagsInForce:
        """In all workers, and so in this one."""
        await self._answer("flags", message)
        return self._slots.flags

    async def exposition(self) -> bytes:
        """The metrics of all workers in Prometheus' text format."""
        return exposition((await self._answer("metrics", None)).metrics or ())

    async def _observation(self, command: CommandName, message: object) -> Observation:
        answer = await self._answer(command, message)
        if answer.observation is None:
            raise RuntimeError(f"the supervisor answered {command} without an observation")
        return answer.observation

    async def _answer(self, command: CommandName, message: object) -> Answer:
        if self._is_gone:
            raise SupervisorGoneError("the supervisor has ended; nothing was decided")
        self._ask += 1
        number = self._ask
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._asks[number] = future
        try:
            self._send(Ask(ask=number, command=command, message=packed(message)))
            answer = await asyncio.wait_for(future, ANSWER_S)
        finally:
            del self._asks[number]
        if answer.refusal is not None:
            raise _error_of(answer.refusal)
        return answer


class _Needed(NamedTuple):
    """A model that fills a place."""

    place: Literal["champion", "challenger", "holdout"]
    name: Remembered
    rollout: str | None = None
    is_tripped: bool = False


def _needed(view: View) -> list[_Needed]:
    """The model of each place that is filled, in the order in which they are loaded."""
    found: list[_Needed] = []
    if view.champion is not None:
        found.append(_Needed("champion", view.champion))
    if view.holdout is not None:
        found.append(_Needed("holdout", view.holdout.model))
    found += [_Needed("challenger", each.name, each.rollout, each.is_tripped) for each in view.challengers]
    return found


def _error_of(refusal: Refusal) -> Exception:
    """The error that a server of one process would have raised."""
    kinds: dict[str, type[Exception]] = {
        "conflict": SlotConflictError,
        "message": SlotMessageError,
        "model": ModelRefusedError,
        "disk": OSError,
        "late": TimeoutError,
        "failed": RuntimeError,
    }
    return kinds[refusal.kind](refusal.text)
