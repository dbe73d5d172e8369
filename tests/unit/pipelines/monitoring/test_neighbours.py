import numpy as np
import pytest

from pipelines.monitoring import neighbours
from pipelines.monitoring.neighbours import nearest

NAN = np.nan


def _rows(*rows: tuple[float, ...]) -> np.ndarray:  # type: ignore[type-arg]
    return np.array(rows, dtype=np.float32)


def test_numbers_count_in_standard_deviations_and_words_as_equal_or_not() -> None:
    # one number from 0 to 1000 in steps, one from 0 to 1, and a word
    training = _rows(*((1000.0 * place, place % 2, place % 3) for place in range(12)))
    positions, distances = nearest(training, training[[4]], {2: 3}, columns=[0, 1, 2], count=12)
    assert (positions[0, 0], distances[0, 0]) == (4, 0)
    spread = training[:, 0].std()
    other = positions[0].tolist().index(10)  # the same word and the same half, six steps away
    assert distances[0, other] == pytest.approx(6000 / spread, rel=1e-5)
    same_number = nearest(_rows((0, 0), (0, 1)), _rows((0, 0)), {1: 2}, columns=[0, 1], count=2)
    assert same_number[1][0].tolist() == pytest.approx([0, 1])


def test_a_broken_number_does_not_hide_what_else_is_alike() -> None:
    training = _rows((1.0, 0), (2.0, 0), (3.0, 1))
    positions, distances = nearest(training, _rows((1e30, 1)), {1: 2}, columns=[0, 1], count=3)
    assert positions[0, 0] == 2
    assert distances.max() < 13


def test_a_missing_value_is_nearest_to_rows_that_miss_it_too() -> None:
    training = _rows((1.0,), (3.0,), (NAN,))
    positions, distances = nearest(training, _rows((NAN,)), {}, columns=[0], count=3)
    assert (positions[0, 0], distances[0, 0]) == (2, 0)
    assert distances[0, 1] >= 1


def test_only_the_columns_that_count_are_compared_and_a_column_of_one_value_is_no_error() -> None:
    training = _rows((5.0, 1.0), (5.0, 9.0))
    positions, distances = nearest(training, _rows((7.0, 9.0)), {}, columns=[0], count=2)
    assert distances[0].tolist() == [2.0, 2.0]
    assert nearest(training, _rows((7.0, 9.0)), {}, columns=[1], count=1)[0][0, 0] == 1
    assert positions.shape == (1, 2)


def test_of_many_training_rows_an_even_share_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "MAXIMUM_TRAINING_ROWS", 10)
    training = np.arange(95, dtype=np.float32)[:, None]
    positions, _ = nearest(training, _rows((94.0,)), {}, columns=[0], count=50)
    assert sorted(positions[0].tolist()) == list(range(0, 95, 10))


def test_without_rows_or_columns_there_are_no_neighbours() -> None:
    with pytest.raises(ValueError, match="found 0 and 1"):
        nearest(np.empty((0, 1), np.float32), _rows((1.0,)), {}, columns=[0], count=1)
