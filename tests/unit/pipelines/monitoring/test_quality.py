from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from pipelines.monitoring.quality import measure_quality


def _labelled(
    n: int, days: int = 14, seed: int = 0, version: str = "3", slot: str = "champion", day_effect: float = 0.0
) -> pa.Table:
    generator = np.random.default_rng(seed)
    day = generator.integers(0, days, n)
    logits = generator.normal(-1, 1, n)
    outcome = generator.random(n) < 1 / (1 + np.exp(-logits - day_effect * generator.normal(size=days)[day]))
    score = 1 / (1 + np.exp(-logits))
    first = datetime(2013, 7, 1, 6)
    times = [
        (first + timedelta(days=int(d), hours=int(h))).isoformat()
        for d, h in zip(day, generator.integers(0, 12, n), strict=True)
    ]
    return pa.table(
        {
            "version": pa.array([version] * n, pa.string()),
            "slot": pa.array([slot] * n, pa.string()),
            "event_time": pa.array(times, pa.string()),
            "score": pa.array(score, pa.float64()),
            "decision": pa.array(score >= 0.4, pa.bool_()),
            "outcome": pa.array(outcome, pa.bool_()),
        }
    )


def _columns(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    return table["outcome"].to_numpy().astype(int), table["score"].to_numpy()


def test_the_metrics_are_those_of_scikit_learn() -> None:
    table = _labelled(4000)
    outcome, score = _columns(table)
    (quality,) = measure_quality(table)
    assert quality.auc is not None
    assert quality.log_loss is not None
    assert quality.brier is not None
    assert quality.false_positive_rate is not None
    assert quality.auc.value == pytest.approx(roc_auc_score(outcome, score))
    assert quality.log_loss.value == pytest.approx(log_loss(outcome, score))
    assert quality.brier.value == pytest.approx(brier_score_loss(outcome, score))
    assert quality.false_positive_rate.value == pytest.approx((score[outcome == 0] >= 0.4).mean())
    assert quality.false_positive_rate.n == (outcome == 0).sum()
    assert (quality.rows, quality.labelled, quality.auc.blocks) == (4000, 4000, 14)


def test_days_that_differ_make_the_interval_wider_than_rows_alone_would() -> None:
    (calm,) = measure_quality(_labelled(4000))
    (stormy,) = measure_quality(_labelled(4000, day_effect=1.0))
    assert calm.log_loss is not None
    assert stormy.log_loss is not None
    widths = [(q.high or 0) - (q.low or 0) for q in (calm.log_loss, stormy.log_loss)]
    assert widths[1] > 2 * widths[0] > 0


def test_each_version_and_slot_is_measured_by_itself() -> None:
    tables = [_labelled(300, version=v, slot=s) for v, s in (("4", "challenger"), ("3", "champion"), ("4", "shadow"))]
    found = measure_quality(pa.concat_tables(tables))
    assert [(q.version, q.slot, q.rows) for q in found] == [
        ("3", "champion", 300),
        ("4", "challenger", 300),
        ("4", "shadow", 300),
    ]


def test_without_outcomes_quality_is_not_known_and_no_zero() -> None:
    table = _labelled(300)
    unknown = table.set_column(5, "outcome", pa.nulls(300, pa.bool_()))
    (quality,) = measure_quality(unknown)
    assert (quality.rows, quality.labelled) == (300, 0)
    assert quality.mean_score is not None
    assert (quality.auc, quality.log_loss, quality.brier, quality.false_positive_rate, quality.positive_share) == (
        None,
    ) * 5


def test_with_outcomes_of_one_kind_only_the_auc_is_not_known() -> None:
    table = _labelled(300)
    (quality,) = measure_quality(table.set_column(5, "outcome", pa.array([True] * 300)))
    assert quality.auc is None
    assert quality.false_positive_rate is None
    assert quality.log_loss is not None


def test_errors_have_no_score_and_are_counted_apart() -> None:
    table = _labelled(300)
    score = pa.array([None] * 20 + table["score"].to_pylist()[20:], pa.float64())
    (quality,) = measure_quality(table.set_column(3, "score", score))
    assert (quality.rows, quality.errors, quality.labelled) == (300, 20, 280)


def test_a_few_days_are_told_apart_by_their_hours_and_one_hour_has_no_interval() -> None:
    (quality,) = measure_quality(_labelled(500, days=2))
    assert quality.auc is not None
    assert quality.auc.blocks == 24
    table = _labelled(50)
    (lonely,) = measure_quality(table.set_column(2, "event_time", pa.array(["2013-07-01T08:30:00"] * 50)))
    assert lonely.auc is not None
    assert (lonely.auc.low, lonely.auc.high, lonely.auc.blocks) == (None, None, 1)
    assert "no interval" in str(lonely.auc)


def test_a_single_positive_has_an_auc_and_no_interval() -> None:
    table = _labelled(300)
    (quality,) = measure_quality(table.set_column(5, "outcome", pa.array([True] + [False] * 299)))
    assert quality.auc is not None
    assert quality.auc.low is None


def test_the_same_predictions_give_the_same_interval() -> None:
    assert measure_quality(_labelled(500)) == measure_quality(_labelled(500))


def test_no_predictions_have_no_quality() -> None:
    assert measure_quality(_labelled(0)) == ()
