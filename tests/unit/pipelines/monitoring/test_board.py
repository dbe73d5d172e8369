from datetime import date, timedelta

import numpy as np
import pytest

from pipelines.monitoring.board import BoardReading, BoardState, read_board
from pipelines.monitoring.board_reference import Reference, make_reference
from pipelines.monitoring.day_summaries import Days
from pipelines.monitoring.drift_limits import DriftLimits
from pipelines.statistics.alarm_budget import TooFewUnitsError
from tests.fixtures.drifting_days import MadeRows, made_layout, made_rows, summaries

LIMITS = DriftLimits(ignored=("temperature", "pressure"))
IGNORED = frozenset(LIMITS.ignored)
TRAINED = 70
HISTORY = made_rows(TRAINED + 30)
LAYOUT = made_layout(HISTORY.of(0, TRAINED))
START = BoardState(bundle="b")


@pytest.fixture(scope="module")
def reference() -> Reference:
    return make_reference(LAYOUT, summaries(LAYOUT, HISTORY.of(0, TRAINED)), IGNORED, LIMITS)


def _day(number: int) -> date:
    return date(2013, 1, 1) + timedelta(days=number)


def _read(reference: Reference, rows: MadeRows, state: BoardState = START) -> BoardReading:
    return read_board(reference, summaries(LAYOUT, rows), state, LIMITS, known_before=date(2014, 1, 1))


def _watch(reference: Reference, rows: MadeRows) -> tuple[list[BoardReading], list[date]]:
    """Each night of the year, over the last seven days; the readings, and the days with an alarm."""
    days: Days = summaries(LAYOUT, rows)
    state, readings, alarms = START, [], []
    for night in range(len(days)):
        seen = days.take(np.arange(max(0, night - 6), night + 1))
        reading = read_board(reference, seen, state, LIMITS, known_before=date(2014, 1, 1))
        state = reading.state
        readings.append(reading)
        alarms += sorted({alarm.day for alarm in reading.alarms})
    return readings, alarms


def test_days_like_those_of_the_reference_are_quiet_and_each_is_looked_at_once(reference: Reference) -> None:
    readings, alarms = _watch(reference, HISTORY.of(TRAINED, TRAINED + 30))
    assert alarms == []
    assert [reading.units for reading in readings] == [1] * 30
    assert readings[-1].state.last_day == _day(TRAINED + 29)


def test_a_year_without_a_change_keeps_the_budget(reference: Reference) -> None:
    _, alarms = _watch(reference, made_rows(365, seed=11))
    assert len(alarms) <= 2


def test_a_shifted_number_is_found_on_its_first_day(reference: Reference) -> None:
    rows = made_rows(1, seed=5)
    rows.column("distance")[:] *= 1.5
    alarms = _read(reference, rows).alarms
    assert alarms[0].column == "distance"
    assert alarms[0].chart == "sudden"
    assert alarms[0].p_value < 1e-3
    assert "distance: distance" in alarms[0].reason
    assert "> 0.2" in alarms[0].reason


def test_a_word_that_takes_over_is_found_on_its_first_day(reference: Reference) -> None:
    rows = made_rows(1, seed=5)
    rows.column("carrier")[: len(rows.days) // 2] = 2
    assert [alarm.statistic for alarm in _read(reference, rows).alarms] == ["carrier"]


def test_the_weather_that_is_ignored_is_no_alarm_whatever_it_does(reference: Reference) -> None:
    rows = made_rows(1, seed=5)
    rows.column("temperature")[:] += 60
    assert _read(reference, rows).alarms == ()


def test_a_change_below_what_counts_is_none_however_unlikely(reference: Reference) -> None:
    rows = made_rows(20, seed=6)
    rows.column("distance")[:] *= 1.12
    _, alarms = _watch(reference, rows)
    assert alarms == []


def test_a_lasting_change_of_the_outcomes_is_found_though_no_day_is_unusual(reference: Reference) -> None:
    readings, alarms = _watch(reference, made_rows(60, seed=8, late=1.2))
    found = next(reading.alarms for reading in readings if reading.alarms)
    assert found[0].statistic == "more positive outcomes"
    assert found[0].chart == "lasting"
    assert found[0].since < found[0].day
    assert alarms[0] <= _day(45)


def test_outcomes_that_are_not_known_yet_wait_and_are_looked_at_later(reference: Reference) -> None:
    days = summaries(LAYOUT, made_rows(3, seed=8, late=3.0))
    early = read_board(reference, days, START, LIMITS, known_before=_day(0))
    assert early.state.last_labelled_day is None
    assert early.state.last_day == _day(2)
    assert not [alarm for alarm in early.alarms if alarm.what == "outcomes"]
    later = read_board(reference, days, early.state, LIMITS, known_before=_day(3))
    assert later.state.last_labelled_day == _day(2)
    assert "more positive outcomes" in later.state.sums or later.alarms


def test_what_the_same_season_of_another_year_had_as_well_is_no_drift(reference: Reference) -> None:
    rows = made_rows(1, seed=5)
    rows.column("distance")[:] *= 1.5
    before = made_rows(20, seed=9)
    before.column("distance")[:] *= 1.5
    past = summaries(LAYOUT, HISTORY.of(0, TRAINED))
    seasonal = make_reference(LAYOUT, past, IGNORED, LIMITS, season=summaries(LAYOUT, before))
    assert _read(reference, rows).alarms != ()
    assert _read(seasonal, rows).alarms == ()


def test_the_same_days_give_the_same_reading_and_the_state_survives_json(reference: Reference) -> None:
    import msgspec

    rows = HISTORY.of(TRAINED, TRAINED + 3)
    one, other = _read(reference, rows), _read(reference, rows)
    assert one == other
    assert msgspec.json.decode(msgspec.json.encode(one.state), type=BoardState) == one.state
    assert _read(reference, rows, one.state).units == 0


def test_days_with_too_few_rows_are_looked_at_in_blocks() -> None:
    limits = DriftLimits(ignored=LIMITS.ignored, minimum_rows=1500)
    found = make_reference(LAYOUT, summaries(LAYOUT, HISTORY.of(0, TRAINED)), IGNORED, limits)
    assert found.unit_days == 3
    assert len(found.units) == TRAINED // 3
    week = summaries(LAYOUT, HISTORY.of(TRAINED, TRAINED + 7))
    assert read_board(found, week, START, limits, known_before=date(2014, 1, 1)).units == 2


def test_a_reference_of_too_few_days_is_refused_and_not_taken_for_quiet() -> None:
    with pytest.raises(TooFewUnitsError, match="the reference has 13 days"):
        make_reference(LAYOUT, summaries(LAYOUT, HISTORY.of(0, 13)), IGNORED, LIMITS)
