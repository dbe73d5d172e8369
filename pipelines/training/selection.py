"""Which of the finished trials goes on: the best by validation log loss, or a simpler one that may well be as good.

The one-standard-error rule of Breiman, Friedman, Olshen and Stone, "Classification and Regression Trees", 1984, section
3.4.3: the simplest model within one standard error of the best. Two choices are ours:

- **The error is that of the difference, in pairs.** All trials are measured on the same days, and a stormy day costs
  all of them; the error of one trial's mean (0.03 to 0.04 on seven days of flights) is mostly that weather and would
  let nearly every trial pass, while the error of the difference is 0.001 to 0.01. Days are drawn, not rows.
- **Simplicity is an order**: a logistic regression before trees before a neural net before what was made elsewhere;
  among models of one kind the fewer bytes of the graph, the length of its description. Bytes alone do not compare
  kinds: a node of a tree takes more of them than a weight. Measured on flights (28 days of training at 8 dates over
  2013, five trials each; means of the two weeks after): the plain best has a log loss of 0.4985 and an AUC of 0.6870,
  this rule 0.4992 and 0.6870, bytes alone 0.5052 and 0.6820.
"""

from typing import Any, NamedTuple

import msgspec
import numpy as np

from pipelines.statistics.clustered_mean import clustered_mean
from pipelines.training.trainer import DailyLoss

SIMPLEST_FIRST = ("logistic_regression", "boosted_trees", "neural_net")  # any other comes after them


class Contender(msgspec.Struct, frozen=True, kw_only=True):
    """A finished trial as the choice sees it; `bytes` is the size of its graph."""

    name: str
    trainer: str
    log_loss: float
    bytes: int
    daily: tuple[DailyLoss, ...] = ()

    @property
    def complexity(self) -> tuple[int, int]:
        """Less is simpler: the place of the trainer's kind, then the bytes of the graph."""
        known = self.trainer in SIMPLEST_FIRST
        return SIMPLEST_FIRST.index(self.trainer) if known else len(SIMPLEST_FIRST), self.bytes


class Behind(NamedTuple):
    """How much worse than the best on the same rows, and the standard error of that; None where it is not known."""

    log_loss: float
    standard_error: float | None


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """The positions of the chosen and of the best contender, why, and how far each contender is behind the best."""

    chosen: int
    best: int
    reason: str
    behind: tuple[Behind, ...]


def choose(contenders: list[Contender]) -> Choice:
    """The simplest of the contenders within one standard error of the best one; of equals, the first.

    Raises:
        ValueError: none, or two that were measured on other days or rows.
    """
    if not contenders:
        raise ValueError("nothing to choose from: no trial finished")
    best = min(range(len(contenders)), key=lambda position: contenders[position].log_loss)
    behind = tuple(_behind(contender, contenders[best]) for contender in contenders)
    within = [
        position
        for position, (loss, error) in enumerate(behind)
        if position == best or (error is not None and loss <= error)
    ]
    chosen = min(within, key=lambda position: (contenders[position].complexity, behind[position].log_loss))
    return Choice(chosen=chosen, best=best, reason=_reason(contenders, behind, chosen, best), behind=behind)


def contender(trial: dict[str, Any], graph_bytes: int) -> Contender:
    """The contender of a finished trial's outcome."""
    return Contender(
        name=trial["name"],
        trainer=trial["trainer"],
        log_loss=float(trial["metrics"]["log_loss"]),
        bytes=graph_bytes,
        daily=msgspec.convert(trial["daily"], tuple[DailyLoss, ...]),
    )


def _behind(one: Contender, best: Contender) -> Behind:
    days, best_days = [(day.day, day.rows) for day in one.daily], [(day.day, day.rows) for day in best.daily]
    if days != best_days:
        raise ValueError(f"{one.name} and {best.name} were measured on other rows: train both on one snapshot")
    if not days:
        return Behind(one.log_loss - best.log_loss, None)
    more = np.array([day.log_loss for day in one.daily]) - np.array([day.log_loss for day in best.daily])
    return Behind(*clustered_mean(more, np.array([day.rows for day in one.daily])))


def _reason(contenders: list[Contender], behind: tuple[Behind, ...], chosen: int, best: int) -> str:
    first, winner = contenders[best], contenders[chosen]
    if len(contenders) == 1:
        return f"{first.name} is the only trial that finished (log loss {first.log_loss:.4f})"
    if chosen == best:
        known = any(error is not None for _, error in behind)
        rest = "none within one standard error is simpler" if known else "its days are too few for a standard error"
        return f"{first.name} has the least log loss, {first.log_loss:.4f}; {rest}"
    loss, error = behind[chosen]
    return (
        f"{winner.name} is simpler than {first.name} ({_size(winner)}, {_size(first)}) and its log loss is within one "
        f"standard error: {winner.log_loss:.4f} - {first.log_loss:.4f} = {loss:.4f} ≤ {error or 0:.4f}"
    )


def _size(contender: Contender) -> str:
    return f"{contender.trainer.replace('_', ' ')} of {contender.bytes:,} bytes"
