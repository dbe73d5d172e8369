"""What the log says of a rollout, on a log that the model server's own writer has written."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pipelines.monitoring.rollout_rows import RolloutRows, Wanted, read_rollout_rows
from tests.fixtures.bundles import tiny_record
from tests.fixtures.prediction_log import NOON_S, tiny_group, write_segment

ROLLOUT = "flight_delay-v8-1"
NOON = datetime.fromtimestamp(NOON_S, UTC)
WANTED = Wanted(
    rollout=ROLLOUT,
    champion="7",
    challenger="8",
    since=NOON - timedelta(minutes=1),
    until=NOON + timedelta(minutes=1),
    fields=("carrier", "tailnum", "nothing"),
)


def row(
    number: int, slot: str, *, error: str | None = None, second: float = 0.0, share: float = 0.05, **more: Any
) -> Any:
    """One row of request `number`, whose plane and carrier follow from it."""
    return tiny_group(
        1,
        **{
            "served_at_s": NOON_S + second,
            "request_id": f"request-{number}",
            "records": [tiny_record(number)],
            "entities": [f"N{number}"],
            "version": "7" if slot == "champion" else "8",
            "slot": slot,
            "rollout": ROLLOUT,
            "share": share,
            "latency_us": 1000 * (1 + number),
            "scores": [float("nan") if error else 0.25],
            "errors": [error],
            **more,
        },
    )


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Ten champion rows in the shadow, five pairs; then nine of the champion, three of the challenger, two failed."""
    write_segment(
        tmp_path,
        *[row(number, "champion", share=0.0) for number in range(10)],
        *[row(number, "shadow", share=0.0) for number in range(4)],
        row(4, "shadow", share=0.0, error="NaN"),
        *[row(number, "champion", second=2) for number in range(20, 29)],
        row(30, "challenger", second=3),
        row(31, "challenger", second=4, error="NaN"),
        row(31, "champion", second=4, prediction_ids=["answer"]),
        row(32, "challenger", second=5, error="too slow"),
        row(33, "champion", second=6, share=0.0),  # after the trip, before the drop
        row(40, "champion", second=3, rollout=None),
        row(41, "challenger", second=3, rollout="another"),
    )
    return tmp_path


def test_rows_are_counted_by_version_and_phase(log: Path) -> None:
    found = read_rollout_rows(log, WANTED)
    counted = {(part.name, part.arm): (part.rows, part.errors, part.unanswered, part.entities) for part in found.parts}
    assert counted == {
        ("shadow", "champion"): (10, 0, 0, 10),
        ("shadow", "challenger"): (5, 1, 0, 5),
        ("5 %", "champion"): (10, 0, 0, 10),
        ("5 %", "challenger"): (3, 2, 1, 3),
        ("no share", "champion"): (1, 0, 0, 1),
    }
    assert [part.name for part in found.parts] == ["shadow", "shadow", "5 %", "5 %", "no share"]
    assert (found.rows, found.first_failed_s, found.damaged) == (29, NOON_S, ())


def test_latency_and_scores_are_of_answers_that_no_cache_gave(tmp_path: Path) -> None:
    write_segment(
        tmp_path,
        *[row(number, "challenger") for number in range(5)],  # 1 to 5 ms
        row(90, "challenger", error="NaN"),
        row(91, "challenger", cached=True),
    )
    (part,) = read_rollout_rows(tmp_path, WANTED).parts
    assert (part.rows, part.p50_ms, part.mean_score) == (7, 3.0, 0.25)
    assert part.scores[5] == 6
    assert sum(part.scores) == 6


def test_a_failure_names_who_answered_in_its_place_and_the_challengers_come_first(log: Path) -> None:
    found = read_rollout_rows(log, WANTED).failures
    assert [(each.error, each.phase, each.answered_by, each.answer_id) for each in found] == [
        ("too slow", "5 %", None, None),
        ("NaN", "shadow", "7", found[1].answer_id),
        ("NaN", "5 %", "7", "answer"),
    ]
    assert found[2].entity == "N31"
    assert msgspec.json.decode(found[2].inputs or "")["passenger"].startswith("masked:")
    assert "Lovelace" not in msgspec.json.encode(found).decode()


def test_of_many_equal_failures_some_of_each_kind_are_listed(tmp_path: Path) -> None:
    write_segment(
        tmp_path,
        *[row(number, "challenger", error="NaN") for number in range(50)],
        *[row(number, "challenger", error="rare") for number in range(50, 52)],
    )
    found = read_rollout_rows(tmp_path, msgspec.structs.replace(WANTED, failures=4))
    assert sorted(each.error for each in found.failures) == ["NaN", "NaN", "rare", "rare"]
    assert [(kind.error, kind.rows) for kind in found.error_kinds] == [("NaN", 50), ("rare", 2)]


def test_slices_are_of_fields_with_few_values(log: Path) -> None:
    write_segment(log, *[row(number, "champion") for number in range(100, 130)])  # 58 planes, three carriers
    found = read_rollout_rows(log, WANTED).slices
    assert {each.field for each in found} == {"carrier"}
    failed = {each.value: each.errors for each in found if each.arm == "challenger"}
    assert failed == {"AA": 0, "UA": 2, "WN": 1}


def test_time_is_cut_into_intervals(log: Path) -> None:
    found = read_rollout_rows(log, WANTED)
    failed = [part.start_s - NOON_S for part in found.over_time if part.errors]
    assert failed == [0.0, 4.0, 5.0]
    assert sum(part.rows for part in found.over_time) == found.rows


def test_who_asked_is_counted_where_clients_have_names(tmp_path: Path) -> None:
    write_segment(
        tmp_path,
        row(1, "challenger", client="desk"),
        row(2, "challenger", client="kiosk", error="NaN"),
        row(3, "shadow", client=None),
    )
    found = read_rollout_rows(tmp_path, WANTED).clients
    assert [(each.client, each.rows, each.errors) for each in found] == [("kiosk", 1, 1), ("desk", 1, 0)]


def test_after_a_promotion_the_rows_are_found_by_version(tmp_path: Path) -> None:
    write_segment(
        tmp_path,
        row(1, "champion", rollout=None),
        row(2, "champion", rollout=None, version="8"),
        row(3, "champion", rollout=None, version="6"),
    )
    found = read_rollout_rows(tmp_path, msgspec.structs.replace(WANTED, rollout=None))
    assert [(part.name, part.arm, part.rows) for part in found.parts] == [
        ("champion", "challenger", 1),
        ("champion", "champion", 1),
    ]


def test_a_log_that_is_not_there_has_no_rows(tmp_path: Path) -> None:
    assert read_rollout_rows(tmp_path / "nowhere", WANTED) == RolloutRows()


def test_a_damaged_file_is_named_and_the_rest_is_read(log: Path) -> None:
    day = next(log.glob("day=*"))
    (day / "compacted-broken.parquet").write_bytes(b"PAR1 no more")
    (day / "another.parquet").write_bytes(b"PAR1 nor this")
    found = read_rollout_rows(log, WANTED)
    assert found.rows == 29
    assert len(found.damaged) == 2
