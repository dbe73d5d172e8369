from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.monitoring.outcome_rows import UnknownColumnError, check_rows
from pipelines.monitoring.outcome_store import Added, OutcomeStore
from pipelines.monitoring.outcomes import LabelledPredictions, StoredOutcomes, label_predictions
from pipelines.monitoring.parquet_batches import DamagedBatchError
from pipelines.monitoring.predictions import read_predictions
from serving.prediction_writer import LoggedGroup
from tests.fixtures.bundles import tiny_record
from tests.fixtures.prediction_log import tiny_group, write_segment

NOW = datetime(2013, 8, 10, 12, tzinfo=UTC)
EVENT = "2013-08-01T08:30:00"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def store(tmp_path: Path, log: Path) -> OutcomeStore:
    return OutcomeStore(tmp_path / "outcomes", log)


def _served(log: Path, rows: int = 3, **changes: Any) -> LoggedGroup:
    """Rows of the planes N0, N1 …, logged by the real writer."""
    changes.setdefault("record", lambda row: tiny_record(row, scheduled=EVENT))
    group = tiny_group(rows, **changes)
    write_segment(log, group)
    return group


def _tell(store: OutcomeStore, *rows: dict[str, Any], now: datetime = NOW, source: str = "test") -> Added:
    return store.add(*check_rows(rows, now=now, source=source), now)


def _labelled(
    store: OutcomeStore, log: Path, as_of: date = date(2013, 8, 11), delay_days: int = 1
) -> LabelledPredictions:
    rows = read_predictions(log, date(2013, 1, 1), date(2014, 1, 1)).table
    return label_predictions(rows, [StoredOutcomes(store)], as_of=as_of, delay_days=delay_days)


def _outcomes(labelled: LabelledPredictions) -> dict[str, bool | None]:
    table = labelled.table
    return dict(zip(table["prediction_id"].to_pylist(), table["outcome"].to_pylist(), strict=True))


def test_outcomes_find_their_prediction_by_its_id_or_by_entity_and_time(store: OutcomeStore, log: Path) -> None:
    first, second, third = _served(log).prediction_ids
    added = _tell(
        store,
        {"prediction_id": first, "value": 1, "known_at": "2013-08-02T09:00:00Z"},
        {"entity": "N1", "event_time": "2013-08-01 08:30", "value": "false", "known_at": "2013-08-02T09:00:00+02:00"},
    )
    assert (added.accepted, added.repeated, added.quarantined) == (2, 0, {})
    labelled = _labelled(store, log)
    assert _outcomes(labelled) == {first: True, second: False, third: None}
    coverage = labelled.coverage
    assert (coverage.predictions, coverage.due, coverage.labelled, coverage.age_days) == (3, 3, 2, 10)
    assert coverage.delay_days == pytest.approx((33 + 31) / 2 / 24, abs=1e-3)


def test_what_is_told_twice_is_known_once_with_or_without_an_instant(store: OutcomeStore, log: Path) -> None:
    (only,) = _served(log, 1).prediction_ids
    dated = {"prediction_id": only, "value": 1, "known_at": "2013-08-02T09:00:00Z"}
    undated = {"prediction_id": only, "value": 1}
    assert _tell(store, dated, dated).accepted == 1
    again = [_tell(store, row, now=NOW + timedelta(hours=hour)) for hour, row in enumerate((dated, undated, undated))]
    assert [(added.accepted, added.repeated) for added in again] == [(0, 1)] * 3


def test_a_corrected_value_counts_from_when_it_was_known_and_the_old_one_before(store: OutcomeStore, log: Path) -> None:
    (only,) = _served(log, 1).prediction_ids
    late = {"prediction_id": only, "value": 0, "known_at": "2013-08-05T00:00:00Z"}
    early = {"prediction_id": only, "value": 1, "known_at": "2013-08-03T00:00:00Z"}
    _tell(store, late)
    added = _tell(store, early)  # out of order
    assert (added.accepted, added.corrections) == (1, 1)
    found = [_labelled(store, log, date(2013, 8, day)) for day in (2, 3, 4, 5)]
    assert [_outcomes(each)[only] for each in found] == [None, True, True, False]
    assert [each.coverage.corrected for each in found] == [0, 0, 0, 1]
    row = read_predictions(log, date(2013, 1, 1), date(2014, 1, 1)).table.to_pylist()[0]
    assert [told["value"] for told in store.history(row)] == [True, False]


def test_a_value_that_goes_back_and_forth_without_instants_ends_with_the_last_word(
    store: OutcomeStore, log: Path
) -> None:
    (only,) = _served(log, 1).prediction_ids
    added = [
        _tell(store, {"prediction_id": only, "value": value}, now=NOW + timedelta(minutes=minute))
        for minute, value in enumerate((0, 1, 0, 0))
    ]
    assert [each.accepted for each in added] == [1, 1, 1, 0]
    assert _outcomes(_labelled(store, log)) == {only: False}


GOOD = {"entity": "N1", "event_time": EVENT, "value": 1, "known_at": "2013-08-02T09:00:00Z"}
UNBELIEVABLE: list[tuple[dict[str, Any], str]] = [
    ({"value": 2}, "impossible_value"),
    ({"value": "late"}, "impossible_value"),
    ({"value": None}, "impossible_value"),
    ({"value": float("nan")}, "impossible_value"),
    ({"known_at": "2013-08-10T12:06:00Z"}, "from_the_future"),
    ({"known_at": "2013-08-02T09:00:00"}, "unreadable_time"),
    ({"known_at": "yesterday"}, "unreadable_time"),
    ({"event_time": "2013-08-01T08:30:00Z"}, "unreadable_time"),
    ({"known_at": "2013-07-31T18:29:00Z"}, "before_the_event"),
    ({"event_time": None}, "no_target"),
    ({"entity": " "}, "no_target"),
]


@pytest.mark.parametrize(("changes", "reason"), UNBELIEVABLE)
def test_a_row_that_cannot_be_believed_is_refused_with_its_reason(changes: dict[str, Any], reason: str) -> None:
    told, refused = check_rows([GOOD, GOOD | changes], now=NOW, source="test")
    assert len(told) == 1
    assert [(each.reason, each.source, bool(each.detail)) for each in refused] == [(reason, "test", True)]


def test_the_quarantine_has_each_row_once_however_often_it_is_told(store: OutcomeStore, log: Path) -> None:
    _served(log)
    rows = [GOOD | changes for changes, _ in UNBELIEVABLE]
    unknown = [GOOD | {"entity": "N9"}, GOOD | {"event_time": "2013-08-01T08:31:00", "known_at": None}]
    expected = {
        "before_the_event": 1,
        "from_the_future": 1,
        "impossible_value": 4,
        "no_target": 2,
        "unknown_prediction": 2,
        "unreadable_time": 3,
    }
    for second in range(2):
        added = _tell(store, GOOD, *rows, *unknown, now=NOW + timedelta(seconds=second))
        assert (added.accepted, added.repeated, added.quarantined) == (1 - second, second, expected)
        assert store.quarantine_counts() == expected
    assert store.quarantined().num_rows == sum(expected.values())


@pytest.mark.parametrize(
    "known_at",
    ["2013-08-10T12:04:59Z", "2013-08-10", "2013-08-10T08:04:59-04:00", datetime(2013, 8, 10, tzinfo=UTC), "", None],
)
def test_a_clock_that_is_five_minutes_ahead_is_believed_and_so_is_a_day(known_at: Any) -> None:
    told, refused = check_rows([GOOD | {"known_at": known_at}], now=NOW, source="test")
    assert (len(told), refused) == (1, [])


def test_an_outcome_of_an_unknown_prediction_becomes_one_when_the_prediction_appears(
    store: OutcomeStore, log: Path
) -> None:
    coming = tiny_group(2, record=lambda row: tiny_record(row, scheduled=EVENT))
    rows = (
        {"prediction_id": coming.prediction_ids[0], "value": 1, "known_at": "2013-08-02T09:00:00Z"},
        {"entity": "N1", "event_time": EVENT, "value": 0},
    )
    assert _tell(store, *rows).quarantined == {"unknown_prediction": 2}
    assert store.retry(NOW) == 0
    write_segment(log, coming)
    assert store.retry(NOW + timedelta(hours=1)) == 2
    assert (store.quarantine_counts(), store.has_waiting()) == ({}, False)
    assert list(_outcomes(_labelled(store, log)).values()) == [True, False]
    assert store.retry(NOW + timedelta(hours=2)) == 0


def test_what_is_told_of_an_answer_holds_for_the_shadow_of_the_same_request(store: OutcomeStore, log: Path) -> None:
    answered = _served(log, 2, request_id="r1")
    shadow = _served(log, 2, request_id="r1", slot="shadow", version="8")
    other = _served(log, 1, request_id="r2")
    _tell(store, {"prediction_id": answered.prediction_ids[0], "value": 1})
    found = _outcomes(_labelled(store, log))
    assert [key for key, value in found.items() if value] == [answered.prediction_ids[0], shadow.prediction_ids[0]]
    assert found[other.prediction_ids[0]] is None


def test_an_early_outcome_waits_until_it_is_due(store: OutcomeStore, log: Path) -> None:
    _served(log, 1)
    _tell(store, {"entity": "N0", "event_time": EVENT, "value": 1, "known_at": "2013-08-01T13:00:00Z"})
    early, due = (_labelled(store, log, date(2013, 8, day), delay_days=30) for day in (5, 31 + 1 - 1))
    assert (early.coverage.due, early.coverage.early, early.coverage.labelled) == (0, 1, 0)
    assert early.coverage.share is None
    assert due.coverage.due == 0
    ripe = _labelled(store, log, date(2013, 9, 1), delay_days=30)
    assert (ripe.coverage.due, ripe.coverage.labelled) == (1, 1)


def test_of_two_sources_the_word_that_was_known_last_counts(store: OutcomeStore, log: Path) -> None:
    _served(log, 1)
    other = OutcomeStore(store.outcomes.root.parent.parent / "other", log)
    _tell(store, {"entity": "N0", "event_time": EVENT, "value": 1, "known_at": "2013-08-04T00:00:00Z"})
    _tell(other, {"entity": "N0", "event_time": EVENT, "value": 0, "known_at": "2013-08-03T00:00:00Z"})
    rows = read_predictions(log, date(2013, 1, 1), date(2014, 1, 1)).table
    for sources in ([store, other], [other, store]):
        stored = [StoredOutcomes(each) for each in sources]
        found = [
            label_predictions(rows, stored, as_of=date(2013, 8, day), delay_days=1).table["outcome"].to_pylist()
            for day in (3, 4)
        ]
        assert found == [[False], [True]]


def test_a_misspelt_column_is_refused_before_anything_is_taken(store: OutcomeStore, log: Path) -> None:
    _served(log, 1)
    good = {"entity": "N0", "event_time": EVENT, "value": 1}
    with pytest.raises(UnknownColumnError, match="row 2 has know_at; an outcome has prediction_id"):
        _tell(store, good, good | {"know_at": "2013-08-02T09:00:00Z"})
    assert store.outcomes.files() == ()


def test_many_small_tellings_become_one_file_and_nothing_is_lost(
    store: OutcomeStore, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.monitoring.outcome_store.MERGED_FILES", 3)
    group = _served(log, 5)
    for prediction_id in group.prediction_ids:
        _tell(store, {"prediction_id": prediction_id, "value": 1})
    assert len(store.outcomes.files()) <= 3
    assert all(_outcomes(_labelled(store, log)).values())
    assert store.outcomes.query("SELECT count(*) AS n FROM batches").to_pylist() == [{"n": 5}]


def test_a_merge_that_crashed_before_it_removed_its_sources_counts_nothing_twice(
    store: OutcomeStore, log: Path
) -> None:
    first, second = _served(log, 2).prediction_ids
    for prediction_id in (first, second):
        _tell(store, {"prediction_id": prediction_id, "value": 1})
    kept = {path.name: path.read_bytes() for path in store.outcomes.files()}
    assert store.outcomes.merge(1) == 2
    for name, content in kept.items():
        (store.outcomes.root / name).write_bytes(content)
    assert store.outcomes.query("SELECT count(*) AS n FROM batches").to_pylist() == [{"n": 2}]
    store.outcomes.remove_replaced()
    assert len(list(store.outcomes.root.glob("*.parquet"))) == 1


def test_an_entity_is_forgotten_by_its_name_and_by_the_ids_of_its_predictions(store: OutcomeStore, log: Path) -> None:
    ids = _served(log, 3).prediction_ids
    _tell(
        store,
        *({"prediction_id": each, "value": 1} for each in ids),
        {"entity": "N1", "event_time": EVENT, "value": 0},
        {"entity": "N1", "event_time": EVENT, "value": 7},
        {"entity": "N2", "event_time": EVENT, "value": 7},
    )
    assert store.forget("N1", [ids[1]]) == (2, 1)
    left = store.outcomes.query("SELECT * FROM batches")
    assert sorted(left["prediction_id"].to_pylist()) == sorted([ids[0], ids[2]])
    assert store.quarantine_counts() == {"impossible_value": 1}
    assert b"N1" not in b"".join(path.read_bytes() for path in store.quarantine.root.glob("*.parquet"))
    assert store.forget("N1", [ids[1]]) == (0, 0)


def test_an_empty_store_knows_nothing_and_says_so(store: OutcomeStore, log: Path) -> None:
    _served(log, 1)
    labelled = _labelled(store, log)
    assert labelled.table["outcome"].to_pylist() == [None]
    assert isinstance(labelled.table, pa.Table)
    assert (labelled.coverage.share, labelled.coverage.age_days) == (0.0, None)
    assert (store.quarantine_counts(), store.quarantined().num_rows) == ({}, 0)


def test_a_damaged_file_of_outcomes_is_named_and_not_passed_over(store: OutcomeStore, log: Path) -> None:
    (only,) = _served(log, 1).prediction_ids
    _tell(store, {"prediction_id": only, "value": 1})
    [path] = store.outcomes.files()
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DamagedBatchError, match=rf"{path.name} cannot be read .*: bring it back from a backup"):
        _labelled(store, log)
