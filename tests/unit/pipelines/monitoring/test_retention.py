import signal
import subprocess
import sys
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from pipelines.monitoring.compaction import compact_day
from pipelines.monitoring.predictions import find_prediction, read_predictions, why_absent
from pipelines.monitoring.retention import ROWS_PER_STRATUM, read_aggregates, read_sample, reduce_day
from serving.prediction_writer import LoggedGroup
from tests.fixtures.bundles import tiny_bundle
from tests.fixtures.prediction_log import tiny_group, write_segment

DAY = "2013-08-01"


def rows(root: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = read_predictions(root, date(2013, 1, 1), date(2014, 1, 1)).table.to_pylist()
    return found


def a_day(root: Path) -> list[LoggedGroup]:
    """1,000 usual rows, 5 with errors, 3 with an extreme score; compacted."""
    baseline = tiny_bundle(root.parent / "bundles").baseline
    usual = tiny_group(1000, scores=[0.55] * 1000, latency_us=100)
    failed = tiny_group(5, slot="challenger", version="8", scores=[None] * 5, errors=["boom"] * 5)
    extreme = tiny_group(3, scores=[0.999] * 3, latency_us=3_000_000, baseline=baseline)
    write_segment(root, usual, failed, extreme)
    compact_day(root, DAY)
    return [usual, failed, extreme]


def test_an_old_day_becomes_counts_and_a_sample_with_every_error_and_unusual_row(tmp_path: Path) -> None:
    root = tmp_path / "log"
    _, failed, extreme = a_day(root)
    reduced = reduce_day(root, DAY, keep_days=30, fraction=0.05)
    assert reduced is not None
    left = rows(root)
    assert (reduced.rows, reduced.kept) == (1008, len(left))
    assert 8 + 20 <= len(left) <= 8 + 90
    kept = {row["prediction_id"] for row in left}
    assert {*failed.prediction_ids, *extreme.prediction_ids} < kept
    champion, challenger = read_aggregates(root).to_pylist()
    assert (champion["day"], champion["version"], champion["slot"]) == (DAY, "7", "champion")
    assert (champion["requests"], champion["errors"]) == (1003, 0)
    assert (champion["scores"][5], champion["scores"][9], sum(champion["scores"])) == (1000, 3, 1003)
    assert sorted(Counter(champion["latency"]).items()) == [(0, 72), (3, 1), (1000, 1)]
    assert dict(champion["flags"]) == {"extreme_score": 3}
    assert (challenger["version"], challenger["requests"], challenger["errors"]) == ("8", 5, 5)
    assert sum(challenger["scores"]) == 0


def test_every_stratum_keeps_some_rows_and_their_weights_add_up_to_all(tmp_path: Path) -> None:
    root = tmp_path / "log"
    common = tiny_group(2000, scores=[0.15] * 2000)
    rare = tiny_group(30, scores=[0.95] * 30)
    shadow = tiny_group(5, slot="shadow", version="8", scores=[0.5] * 5)
    failed = tiny_group(3, scores=[None] * 3, errors=["boom"] * 3)
    write_segment(root, common, rare, shadow, failed)
    compact_day(root, DAY)
    reduce_day(root, DAY, keep_days=30, fraction=0.05)
    kept = {row["prediction_id"] for row in rows(root)}
    assert len(kept & set(rare.prediction_ids)) >= ROWS_PER_STRATUM
    assert {*shadow.prediction_ids, *failed.prediction_ids} < kept
    assert len(kept & set(common.prediction_ids)) < 200
    sample = read_sample(root, DAY).to_pylist()
    for group in (common, rare, shadow, failed):
        ids = set(group.prediction_ids)
        assert sum(row["weight"] for row in sample if row["prediction_id"] in ids) == pytest.approx(len(ids))
    write_segment(root, late := tiny_group(100, scores=[0.95] * 100))
    compact_day(root, DAY)
    reduce_day(root, DAY, keep_days=30, fraction=0.05)
    again = read_sample(root, DAY).to_pylist()
    of_both = {*rare.prediction_ids, *late.prediction_ids}
    assert sum(row["weight"] for row in again if row["prediction_id"] in of_both) == pytest.approx(130)
    assert sum(row["prediction_id"] in of_both for row in again) >= ROWS_PER_STRATUM
    assert read_sample(root, "2013-08-02").num_rows == 0


def test_the_sample_is_the_same_whoever_takes_it_and_a_second_time_changes_nothing(tmp_path: Path) -> None:
    root = tmp_path / "log"
    a_day(root)
    reduce_day(root, DAY, keep_days=30)
    before, counts = rows(root), read_aggregates(root)
    assert compact_day(root, DAY).merged == 0
    assert reduce_day(root, DAY, keep_days=30) is None
    assert rows(root) == before
    assert read_aggregates(root) == counts


def test_rows_that_come_late_are_added_to_counts_and_sample(tmp_path: Path) -> None:
    root = tmp_path / "log"
    a_day(root)
    reduce_day(root, DAY, keep_days=30)
    before = rows(root)
    write_segment(root, tiny_group(7, scores=[None] * 7, errors=["late"] * 7))
    compact_day(root, DAY)
    reduce_day(root, DAY, keep_days=30)
    assert len(rows(root)) == len(before) + 7
    champion = read_aggregates(root).to_pylist()[0]
    assert (champion["requests"], champion["errors"]) == (1010, 7)
    assert len(list((root / f"day={DAY}").iterdir())) == 1


def test_a_dry_run_reduces_nothing(tmp_path: Path) -> None:
    root = tmp_path / "log"
    a_day(root)
    reduced = reduce_day(root, DAY, keep_days=30, is_dry_run=True)
    assert reduced is not None
    assert reduced.kept < reduced.rows == len(rows(root))
    assert read_aggregates(root).num_rows == 0


def test_a_kept_row_is_found_and_of_a_removed_one_the_log_says_what_became_of_its_day(tmp_path: Path) -> None:
    root = tmp_path / "log"
    usual, failed, _ = a_day(root)
    assert why_absent(root, usual.prediction_ids[0]) is None
    reduce_day(root, DAY, keep_days=45, fraction=0.0)
    assert find_prediction(root, failed.prediction_ids[0]) is not None
    assert find_prediction(root, usual.prediction_ids[0]) is None
    reason = why_absent(root, usual.prediction_ids[0])
    assert reason is not None
    for text in (DAY, "after 45 days to 8 of 1008 rows", "may be among the rest"):
        assert text in reason
    another_day = tiny_group(1, served_at_s=1_380_000_000.0).prediction_ids[0]
    assert why_absent(root, another_day) is None


CRASH = """
import os, signal, sys
from pathlib import Path
from pipelines.monitoring import compaction, retention
module = {"compaction": compaction, "retention": retention}[sys.argv[2]]
original, calls = getattr(module, sys.argv[3]), []
def crash(*arguments, **more):
    calls.append(1)
    if len(calls) == int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments, **more)
setattr(module, sys.argv[3], crash)
retention.reduce_day(Path(sys.argv[1]), "2013-08-01", keep_days=30)
"""


@pytest.mark.parametrize(
    ("module", "name", "call"),
    [
        ("retention", "sync", 1),  # the counts are a draft
        ("retention", "sync", 2),  # they are in place
        ("retention", "replace", 1),  # the sample is not begun
        ("compaction", "sync", 1),  # it is a draft
        ("compaction", "sync", 2),  # it is in place, the rows are there as well
        ("compaction", "_remove", 1),
    ],
)
def test_a_reduction_killed_at_any_point_counts_each_row_once_and_is_finished_by_the_next(
    tmp_path: Path, module: str, name: str, call: int
) -> None:
    root = tmp_path / "log"
    a_day(root)
    command = [sys.executable, "-c", CRASH, str(root), module, name, str(call)]
    killed = subprocess.run(command, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    seen = [row["prediction_id"] for row in rows(root)]
    assert len(seen) == len(set(seen))
    compact_day(root, DAY)
    reduce_day(root, DAY, keep_days=30)
    assert [row["requests"] for row in read_aggregates(root).to_pylist()] == [1003, 5]
    [left] = (root / f"day={DAY}").iterdir()
    assert left.name.startswith("sampled-")
