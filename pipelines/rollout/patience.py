"""Asking a ledger that is away again, and doing nothing else meanwhile: what cannot be recorded is not decided.

No lease is renewed then, so the challenger's share falls by itself. The rollout goes on when the ledger is back.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from pipelines.ledger import LedgerUnavailableError

Arguments = ParamSpec("Arguments")
Answer = TypeVar("Answer")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Patience:
    """Asks every `every_s` for at most `limit_s`, by `clock` in seconds; all that is asked is safe to repeat."""

    every_s: float
    limit_s: float
    clock: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]

    async def ask(self, call: Callable[Arguments, Answer], *args: Arguments.args, **kwargs: Arguments.kwargs) -> Answer:
        """What `call` returns, in a thread. Raises LedgerUnavailableError when the ledger stays away."""
        since_s: float | None = None
        while True:
            try:
                answer = await asyncio.to_thread(call, *args, **kwargs)
            except LedgerUnavailableError as error:
                now_s = self.clock()
                if since_s is None:
                    since_s = now_s
                    _log.warning("nothing is decided until the ledger is back: %s", error)
                if now_s - since_s >= self.limit_s:
                    raise
                await self.sleep(self.every_s)
            else:
                if since_s is not None:
                    _log.warning("the ledger is back after %.1f s", self.clock() - since_s)
                return answer
