import shutil
from pathlib import Path

from pipelines.monitoring.compaction import compact_day
from pipelines.monitoring.predictions import find_ids
from pipelines.monitoring.retention import AGGREGATES, reduce_day
from pipelines.monitoring.tallies import count_by_version, kept_by_version
from tests.fixtures.prediction_log import NOON_S, tiny_group, write_segment

DAY_S = 86_400.0


def _log(root: Path) -> None:
    write_segment(root, tiny_group(300, version="1"), tiny_group(2, version="2", slot="shadow", errors=["broken"] * 2))
    write_segment(root, tiny_group(5, version="1", served_at_s=NOON_S + DAY_S))


def _counts(root: Path) -> dict[tuple[str, str], tuple[int, int, str, str]]:
    return {(t.version, t.slot): (t.requests, t.errors, t.first, t.last) for t in count_by_version(root)}


def test_predictions_are_counted_by_version_and_slot_with_their_days(tmp_path: Path) -> None:
    _log(tmp_path)
    assert _counts(tmp_path) == {
        ("1", "champion"): (305, 0, "2013-08-01", "2013-08-02"),
        ("2", "shadow"): (2, 2, "2013-08-01", "2013-08-01"),
    }


def test_a_day_that_was_reduced_to_a_sample_counts_as_before(tmp_path: Path) -> None:
    _log(tmp_path)
    before = _counts(tmp_path)
    compact_day(tmp_path, "2013-08-01")
    assert _counts(tmp_path) == before
    reduced = reduce_day(tmp_path, "2013-08-01", keep_days=30, fraction=0.1)
    assert reduced is not None
    assert reduced.kept < reduced.rows
    assert _counts(tmp_path) == before


def test_files_that_a_crash_left_behind_after_they_were_counted_do_not_count_twice(tmp_path: Path) -> None:
    _log(tmp_path)
    before = _counts(tmp_path)
    compact_day(tmp_path, "2013-08-01")
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "day=2013-08-01", copy)
    reduce_day(tmp_path, "2013-08-01", keep_days=30, fraction=0.1)
    shutil.rmtree(tmp_path / "day=2013-08-01")
    copy.rename(tmp_path / "day=2013-08-01")
    assert list((tmp_path / AGGREGATES).glob("*.parquet"))
    assert _counts(tmp_path) == before


def test_a_log_that_does_not_exist_has_no_tallies(tmp_path: Path) -> None:
    assert count_by_version(tmp_path / "nothing") == ()


def test_only_rows_that_the_log_keeps_whole_are_kept_and_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    assert kept_by_version(tmp_path / "nothing") == ({}, ())
    _log(tmp_path)
    assert kept_by_version(tmp_path) == ({"1": 305, "2": 2}, ())
    compact_day(tmp_path, "2013-08-01")
    assert kept_by_version(tmp_path) == ({"1": 305, "2": 2}, ())
    reduce_day(tmp_path, "2013-08-01", keep_days=30, fraction=0.1)
    assert kept_by_version(tmp_path) == ({"1": 5}, ())
    (tmp_path / "day=2013-08-02" / "broken.parquet").write_bytes(b"no Parquet")
    counts, damaged = kept_by_version(tmp_path)
    assert (counts, [segment.path for segment in damaged]) == ({"1": 5}, ["day=2013-08-02/broken.parquet"])


def test_ids_are_found_by_their_beginning_in_the_days_that_it_names(tmp_path: Path) -> None:
    first, second = tiny_group(3), tiny_group(3, served_at_s=NOON_S + 30 * DAY_S)
    write_segment(tmp_path, first)
    write_segment(tmp_path, second)
    ids = first.prediction_ids
    assert find_ids(tmp_path, ids[0][:8], at_most=10) == tuple(ids)
    assert find_ids(tmp_path, ids[0][:8], at_most=2) == tuple(ids[:2])
    assert find_ids(tmp_path, ids[0], at_most=10) == (ids[0],)
    assert find_ids(tmp_path, "0" * 8, at_most=10) == ()
    assert find_ids(tmp_path, "no-uuid-at-all", at_most=10) == ()
    # a folder of another day is not opened: what is in it does not matter
    (tmp_path / "day=2013-08-31" / "compacted-x.parquet").write_bytes(b"damaged")
    assert find_ids(tmp_path, ids[0][:13], at_most=10) == tuple(ids)
