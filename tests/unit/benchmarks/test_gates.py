"""The faults of the escape matrix are faults, and its table hides no escape."""

from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.gates.__main__ import FAULTS, results
from benchmarks.gates.data_faults import DATA, LABELS, LEAKS
from benchmarks.gates.fault import Fault, Planted
from benchmarks.gates.matrix import Outcome

ROWS = 4000


@pytest.fixture(scope="module")
def events() -> pa.Table:
    """Rows like those of flights, from the middle of April to the end of June."""
    draw = np.random.default_rng(1)
    minutes = np.sort(draw.integers(0, 76 * 1440, ROWS))
    age = draw.integers(0, 30, ROWS).astype(float)
    age[::9] = np.nan
    numbers = {
        name: draw.uniform(10, 90, ROWS)
        for name in (
            "arrival_minute", "scheduled_minutes", "distance_miles", "temperature_f", "dew_point_f", "humidity_pct",
            "wind_speed_mph", "pressure_mbar", "precipitation_in", "visibility_miles",
        )
    }  # fmt: skip
    return pa.table(
        {
            "scheduled": [datetime(2013, 4, 15) + timedelta(minutes=int(minute)) for minute in minutes],
            "flight": draw.integers(1, 3000, ROWS),
            "carrier": draw.choice(["UA", "AA", "DL"], ROWS),
            "origin": draw.choice(["EWR", "JFK", "LGA"], ROWS),
            "dest": draw.choice(["IAH", "MIA", "ORD"], ROWS),
            "engine": draw.choice(["jet", "fan"], ROWS),
            "seats": draw.integers(10, 300, ROWS),
            "plane_age_years": pa.array(age, from_pandas=True),
            "late": draw.random(ROWS) < 0.25,
            **numbers,
        }
    )


def test_there_are_at_least_forty_faults_and_no_name_twice() -> None:
    assert len(FAULTS) >= 40
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_what_a_fault_is_planted_in_exists(fault: Fault) -> None:
    with fault.plant():
        pass


@pytest.mark.parametrize("fault", [*DATA, *LEAKS, *LABELS], ids=lambda fault: fault.name)
def test_a_fault_of_the_data_changes_the_events_while_it_is_planted(fault: Fault, events: pa.Table) -> None:
    with fault.plant():
        assert Planted.change is not None
        changed = Planted.change(events)
    assert Planted.change is None
    assert changed.column_names == events.column_names
    assert not changed.equals(events)


def test_an_escape_is_listed_by_its_name_and_comes_last() -> None:
    def outcome(name: str, part: str | None) -> Outcome:
        return Outcome(name=name, stage="data", what="is wrong", part=part, caught_by=("AUC",) if part else ())

    table = results([outcome("ghost", None), outcome("late", "evaluation"), outcome("early", "validation")])
    assert "**Caught: 2** (validation 1, evaluation 1). **Escaped: 1**" in table
    assert table.index("| early |") < table.index("| late |") < table.index("| ghost |")
    assert "- **ghost** (data): is wrong" in table
