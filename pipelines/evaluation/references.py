"""What every challenger is measured against on the same test rows: a constant, a simple model, the champion.

A number such as "AUC 0.71" says little alone. The constant is the base rate of the rows that the model was fitted on:
who is not better than it beyond doubt has learned nothing. The simple model is a logistic regression on the same
encoded rows: who is no better than it costs more than it gives, and the report says so. Differences are paired, with
the intervals of a bootstrap over days.
"""

from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from contracts.input_schema import InputSchema
from pipelines.evaluation.comparison import Difference
from pipelines.evaluation.gate import Gate
from pipelines.statistics import classification
from pipelines.statistics.bootstrap import Blocks, paired_difference

Floats = NDArray[np.float64]
Name = Literal["constant", "champion", "simple model"]

SIMPLE_ROWS = 20_000  # evenly spread over time; more changed the log loss on flights by less than 0.001
RESAMPLES = 500
_RARE_WORD_ROWS = 20  # words of fewer rows share one column: a coefficient each would be noise
_NUMBER_LIMIT = 10.0  # standard deviations; one extreme value must not make the simple model absurd


class ReferenceLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a challenger must stand to its references.

    It must rank the test rows better than a constant beyond doubt (the 95 % interval of its AUC lies above 0.5), and
    have the lower log loss; the log loss alone is no measure of doubt here, because the label's share in one stormy
    week moves it more than any model does. It may not be shown to be worse than the simple model: the 95 % interval of
    the difference of log loss may not lie above `simple_model_margin`. Whether it is better, the report says.
    """

    simple_model_margin: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= self.simple_model_margin <= 1:
            raise ValueError(f"simple_model_margin: found {self.simple_model_margin}, expected a number from 0 to 1")


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """One reference on the test rows: its metrics, and how the challenger differs (challenger minus reference)."""

    name: Name
    metrics: dict[str, float]
    differences: dict[str, Difference]


class References(msgspec.Struct, frozen=True, kw_only=True):
    """All references; `rows` and `days` of the test window, the challenger's own metrics on it."""

    rows: int
    days: int
    challenger: dict[str, float]
    references: tuple[Reference, ...]

    def named(self, name: Name) -> Reference:
        """The reference called `name`.

        Raises:
            LookupError: there is none, such as no champion.
        """
        for reference in self.references:
            if reference.name == name:
                return reference
        raise LookupError(f"no reference {name!r}; there are {', '.join(each.name for each in self.references)}")


def compare_with_references(
    scores: NDArray[Any],
    references: dict[Name, NDArray[Any]],
    labels: NDArray[Any],
    days: NDArray[Any],
    seed: int,
    resamples: int = RESAMPLES,
) -> References:
    """The challenger's `scores` beside those of each reference, for the same rows; all of shape (rows,).

    Raises:
        ValueError: shapes differ, one class only, or fewer than two days.
    """
    happened = np.asarray(labels, dtype=np.float64)
    blocks = Blocks(np.asarray(days, dtype=np.int64), resamples=resamples, seed=seed)
    challenger = np.asarray(scores, dtype=np.float64)
    return References(
        rows=len(happened),
        days=blocks.count,
        challenger=_metrics(happened, challenger),
        references=tuple(
            _reference(name, challenger, np.asarray(other, dtype=np.float64), happened, blocks)
            for name, other in references.items()
        ),
    )


def reference_gates(found: References, limits: ReferenceLimits) -> tuple[Gate, ...]:
    """Better than the constant beyond doubt; not shown to be worse than the simple model, and whether it is better."""
    constant, simple = found.named("constant"), found.named("simple model")
    ranks, gained = constant.differences["auc"], constant.differences["log_loss"]
    beats = ranks.low > 0 and gained.estimate < 0
    difference = simple.differences["log_loss"]
    holds = difference.low <= limits.simple_model_margin
    return (
        Gate(
            name="better than a constant",
            passed=beats,
            reason=f"AUC {found.challenger['auc']:.4f} (95 % {0.5 + ranks.low:.4f} … {0.5 + ranks.high:.4f}), lower "
            f"bound {'>' if ranks.low > 0 else '<='} 0.5; {_both(found, constant)}",
        ),
        Gate(
            name="against the simple model",
            passed=holds,
            reason=f"{_both(found, simple)}, lower bound {'<=' if holds else '>'} margin "
            f"{limits.simple_model_margin:+g}; {simple_model_verdict(found)}",
        ),
    )


def simple_model_verdict(found: References) -> str:
    """In words: whether the challenger is worth more than a logistic regression."""
    difference = found.named("simple model").differences["log_loss"]
    if difference.high < 0:
        return "better than a logistic regression"
    if difference.low > 0:
        return "worse than a logistic regression, which would serve better"
    return "no better than a logistic regression, as far as these rows tell"


def constant_scores(fit_labels: NDArray[Any], rows: int) -> Floats:
    """The base rate of the fitted rows, for each of `rows` rows."""
    return np.full(rows, float(np.mean(fit_labels)))


def simple_model_scores(
    schema: InputSchema, features: NDArray[np.float32], labels: NDArray[Any], test: NDArray[np.float32]
) -> Floats:
    """The scores for `test` of a logistic regression on `features` and `labels`, all encoded by `schema`.

    Numbers are scaled, with the median where they are missing and a column that says so; words are one column each.
    At most `SIMPLE_ROWS` rows are taken, evenly spread over time. Nothing in it is random.

    Raises:
        ValueError: one class only.
    """
    import warnings

    from sklearn.compose import ColumnTransformer
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

    chosen = np.unique(np.linspace(0, len(labels) - 1, min(SIMPLE_ROWS, len(labels))).astype(int))
    numbers = [position for position in range(len(schema.columns)) if position not in schema.categorical]
    prepare = ColumnTransformer(
        [
            (
                "numbers",
                make_pipeline(
                    SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True),
                    StandardScaler(),
                    FunctionTransformer(np.clip, kw_args={"a_min": -_NUMBER_LIMIT, "a_max": _NUMBER_LIMIT}),
                ),
                numbers,
            ),
            (
                "words",
                OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=_RARE_WORD_ROWS),
                list(schema.categorical),
            ),
        ]
    )
    model = make_pipeline(prepare, LogisticRegression(max_iter=200))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a reference: the last digit of its loss does not matter
        model.fit(features[chosen].astype(np.float64), np.asarray(labels)[chosen])
    return np.asarray(model.predict_proba(test.astype(np.float64))[:, 1], dtype=np.float64)


def _reference(name: Name, challenger: Floats, other: Floats, happened: Floats, blocks: Blocks) -> Reference:
    differences = {
        "log_loss": paired_difference(
            blocks, lambda drawn, given: drawn.mean(classification.log_losses(happened, given)), challenger, other
        ),
        "brier": paired_difference(blocks, lambda drawn, given: drawn.mean((given - happened) ** 2), challenger, other),
        "auc": paired_difference(blocks, lambda drawn, given: drawn.auc(happened, given), challenger, other),
    }
    return Reference(
        name=name,
        metrics=_metrics(happened, other),
        differences={metric: Difference(**found._asdict()) for metric, found in differences.items()},
    )


def _metrics(happened: Floats, given: Floats) -> dict[str, float]:
    area = classification.auc(happened, given)
    if area is None:
        raise ValueError(f"all {len(happened)} rows have the label {happened[0]:g}: take a longer test window")
    return {
        "log_loss": classification.log_loss(happened, given),
        "brier": classification.brier(happened, given),
        "auc": area,
    }


def _both(found: References, reference: Reference) -> str:
    difference = reference.differences["log_loss"]
    return (
        f"log loss {found.challenger['log_loss']:.4f} vs {reference.metrics['log_loss']:.4f} "
        f"of the {reference.name}: difference {difference.estimate:+.4f} "
        f"(95 % {difference.low:+.4f} … {difference.high:+.4f}, {found.days} days)"
    )
