"""How well the reference and now can be told apart: a classifier of which of the two a row is from. Pure.

It sees all columns and the score at once, so also changes of how they go together, which no column shows by itself
(Lopez-Paz and Oquab, "Revisiting classifier two-sample tests", 2017). Its AUC is that on days which it was not fitted
on: rows of one day share its weather, and a classifier that has seen a day knows it again. An AUC of 0.5 says that
nothing tells the two apart. It is shown with its interval, and starts nothing by itself.
"""

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipelines.monitoring.day_summaries import Days
from pipelines.statistics.classification import auc

SCORE = "score"
_FOLDS = 3
_ROWS = 2000  # of each side
_TREES = 30
_FEWEST_DAYS = 2
_RESAMPLES = 100
_NAMED = 5
_SMALLEST_LOSS = 0.005


class Relation(msgspec.Struct, frozen=True, kw_only=True):
    """The AUC with its 95 % interval over days, and what it loses without each of the columns that tell most.

    `low` and `high` are None where a side has fewer than two days.
    """

    auc: float
    low: float | None
    high: float | None
    rows: int
    columns: dict[str, float]

    def __str__(self) -> str:
        interval = "no interval" if self.low is None else f"95 % {self.low:.3f} … {self.high:.3f}"
        told = ", ".join(self.columns) or "no column"
        return f"AUC {self.auc:.3f} ({interval}, n = {self.rows:,}), by {told}"


def tell_apart(
    reference: Days, live: Days, columns: Sequence[str], categorical: Sequence[int], ignored: frozenset[str]
) -> Relation | None:
    """Compares the samples of both sides, without the `ignored` columns; None where a side has no sample.

    Args:
        columns: the names of the encoded columns; the score is one more.
        categorical: the positions of those that hold codes.
    """
    kept = [place for place, name in enumerate(columns) if name not in ignored]
    places = [*kept, len(columns)]
    before, after = _thinned(reference), _thinned(live)
    if len(before) < _FOLDS or len(after) < _FOLDS:
        return None
    rows = np.concatenate([reference.sample[before], live.sample[after]])[:, places]
    labels = np.repeat([0, 1], [len(before), len(after)])
    days = np.concatenate([reference.sample_places[before], len(reference) + live.sample_places[after]])
    codes = [number for number, place in enumerate(places) if place in categorical]
    names = [*(columns[place] for place in kept), SCORE]
    scores, lost = _classify(rows, labels, _folds(days, labels), codes)
    low, high = _interval(labels, scores, days)
    most = [place for place in np.argsort(-lost)[:_NAMED].tolist() if lost[place] > _SMALLEST_LOSS]
    return Relation(
        auc=_auc(labels, scores),
        low=low,
        high=high,
        rows=len(rows),
        columns={names[place]: round(float(lost[place]), 4) for place in most},
    )


def _classify(
    rows: NDArray[np.float32], labels: NDArray[np.int64], folds: NDArray[np.int64], codes: Sequence[int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The score of each row by a model that has not seen its fold, and what the AUC loses without each column.

    In one thread: those that wait for each other cost ten times the processor time on so few rows.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    scores, lost = np.zeros(len(rows)), np.zeros(rows.shape[1])
    random = np.random.default_rng(0)
    with threadpool_limits(1):  # of libraries that are loaded by now, and of no others
        for fold in range(_FOLDS):
            held = folds == fold
            model = HistGradientBoostingClassifier(
                max_iter=_TREES,
                learning_rate=0.2,
                max_leaf_nodes=8,
                categorical_features=list(codes) or None,
                random_state=0,
            ).fit(rows[~held], labels[~held])
            scores[held] = model.predict_proba(rows[held])[:, 1]
            found = _auc(labels[held], scores[held])
            for place in range(rows.shape[1]):
                shuffled = rows[held].copy()
                shuffled[:, place] = random.permutation(shuffled[:, place])
                lost[place] += (found - _auc(labels[held], model.predict_proba(shuffled)[:, 1])) / _FOLDS
    return scores, lost


def _auc(labels: NDArray[np.int64], scores: NDArray[np.float64]) -> float:
    found = auc(labels.astype(np.float64), scores)
    return 0.5 if found is None else found


def _thinned(side: Days) -> NDArray[np.int64]:
    """Positions of the sampled rows with the smallest keys: at most `_ROWS` of them."""
    order = np.argsort(side.sample_keys, kind="stable")[:_ROWS]
    return np.sort(order)


def _folds(days: NDArray[np.int64], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Whole days where both sides have as many days as folds; rows in turn of a side that has not."""
    folds = np.zeros(len(days), dtype=np.int64)
    for side in (0, 1):
        mine = labels == side
        own = np.unique(days[mine])
        if len(own) >= _FOLDS:
            folds[mine] = np.searchsorted(own, days[mine]) % _FOLDS
        else:
            folds[mine] = np.arange(int(mine.sum())) % _FOLDS
    return folds


def _interval(
    labels: NDArray[np.int64], scores: NDArray[np.float64], days: NDArray[np.int64]
) -> tuple[float | None, float | None]:
    """By a bootstrap of the days of both sides."""
    sides = [np.unique(days[labels == side]) for side in (0, 1)]
    if min(len(side) for side in sides) < _FEWEST_DAYS:
        return None, None
    rows = {day: np.flatnonzero(days == day) for side in sides for day in side.tolist()}
    random = np.random.default_rng(0)
    found = []
    for _ in range(_RESAMPLES):
        drawn = np.concatenate([rows[day] for side in sides for day in random.choice(side, len(side)).tolist()])
        found.append(_auc(labels[drawn], scores[drawn]))
    low, high = np.quantile(found, [0.025, 0.975]).tolist()
    return low, high
