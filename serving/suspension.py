"""Coroutines of requests, run without an asyncio task each: what they wait for resumes them in the same call.

A task costs some 10 µs for each request, in its creation, its future and its wake-up by way of the event loop; that is
as much as a graph run. `drive` runs a coroutine at once up to its first `Suspension`, and whoever resolves that runs it
on. Everything happens on the event loop's thread. Beside suspensions such a coroutine may await `asyncio.sleep(0)`,
which lets the loop take its turn; it may not await asyncio's futures.
"""

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")
Result = TypeVar("Result")


class Suspension(Generic[Value]):
    """One event that one coroutine waits for. Resolved or failed once; later calls change nothing."""

    __slots__ = ("_error", "_resume", "_value", "is_done")

    def __init__(self) -> None:
        self.is_done = False
        self._resume: Callable[[], None] | None = None
        self._value: Value | None = None
        self._error: Exception | None = None

    def __await__(self) -> Generator["Suspension[Value]", None, Value]:
        """Waits until the event has come. Raises what it failed with."""
        if not self.is_done:
            yield self
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]  # resolved: then it is a Value

    def resolve(self, value: Value) -> None:
        """The event has come: the coroutine goes on before this returns."""
        if not self.is_done:
            self._value = value
            self._end()

    def fail(self, error: Exception) -> None:
        """`error` is raised where the coroutine waits, before this returns."""
        if not self.is_done:
            self._error = error
            self._end()

    def _end(self) -> None:
        self.is_done = True
        resume, self._resume = self._resume, None  # else both hold each other until a garbage collection
        if resume is not None:
            resume()


class Driven(Generic[Result]):
    """A coroutine on its way. Calls `done` with its result, or `failed` with what it raised."""

    __slots__ = ("_coroutine", "_done", "_failed", "_waiting")

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, Result],
        done: Callable[[Result], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self._coroutine = coroutine
        self._done = done
        self._failed = failed
        self._waiting: Suspension[Any] | None = None

    def step(self) -> None:
        """Runs the coroutine to its next wait."""
        self._waiting = None
        try:
            waiting = self._coroutine.send(None)
        except StopIteration as end:
            self._done(end.value)
            return
        except Exception as error:  # noqa: BLE001  handed to whoever asked, as a task would
            self._failed(error)
            return
        self._waiting = waiting
        if waiting is None:  # asyncio.sleep(0)
            asyncio.get_running_loop().call_soon(self.step)
        else:
            waiting._resume = self.step

    def abandon(self, error: Exception) -> None:
        """Raises `error` where the coroutine waits: nobody waits for its result any more, or no longer."""
        waiting = self._waiting
        if waiting is not None:
            waiting.fail(error)


def drive(
    coroutine: Coroutine[Any, Any, Result],
    done: Callable[[Result], None],
    failed: Callable[[Exception], None],
) -> Driven[Result]:
    """Runs `coroutine` at once as far as it comes; needs the running event loop."""
    driven = Driven(coroutine, done, failed)
    driven.step()
    return driven
