from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier

from contracts.input_schema import Field, InputSchema
from pipelines.evaluation.robustness import (
    Robustness,
    RobustnessLimits,
    may_be_missing,
    measure_robustness,
    robustness_gates,
)

LIMITS = RobustnessLimits()
WIND = 2
Scorer = Callable[[NDArray[np.float32]], NDArray[Any]]


@pytest.fixture(scope="module")
def model(events: Callable[..., Any]) -> Scorer:
    rows = events(6000).between(15_000, 15_030)
    fitted = HistGradientBoostingClassifier(max_iter=30, random_state=0).fit(rows.features, rows.labels)
    return lambda features: np.asarray(fitted.predict_proba(features)[:, 1])


@pytest.fixture(scope="module")
def rows(events: Callable[..., Any]) -> Any:
    return events(6000).between(15_030, 15_040)


def failed(found: Robustness, limits: RobustnessLimits = LIMITS) -> dict[str, str]:
    return {gate.name: gate.reason for gate in robustness_gates(found, limits) if not gate.passed}


def test_a_model_that_knows_missing_values_passes_and_the_worst_comes_first(
    model: Scorer, schema: InputSchema, rows: Any
) -> None:
    found = measure_robustness(model, schema, rows, LIMITS, seed=1)
    assert failed(found) == {}
    titles = [each.title for each in found.perturbations]
    rises = [each.log_loss_rise.estimate for each in found.perturbations if each.log_loss_rise is not None]
    assert rises == sorted(rises, reverse=True)
    assert set(titles) == {
        "at missing",
        "carrier unseen",
        "wind missing",
        "seats missing",
        "origin unseen",
        "wind noise",
        "seats noise",
        "mixed",
        "all numbers smallest",
        "all numbers largest",
    }
    judged = {each.title for each in found.perturbations if each.plausible}
    assert judged == {"carrier unseen", "wind missing", "wind noise", "seats noise", "mixed"}


def test_a_model_that_collapses_when_one_optional_field_is_missing_fails_and_names_it(
    model: Scorer, schema: InputSchema, rows: Any
) -> None:
    def collapsing(features: NDArray[np.float32]) -> NDArray[Any]:
        return np.where(np.isnan(features[:, WIND]), 0.999, model(features))

    found = measure_robustness(collapsing, schema, rows, LIMITS, seed=1)
    reasons = failed(found)
    assert list(reasons) == ["disturbed inputs"]
    assert "wind missing +" in reasons["disturbed inputs"]
    assert reasons["disturbed inputs"].endswith("upper bound > limit +0.15")
    assert found.perturbations[0].title == "wind missing"


def test_a_model_that_collapses_without_a_field_that_the_schema_requires_is_shown_and_passes(
    model: Scorer, schema: InputSchema, rows: Any
) -> None:
    def collapsing(features: NDArray[np.float32]) -> NDArray[Any]:
        return np.where(np.isnan(features[:, 3]), 0.999, model(features))  # seats, always there

    found = measure_robustness(collapsing, schema, rows, LIMITS, seed=1)
    assert failed(found) == {}
    assert (found.perturbations[0].title, found.perturbations[0].plausible) == ("seats missing", False)


def test_a_model_that_a_little_noise_throws_off_fails(model: Scorer, schema: InputSchema, rows: Any) -> None:
    known = {float(value) for value in rows.features[:, 3]}

    def memorising(features: NDArray[np.float32]) -> NDArray[Any]:
        remembered = np.array([float(value) in known for value in features[:, 3]])
        return np.where(remembered, model(features), 1 - model(features))

    reasons = failed(measure_robustness(memorising, schema, rows, LIMITS, seed=1))
    assert "seats noise" in reasons["disturbed inputs"]


@pytest.mark.parametrize("broken", [np.nan, 1.5])
def test_a_score_that_is_no_probability_fails_and_says_when(
    model: Scorer, schema: InputSchema, rows: Any, broken: float
) -> None:
    found = measure_robustness(
        lambda features: np.where(np.isnan(features[:, WIND]), broken, model(features)), schema, rows, LIMITS, seed=1
    )
    reasons = failed(found)
    assert "that are no number from 0 to 1" in reasons["valid scores"]
    assert "undisturbed: " in reasons["valid scores"]  # some winds are missing by nature
    broken_ones = {each.title for each in found.perturbations if each.invalid_scores == found.rows}
    assert broken_ones == {"wind missing"}


def test_the_same_seed_gives_the_same_falls(model: Scorer, schema: InputSchema, rows: Any) -> None:
    first, again = (measure_robustness(model, schema, rows, LIMITS, seed=3) for _ in range(2))
    assert first == again != measure_robustness(model, schema, rows, LIMITS, seed=4)


def test_noise_stays_within_the_field_and_missing_stays_missing(schema: InputSchema, rows: Any) -> None:
    seen: list[NDArray[np.float32]] = []

    def watching(features: NDArray[np.float32]) -> NDArray[Any]:
        seen.append(features.copy())
        return np.full(len(features), 0.4)

    measure_robustness(watching, schema, rows, RobustnessLimits(noise_share=10), seed=1)
    plain, noisy = seen[0], next(each for each in seen[1:] if (each[:, WIND] != seen[0][:, WIND]).sum() > 1000)
    assert len(plain) == len(rows.labels)
    for each in seen:
        wind = each[:, WIND][~np.isnan(each[:, WIND])]
        assert ((wind >= 0) & (wind <= 200)).all()
    assert noisy.shape == plain.shape


@pytest.mark.parametrize(
    ("field", "may"),
    [
        (Field(name="a", kind="number"), False),
        (Field(name="a", kind="number", required=False), True),
        (Field(name="a", kind="number", outside="missing"), True),
        (Field(name="a", kind="number", nan="missing"), True),
        (Field(name="a", kind="boolean", malformed="missing"), True),
        (Field(name="a", kind="category", vocabulary=("x",)), True),
        (Field(name="a", kind="category", vocabulary=("x",), unseen="reject"), False),
    ],
)
def test_what_a_client_may_leave_out_is_read_from_the_schema(field: Field, may: bool) -> None:
    assert may_be_missing(field) is may


def test_one_class_is_refused(model: Scorer, schema: InputSchema, rows: Any) -> None:
    with pytest.raises(ValueError, match="have the label 0: take a longer test window"):
        measure_robustness(model, schema, (rows.features, rows.labels * 0, rows.days), LIMITS, seed=1)


@pytest.mark.parametrize("limits", [{"log_loss_rise_max": 0}, {"noise_share": 0}, {"mixed_share": 2}, {"noise": 1}])
def test_limits_out_of_bounds_are_refused_by_name(limits: dict[str, float]) -> None:
    with pytest.raises(msgspec.ValidationError, match=next(iter(limits))):
        msgspec.convert(limits, RobustnessLimits)
