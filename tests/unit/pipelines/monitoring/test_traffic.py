from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts.prediction_row import PredictionRow
from pipelines.ledger import Ledger
from pipelines.monitoring.traffic import count_traffic, measure_traffic
from pipelines.rollout.events import Offer
from pipelines.rollout.plan import Coverage, Plan, Step
from pipelines.rollout.state import State
from pipelines.tasks.covering import REFERENCE, coverage_reader
from tests.fixtures.bundles import tiny_record
from tests.fixtures.prediction_log import NOON_S, tiny_group, write_segment

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def row(served: datetime, carrier: str | None = "UA", **changes: Any) -> PredictionRow:
    found = PredictionRow(
        prediction_id=f"{served.isoformat()}{carrier}",
        request_id="r",
        served_at=served.isoformat(timespec="microseconds"),
        event_time="2013-07-01T08:30:00",
        project="flights",
        version="1",
        bundle="b",
        slot="champion",
        rollout=None,
        share=0.0,
        entity="N1",
        score=0.25,
        decision=False,
        latency_us=900,
        error=None,
        inputs=msgspec.json.encode({"carrier": carrier}).decode(),
        cached=False,
    )
    return msgspec.structs.replace(found, **changes)


def write(root: Path, *rows: PredictionRow) -> None:
    by_day: dict[str, list[Any]] = {}
    for each in rows:
        by_day.setdefault(each.served_at[:10], []).append(msgspec.to_builtins(each))
    for day, found in by_day.items():
        path = root / f"day={day}" / f"{len(list(root.glob('*/*')))}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(found), path)


def counts(root: Path, **changes: Any) -> dict[tuple[int, str], int]:
    options: dict[str, Any] = {"segment": "carrier", "by": "served", "time_zone": "UTC", **changes}
    return count_traffic(root, NOON - 7 * DAY, NOON + DAY, **options).counts


def test_requests_are_counted_by_hour_and_segment_in_the_projects_time_zone(tmp_path: Path) -> None:
    write(tmp_path, row(NOON), row(NOON + timedelta(minutes=50)), row(NOON, "HA"), row(NOON, None), row(NOON - DAY))
    assert counts(tmp_path) == {(12, "UA"): 3, (12, "HA"): 1, (12, "missing"): 1}
    assert counts(tmp_path, segment=None) == {(12, ""): 5}
    # 12:00 UTC is 17:30 in Kolkata, and 12:50 is 18:20
    assert counts(tmp_path, segment=None, time_zone="Asia/Kolkata") == {(17, ""): 4, (18, ""): 1}
    assert counts(tmp_path, by="event", segment=None) == {(8, ""): 5}


def test_each_request_counts_once_and_shadows_do_not(tmp_path: Path) -> None:
    challenger = {"slot": "challenger", "rollout": "r", "version": "2"}
    write(
        tmp_path,
        row(NOON, slot="shadow", rollout="r", version="2"),
        row(NOON, **challenger),
        row(NOON, error="boom", score=None, **challenger),  # and the champion answered it:
        row(NOON),
        row(NOON, uncounted="synthetic"),
        row(NOON - 8 * DAY),
        row(NOON + 2 * DAY),
    )
    assert counts(tmp_path) == {(12, "UA"): 2}


def test_a_challenger_has_seen_its_own_rows_of_its_own_rollout(tmp_path: Path) -> None:
    mine = {"slot": "challenger", "rollout": "r", "version": "2"}
    write(
        tmp_path,
        row(NOON, **mine),
        row(NOON, error="boom", **mine),
        row(NOON, "HA", cached=True, **mine),
        row(NOON, "HA", uncounted="pinned", **mine),
        row(NOON, "HA", **{**mine, "rollout": "earlier"}),
        row(NOON, "HA", **{**mine, "version": "3"}),
        row(NOON, "HA"),
    )
    assert counts(tmp_path, of_challenger=("r", "2")) == {(12, "UA"): 2}


def test_a_log_as_the_server_writes_it_is_read(tmp_path: Path) -> None:
    def record(number: int) -> Any:
        return {**tiny_record(number), "carrier": "AA" if number else "UA"}

    write_segment(tmp_path, tiny_group(3, record=record))
    served = datetime.fromtimestamp(NOON_S, UTC)
    found = count_traffic(tmp_path, served - DAY, served + DAY, segment="carrier", by="served", time_zone="UTC")
    assert (found.counts, found.days, found.damaged) == ({(12, "UA"): 1, (12, "AA"): 2}, 1, ())


def test_a_log_that_does_not_exist_has_no_traffic(tmp_path: Path) -> None:
    assert counts(tmp_path / "none") == {}
    found = measure_traffic(tmp_path / "none", NOON, 7)
    assert (found.requests, found.days, found.seconds) == (0, 0, 0.0)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    write(tmp_path, row(NOON))
    (tmp_path / "day=2026-03-10" / "broken.parquet").write_bytes(b"PAR1 no table")
    found = count_traffic(tmp_path, NOON - DAY, NOON + DAY, segment=None, by="served", time_zone="UTC")
    assert found.counts == {(12, ""): 1}
    assert [segment.path for segment in found.damaged] == ["day=2026-03-10/broken.parquet"]


def test_traffic_is_measured_by_requests_entities_failures_and_hours(tmp_path: Path) -> None:
    write(
        tmp_path,
        *(row(NOON - 2 * DAY, entity=f"N{number}") for number in range(10)),
        *(row(NOON - timedelta(seconds=60), entity="N1") for _ in range(5)),
        row(NOON - timedelta(seconds=60), entity="N2", error="boom"),
        row(NOON + DAY),
    )
    found = measure_traffic(tmp_path, NOON, 7)
    assert (found.requests, found.recent, found.days) == (16, 6, 2)
    assert (found.entity_seconds, found.failed_entity_seconds) == (12, 1)
    assert (found.by_hour[12], found.by_hour[11], sum(found.by_hour)) == (10, 6, 16)
    assert found.seconds == 2 * 86_400


OFFER = Offer(rollout="r", project="flights", version="2", bundle="b", path="/b", expected_champion="1")
POLICY = Coverage(segment="carrier", minimum_per_cell=2, minimum_days=3)
PLAN = Plan(steps=(Step(share=1.0, coverage=0.8),), coverage=POLICY)


def week(days: int = 7) -> list[PredictionRow]:
    """Mornings of two carriers, and as many requests in the evening."""
    at_8, at_20 = NOON - timedelta(hours=4), NOON + timedelta(hours=8)
    return [
        row(moment - number * DAY, carrier)
        for number in range(1, days + 1)
        for moment, carrier in ((at_8, "UA"), (at_8, "HA"), (at_20, "UA"), (at_20, "UA"))
    ]


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger.open(f"sqlite:///{tmp_path}/ledger.db")


STATE = State(phase="step", offer=OFFER, plan=PLAN, started_s=NOON.timestamp())


def test_the_challenger_covers_what_it_has_answered_of_a_reference_that_the_ledger_freezes(
    tmp_path: Path, ledger: Ledger
) -> None:
    root = tmp_path / "log"
    write(root, *week())
    read = coverage_reader(root, ledger)
    assert read(STATE).share == 0
    mine = {"slot": "challenger", "rollout": "r", "version": "2"}
    write(root, *(row(NOON + timedelta(hours=8, seconds=number), **mine) for number in range(2)))
    found = read(STATE)
    assert (found.share, found.words) == (0.5, "missing 8–9 h (0.50)")
    write(root, *week(28))  # whatever the log says later, the reference stays
    assert read(STATE) == found
    assert coverage_reader(root, ledger)(STATE) == found
    entries = ledger.entries(kinds=(REFERENCE,))
    assert [(entry.subject, entry.body["days"], entry.body["requests"]) for entry in entries] == [("r", 7, 28)]


def test_a_log_of_few_days_is_no_reference(tmp_path: Path, ledger: Ledger) -> None:
    write(tmp_path / "log", *week(2))
    found = coverage_reader(tmp_path / "log", ledger)(STATE)
    assert (found.share, found.without_reference) == (None, True)
    assert found.words == (
        "no reference: the prediction log has traffic of 2 days in the 28 before the rollout, needed are 3"
    )
