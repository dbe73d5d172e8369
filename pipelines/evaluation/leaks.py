"""Signs in the data that a model knows more than it will when it serves: measured here, judged in `sanity`.

The ways of a leak that a model's own quality cannot show, because leaks make it better: see Kaufman et al., "Leakage in
Data Mining", ACM TKDD 6(4), 2012, and Kapoor and Narayanan, "Leakage and the reproducibility crisis in
machine-learning-based science", Patterns 4(9), 2023, whose kinds these checks follow.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from contracts.input_schema import InputSchema
from pipelines.statistics import classification
from pipelines.statistics.bootstrap import Blocks, interval

Features = NDArray[np.float32]
Floats = NDArray[np.float64]
Scorer = Callable[[Features], Floats]
Fit = Callable[[Features, Floats, int], Scorer]  # features, labels and a seed give what scores other rows

ALONE_ROWS = 50_000
NUMBER_BINS = 256
SHUFFLES = 20
SHUFFLE_ROWS = 5_000
SHUFFLE_LEVEL = 0.999  # of the interval: at 95 % one retrain in twenty would fail for nothing
EXAMPLES = 3
_PRIOR_ROWS = 5.0  # a value seen once says almost nothing about its rate


class FeatureAlone(msgspec.Struct, frozen=True, kw_only=True):
    """How well one encoded column ranks the train rows by itself, whatever the shape of its influence."""

    column: str
    auc: float


class MissingTells(msgspec.Struct, frozen=True, kw_only=True):
    """How many times the odds of the label are where `field` is missing, with the 95 % interval over days."""

    field: str
    rows: int
    share: float
    odds_ratio: float
    low: float
    high: float


class Duplicates(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of `part` that an earlier part has too.

    `same_key` have the key of an earlier row; `same_row` are equal to one in all fields but the time, and in the label.
    `natural_share` is how many such rows consecutive train rows have, as they will where fields have few values;
    `excess` is the share above it, `excess_low` its lower 95 % bound. `examples` are positions within the part.
    """

    part: str
    rows: int
    same_key: int
    same_row: int
    natural_share: float
    excess: float
    excess_low: float
    examples: tuple[int, ...]


class ShuffledTarget(msgspec.Struct, frozen=True, kw_only=True):
    """The mean test AUC of quick models that were fitted on shuffled labels, with its interval over the shuffles.

    `auc_with_labels` is that of the same quick model with the true labels: what the check could have seen.
    """

    shuffles: int
    rows: int
    auc: float
    low: float
    high: float
    auc_with_labels: float


class PartSpan(msgspec.Struct, frozen=True, kw_only=True):
    """The rows of one part: from which day to which (days since 1970), and the share of the label."""

    part: str
    rows: int
    first_day: int
    last_day: int
    label_share: float


def part_span(part: str, labels: NDArray[Any], days: NDArray[np.int64]) -> PartSpan:
    """The span of one part.

    Raises:
        ValueError: it has no rows.
    """
    if not len(days):
        raise ValueError(f"{part}: found no rows: take a longer window")
    return PartSpan(
        part=part,
        rows=len(days),
        first_day=int(days.min()),
        last_day=int(days.max()),
        label_share=float(np.mean(labels)),
    )


def spread(rows: int, most: int) -> NDArray[np.int64]:
    """At most `most` positions among `rows`, evenly spread, so over time where rows are in time order."""
    return np.unique(np.linspace(0, rows - 1, min(most, rows)).astype(np.int64))


def features_alone(
    schema: InputSchema, features: Features, labels: Floats, days: NDArray[np.int64]
) -> tuple[FeatureAlone, ...]:
    """Each column's AUC alone on (at most `ALONE_ROWS` of) these rows, the best first.

    A column's values become at most 256 groups of equal mass (words are groups of their own, and so is missing), and
    each row gets the rate of its group on the other half of the days. So neither the shape of the influence nor the
    number of words matters, and rates do not rest on the row itself. What is hidden in the last digits of a number
    with thousands of values is not found.
    """
    chosen = spread(len(labels), ALONE_ROWS)
    rows, happened = features[chosen], labels[chosen]
    half = _halves(days[chosen])
    found = []
    for position, column in enumerate(schema.columns):
        groups = _groups(rows[:, position].astype(np.float64), position in schema.categorical)
        area = classification.auc(happened, _rates_of_the_other_half(groups, happened, half))
        found.append(FeatureAlone(column=column, auc=0.5 if area is None else area))
    return tuple(sorted(found, key=lambda feature: (-feature.auc, feature.column)))


def missing_tells(
    schema: InputSchema,
    features: Features,
    labels: Floats,
    days: NDArray[np.int64],
    seed: int,
    minimum_rows: int = 30,
) -> tuple[MissingTells, ...]:
    """For each field that is missing in some rows: the odds ratio of the label, missing against present.

    Half a row is added to each of the four counts (Haldane, 1956; Anscombe, 1956), in the sample and in each resample
    of days: so a field that was missing on one stormy day only has a wide interval, and one whose absence is written
    together with the label has a narrow one. The most telling first.

    Raises:
        ValueError: fewer than two days.
    """
    blocks = Blocks(days, seed=seed)
    positive, everyone = blocks.sums(labels), blocks.sums(np.ones(len(labels)))
    found = []
    for field in schema.fields:
        if not field.columns:
            continue
        absent = np.isnan(features[:, schema.columns.index(field.columns[0])]).astype(np.float64)
        rows = int(absent.sum())
        if not minimum_rows <= rows <= len(labels) - minimum_rows:
            continue
        absent_positive, absent_rows = blocks.sums(absent * labels), blocks.sums(absent)
        logs = (
            np.log(absent_positive + 0.5)
            - np.log(absent_rows - absent_positive + 0.5)
            - np.log(positive - absent_positive + 0.5)
            + np.log(everyone - absent_rows - positive + absent_positive + 0.5)
        )
        ratio, low, high = (float(np.exp(value)) for value in interval(logs, blocks=blocks.count))
        share = rows / len(labels)
        found.append(MissingTells(field=field.name, rows=rows, share=share, odds_ratio=ratio, low=low, high=high))
    return tuple(sorted(found, key=lambda tells: (-abs(np.log(tells.odds_ratio)), tells.field)))


def duplicates(keys: Mapping[str, Sequence[bytes]], rows: Mapping[str, Sequence[bytes]]) -> tuple[Duplicates, ...]:
    """Validation against train, and test against both: what the model was fitted on and is judged by.

    `keys` and `rows` hold for each part one text of bytes for each row, in time order: its key, and all its fields but
    the time, with the label. Equal rows occur by nature (two loans of the same age, sum and purpose), so the share of
    the newest fifth of the train rows that the older four fifths have too is what is expected; the interval of the
    excess is that of a difference of two proportions.
    """
    cut = len(rows["train"]) * 4 // 5
    older, newer = rows["train"][:cut], rows["train"][cut:]
    natural = len(_among(newer, older)) / max(1, len(newer))
    found = []
    for part, earlier in (("validation", ("train",)), ("test", ("train", "validation"))):
        same_row = _among(rows[part], [row for name in earlier for row in rows[name]])
        same_key = _among(keys[part], [key for name in earlier for key in keys[name]])
        count = len(rows[part])
        share = len(same_row) / max(1, count)
        error = np.sqrt(share * (1 - share) / max(1, count) + natural * (1 - natural) / max(1, len(newer)))
        found.append(
            Duplicates(
                part=part,
                rows=count,
                same_key=len(same_key),
                same_row=len(same_row),
                natural_share=natural,
                excess=share - natural,
                excess_low=float(share - natural - 1.96 * error),
                examples=tuple((same_key or same_row)[:EXAMPLES]),
            )
        )
    return tuple(found)


def row_bytes(columns: Sequence[NDArray[Any]]) -> list[bytes]:
    """One text of bytes for each row of `columns`, each of shape (rows,) or (rows, width); equal rows, equal bytes."""
    rows = len(columns[0])
    parts = [np.ascontiguousarray(column).reshape(rows, -1) for column in columns]
    matrix = np.concatenate([part.view(np.uint8).reshape(rows, -1) for part in parts], axis=1)
    width, content = matrix.shape[1], matrix.tobytes()
    return [content[start : start + width] for start in range(0, rows * width, width)]


def shuffled_target(
    fit: Fit,
    train: tuple[Features, Floats],
    test: tuple[Features, Floats],
    seed: int,
    shuffles: int = SHUFFLES,
) -> ShuffledTarget:
    """The mean test AUC of models that `fit` makes of shuffled train labels, with Student's interval over shuffles.

    Labels are shuffled over all rows: within a day a shuffle would keep the day's share, which the day's weather
    predicts honestly. One shuffled model may lie off 0.5 by more than the test rows' own interval, because it is some
    direction through features that do go with the label; the mean of independent shuffles may not. At most
    `SHUFFLE_ROWS` rows of each part are taken, evenly spread.

    Raises:
        ValueError: the test rows have one class only.
    """
    from scipy.stats import t

    chosen, looked_at = spread(len(train[1]), SHUFFLE_ROWS), spread(len(test[1]), SHUFFLE_ROWS)
    features, labels = train[0][chosen], train[1][chosen]
    test_features, test_labels = test[0][looked_at], test[1][looked_at]
    generator = np.random.default_rng(seed)
    areas = [
        _area(test_labels, fit(features, generator.permutation(labels), seed + 1 + turn)(test_features))
        for turn in range(shuffles)
    ]
    mean = float(np.mean(areas))
    half = float(t.ppf((1 + SHUFFLE_LEVEL) / 2, shuffles - 1) * np.std(areas, ddof=1) / np.sqrt(shuffles))
    return ShuffledTarget(
        shuffles=shuffles,
        rows=len(labels),
        auc=mean,
        low=mean - half,
        high=mean + half,
        auc_with_labels=_area(test_labels, fit(features, labels, seed)(test_features)),
    )


def quick_trees(features: Features, labels: Floats, seed: int) -> Scorer:
    """A small gradient boosting: the stand-in for the project's trainer, which twenty shuffles would cost minutes."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    model = HistGradientBoostingClassifier(
        max_iter=10, learning_rate=0.2, max_leaf_nodes=8, min_samples_leaf=40, early_stopping=False, random_state=seed
    ).fit(features, labels)
    return lambda rows: np.asarray(model.predict_proba(rows)[:, 1], dtype=np.float64)


def _area(labels: Floats, scores: Floats) -> float:
    area = classification.auc(labels, scores)
    if area is None:
        raise ValueError(f"all {len(labels)} test rows have the label {labels[0]:g}: take a longer test window")
    return area


def _halves(days: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Every second day; every second row where there is one day only."""
    names, of_row = np.unique(days, return_inverse=True)
    odd: NDArray[np.bool_] = (of_row if len(names) > 1 else np.arange(len(days))) % 2 == 1
    return odd


def _groups(column: Floats, words: bool) -> NDArray[np.int64]:
    """The group of each value, from 0; missing is group 0."""
    absent = np.isnan(column)
    groups = np.zeros(len(column), dtype=np.int64)
    present = column[~absent]
    if words:
        groups[~absent] = present.astype(np.int64) + 1
    elif len(present):
        edges = np.unique(np.quantile(present, np.linspace(0, 1, NUMBER_BINS + 1)[1:-1], method="inverted_cdf"))
        groups[~absent] = np.searchsorted(edges, present, side="left") + 1
    return groups


def _rates_of_the_other_half(groups: NDArray[np.int64], labels: Floats, half: NDArray[np.bool_]) -> Floats:
    rates = np.empty(len(labels))
    size = int(groups.max()) + 1
    for mine in (half, ~half):
        others = ~mine if (~mine).any() else mine
        rows = np.bincount(groups[others], minlength=size)
        positive = np.bincount(groups[others], labels[others], minlength=size)
        rates[mine] = ((positive + _PRIOR_ROWS * labels[others].mean()) / (rows + _PRIOR_ROWS))[groups[mine]]
    return rates


def _among(rows: Sequence[bytes], earlier: Sequence[bytes]) -> list[int]:
    known = set(earlier)
    return [position for position, row in enumerate(rows) if row in known]
