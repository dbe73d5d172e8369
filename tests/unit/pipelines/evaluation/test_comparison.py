from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from pipelines.evaluation.comparison import Comparison
from pipelines.evaluation.comparison import compare as compare_all
from pipelines.evaluation.metrics import TITLES, Costs

RANDOM = np.random.default_rng(0)
DAYS = np.repeat(np.arange(14), 200)
TRUTH = 1 / (1 + np.exp(-RANDOM.normal(-1, 1.2, len(DAYS))))
LABELS = (RANDOM.random(len(DAYS)) < TRUTH).astype(float)


def compare(
    challenger: NDArray[Any], champion: NDArray[Any] | None, labels: NDArray[Any] = LABELS, **more: Any
) -> Comparison:
    given = {"days": DAYS, "threshold": 0.4, "seed": 1} | more
    return compare_all(challenger, champion, labels, **given).comparison


def noisy(strength: float) -> NDArray[np.float32]:
    log_odds = np.log(TRUTH / (1 - TRUTH)) + RANDOM.normal(0, strength, len(DAYS))
    return (1 / (1 + np.exp(-log_odds))).astype(np.float32)


def test_a_better_challenger_has_differences_on_the_good_side_of_zero() -> None:
    found = compare(TRUTH, noisy(2.0))
    assert found.differences["log_loss"].high < 0
    assert found.differences["brier"].high < 0
    assert found.differences["auc"].low > 0
    assert found.champion is not None
    for name, difference in found.differences.items():
        assert difference.low <= difference.estimate <= difference.high
        assert difference.estimate == pytest.approx(found.challenger[name] - found.champion[name])


def test_a_version_compared_with_itself_differs_by_nothing() -> None:
    found = compare(TRUTH, TRUTH)
    assert {(d.low, d.estimate, d.high) for d in found.differences.values()} == {(0.0, 0.0, 0.0)}


def test_the_same_seed_gives_the_same_comparison() -> None:
    champion = noisy(1.0)
    first, again = (compare(TRUTH, champion, seed=7) for _ in range(2))
    assert first == again
    assert first.differences != compare(TRUTH, champion, seed=8).differences


def test_without_a_champion_there_are_no_differences() -> None:
    found = compare(TRUTH, None)
    assert (found.champion, found.differences, found.rows, found.blocks) == (None, {}, 2800, 14)


def test_a_comparison_survives_json() -> None:
    found = compare(TRUTH, noisy(1.0))
    assert msgspec.json.decode(msgspec.json.encode(found), type=Comparison) == found


def test_the_base_rate_is_what_a_constant_would_lose() -> None:
    rate = LABELS.mean()
    found = compare(np.full(len(LABELS), rate), None)
    assert found.challenger["base_rate_log_loss"] == pytest.approx(found.challenger["log_loss"])
    assert found.challenger["base_rate_log_loss"] == pytest.approx(
        -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
    )


def test_one_class_in_the_test_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="all 2800 rows have the label 0: take a longer test window"):
        compare(TRUTH, None, LABELS * 0)


def test_a_day_is_needed_for_each_row() -> None:
    with pytest.raises(ValueError, match=r"days have the shape \(13,\), labels \(2800,\)"):
        compare(TRUTH, None, days=DAYS[:13])


def test_all_metrics_have_a_difference_with_its_interval() -> None:
    found = compare(TRUTH, noisy(1.0))
    assert set(found.differences) == set(TITLES) == set(found.intervals)
    for name, interval in found.intervals.items():
        assert interval.estimate == pytest.approx(found.challenger[name])
        assert interval.low <= interval.estimate <= interval.high


def test_the_cost_is_what_the_wrong_decisions_cost_a_row() -> None:
    found = compare(TRUTH, noisy(1.0), costs=Costs(false_positive=2, false_negative=3))
    decisions = found.decisions["challenger"]
    called = TRUTH >= 0.4
    assert decisions.false_positives == int((called & (LABELS == 0)).sum())
    assert decisions.false_negatives == int((~called & (LABELS == 1)).sum())
    assert decisions.true_positives + decisions.true_negatives + decisions.false_positives + (
        decisions.false_negatives
    ) == len(LABELS)
    wanted = (2 * decisions.false_positives + 3 * decisions.false_negatives) / len(LABELS)
    assert found.challenger["cost"] == pytest.approx(wanted)


def test_the_reliability_curves_of_both_are_there() -> None:
    found = compare_all(TRUTH, noisy(1.0), LABELS, DAYS, 0.4, seed=1)
    assert set(found.reliability) == {"challenger", "champion"}
    for curve in found.reliability.values():
        assert sum(point.rows for point in curve) == len(LABELS)


def test_few_days_are_said_to_be_few() -> None:
    assert compare(TRUTH, noisy(1.0)).notes == ()
    few = compare(TRUTH, noisy(1.0), days=DAYS % 4)
    assert few.notes == ("only 4 days: intervals of so few are rough",)


def test_a_score_that_is_no_number_is_refused_by_whose_it_is() -> None:
    broken = np.where(np.arange(len(TRUTH)) < 3, np.nan, TRUTH)
    with pytest.raises(ValueError, match="champion: 3 of 2800 scores are NaN"):
        compare(TRUTH, broken)
    with pytest.raises(ValueError, match="challenger: 3 of 2800 scores are NaN"):
        compare(broken, None)


def test_positives_on_one_day_only_are_refused_by_the_metric_that_needs_them() -> None:
    with pytest.raises(ValueError, match=r"auc: the metric is undefined in \d+ of 2001 resamples.*longer test window"):
        compare(TRUTH, noisy(1.0), LABELS * (DAYS == 3))


def test_costs_out_of_bounds_are_refused_by_name() -> None:
    with pytest.raises(msgspec.ValidationError, match="false_negative: found 0"):
        msgspec.convert({"false_negative": 0}, Costs)
