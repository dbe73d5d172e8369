import numpy as np
import pytest

from pipelines.training.selection import Contender, choose
from pipelines.training.trainer import DailyLoss

WEATHER = np.random.default_rng(3).normal(0.5, 0.1, 8)  # what a day costs any model
ROWS = 100


def contender(name: str, trainer: str, size: int, worse: np.ndarray | float = 0.0, days: int = 8) -> Contender:
    losses = (WEATHER + worse)[:days]
    daily = tuple(DailyLoss(day=day, rows=ROWS, log_loss=float(loss) * ROWS) for day, loss in enumerate(losses))
    return Contender(name=name, trainer=trainer, log_loss=float(losses.mean()), bytes=size, daily=daily)


def noisy(mean: float, spread: float) -> np.ndarray:
    """How much worse on each day: `mean` with a standard error of `spread` / √8."""
    return mean + spread * np.array([1, -1] * 4)


def test_a_simpler_one_within_one_standard_error_goes_on() -> None:
    found = choose([contender("net", "neural_net", 900), contender("trees", "boosted_trees", 5000, noisy(0.002, 0.02))])
    assert (found.best, found.chosen) == (0, 1)
    assert "trees is simpler than net" in found.reason
    assert "= 0.0020 ≤ 0.0076" in found.reason


def test_a_simpler_one_beyond_one_standard_error_does_not() -> None:
    found = choose([contender("net", "neural_net", 900), contender("trees", "boosted_trees", 50, noisy(0.002, 0.004))])
    assert (found.best, found.chosen) == (0, 0)
    assert "none within one standard error is simpler" in found.reason
    assert found.behind[1].log_loss == pytest.approx(0.002)
    assert found.behind[1].standard_error == pytest.approx(0.004 / np.sqrt(7))


def test_what_all_have_in_common_is_no_uncertainty() -> None:
    """Days differ by a hundred times the distance of the two; that would excuse it if it were not compared in pairs."""
    assert WEATHER.std() > 50 * 0.001
    found = choose([contender("large", "boosted_trees", 900), contender("small", "boosted_trees", 100, 0.001)])
    assert found.chosen == 0


def test_a_more_complex_one_within_one_standard_error_is_not_preferred() -> None:
    found = choose([contender("trees", "boosted_trees", 900), contender("net", "neural_net", 10, noisy(0.001, 0.02))])
    assert found.chosen == 0


def test_of_one_kind_the_smaller_graph_is_simpler_and_what_was_made_elsewhere_comes_last() -> None:
    alike = noisy(0.001, 0.02)
    names = [
        contender("best", "boosted_trees", 900),
        contender("smaller", "boosted_trees", 300, alike),
        contender("elsewhere", "imported", 1, alike),
    ]
    assert choose(names).chosen == 1
    assert choose([*names, contender("line", "logistic_regression", 5000, alike)]).chosen == 3


def test_without_a_standard_error_the_best_goes_on() -> None:
    found = choose([contender("net", "neural_net", 900, days=1), contender("trees", "boosted_trees", 5, 0.001, days=1)])
    assert found.chosen == 0
    assert "too few for a standard error" in found.reason


def test_trials_of_other_rows_are_not_compared() -> None:
    with pytest.raises(ValueError, match="short and long were measured on other rows"):
        choose([contender("long", "boosted_trees", 1), contender("short", "boosted_trees", 1, 0.5, days=7)])
    with pytest.raises(ValueError, match="no trial finished"):
        choose([])
