import numpy as np
import pytest

from contracts.input_schema import Field, InputSchema
from pipelines.evaluation.baseline import make_baseline
from pipelines.evaluation.groups import MAXIMUM_GROUPS, by_code, by_edges, by_word, feature_groupings


def titles(grouping: object) -> list[str]:
    return [grouping.title(code) for code in grouping.codes.tolist()]  # type: ignore[attr-defined]


def test_words_are_groups_and_missing_is_one_of_them() -> None:
    assert titles(by_word("job", ["fixed", None, "other", "fixed"])) == [
        "job = fixed",
        "job missing",
        "job = other",
        "job = fixed",
    ]
    assert titles(by_word("late", [True, False])) == ["late = true", "late = false"]


def test_a_word_that_says_missing_is_not_the_missing_value() -> None:
    assert titles(by_word("note", ["missing", None])) == ["note = missing", "note missing"]


def test_a_field_with_a_value_for_each_row_makes_no_groups() -> None:
    with pytest.raises(ValueError, match="application has 201 different values, expected at most 200"):
        by_word("application", list(range(MAXIMUM_GROUPS + 1)))


def test_numbers_are_grouped_between_edges_which_belong_to_the_upper_group() -> None:
    assert titles(by_edges("age", np.array([24.9, 25, 59, 60, np.nan]), (25, 60))) == [
        "age < 25",
        "age 25 … 60",
        "age 25 … 60",
        "age >= 60",
        "age missing",
    ]


def test_codes_of_an_encoder_become_words_again() -> None:
    assert titles(by_code("origin", np.array([0, 2, np.nan], np.float32), ("EWR", "JFK", "LGA"))) == [
        "origin = EWR",
        "origin = LGA",
        "origin missing",
    ]


SCHEMA = InputSchema(
    version=1,
    entity="plane",
    time="at",
    key=("plane",),
    fields=(
        Field(name="plane", kind="identifier"),
        Field(name="at", kind="timestamp", parts=("minute_of_day",)),
        Field(name="origin", kind="category", vocabulary=("EWR", "JFK")),
        Field(name="rain", kind="number", required=False),
        Field(name="heavy", kind="boolean"),
    ),
)


def test_features_are_grouped_by_word_by_quantiles_of_training_and_by_value() -> None:
    random = np.random.default_rng(0)
    features = np.column_stack(
        [
            random.integers(0, 1440, 1000),
            random.integers(0, 2, 1000),
            np.where(random.random(1000) < 0.97, 0.0, random.random(1000)),
            random.integers(0, 2, 1000),
        ]
    ).astype(np.float32)
    baseline = make_baseline(SCHEMA, features, np.full(10, 0.5, np.float32), {})
    fine = {grouping.field: grouping for grouping in feature_groupings(SCHEMA, features, baseline)}
    coarse = {grouping.field: grouping for grouping in feature_groupings(SCHEMA, features, baseline, coarse=True)}
    assert np.bincount(fine["at.minute_of_day"].codes).tolist() == pytest.approx([100] * 10, abs=4)
    assert np.bincount(coarse["at.minute_of_day"].codes).tolist() == pytest.approx([200] * 5, abs=4)
    assert set(titles(fine["origin"])) == {"origin = EWR", "origin = JFK"}
    assert set(titles(fine["heavy"])) == {"heavy < 1", "heavy >= 1"}
    dry = fine["rain"].codes == 0  # a value that nearly all rows share is a group, and what is above it another
    assert (features[dry, 2] == 0).all()
    assert (features[~dry, 2] > 0).all()


def test_an_edge_that_is_the_number_after_a_value_is_told_by_that_value() -> None:
    rain = np.array([0.0, 0.0, 0.1])
    assert titles(by_edges("rain", rain, (float(np.nextafter(0.0, 1.0)),))) == ["rain <= 0", "rain <= 0", "rain > 0"]
    assert titles(by_edges("seats", np.array([5.0, 5.1]), (float(np.nextafter(5.0, 9.0)),))) == [
        "seats <= 5",
        "seats > 5",
    ]
    assert titles(by_edges("seats", np.array([4.9, 5.0]), (5.0,))) == ["seats < 5", "seats >= 5"]
