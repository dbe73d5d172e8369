import numpy as np
import pytest

from contracts.input_schema import Field, InputSchema
from pipelines.training.edge_rows import BASE_ROWS, edge_rows

SCHEMA = InputSchema(
    version=1,
    entity="plane",
    time="at",
    key=("plane",),
    fields=(
        Field(name="plane", kind="identifier"),
        Field(name="at", kind="timestamp", parts=("minute_of_day",)),
        Field(name="carrier", kind="category", vocabulary=("UA", "AA", "DL")),
        Field(name="wind", kind="number", required=False, minimum=-10, maximum=150),
    ),
)
REAL = np.array([[600, 1, np.nan], [720, 0, 12], [900, 2, 30], [1000, np.nan, 4], [1100, 1, 8]], dtype=np.float32)


def altered(column: str | None, value: str) -> np.ndarray:
    made = edge_rows(SCHEMA, REAL)
    chosen = [
        row
        for row, found in enumerate(made.alterations)
        if (found.column, found.value, found.base_row) == (column, value, 1)
    ]
    assert len(chosen) == 1
    return made.features[chosen[0]]


def test_each_column_is_altered_alone_on_a_few_real_rows() -> None:
    made = edge_rows(SCHEMA, REAL)
    assert {alteration.base_row for alteration in made.alterations} == {0, 1, 2, 4}
    assert len(made.alterations) == len(made.features) == BASE_ROWS * (11 + 4 + 11 + 14)
    for features, alteration in zip(made.features, made.alterations, strict=True):
        same = (features == REAL[alteration.base_row]) | (np.isnan(features) & np.isnan(REAL[alteration.base_row]))
        if alteration.column is not None:
            others = [position for position, name in enumerate(SCHEMA.columns) if name != alteration.column]
            assert same[others].all()


def test_numbers_go_to_the_bounds_of_the_schema_and_far_beyond() -> None:
    np.testing.assert_array_equal(altered("wind", "minimum"), [720, 0, -10])
    np.testing.assert_array_equal(altered("wind", "maximum"), [720, 0, 150])
    assert altered("wind", "far above")[2] == pytest.approx(150 + 160e6)
    assert altered("wind", "largest float32")[2] == np.finfo(np.float32).max
    assert 0 < altered("wind", "smallest float32")[2] < np.finfo(np.float32).tiny


def test_where_the_schema_has_no_bounds_the_real_rows_have() -> None:
    assert altered("at.minute_of_day", "minimum")[0] == 600
    assert altered("at.minute_of_day", "maximum")[0] == 1100


def test_a_code_becomes_one_that_no_word_has() -> None:
    np.testing.assert_array_equal(altered("carrier", "unseen code"), [720, 3, 12])
    np.testing.assert_array_equal(altered("carrier", "last code"), [720, 2, 12])


def test_all_columns_are_missing_at_once_too_and_no_value_is_infinite() -> None:
    assert np.isnan(altered(None, "missing")).all()
    assert not np.isinf(edge_rows(SCHEMA, REAL).features).any()


def test_a_column_without_any_real_value_has_edges_all_the_same() -> None:
    real = REAL.copy()
    real[:, 0] = np.nan
    assert np.isfinite(edge_rows(SCHEMA, real).features[:, 0]).any()


@pytest.mark.parametrize("real", [REAL[:0], REAL[:, :2]])
def test_no_real_rows_or_some_of_another_width_are_refused(real: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected \(1 or more, 3\)"):
        edge_rows(SCHEMA, real)
