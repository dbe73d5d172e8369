"""Refused accesses, for whoever looks after the server: a line of JSON in the log, and counts.

The first refusal of a kind is told at once; what follows of the same kind is counted, and told as one line a while
later. So nothing is hidden, and whoever is refused a million times writes a few lines.
"""

import logging
import time
from collections.abc import Callable, Container, Iterator
from typing import Any, NamedTuple

import msgspec
from prometheus_client.core import CounterMetricFamily, Metric

from contracts.access import KeyScope
from serving.access.request import RequestHead

WINDOW_S = 10.0
MAXIMUM_KINDS = 100  # in a window: one more is counted with all others that are too many
MAXIMUM_TEXT_CHARACTERS = 200
_REST = "too many kinds of refusals to tell each"
logger = logging.getLogger("serving.access.refused")


class _Kind(NamedTuple):
    status: int
    reason: str
    needed: KeyScope | None
    client: str
    key_id: str
    peer: str


class RefusalAudit:
    """What was refused: all of it in the counts, and each kind in the log."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counts: dict[tuple[str, str], int] = {}
        self._window: dict[_Kind, int] = {}
        self._window_ends_s = 0.0
        self._rest = 0

    def refused(
        self,
        head: RequestHead,
        *,
        status: int,
        reason: str,
        needed: KeyScope | None,
        client: str = "",
        key_id: str = "",
        label: str = "",
    ) -> None:
        """One more. `label` is the client's name where it is one of a few, which may name a metric."""
        self._counts[reason, label] = self._counts.get((reason, label), 0) + 1
        self.flush()
        kind = _Kind(status, reason, needed, client, key_id, head.peer or "")
        if kind in self._window:
            self._window[kind] += 1
        elif len(self._window) >= MAXIMUM_KINDS:
            self._rest += 1
        else:
            self._window[kind] = 0
            _tell({**_described(kind), "method": head.method[:20], "path": head.path[:MAXIMUM_TEXT_CHARACTERS]})

    def flush(self) -> None:
        """Tells what was counted, once its window is over."""
        now_s = self._clock()
        if now_s < self._window_ends_s:
            return
        for kind, count in self._window.items():
            if count:
                _tell({**_described(kind), "more": count, "within_s": WINDOW_S})
        if self._rest:
            _tell({"reason": _REST, "more": self._rest, "within_s": WINDOW_S})
        self._window.clear()
        self._rest = 0
        self._window_ends_s = now_s + WINDOW_S

    def keep_only(self, labels: Container[str]) -> None:
        """Drops the counts of clients who are gone."""
        self._counts = {key: count for key, count in self._counts.items() if not key[1] or key[1] in labels}

    def collect(self) -> Iterator[Metric]:
        """The counts as a metric family."""
        refused = CounterMetricFamily(
            "paceline_access_refused",
            "Requests refused for their key, its scope or its rate",
            labels=("reason", "client"),
        )
        for (reason, label), count in self._counts.items():
            refused.add_metric((reason, label), count)
        yield refused


def _described(kind: _Kind) -> dict[str, Any]:
    return {name: value for name, value in kind._asdict().items() if value}


def _tell(fields: dict[str, Any]) -> None:
    # JSON, so that nothing in a path can look like a line of its own
    logger.warning("%s", msgspec.json.encode({"event": "access_refused", **fields}).decode())
