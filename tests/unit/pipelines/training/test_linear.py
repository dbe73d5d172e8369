from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression as Reference

from contracts.input_schema import Field, InputSchema
from pipelines.inference import score
from pipelines.training import linear
from pipelines.training.calibration import Calibration
from pipelines.training.graph import GraphWriter
from pipelines.training.plan import LogisticRegression
from pipelines.training.rows import Rows

IDENTITY = Calibration(1.0, 0.0)


def quiet(_message: str) -> None:
    return None


def fit(schema: InputSchema, rows: Rows, **parameters: Any) -> linear.FittedLogistic:
    return linear.fit(LogisticRegression(**parameters), 0, schema, rows, 1, quiet, None)


def as_logits(scores: Any) -> Any:
    scores = np.asarray(scores, dtype=np.float64)
    return np.log(scores / (1 - scores))


def one_number() -> InputSchema:
    fields = (
        Field(name="id", kind="identifier"),
        Field(name="at", kind="timestamp"),
        Field(name="year", kind="number", required=False),
    )
    return InputSchema(version=1, entity="id", time="at", key=("id",), fields=fields)


def test_on_scaled_numbers_it_is_scikit_learns_own(schema: InputSchema, events: Callable[..., Any]) -> None:
    made = events(2000, 1)
    features = np.nan_to_num(made.features[:, [2]], nan=5.0)
    scaled = (features - features.mean()) / features.std()
    reference = Reference(C=0.5, tol=1e-8).fit(scaled, made.labels)
    found = fit(one_number(), Rows(features, made.labels), c=0.5).log_odds(features)
    np.testing.assert_allclose(found, reference.decision_function(scaled), atol=1e-4)


def test_balanced_classes_leave_probabilities_where_they_are(schema: InputSchema, events: Callable[..., Any]) -> None:
    rows = Rows(*events(6000, 1))
    rare = np.flatnonzero((rows.labels == 0) | (np.arange(6000) % 5 == 0))
    rows = Rows(rows.features[rare], rows.labels[rare])
    plain, balanced = fit(schema, rows), fit(schema, rows, balanced=True)
    share = rows.labels.mean()
    assert share < 0.15
    for fitted in (plain, balanced):
        graph = GraphWriter.finish(*fitted.write(), IDENTITY)
        assert score(graph, rows.features).mean() == pytest.approx(share, abs=0.02)
    assert not np.allclose(plain.log_odds(rows.features), balanced.log_odds(rows.features), atol=0.01)


def test_a_column_of_years_keeps_its_digits_in_float32() -> None:
    random = np.random.default_rng(0)
    years = (2013 + random.integers(0, 256, 3000) / 256).astype(np.float32)
    labels = (random.random(3000) < years - 2013).astype(float)
    fitted = fit(one_number(), Rows(years[:, None], labels), c=1e4)
    logits = as_logits(score(GraphWriter.finish(*fitted.write(), IDENTITY), years[:, None]))
    np.testing.assert_allclose(logits, fitted.log_odds(years[:, None]), atol=1e-5)


def test_what_lies_far_outside_counts_as_ten_standard_deviations() -> None:
    random = np.random.default_rng(0)
    values = random.normal(0, 1, (1000, 1)).astype(np.float32)
    fitted = fit(one_number(), Rows(values, (values[:, 0] + random.normal(0, 1, 1000) > 0).astype(float)))
    far = np.array([[11.0], [1e6], [np.finfo(np.float32).max]], dtype=np.float32)
    found = fitted.log_odds(far)
    assert found[0] == found[1] == found[2]
    assert found[0] > fitted.log_odds(np.array([[9.0]], dtype=np.float32))[0]


def test_a_missing_word_has_a_weight_and_a_code_that_no_word_has_none(
    schema: InputSchema, events: Callable[..., Any]
) -> None:
    made = events(4000, 1)
    missing = np.isnan(made.features[:, 1])
    made.labels[missing] = 1  # whose carrier is unknown is late
    fitted = fit(schema, Rows(*made))
    row = np.nan_to_num(made.features[:1], nan=10.0).repeat(3, axis=0)
    row[:, 1] = [np.nan, 3, 77]
    found = fitted.log_odds(row)
    assert found[0] > found[1] + 1
    assert found[1] == found[2]
    graph = GraphWriter.finish(*fitted.write(), IDENTITY)
    np.testing.assert_allclose(as_logits(score(graph, row)), found, atol=1e-4)


def test_a_solver_that_was_stopped_says_so(schema: InputSchema, events: Callable[..., Any]) -> None:
    told: list[str] = []
    rows = Rows(*events(500, 1))
    with pytest.warns(UserWarning, match="failed to converge"):
        linear.fit(LogisticRegression(maximum_iterations=2), 0, schema, rows, rows, told.append, None)
    assert "not converged after 2 iterations: raise maximum_iterations, or lower c" in told[1]
