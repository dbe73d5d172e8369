import numpy as np
import pytest

from pipelines.benchmarking.arrivals import due_times


def test_fixed_arrivals_have_one_distance() -> None:
    due = due_times(100, 2, arrivals="fixed")
    assert len(due) == 200
    assert np.allclose(np.diff(due), 0.01)


def test_poisson_arrivals_have_the_rate_and_the_spread_of_independent_clients() -> None:
    due = due_times(1000, 50, seed=3)
    assert abs(len(due) - 50_000) < 5 * np.sqrt(50_000)
    gaps = np.diff(due)
    assert (gaps >= 0).all()
    assert abs(gaps.std() / gaps.mean() - 1) < 0.05
    assert due[-1] < 50


def test_the_same_seed_gives_the_same_times_and_another_gives_others() -> None:
    assert np.array_equal(due_times(50, 3, seed=1), due_times(50, 3, seed=1))
    assert not np.array_equal(due_times(50, 3, seed=1)[:20], due_times(50, 3, seed=2)[:20])


@pytest.mark.parametrize(("rate", "seconds"), [(0, 1), (1, 0), (-1, 1), (float("nan"), 1)])
def test_no_rate_and_no_time_are_refused(rate: float, seconds: float) -> None:
    with pytest.raises(ValueError, match="expected both above 0"):
        due_times(rate, seconds)


def test_more_requests_than_memory_is_meant_for_are_refused() -> None:
    with pytest.raises(ValueError, match="take a shorter time"):
        due_times(100_000, 3600)
