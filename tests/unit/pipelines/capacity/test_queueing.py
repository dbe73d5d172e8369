import numpy as np
import pytest

from pipelines.capacity import queueing


def test_the_formulas_agree_with_a_queue_that_is_played() -> None:
    """Lindley's recursion with Poisson arrivals and a constant service time of a millisecond."""
    random = np.random.default_rng(1)
    for utilisation in (0.65, 0.9):
        gaps = random.exponential(1 / (1000 * utilisation), 400_000)
        steps = 0.001 - gaps
        total = np.concatenate([[0.0], np.cumsum(steps)])
        waits = total - np.minimum.accumulate(total)
        rows = waits.mean() * 1000 * utilisation
        assert queueing.waiting(utilisation) == pytest.approx(rows, rel=0.1)
        for patience_s in (0.001, 0.003, 0.01):
            played = float((waits > patience_s).mean())
            assert queueing.beyond(utilisation, 1000, patience_s) == pytest.approx(played, rel=0.2, abs=1e-3)


def test_a_replica_that_just_meets_its_objective_is_not_quite_full() -> None:
    rate = queueing.service_rate(1000, 0.02)
    assert 1050 < rate < 1300
    assert queueing.beyond(1000 / rate, rate, 0.02 - 1 / rate) == pytest.approx(0.01, rel=1e-3)


def test_all_wait_too_long_where_nothing_is_left() -> None:
    assert queueing.beyond(1.0, 1000, 1) == 1
    assert queueing.beyond(0.5, 1000, 0) == 1


@pytest.mark.parametrize("utilisation", [0.1, 0.65, 0.95])
def test_the_utilisation_of_a_queue_is_the_one_that_makes_it(utilisation: float) -> None:
    assert queueing.utilisation_for(queueing.waiting(utilisation)) == pytest.approx(utilisation)
