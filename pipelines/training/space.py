"""What a search may try: how many trials, for how long, and the ranges of each trainer's parameters."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec

Number = int | float


class Dimension(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The values that a search may give one parameter: from `low` to `high`, both included, or one of `choices`.

    `log` searches orders of magnitude evenly; `step` is the distance of neighbouring values, counted from `low`.
    """

    low: Number | None = None
    high: Number | None = None
    log: bool = False
    step: Number | None = None
    choices: tuple[Any, ...] = ()

    def ends(self) -> Iterator[tuple[str, Any]]:
        """The values that bound the others, or all choices, each with the key that it stands under."""
        if self.choices:
            yield from ((f"choices[{position}]", choice) for position, choice in enumerate(self.choices))
        else:
            yield from (("low", self.low), ("high", self.high))


class Search(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A search for parameters: `trials` in all, the plan's own first, and at most `minutes` of training in all of them.

    `space` has the parameters of each trainer that vary, others keep their defaults; trainers take turns. `parallel`
    trials run at once. `sampler` chooses parameters: `tpe` by what was good so far (a tree-structured Parzen
    estimator), `random` without looking. `pruner` gives a trial up that lags behind: `median` when it is worse than the
    median of the trials before after as many steps, `hyperband` when it is not among the best third at one of several
    rungs.

    Raises:
        ValueError: the values contradict each other; the message begins with the key.
    """

    trials: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 20
    minutes: Annotated[float, msgspec.Meta(gt=0, le=10_000)] = 60
    parallel: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    sampler: Literal["tpe", "random"] = "tpe"
    pruner: Literal["median", "hyperband", "none"] = "median"
    space: dict[str, dict[str, Dimension]]

    def __post_init__(self) -> None:
        if not self.space or not all(self.space.values()):
            raise ValueError("space: expected at least one trainer, each with a parameter that varies")
        for trainer, dimensions in self.space.items():
            for name, dimension in dimensions.items():
                if problem := _problem(dimension):
                    raise ValueError(f"space.{trainer}.{name}: {problem}")


def _problem(dimension: Dimension) -> str | None:
    low, high, step = dimension.low, dimension.high, dimension.step
    if dimension.choices:
        if (low, high, step, dimension.log) != (None, None, None, False):
            return "found choices beside a range, expected either"
        return "found one choice, expected at least two" if len(dimension.choices) == 1 else None
    if low is None or high is None:
        return "expected low and high, or choices"
    if not low < high:
        return f"found low {low:g} and high {high:g}, expected low below high"
    if dimension.log and (low <= 0 or step is not None):
        return f"found log with low {low:g} and step {step}, expected a low above 0 and no step"
    if step is not None and not 0 < step <= high - low:
        return f"found the step {step:g}, expected one above 0 that fits between low and high"
    return None
