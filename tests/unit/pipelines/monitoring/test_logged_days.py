"""The log is read column by column, and gives the same bytes as row by row."""

from datetime import date
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from contracts.input_schema import Field, InputSchema
from pipelines.evaluation.baseline import make_baseline
from pipelines.monitoring.day_summaries import layout_of, summarise
from pipelines.monitoring.log_batches import Window
from pipelines.monitoring.logged_columns import ColumnReader
from pipelines.monitoring.logged_days import summarise_log
from pipelines.monitoring.predictions import encode_inputs, read_predictions
from tests.fixtures.prediction_log import NOON_S, tiny_group, write_segment

SCHEMA = InputSchema(
    version=1,
    entity="tailnum",
    time="scheduled",
    key=("tailnum", "scheduled"),
    fields=(
        Field(name="tailnum", kind="identifier"),
        Field(name="scheduled", kind="timestamp", parts=("minute_of_day", "day_of_week")),
        Field(name="carrier", kind="category", vocabulary=("AA", "UA")),
        Field(name="distance", kind="number", minimum=0, maximum=5000, outside="clip"),
        Field(name="age", kind="number", required=False, minimum=0, maximum=60, outside="missing"),
        Field(name="is_heavy", kind="boolean", required=False),
        Field(name="income", kind="number", personal=True),
    ),
)


def _august(root: Path, days: int) -> Window:
    return Window(root, date(2013, 8, 1), date(2013, 8, 1 + days))


def _record(row: int, **changes: Any) -> dict[str, Any]:
    found = {
        "tailnum": row if row % 2 else f"N{row}",
        "scheduled": f"2013-08-0{1 + row % 2}T{row % 24:02}:15",
        "carrier": ("AA", "UA", "XX")[row % 3],
        "distance": row * 7 if row % 4 else 9999.5,
        "is_heavy": (True, False, None)[row % 3],
        "income": "masked:abc",
    }
    if row % 5:
        found["age"] = row % 70
    return found | changes


def _texts(records: list[Any]) -> pa.Array:
    return pa.array([msgspec.json.encode(record).decode() for record in records])


def test_columns_give_the_bytes_of_rows() -> None:
    inputs = _texts([_record(row) for row in range(300)])
    found = ColumnReader(SCHEMA).read(inputs)
    expected = encode_inputs(pa.table({"inputs": inputs}), SCHEMA)
    assert found.rows.tobytes() == expected.rows.tobytes()
    rows, words = found.unseen["carrier"]
    assert set(words) == {"XX"}
    assert rows.tolist() == list(range(2, 300, 3))


@pytest.mark.parametrize(
    "odd",
    [
        {"distance": None},
        {"distance": "far"},
        {"scheduled": "yesterday"},
        {"carrier": 7},
        {"wings": 2},
        "no record",
    ],
)
def test_a_batch_with_a_record_that_needs_a_closer_look_goes_row_by_row(odd: Any) -> None:
    records = [_record(row) for row in range(40)] + [_record(40) | odd if isinstance(odd, dict) else odd]
    inputs = _texts(records)
    found = ColumnReader(SCHEMA).read(inputs)
    expected = encode_inputs(pa.table({"inputs": inputs}), SCHEMA)
    if odd == {"wings": 2}:  # the server refuses unknown fields, so no logged record has one
        assert len(found.rows) == 41
    else:
        assert found.refused == expected.refused == 1
        assert found.rows.tobytes() == expected.rows.tobytes()
        assert found.kept.tolist() == list(range(40))


def test_the_log_of_two_days_is_summarised_without_what_others_answered(tmp_path: Path) -> None:
    group = tiny_group(200, record=_record, schema=SCHEMA, scores=[row / 200 for row in range(200)])
    write_segment(
        tmp_path,
        group,
        tiny_group(30, record=_record, schema=SCHEMA, version="8"),
        tiny_group(30, record=_record, schema=SCHEMA, slot="shadow"),
        tiny_group(30, record=_record, schema=SCHEMA, uncounted="synthetic"),
        tiny_group(1, record=_record, schema=SCHEMA, scores=[None], errors=["broken"]),
    )
    encoded = encode_inputs(pa.table({"inputs": _texts([_record(row) for row in range(200)])}), SCHEMA)
    scores = np.arange(200, dtype=np.float32) / 200
    layout = layout_of(make_baseline(SCHEMA, encoded.rows, scores, {}), SCHEMA)
    found = summarise_log(
        Window(tmp_path, date(2013, 8, 1), date(2013, 8, 3)), schema=SCHEMA, layout=layout, version="7"
    )
    first = (date(2013, 8, 1) - date(1970, 1, 1)).days
    expected = summarise(layout, encoded.rows, scores, first + np.arange(200) % 2)
    assert found.rows == 200
    assert found.days.days.tolist() == [first, first + 1]
    for mine, theirs in zip(found.days.counts, expected.counts, strict=True):
        assert np.array_equal(mine, theirs)
    assert np.array_equal(found.days.score_counts, expected.score_counts)
    assert sum(found.unseen[first]["carrier"].values()) + sum(found.unseen[first + 1]["carrier"].values()) == 66
    one_day = summarise_log(
        Window(tmp_path, date(2013, 8, 1), date(2013, 8, 2)), schema=SCHEMA, layout=layout, version="7"
    )
    assert one_day.rows == 100


def test_a_damaged_file_does_not_blind_the_rest(tmp_path: Path) -> None:
    write_segment(tmp_path, tiny_group(50, record=_record, schema=SCHEMA, served_at_s=NOON_S))
    broken = tmp_path / "day=2013-08-01" / "broken.parquet"
    broken.write_bytes(b"PAR1 and nothing else PAR1")
    encoded = encode_inputs(pa.table({"inputs": _texts([_record(row) for row in range(50)])}), SCHEMA)
    layout = layout_of(make_baseline(SCHEMA, encoded.rows, np.zeros(50, dtype=np.float32), {}), SCHEMA)
    found = summarise_log(
        Window(tmp_path, date(2013, 8, 1), date(2013, 8, 3)), schema=SCHEMA, layout=layout, version="7"
    )
    assert found.rows == 50
    assert read_predictions(tmp_path, date(2013, 8, 1), date(2013, 8, 3)).damaged != ()
