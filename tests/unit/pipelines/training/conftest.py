from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from contracts.input_schema import Field, InputSchema


class Events(NamedTuple):
    features: NDArray[np.float32]
    labels: NDArray[np.float64]


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
            Field(name="wind", kind="number", required=False),
            Field(name="origin", kind="category", vocabulary=("EWR", "JFK")),
        ),
    )


@pytest.fixture(scope="session")
def events() -> Callable[..., Events]:
    """Late flights: more in the evening, in wind, and with one carrier; wind and carrier are missing at times."""

    def make(rows: int, seed: int) -> Events:
        random = np.random.default_rng(seed)
        minute = random.integers(300, 1400, rows)
        carrier = random.integers(0, 3, rows).astype(float)
        wind = random.gamma(2.0, 6.0, rows)
        origin = random.integers(0, 2, rows)
        log_odds = (minute - 900) / 300 + 0.08 * (wind - 12) + np.array([0.0, 1.2, -0.8])[carrier.astype(int)] - 1
        labels = (random.random(rows) < 1 / (1 + np.exp(-log_odds))).astype(np.float64)
        wind[random.random(rows) < 0.1] = np.nan
        carrier[random.random(rows) < 0.02] = np.nan
        return Events(np.stack([minute, carrier, wind, origin], axis=1).astype(np.float32), labels)

    return make
