"""What is kept of each request while the load runs: three numbers, and a label that many requests share."""

from array import array
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MAXIMUM_LABELS = 60_000
MAXIMUM_EXAMPLE_CHARACTERS = 300


class Label(NamedTuple):
    """How a request ended. `status` 0: without an answer, for the reason `error`.

    `slot` and `version` are of an answer with status 200 that names them. `given_up` requests were not answered in
    time or never sent: that they waited counts as latency, since a client would have waited too.
    """

    status: int
    slot: str = ""
    version: str = ""
    error: str = ""
    given_up: bool = False

    @property
    def is_answered(self) -> bool:
        """Whether the request got what it asked for."""
        return 200 <= self.status < 300 and not self.error


class Recording:
    """All requests of a run, in the order in which they ended."""

    def __init__(self) -> None:
        self.labels: list[Label] = []
        self.examples: dict[Label, str] = {}
        self.late_s = array("d")
        self._codes: dict[Label, int] = {}
        self._due_s = array("d")
        self._latency_s = array("d")
        self._label = array("H")

    def __len__(self) -> int:
        return len(self._due_s)

    def add(self, due_s: float, latency_s: float, label: Label, example: str = "") -> None:
        """One request: when it was due after the start, how long its client waited since then, how it ended."""
        code = self._codes.get(label)
        if code is None:
            if len(self.labels) >= MAXIMUM_LABELS:
                raise RuntimeError(f"the server's answers differ in more than {MAXIMUM_LABELS} ways: last {label}")
            code = self._codes[label] = len(self.labels)
            self.labels.append(label)
            if example:
                self.examples[label] = example[:MAXIMUM_EXAMPLE_CHARACTERS]
        self._due_s.append(due_s)
        self._latency_s.append(latency_s)
        self._label.append(code)

    def late(self, seconds: float) -> None:
        """The generator looked at its schedule this much after a request was due."""
        self.late_s.append(seconds)

    @property
    def due_s(self) -> NDArray[np.float64]:
        """Seconds after the start, of each request."""
        return np.array(self._due_s, dtype=np.float64)

    @property
    def latency_s(self) -> NDArray[np.float64]:
        """Seconds from when a request was due until its end, of each request."""
        return np.array(self._latency_s, dtype=np.float64)

    @property
    def label(self) -> NDArray[np.int64]:
        """The position in `labels`, of each request."""
        return np.array(self._label, dtype=np.int64)

    def newest_latency_s(self, count: int) -> NDArray[np.float64]:
        """The last latencies, for a progress line."""
        return np.array(self._latency_s[-count:], dtype=np.float64)
