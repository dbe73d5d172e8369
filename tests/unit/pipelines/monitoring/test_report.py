from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from contracts.input_schema import Field, InputSchema
from pipelines.monitoring.report import write_drift_report

SCHEMA = InputSchema(
    version=1,
    entity="tailnum",
    time="scheduled",
    key=("tailnum",),
    fields=(
        Field(name="tailnum", kind="identifier"),
        Field(name="scheduled", kind="timestamp", parts=("day_of_week",)),
        Field(name="carrier", kind="category", vocabulary=("Aero", "Blue")),
        Field(name="wind_gust", kind="number", required=False),
    ),
)


def _rows(n: int) -> NDArray[np.float32]:
    generator = np.random.default_rng(n)
    carriers = np.where(generator.random(n) < 0.1, np.nan, generator.integers(0, 2, n))
    return np.column_stack([generator.integers(0, 7, n), carriers, np.full(n, np.nan)]).astype(np.float32)


def test_the_page_shows_words_and_scores_and_leaves_out_what_has_no_value(tmp_path: Path) -> None:
    path = write_drift_report(
        tmp_path / "reports" / "drift.html",
        SCHEMA,
        reference=_rows(400),
        current=_rows(200),
        reference_scores=np.linspace(0, 1, 400, dtype=np.float32),
        current_scores=np.linspace(0, 0.5, 200, dtype=np.float32),
    )
    page = path.read_text()
    for text in ("Aero", "scheduled.day_of_week", "score", "PSI"):
        assert text in page
    assert "wind_gust" not in page
    assert list(path.parent.iterdir()) == [path]


def test_a_side_without_rows_or_without_values_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="found 400 and 0"):
        write_drift_report(tmp_path / "drift.html", SCHEMA, reference=_rows(400), current=_rows(0))
    nothing = np.full((10, 3), np.nan, dtype=np.float32)
    with pytest.raises(ValueError, match="nothing can be drawn"):
        write_drift_report(tmp_path / "drift.html", SCHEMA, reference=_rows(400), current=nothing)
    assert not list(tmp_path.iterdir())
