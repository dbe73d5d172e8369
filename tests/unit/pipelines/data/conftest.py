import tempfile
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import ibis
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts.input_schema import Field
from pipelines.data.schema import DeclaredSchema, Label
from pipelines.data.snapshots import Snapshot, take_snapshot
from pipelines.data.sources import connect
from pipelines.data.windows import SplitRule, Windows, choose_windows

FIRST_DAY, DAYS, ROWS_PER_DAY = date(2013, 1, 1), 60, 20


@pytest.fixture
def declared() -> DeclaredSchema:
    return DeclaredSchema(
        version=1,
        entity="van",
        time="leaves",
        key=("parcel", "leaves"),
        vocabulary_size=3,
        fields=(
            Field(name="van", kind="identifier"),
            Field(name="parcel", kind="identifier"),
            Field(name="leaves", kind="timestamp", parts=("minute_of_day",)),
            Field(name="depot", kind="category", vocabulary=("north", "south"), unseen="reject"),
            Field(name="town", kind="category"),
            Field(name="distance_km", kind="number", minimum=0, maximum=500),
            Field(name="wind_kmh", kind="number", required=False, minimum=0, maximum=200, outside="missing"),
            Field(name="express", kind="boolean"),
        ),
    )


@pytest.fixture
def label() -> Label:
    return Label(column="late", delay_days=2)


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    """Two months of deliveries, one row each; a fifth is late, a twentieth has no wind."""
    return [
        {
            "van": f"V{number % 7}",
            "parcel": day * ROWS_PER_DAY + number,
            "leaves": datetime.combine(FIRST_DAY, datetime.min.time()) + timedelta(days=day, minutes=30 * number),
            "depot": ("north", "south")[number % 2],
            "town": ("Aby", "Bro", "Cadi", "Dol")[min(number % 6, 3)],
            "distance_km": 5 + number,
            "wind_kmh": None if number == 19 else 10.5 + number,
            "express": number % 3 == 0,
            "late": number % 5 == 0,
            "driver": "not declared",
        }
        for day in range(DAYS)
        for number in range(ROWS_PER_DAY)
    ]


@pytest.fixture
def as_events(tmp_path: Path) -> Iterator[Callable[[list[dict[str, Any]]], ibis.Table]]:
    """Makes events of rows, in a Parquet file as a warehouse has them."""
    connection = connect()

    def build(rows: list[dict[str, Any]]) -> ibis.Table:
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        pq.write_table(pa.Table.from_pylist(rows), folder / "deliveries.parquet")
        return connection.read_parquet(folder / "deliveries.parquet")

    yield build
    connection.disconnect()


@pytest.fixture
def events(as_events: Callable[[list[dict[str, Any]]], ibis.Table], rows: list[dict[str, Any]]) -> ibis.Table:
    return as_events(rows)


@pytest.fixture
def take(tmp_path: Path, windows: Windows, declared: DeclaredSchema, label: Label) -> Callable[..., Snapshot]:
    """Takes a snapshot of events, below `tmp_path / "snapshots"` unless told otherwise."""

    def taken(events: ibis.Table, root: Path = tmp_path / "snapshots") -> Snapshot:
        return take_snapshot(root, events, windows, declared, label, "deliveries")

    return taken


@pytest.fixture
def windows(label: Label) -> Windows:
    rule = SplitRule(train_days=60, validation_days=7, test_days=7, minimum_train_days=10)
    return choose_windows(date(2013, 2, 28), label, rule, FIRST_DAY)
