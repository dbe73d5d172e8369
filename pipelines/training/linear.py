"""The trainer `logistic_regression`: a scikit-learn `Pipeline`, written out as ONNX with all its preprocessing inside.

A missing number becomes the mean of the training rows, and columns with missing values there add an indicator each.
Numbers are scaled to standard deviations and clipped, so that no single value, however far outside, decides alone.
Codes are one-hot, with a place of their own for missing; a code that no word has adds nothing. A constant column, or
one without any value, becomes zeros: it trains, and weighs nothing.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.input_schema import InputSchema
from pipelines.training.graph import GraphWriter, categorical_columns
from pipelines.training.plan import LogisticRegression
from pipelines.training.rows import OnStep, Rows

CLIP = 10.0  # standard deviations
_MISSING = -1.0  # the code of a missing word; vocabularies count from 0
_TOLERANCE = 1e-6


class FittedLogistic:
    """A fitted pipeline: its own log odds, and the same as nodes of a graph."""

    curve: list[dict[str, float]]

    def __init__(self, pipeline: Any, schema: InputSchema, shift: float) -> None:
        self._pipeline = pipeline
        self._schema = schema
        self._shift = shift
        self.curve = []  # nothing stops it but its own convergence

    @property
    def steps(self) -> int:
        """How many iterations the solver took."""
        return int(self._pipeline["model"].n_iter_[0])

    def log_odds(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """The log odds of label 1, shape (rows,)."""
        return np.asarray(self._pipeline.decision_function(features.astype(np.float64)), np.float64) - self._shift

    def write(self) -> tuple[GraphWriter, str]:
        """A graph that ends in the log odds (rows × 1), and the name of that tensor."""
        graph, columns = GraphWriter(len(self._schema.columns)), self._pipeline["columns"]
        numbers, codes = categorical_columns(self._schema)
        weights = self._pipeline["model"].coef_[0]
        of_part = {name: weights[place] for name, place in columns.output_indices_.items()}
        parts = []
        if numbers:
            parts += _write_numbers(graph, numbers, columns.named_transformers_, of_part)
        if codes:
            sizes = [self._schema.categorical[position] for position in codes]
            parts.append(_write_words(graph, codes, sizes, of_part["words"]))
        total = parts[0]
        for part in parts[1:]:
            total = graph.node("Add", total, part)
        intercept = float(self._pipeline["model"].intercept_[0]) - self._shift
        return graph, graph.node("Add", total, graph.constant(intercept))


def fit(
    parameters: LogisticRegression,
    seed: int,  # there is no randomness in it
    schema: InputSchema,
    rows: Rows,
    until: Rows | int,
    progress: Callable[[str], None],
    on_step: OnStep | None,  # it is done before there is a step to tell of
) -> FittedLogistic:
    """Fits on `rows` until the solver has converged, whatever `until` says: there is no early stopping in it.

    With `balanced` both classes weigh the same; what that adds to the log odds of every row, log(rows of label 0 / rows
    of label 1), is taken out again, so that scores stay probabilities (King and Zeng, "Logistic Regression in Rare
    Events Data", 2001, equation 7).
    """
    from sklearn.linear_model import LogisticRegression as Model
    from sklearn.pipeline import Pipeline

    model = Model(
        C=parameters.c,
        class_weight="balanced" if parameters.balanced else None,
        max_iter=parameters.maximum_iterations,
        tol=_TOLERANCE,
    )
    pipeline = Pipeline([("columns", _columns(schema)), ("model", model)])
    progress(f"logistic regression: {len(schema.columns)} columns on {len(rows.labels):,} rows")
    pipeline.fit(rows.features.astype(np.float64), rows.labels)
    share = float(rows.labels.mean())
    fitted = FittedLogistic(pipeline, schema, float(np.log((1 - share) / share)) if parameters.balanced else 0.0)
    if fitted.steps >= parameters.maximum_iterations:
        progress(
            f"logistic regression: not converged after {fitted.steps} iterations: raise maximum_iterations, or lower c"
        )
    if isinstance(until, Rows):
        odds = fitted.log_odds(until.features)
        loss = float(np.logaddexp(0, np.where(until.labels == 1, -odds, odds)).mean())
        progress(f"logistic regression: {fitted.steps} iterations, log loss {loss:.4f} on {len(until.labels):,} rows")
    return fitted


def _columns(schema: InputSchema) -> Any:
    """Imputation, indicators, scaling and one-hot codes, each on its own columns."""
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import MissingIndicator, SimpleImputer
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

    numbers, codes = categorical_columns(schema)
    parts: list[tuple[str, Any, list[int]]] = []
    if numbers:
        scaling = [
            ("imputed", SimpleImputer(strategy="mean", keep_empty_features=True)),
            ("scaled", StandardScaler()),
            ("clipped", FunctionTransformer(np.clip, kw_args={"a_min": -CLIP, "a_max": CLIP})),
        ]
        parts += [
            ("numbers", Pipeline(scaling), numbers),
            ("missing", MissingIndicator(features="missing-only", error_on_new=False), numbers),
        ]
    if codes:
        places = [[_MISSING, *map(float, range(schema.categorical[position]))] for position in codes]
        words = [
            ("imputed", SimpleImputer(strategy="constant", fill_value=_MISSING, keep_empty_features=True)),
            ("one_hot", OneHotEncoder(categories=places, handle_unknown="ignore")),
        ]
        parts.append(("words", Pipeline(words), codes))
    return ColumnTransformer(parts, sparse_threshold=1.0)  # always sparse where there are words, whatever the rows


def _write_numbers(
    graph: GraphWriter, numbers: list[int], fitted: Any, weights: dict[str, NDArray[np.float64]]
) -> list[str]:
    imputed, scaled = fitted["numbers"]["imputed"].statistics_, fitted["numbers"]["scaled"]
    values = graph.columns(numbers)
    missing = graph.node("IsNaN", values)
    # a mean that float32 cannot hold is taken off in two parts: else a column of years would lose its digits
    coarse = scaled.mean_.astype(np.float32)
    fine = (scaled.mean_ - coarse).astype(np.float32)
    known = graph.node("Where", missing, graph.constant(imputed), values)
    centred = graph.node("Sub", graph.node("Sub", known, graph.constant(coarse)), graph.constant(fine))
    clipped = graph.node(
        "Clip", graph.node("Div", centred, graph.constant(scaled.scale_)), graph.constant(-CLIP), graph.constant(CLIP)
    )
    parts = [graph.node("MatMul", clipped, graph.constant(weights["numbers"][:, None]))]
    with_missing = fitted["missing"].features_.tolist()
    if with_missing:
        marks = graph.node("Cast", missing, to=1)  # 1 is FLOAT
        chosen = graph.node("Gather", marks, graph.constant(with_missing, np.int64), axis=1)
        parts.append(graph.node("MatMul", chosen, graph.constant(weights["missing"][:, None])))
    return parts


def _write_words(graph: GraphWriter, codes: list[int], sizes: list[int], weights: NDArray[np.float64]) -> str:
    """One-hot times weights is a look-up: of each vocabulary the weight of missing, of its words, and 0 for no word."""
    table: list[float] = []
    starts = []
    for size in sizes:
        starts.append(len(table))
        place = len(table) - (len(starts) - 1)  # among the weights, which have none for "no word"
        table += [*weights[place : place + size + 1].tolist(), 0.0]
    values = graph.columns(codes)
    known = graph.node("Where", graph.node("IsNaN", values), graph.constant(_MISSING), values)
    bounded = graph.node("Min", known, graph.constant(np.array(sizes)))
    rows = graph.node("Add", graph.node("Cast", bounded, to=7), graph.constant(np.array(starts) + 1, np.int64))  # INT64
    return graph.node("ReduceSum", graph.node("Gather", graph.constant(table), rows), graph.constant([1], np.int64))
