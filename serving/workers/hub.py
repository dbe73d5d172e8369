"""Where control requests of all workers are decided: once, in one order, by the supervisor's slots.

A command is a generator: it decides by `SharedSlots` as a server of one process does, and yields whatever it has to
ask of the workers; it goes on when every worker that is in the round has answered, or is gone. So a worker that dies
holds nothing up, and one that is silent is ended by the supervisor (`SILENT_S`).

What a worker does cannot differ from what the others do: it only follows the state that was decided here. A worker
that starts again is told the same state, champion and challenger, and takes connections only once it is in it.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from contracts.flags import FlagsInForce, SetFlags
from contracts.slots import InjectFault, LoadSlot, Observation, PromoteSlot, RenewLease, SetShare
from serving.champion_file import Remembered, State
from serving.slots import SlotConflictError, SlotMessageError
from serving.workers.counted import Counted
from serving.workers.messages import (
    Answer,
    Ask,
    CommandName,
    DropChallenger,
    EndHoldout,
    Family,
    Follow,
    Followed,
    FromWorker,
    Load,
    Loaded,
    Look,
    ObserveSlots,
    Open,
    Opened,
    Refusal,
    Reply,
    Scrape,
    Scraped,
    Seen,
    ToWorker,
)
from serving.workers.own_metrics import own_families
from serving.workers.shared_slots import SharedSlots, named

SCRAPE_S = 1.0
SILENT_S = 10.0
LOAD_S = 130.0  # a worker itself gives a bundle up after 120 s
JOIN_S = 2 * LOAD_S  # it may have champion and challenger to load
# what does not wait for others: a bundle that loads must cost no lease
_AT_ONCE: frozenset[CommandName] = frozenset({"renew", "observe", "metrics"})
_BODIES = {
    "load": LoadSlot,
    "share": SetShare,
    "renew": RenewLease,
    "promote": PromoteSlot,
    "drop": DropChallenger,
    "end_holdout": EndHoldout,
    "fault": InjectFault,
    "flags": SetFlags,
}
logger = logging.getLogger(__name__)


class Crew(Protocol):
    """What the supervisor does for the hub."""

    def send(self, worker: int, message: ToWorker) -> None:
        """Sends, to a worker that is there."""

    def end(self, worker: int, reason: str) -> None:
        """Kills a worker, which leaves then, and starts it again."""


class _RefusedError(Exception):
    """What a worker refused, on its way back to whoever asked."""

    def __init__(self, refusal: Refusal) -> None:
        self.refusal = refusal
        super().__init__(refusal.text)


@dataclass
class _Request:
    """What the workers are asked: a message for each, made with the number of its round."""

    make: Callable[[int], ToWorker]
    seconds: float = SILENT_S
    is_required: bool = True  # a worker that does not answer in time is ended; else it is left out


_Replies = dict[int, Reply]
_Result = Observation | list[Family]
_Command = Generator[_Request, _Replies, _Result]


@dataclass(eq=False)
class _Task:
    worker: int
    ask: int
    command: _Command
    in_order: bool


@dataclass(eq=False)
class _Round:
    task: _Task
    request: _Request
    waiting: set[int]
    deadline_s: float
    replies: _Replies = field(default_factory=dict)


class Hub:
    """Single-threaded; the supervisor calls it with what happens. `remember…` makes a promotion, or flags, durable."""

    def __init__(
        self,
        *,
        slots: SharedSlots,
        remember: Callable[[State], None],
        remember_flags: Callable[[FlagsInForce], None],
        crew: Crew,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._slots = slots
        self._remember = remember
        self._remember_flags = remember_flags
        self._crew = crew
        self._clock = clock
        self._generation = 1
        self._not_ready: str | None = None
        self._ready: set[int] = set()  # in the state that all are in
        self._serving: set[int] = set()  # of those, the ones that take connections
        self._joining: dict[int, float] = {}  # with the time by which it must have joined
        self._refused: dict[int, Refusal] = {}
        self._queue: deque[_Task] = deque()
        self._in_order: _Task | None = None
        self._rounds: dict[int, _Round] = {}
        self._round = 0
        self._counted = Counted()
        self.restarts = 0
        self.missed_scrapes = 0

    @property
    def serving(self) -> int:
        """How many workers take connections."""
        return len(self._serving)

    # -- what happens to workers -----------------------------------------------------------------------------------

    def join(self, worker: int) -> None:
        """A worker has started: it is told the state."""
        self._joining[worker] = self._clock() + JOIN_S
        self._crew.send(worker, self._follow(0))

    def leave(self, worker: int, *, is_replaced: bool, crash: str | None = None) -> None:
        """A worker is gone; nobody waits for it, and what it was last seen to have counted stays in the sums.

        `crash` is how it ended where that was by no stop. Whoever holds the challenger next might end so as well.
        """
        self._ready.discard(worker)
        self._serving.discard(worker)
        self._joining.pop(worker, None)
        self._refused.pop(worker, None)
        self.restarts += is_replaced
        self._counted.left(worker)
        if crash is not None and self._slots.blame(crash):
            self._announce()
        for number, found in list(self._rounds.items()):
            found.waiting.discard(worker)
            self._end_if_complete(number, found)
        self._settle_refusals()

    def receive(self, worker: int, message: FromWorker) -> None:
        """A worker says something."""
        if isinstance(message, Ask):
            self._ask(worker, message)
            return
        if isinstance(message, Opened):
            self._serving.add(worker)
            return
        if isinstance(message, Followed | Seen) and message.observation is not None:
            self._counted.saw(worker, message.observation, message.beside)
        if isinstance(message, Seen):
            self._slots.absorb(message.strata)
        if isinstance(message, Scraped):
            self._counted.scraped(worker, message.metrics)
        if isinstance(message, Followed) and worker in self._joining:
            self._joined(worker, message)
        found = self._rounds.get(message.round)
        if found is not None and worker in found.waiting:
            found.waiting.discard(worker)
            found.replies[worker] = message
            self._end_if_complete(message.round, found)

    def tick(self) -> None:
        """To be called a few times a second: leases, and workers that do not answer."""
        self._slots.expire()
        now_s = self._clock()
        for worker in [each for each, until_s in self._joining.items() if now_s >= until_s]:
            self._crew.end(worker, f"it has not joined the others after {JOIN_S:g} s")
        for number, found in list(self._rounds.items()):
            if now_s < found.deadline_s or number not in self._rounds:
                continue
            if not found.request.is_required:
                self.missed_scrapes += len(found.waiting)
                found.waiting.clear()
                self._end_if_complete(number, found)
                continue
            for worker in sorted(found.waiting - self._loading()):
                self._crew.end(worker, f"it has not answered for {found.request.seconds:g} s")

    # -- how a worker joins ----------------------------------------------------------------------------------------

    def _joined(self, worker: int, message: Followed) -> None:
        if message.refusal is not None:
            if message.refused != "champion":
                self._abandon(worker, message)
            else:
                self._refused[worker] = message.refusal
                self._settle_refusals()
        elif message.generation == self._generation:
            self._joining.pop(worker, None)
            self._ready.add(worker)
            self._crew.send(worker, Open())
            self._settle_refusals()

    def _settle_refusals(self) -> None:
        """A champion that no worker can load leaves a server that says so; one that others hold is loaded again."""
        if not self._refused:
            return
        if self._ready:
            for worker, refusal in list(self._refused.items()):
                del self._refused[worker]
                self._crew.end(worker, f"it cannot hold the champion that others hold: {refusal.text}")
        elif self._refused.keys() == self._joining.keys():
            reason = next(iter(self._refused.values())).text
            version = self._slots.champion.model.version if self._slots.champion else "?"
            self._not_ready = f"the champion, version {version}, cannot be loaded: {reason}"
            logger.error("%s", self._not_ready)
            self._refused.clear()
            self._slots.champion = None
            self._announce()

    def _abandon(self, worker: int, message: Followed) -> None:
        """What a worker cannot hold beside the champion is nobody's: the champion has its traffic."""
        if message.refused == "holdout":
            self._slots.holdout = None
        else:
            self._slots.abandon(message.rollout)
        why = message.refusal.text if message.refusal else "?"
        logger.error("there is no %s any more: worker %d cannot hold it: %s", message.refused, worker, why)
        self._announce()

    def _announce(self) -> None:
        """Tells all workers the state, without waiting for them."""
        self._generation += 1
        for worker in sorted(self._ready | self._joining.keys()):
            self._crew.send(worker, self._follow(0))

    def _follow(self, number: int) -> Follow:
        return Follow(round=number, view=self._slots.view(self._generation, self._not_ready))

    def _loading(self) -> set[int]:
        """Workers that may be silent, since they load a bundle."""
        loading = set(self._joining)
        for found in self._rounds.values():
            if found.request.seconds == LOAD_S and self._clock() < found.deadline_s:
                loading |= found.waiting
        return loading

    # -- how a command runs ----------------------------------------------------------------------------------------

    def _ask(self, worker: int, message: Ask) -> None:
        in_order = message.command not in _AT_ONCE
        try:
            command = self._command(message)
        except ValueError as error:  # of another version of a worker; the supervisor must outlive it
            refusal = Refusal(kind="failed", text=f"{message.command}: {error}")
            self._crew.send(worker, Answer(ask=message.ask, refusal=refusal))
            return
        task = _Task(worker, message.ask, command, in_order)
        if not in_order:
            self._go_on(task, None)
        else:
            self._queue.append(task)
            self._next()

    def _next(self) -> None:
        while self._in_order is None and self._queue:
            self._in_order = task = self._queue.popleft()
            self._go_on(task, None)

    def _go_on(self, task: _Task, replies: _Replies | None) -> None:
        """Runs a command up to what it next asks of the workers, or to its end."""
        try:
            request = next(task.command) if replies is None else task.command.send(replies)
        except StopIteration as ended:
            self._answer(task, ended.value)
        except (SlotConflictError, SlotMessageError, OSError, _RefusedError) as error:
            self._answer(task, _refusal_of(error))
        except Exception as error:
            logger.exception("a command of worker %d failed", task.worker)
            self._answer(task, Refusal(kind="failed", text=f"{type(error).__name__}: {error}"))
        else:
            self._round += 1
            number = self._round
            found = _Round(task, request, set(self._ready), self._clock() + request.seconds)
            self._rounds[number] = found
            for worker in sorted(self._ready):
                self._crew.send(worker, request.make(number))
            self._end_if_complete(number, found)

    def _end_if_complete(self, number: int, found: _Round) -> None:
        if not found.waiting and self._rounds.pop(number, None) is not None:
            self._go_on(found.task, found.replies)

    def _answer(self, task: _Task, result: _Result | Refusal) -> None:
        if task.worker in self._ready:
            if isinstance(result, Observation):
                answer = Answer(ask=task.ask, observation=result)
            elif isinstance(result, Refusal):
                answer = Answer(ask=task.ask, refusal=result)
            else:
                answer = Answer(ask=task.ask, metrics=result)
            self._crew.send(task.worker, answer)
        if task is self._in_order:
            self._in_order = None
            self._next()

    # -- the commands ----------------------------------------------------------------------------------------------

    def _command(self, ask: Ask) -> _Command:
        match ask.command:
            case "observe":
                asked = msgspec.msgpack.decode(ask.message, type=ObserveSlots | None)
                return self._observe(None if asked is None else asked.rollout)
            case "metrics":
                return self._metrics()
        message = msgspec.msgpack.decode(ask.message, type=_BODIES[ask.command])
        match message:
            case LoadSlot():
                return self._load(message)
            case SetShare():
                return self._change(lambda: self._slots.set_share(message), message.rollout)
            case RenewLease():
                return self._renew(message)
            case PromoteSlot():
                return self._change(lambda: self._promote(message))
            case DropChallenger():
                return self._change(lambda: self._drop(message.rollout))
            case EndHoldout():
                return self._change(lambda: self._slots.end_holdout(message.rollout, self._remember))
            case InjectFault():
                return self._change(lambda: self._slots.inject_fault(message), message.rollout)
            case SetFlags():
                return self._change(lambda: self._slots.set_flags(message, self._remember_flags))
        raise ValueError(f"{ask.command!r} is no command")

    def _load(self, message: LoadSlot) -> _Command:
        """All workers load the bundle; where one refuses, none keeps it."""
        if self._slots.is_in_place(message):
            return (yield from self._observe(message.rollout))
        replies = yield _Request(lambda number: Load(round=number, message=message), LOAD_S)
        refused = [reply.refusal for reply in replies.values() if isinstance(reply, Loaded) and reply.refusal]
        if not replies:
            refused = [Refusal(kind="late", text="all workers have ended while they loaded the bundle")]
        if refused:
            yield from self._told()
            raise _RefusedError(refused[0])
        self._slots.place(message, named(Remembered(version=message.version, bundle=message.bundle, path=message.path)))
        self._counted.forget_challenger(message.rollout)
        return (yield from self._told(message.rollout))

    def _change(self, decide: Callable[[], object], rollout: str | None = None) -> _Command:
        """A decision, then everybody in the state that follows."""
        decide()
        return (yield from self._told(rollout))

    def _renew(self, message: RenewLease) -> _Command:
        """All workers see it on the board at once."""
        self._slots.renew(message)
        return (yield from self._observe(message.rollout))

    def _promote(self, message: PromoteSlot) -> None:
        before = self._slots.champion
        self._slots.promote(message, self._remember)
        if self._slots.champion is not before:
            self._counted.promoted()
            self._not_ready = None

    def _drop(self, rollout: str) -> None:
        if self._slots.drop(rollout):
            self._counted.forget_challenger(rollout)

    def _told(self, rollout: str | None = None) -> _Command:
        """Every worker is in the state that was decided."""
        self._generation += 1
        for worker in sorted(self._joining):
            self._crew.send(worker, self._follow(0))
        yield _Request(self._follow)
        return self._observation(rollout)

    def _observe(self, rollout: str | None) -> _Command:
        before_s = self._clock()
        yield _Request(lambda number: Look(round=number))
        self._slots.close_strata(before_s)
        return self._observation(rollout)

    def _metrics(self) -> _Command:
        yield _Request(lambda number: Scrape(round=number), SCRAPE_S, is_required=False)
        return self._counted.metrics(own_families(self._slots, self.serving, self.restarts, self.missed_scrapes))

    # -- the sums --------------------------------------------------------------------------------------------------

    def _observation(self, rollout: str | None) -> Observation:
        own = self._slots.observe(rollout)
        return self._counted.observation(msgspec.structs.replace(own, server=f"{own.server}.{self.restarts}"))


def _refusal_of(error: Exception) -> Refusal:
    if isinstance(error, _RefusedError):
        return error.refusal
    if isinstance(error, SlotConflictError):
        return Refusal(kind="conflict", text=str(error))
    if isinstance(error, SlotMessageError):
        return Refusal(kind="message", text=str(error))
    return Refusal(kind="disk", text=str(error))
