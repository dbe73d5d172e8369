from pathlib import Path

import pytest

from pipelines.monitoring.compaction import compact_day
from pipelines.monitoring.log_cost import DAYS_PER_MONTH, MeasuredLog, cost_of, measure_log
from tests.fixtures.prediction_log import tiny_group, write_segment

DAY_S = 86_400
MEASURED = MeasuredLog(
    segment_rows=100,
    segment_bytes_per_row=200.0,
    compacted_rows=100,
    compacted_bytes_per_row=50.0,
    special_share=0.02,
    aggregate_bytes_per_day=1000.0,
)


def test_the_arithmetic_is_that_of_the_page() -> None:
    found = cost_of(MEASURED, rate=1000, keep_days=30, sample=0.01, months=(1, 12), price_per_gb_month=0.02)
    rows = 1000 * DAY_S
    assert (found.rows_per_day, found.bytes_per_day) == (rows, rows * 200)
    assert (found.compacted_bytes_per_day, found.full_bytes) == (rows * 50, 30 * rows * 50)
    later = rows * 50 * (0.02 + 0.98 * 0.01) + 1000
    assert found.long_term_bytes_per_day == pytest.approx(later)
    first, last = found.months
    assert first.bytes == pytest.approx(rows * 200 + (DAYS_PER_MONTH - 1) * rows * 50)
    assert last.bytes == pytest.approx(rows * 200 + 30 * rows * 50 + (12 * DAYS_PER_MONTH - 31) * later)
    assert last.cost == pytest.approx(last.bytes / 1e9 * 0.02)
    assert (
        cost_of(MEASURED, rate=1, keep_days=30, sample=0, months=(1,), price_per_gb_month=None).months[0].cost is None
    )


@pytest.mark.parametrize("wrong", [{"rate": 0.0}, {"sample": 1.1}, {"months": (0,)}])
def test_what_is_no_rate_share_or_month_is_refused(wrong: dict[str, float]) -> None:
    usual = {"rate": 1.0, "keep_days": 30, "sample": 0.01, "months": (1,), "price_per_gb_month": None}
    with pytest.raises(ValueError, match="a rate above 0"):
        cost_of(MEASURED, **(usual | wrong))  # type: ignore[arg-type]


def test_bytes_are_measured_in_the_files_of_the_project_before_and_after_a_compaction(tmp_path: Path) -> None:
    write_segment(tmp_path, tiny_group(2000), tiny_group(500, scores=[None] * 500, errors=["boom"] * 500))
    [path] = tmp_path.glob("day=*/*.arrows")
    live = measure_log(tmp_path)
    assert live.segment_rows == live.compacted_rows == 2500
    assert live.segment_bytes_per_row == path.stat().st_size / 2500
    assert live.special_share == 0.2
    compact_day(tmp_path, "2013-08-01")
    [path] = tmp_path.glob("day=*/*.parquet")
    past = measure_log(tmp_path)
    assert (past.segment_bytes_per_row, past.compacted_bytes_per_row) == (None, path.stat().st_size / 2500)
    assert past.compacted_bytes_per_row == pytest.approx(live.compacted_bytes_per_row, rel=0.1)


def test_an_empty_log_has_nothing_to_measure(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="nothing to measure"):
        measure_log(tmp_path)
