"""Flights of a made-up airline: a known influence of each field, on forty days, with what a test wants to plant."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from contracts.input_schema import Field, InputSchema


class Events(NamedTuple):
    features: NDArray[np.float32]
    labels: NDArray[np.float64]
    days: NDArray[np.int64]

    def between(self, first: int, last: int) -> "Events":
        """The rows of the days from `first` up to and without `last`."""
        chosen = (self.days >= first) & (self.days < last)
        return Events(self.features[chosen], self.labels[chosen], self.days[chosen])


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """As where a challenger is judged: threads that wait for each other's turn on a busy machine only spin."""
    import sklearn.ensemble  # noqa: F401 (limits reach only libraries that are loaded)
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1):
        yield


@pytest.fixture(scope="session")
def schema() -> InputSchema:
    return InputSchema(
        version=1,
        entity="plane",
        time="at",
        key=("plane", "at"),
        fields=(
            Field(name="plane", kind="identifier"),
            Field(name="at", kind="timestamp", parts=("minute_of_day",)),
            Field(name="carrier", kind="category", vocabulary=("UA", "AA", "DL")),
            Field(name="wind", kind="number", required=False, minimum=0, maximum=200),
            Field(name="seats", kind="number", minimum=1, maximum=900),
            Field(name="origin", kind="category", vocabulary=("EWR", "JFK"), unseen="reject"),
        ),
    )


@pytest.fixture(scope="session")
def events() -> Callable[..., Events]:
    def make(rows: int, seed: int = 0) -> Events:
        random = np.random.default_rng(seed)
        minute = random.integers(300, 1400, rows)
        carrier = random.integers(0, 3, rows)
        wind = random.gamma(2.0, 6.0, rows)
        seats = random.normal(150, 40, rows).clip(1)
        origin = random.integers(0, 2, rows)
        log_odds = (minute - 900) / 300 + 0.08 * (wind - 12) + np.array([0.0, 1.2, -0.8])[carrier] - 1
        labels = (random.random(rows) < 1 / (1 + np.exp(-log_odds))).astype(np.float64)
        wind[random.random(rows) < 0.1] = np.nan
        features = np.stack([minute, carrier, wind, seats, origin], axis=1).astype(np.float32)
        return Events(features, labels, np.sort(random.integers(15_000, 15_040, rows)))

    return make
