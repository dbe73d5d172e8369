"""Whose turn it is to judge, where several processes could: one counts and decides, the others wait.

Two that judged beside each other would each count the same requests: evidence counts once.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Protocol, TypeVar

Answer = TypeVar("Answer")


class TurnLostError(Exception):
    """Somebody else may have the turn by now; what was done is stopped, and may be asked for again."""


class Turn(Protocol):
    """A turn that one process at a time has."""

    async def take(self, work: Callable[[], Awaitable[Answer]]) -> Answer:
        """Waits for the turn, works, and gives it back. Raises TurnLostError where it is lost meanwhile."""
        ...


class NoTurn:
    """Where the server itself counts (the platform `local`), whoever likes may judge."""

    async def take(self, work: Callable[[], Awaitable[Answer]]) -> Answer:
        """Works at once."""
        return await work()


async def work_while(keep: Callable[[], Awaitable[None]], work: Callable[[], Awaitable[Answer]]) -> Answer:
    """What `work` returns; it is stopped when `keep` ends. Raises TurnLostError then."""
    worker: asyncio.Task[Any] = asyncio.ensure_future(_awaited(work))
    keeper: asyncio.Task[Any] = asyncio.ensure_future(_awaited(keep))
    try:
        await asyncio.wait({worker, keeper}, return_when=asyncio.FIRST_COMPLETED)
        if worker.done():
            answer: Answer = worker.result()
            return answer
        raise TurnLostError(str(keeper.exception() or "the turn is over"))
    finally:
        for task in (worker, keeper):
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task


async def _awaited(call: Callable[[], Awaitable[Answer]]) -> Answer:
    return await call()
