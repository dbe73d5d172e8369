"""What is read beside the looks of a rollout: in a thread, every so often, and only while somebody asks for it."""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from pipelines.rollout.machine import State

T = TypeVar("T")


class ReadBeside(Generic[T]):
    """One reading at a time. It never keeps a look waiting."""

    def __init__(self, read: Callable[[State], T], clock: Callable[[], float]) -> None:
        self._read = read
        self._clock = clock
        self._reading: asyncio.Future[T] | None = None
        self._began_s = float("-inf")

    def begin(self, state: State, every_s: float) -> None:
        """Begins the next reading, where none runs and the last began `every_s` ago."""
        if self._reading is None and self._clock() - self._began_s >= every_s:
            self._began_s = self._clock()
            self._reading = asyncio.ensure_future(asyncio.to_thread(self._read, state))

    def taken(self) -> T | BaseException | None:
        """What a reading that has ended came to, or its failure, once; None: none has ended."""
        if self._reading is None or not self._reading.done():
            return None
        reading, self._reading = self._reading, None
        return reading.exception() or reading.result()
