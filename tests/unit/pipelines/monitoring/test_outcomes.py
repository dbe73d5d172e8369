from datetime import date, datetime
from typing import Any

import msgspec
import pyarrow as pa
import pytest

from contracts.input_schema import Field, InputSchema
from pipelines.monitoring.outcomes import LabelledPredictions, WarehouseOutcomes, label_predictions

SCHEMA = InputSchema(
    version=1,
    entity="tailnum",
    time="scheduled",
    key=("flight", "scheduled"),
    fields=(
        Field(name="tailnum", kind="identifier"),
        Field(name="flight", kind="identifier"),
        Field(name="scheduled", kind="timestamp", parts=("minute_of_day",)),
    ),
)


def _predictions(*events: tuple[Any, str]) -> pa.Table:
    inputs = [msgspec.json.encode({"tailnum": "N1", "flight": f, "scheduled": s}).decode() for f, s in events]
    return pa.table(
        {"event_time": pa.array([s for _, s in events], pa.string()), "inputs": pa.array(inputs, pa.string())}
    )


def _outcomes(*rows: tuple[Any, datetime, Any]) -> pa.Table:
    return pa.table(
        {
            "flight": [row[0] for row in rows],
            "scheduled": pa.array([row[1] for row in rows], pa.timestamp("us")),
            "late": [row[2] for row in rows],
        }
    )


def _join(predictions: pa.Table, outcomes: pa.Table, schema: InputSchema, *, known_before: date) -> LabelledPredictions:
    source = WarehouseOutcomes(outcomes, schema, "late", delay_days=0)
    return label_predictions(predictions, [source], as_of=known_before, delay_days=0)


def test_outcomes_are_joined_whatever_types_the_two_sides_give_the_key() -> None:
    predictions = _predictions(("17", "2013-07-01T08:30"), (18, "2013-07-01 08:30:00"), (19, "2013-07-01T09:00:00.000"))
    outcomes = _outcomes((17, datetime(2013, 7, 1, 8, 30), 1), (18, datetime(2013, 7, 1, 8, 30), 0))
    joined = _join(predictions, outcomes, SCHEMA, known_before=date(2013, 7, 2))
    assert joined.table["outcome"].to_pylist() == [True, False, None]
    assert (joined.coverage.predictions, joined.coverage.due, joined.coverage.labelled) == (3, 3, 2)
    assert joined.coverage.share == pytest.approx(2 / 3)


def test_the_same_event_predicted_twice_gets_its_outcome_twice() -> None:
    predictions = _predictions((17, "2013-07-01T08:30"), (17, "2013-07-01T08:30"))
    outcomes = _outcomes((17, datetime(2013, 7, 1, 8, 30), True), (17, datetime(2013, 7, 1, 8, 30), True))
    joined = _join(predictions, outcomes, SCHEMA, known_before=date(2013, 7, 2))
    assert joined.table["outcome"].to_pylist() == [True, True]


def test_an_outcome_from_the_future_of_the_run_is_not_used() -> None:
    predictions = _predictions((17, "2013-07-01T08:30"), (18, "2013-07-02T08:30"))
    outcomes = _outcomes((17, datetime(2013, 7, 1, 8, 30), 1), (18, datetime(2013, 7, 2, 8, 30), 1))
    joined = _join(predictions, outcomes, SCHEMA, known_before=date(2013, 7, 2))
    assert joined.table["outcome"].to_pylist() == [True, None]
    assert joined.coverage.due == 1


def test_nothing_due_is_not_the_same_as_nothing_labelled() -> None:
    predictions = _predictions((17, "2013-07-01T08:30"))
    nothing_due = _join(predictions, _outcomes(), SCHEMA, known_before=date(2013, 7, 1))
    nothing_came = _join(predictions, _outcomes(), SCHEMA, known_before=date(2013, 7, 2))
    assert nothing_due.coverage.share is None
    assert nothing_came.coverage.share == 0


def test_a_null_label_is_no_outcome_and_a_prediction_without_its_key_is_counted() -> None:
    predictions = _predictions((17, "2013-07-01T08:30"), (None, "2013-07-01T08:30"), (18, "never"))
    outcomes = _outcomes((17, datetime(2013, 7, 1, 8, 30), None))
    joined = _join(predictions, outcomes, SCHEMA, known_before=date(2013, 7, 2))
    assert joined.table["outcome"].to_pylist() == [None, None, None]
    assert joined.coverage.without_key == 2
    assert joined.coverage.due == 2


def test_outcomes_that_contradict_each_other_are_refused() -> None:
    outcomes = _outcomes((17, datetime(2013, 7, 1, 8, 30), 1), (17, datetime(2013, 7, 1, 8, 30), 0))
    with pytest.raises(ValueError, match=r"two different outcomes for .*17"):
        _join(_predictions(), outcomes, SCHEMA, known_before=date(2013, 7, 2))


def test_a_label_that_is_no_label_is_refused_with_its_value() -> None:
    with pytest.raises(ValueError, match="found 2"):
        _join(_predictions(), _outcomes((17, datetime(2013, 7, 1), 2)), SCHEMA, known_before=date(2013, 7, 2))


def test_outcomes_without_a_column_are_refused_by_its_name() -> None:
    with pytest.raises(ValueError, match=r"lack the columns .*flight"):
        _join(_predictions(), _outcomes().drop_columns(["flight"]), SCHEMA, known_before=date(2013, 7, 2))


def test_a_personal_key_is_refused_because_the_log_has_it_only_masked() -> None:
    personal = msgspec.structs.replace(
        SCHEMA, fields=tuple(msgspec.structs.replace(f, personal=f.name == "flight") for f in SCHEMA.fields)
    )
    with pytest.raises(ValueError, match=r"\['flight'\] are personal"):
        _join(_predictions(), _outcomes(), personal, known_before=date(2013, 7, 2))
