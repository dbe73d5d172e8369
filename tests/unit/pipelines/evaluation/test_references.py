from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from contracts.input_schema import InputSchema
from pipelines.evaluation.references import (
    ReferenceLimits,
    References,
    compare_with_references,
    constant_scores,
    reference_gates,
    simple_model_scores,
    simple_model_verdict,
)
from pipelines.statistics.classification import auc

LIMITS = ReferenceLimits()


@pytest.fixture(scope="module")
def fitted(events: Callable[..., Any]) -> Any:
    return events(6000).between(15_000, 15_030)


@pytest.fixture(scope="module")
def test_rows(events: Callable[..., Any]) -> Any:
    return events(6000).between(15_030, 15_040)


@pytest.fixture(scope="module")
def simple(schema: InputSchema, fitted: Any, test_rows: Any) -> NDArray[np.float64]:
    return simple_model_scores(schema, fitted.features, fitted.labels, test_rows.features)


def compared(scores: NDArray[Any], simple: NDArray[Any], fitted: Any, test_rows: Any) -> References:
    constant = constant_scores(fitted.labels, len(scores))
    return compare_with_references(
        scores, {"constant": constant, "simple model": simple}, test_rows.labels, test_rows.days, seed=1
    )


def failed(found: References, limits: ReferenceLimits = LIMITS) -> dict[str, str]:
    return {gate.name: gate.reason for gate in reference_gates(found, limits) if not gate.passed}


def test_a_model_that_learned_something_passes_and_is_told_what_the_simple_model_reaches(
    simple: NDArray[Any], fitted: Any, test_rows: Any
) -> None:
    better = np.clip(simple + (test_rows.labels - 0.5) * 0.1, 0.01, 0.99)
    found = compared(better, simple, fitted, test_rows)
    assert failed(found) == {}
    assert simple_model_verdict(found) == "better than a logistic regression"
    assert found.named("simple model").differences["auc"].low > 0


def test_a_model_that_learned_nothing_is_not_better_than_a_constant(
    simple: NDArray[Any], fitted: Any, test_rows: Any
) -> None:
    nothing = np.clip(fitted.labels.mean() + np.random.default_rng(0).normal(0, 0.02, len(simple)), 0, 1)
    reasons = failed(compared(nothing, simple, fitted, test_rows))
    assert "of the constant" in reasons["better than a constant"]
    assert "lower bound <= 0.5" in reasons["better than a constant"]
    assert "worse than a logistic regression" in reasons["against the simple model"]


def test_where_the_simple_model_is_as_good_the_report_says_so_and_the_margin_decides(
    simple: NDArray[Any], fitted: Any, test_rows: Any
) -> None:
    alike = np.clip(simple + np.random.default_rng(1).normal(0, 0.01, len(simple)), 0.001, 0.999)
    worse = np.clip(simple + np.random.default_rng(1).normal(0, 0.15, len(simple)), 0.001, 0.999)
    found = compared(alike, simple, fitted, test_rows)
    assert simple_model_verdict(found) == "no better than a logistic regression, as far as these rows tell"
    assert failed(found) == {}
    shown_worse = compared(worse, simple, fitted, test_rows)
    assert list(failed(shown_worse)) == ["against the simple model"]
    assert failed(shown_worse)["against the simple model"].endswith("which would serve better")
    assert failed(shown_worse, ReferenceLimits(simple_model_margin=0.2)) == {}


def test_a_model_that_ranks_well_and_says_far_too_much_is_not_better_than_a_constant(
    simple: NDArray[Any], fitted: Any, test_rows: Any
) -> None:
    reasons = failed(compared(simple**0.1, simple, fitted, test_rows))
    assert "lower bound > 0.5; log loss" in reasons["better than a constant"]


def test_the_simple_model_takes_words_missing_numbers_and_an_extreme_one(
    schema: InputSchema, fitted: Any, test_rows: Any, simple: NDArray[Any]
) -> None:
    assert np.isnan(test_rows.features).any()
    area = auc(test_rows.labels, simple)
    assert area is not None
    assert area > 0.75
    strange = test_rows.features.copy()
    strange[0] = (1e9, 1, 1e9, np.nan, np.nan)
    scores = simple_model_scores(schema, fitted.features, fitted.labels, strange)
    assert ((scores >= 0) & (scores <= 1)).all()
    np.testing.assert_array_equal(scores[1:], simple[1:])


def test_a_champion_is_one_of_the_references(simple: NDArray[Any], test_rows: Any) -> None:
    found = compare_with_references(simple, {"champion": simple}, test_rows.labels, test_rows.days, seed=1)
    assert found.named("champion").differences["log_loss"].high == 0
    with pytest.raises(LookupError, match="no reference 'constant'; there are champion"):
        found.named("constant")


def test_one_class_in_the_test_rows_is_refused(simple: NDArray[Any], test_rows: Any) -> None:
    with pytest.raises(ValueError, match="have the label 0: take a longer test window"):
        compare_with_references(simple, {}, test_rows.labels * 0, test_rows.days, seed=1)


@pytest.mark.parametrize("limits", [{"simple_model_margin": -0.1}, {"simple_margin": 0.1}])
def test_limits_out_of_bounds_are_refused_by_name(limits: dict[str, float]) -> None:
    with pytest.raises(msgspec.ValidationError, match=next(iter(limits))):
        msgspec.convert(limits, ReferenceLimits)
