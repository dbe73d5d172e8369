"""Days whose files are the same are counted once, and say the same as when they are counted again."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from pipelines.evaluation.baseline import make_baseline
from pipelines.monitoring import kept_days
from pipelines.monitoring.compaction import compact_day
from pipelines.monitoring.day_summaries import Layout, layout_of
from pipelines.monitoring.forgotten import forget, write_forgotten
from pipelines.monitoring.kept_days import summarise_days
from pipelines.monitoring.log_batches import Window
from pipelines.monitoring.logged_days import LoggedDays, summarise_log
from tests.fixtures.bundles import TINY_SCHEMA, tiny_record
from tests.fixtures.prediction_log import NOON_S, tiny_group, write_segment

FIRST = date(2013, 8, 1)


@pytest.fixture
def layout() -> Layout:
    width = len(TINY_SCHEMA.columns)
    return layout_of(
        make_baseline(TINY_SCHEMA, np.zeros((2, width), np.float32), np.zeros(2, np.float32), {}), TINY_SCHEMA
    )


class Watcher:
    """Summarises three days, and says which windows were counted for it."""

    def __init__(self, folder: Path, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
        self.window = Window(folder / "log", FIRST, FIRST + timedelta(days=3), folder / "spans.json")
        self._asked = {"schema": TINY_SCHEMA, "layout": layout, "version": "7"}
        self._folder = folder / "days"
        self.counted: list[tuple[int, int]] = []
        monkeypatch.setattr(kept_days, "summarise_log", self._count)

    def _count(self, window: Window, **asked: object) -> LoggedDays:
        self.counted.append((window.start.day, window.end.day))
        return summarise_log(window, **asked)  # type: ignore[arg-type]

    def look(self, bundle: str = "b") -> LoggedDays:
        self.counted.clear()
        found = summarise_days(self.window, self._folder, bundle=bundle, **self._asked)  # type: ignore[arg-type]
        again = summarise_log(self.window, **self._asked)  # type: ignore[arg-type]
        assert (found.unseen, found.refused, found.rows) == (again.unseen, again.refused, again.rows)
        for mine, theirs in zip(found.days.counts, again.days.counts, strict=True):
            assert np.array_equal(mine, theirs)
        for name in ("days", "rows", "missing", "score_counts", "sample", "sample_places", "sample_keys"):
            assert np.array_equal(getattr(found.days, name), getattr(again.days, name), equal_nan=True), name
        assert np.allclose(found.days.sums, again.days.sums)
        return found


@pytest.fixture
def watcher(tmp_path: Path, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> Watcher:
    return Watcher(tmp_path, layout, monkeypatch)


def _serve(watcher: Watcher, day: int, rows: int = 20) -> None:
    times = [f"2013-08-0{day}T{row % 24:02}:30" for row in range(rows)]
    records = [tiny_record(row, scheduled=time, carrier=f"X{row % 3}") for row, time in enumerate(times)]
    served_at_s = NOON_S + (day - 1) * 86_400
    write_segment(watcher.window.root, tiny_group(rows, record=records.__getitem__, served_at_s=served_at_s))


def test_only_days_with_other_files_are_counted_again(watcher: Watcher) -> None:
    _serve(watcher, 1)
    _serve(watcher, 2)
    assert watcher.look().rows == 40
    assert watcher.counted == [(1, 4)]
    watcher.look()
    assert watcher.counted == []
    _serve(watcher, 3, rows=5)
    assert watcher.look().days.rows.tolist() == [20, 20, 5]
    assert watcher.counted == [(3, 4)]
    compact_day(watcher.window.root, "2013-08-02")
    assert watcher.look().rows == 45
    assert watcher.counted == [(2, 3)]


def test_another_bundle_and_a_forgotten_entity_are_counted_anew(watcher: Watcher) -> None:
    _serve(watcher, 1)
    watcher.look()
    assert watcher.look("another").rows == 20
    assert watcher.counted == [(1, 4)]
    write_forgotten(watcher.window.root, [forget("N3", datetime(2013, 9, 1, tzinfo=UTC))])
    assert watcher.look().rows == 19
    assert watcher.counted == [(1, 4)]
