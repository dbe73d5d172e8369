"""What a challenger can be made to do wrong, for demonstrations and tests: parts of `POST /control/fault`.

A fault stands in the graph's place, so whatever holds against it holds against a graph that does the same. It ends when
the challenger leaves its slot, also by promotion.
"""

import msgspec

MAXIMUM_SLOW_MS = 60_000.0
MAXIMUM_LEAK_MB = 8_192.0


class _Kind(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind"):
    pass


class NanScores(_Kind, tag="nan", frozen=True):
    """Every score is NaN."""


class ConstantScore(_Kind, tag="constant", frozen=True):
    """Every score is `score`."""

    score: float = 0.5


class ShiftedScores(_Kind, tag="shifted", frozen=True):
    """Every score is higher by `by`, and stays within [0, 1]."""

    by: float = 0.2


class SwappedScores(_Kind, tag="swapped", frozen=True):
    """Every score is 1 minus what it should be, as of a model with its labels swapped."""


class WrongShape(_Kind, tag="wrong_shape", frozen=True):
    """Two scores for each row."""


class SlowRuns(_Kind, tag="slow", frozen=True):
    """Each run takes `ms` longer, and `more_each_minute_ms` more with each minute since it began, bit by bit."""

    ms: float = 0.0
    more_each_minute_ms: float = 0.0

    def __post_init__(self) -> None:
        for name in ("ms", "more_each_minute_ms"):
            if not 0 <= getattr(self, name) <= MAXIMUM_SLOW_MS:
                raise ValueError(f"{name} is {getattr(self, name):g}, expected 0 to {MAXIMUM_SLOW_MS:g}")


class LeakingMemory(_Kind, tag="leak", frozen=True):
    """Each run keeps `mb_each_run` of memory, up to `maximum_mb` together."""

    mb_each_run: float = 1.0
    maximum_mb: float = 1_024.0

    def __post_init__(self) -> None:
        if not 0 < self.mb_each_run <= self.maximum_mb <= MAXIMUM_LEAK_MB:
            raise ValueError(
                f"expected 0 < mb_each_run <= maximum_mb <= {MAXIMUM_LEAK_MB:g}, "
                f"found mb_each_run {self.mb_each_run:g} and maximum_mb {self.maximum_mb:g}"
            )


class CrashingProcess(_Kind, tag="crash", frozen=True):
    """After `after_runs` runs the next one ends the process, as a bad memory access does."""

    after_runs: int = 0


class WrongFor(_Kind, tag="wrong_for", frozen=True):
    """The score is 1 minus what it should be where the record's `field` is `value`: one carrier, say."""

    field: str
    value: str | float | bool


Fault = (
    NanScores
    | ConstantScore
    | ShiftedScores
    | SwappedScores
    | WrongShape
    | SlowRuns
    | LeakingMemory
    | CrashingProcess
    | WrongFor
)
