import os
import subprocess
import sys

import numpy as np

from pipelines.monitoring.relation import Relation, tell_apart
from tests.fixtures.drifting_days import COLUMNS, MadeRows, made_layout, made_rows, summaries

HISTORY = made_rows(30)
LAYOUT = made_layout(HISTORY)
WEATHER = frozenset({"temperature", "pressure"})
_FIRST_IN_A_PROCESS = """
import psutil
from pipelines.monitoring.relation import tell_apart
from tests.fixtures.drifting_days import COLUMNS, made_layout, made_rows, summaries
rows = made_rows(6)
days = summaries(made_layout(rows), rows)
tell_apart(days.take([0, 1, 2]), days.take([3, 4, 5]), COLUMNS, (0, 1), frozenset())
print(psutil.Process().num_threads())
"""


def _told(rows: MadeRows, ignored: frozenset[str] = WEATHER) -> Relation:
    found = tell_apart(summaries(LAYOUT, HISTORY), summaries(LAYOUT, rows), COLUMNS, (0, 1), ignored)
    assert found is not None
    return found


def test_days_of_the_same_world_cannot_be_told_apart() -> None:
    found = _told(made_rows(14, seed=3))
    assert found.auc < 0.6
    assert found.low is not None
    assert found.low < 0.55


def test_columns_that_no_longer_go_together_are_told_though_each_is_as_before() -> None:
    rows = made_rows(14, seed=3)
    order = np.argsort(rows.column("distance"))
    rows.column("minutes")[order] = np.sort(rows.column("minutes"))
    found = _told(rows)
    assert found.low is not None
    assert found.low > 0.65
    assert set(found.columns) >= {"distance", "minutes"}
    assert "by " in str(found)


def test_three_days_suffice_to_tell_a_carrier_that_takes_over_from_days_of_the_same_world() -> None:
    same, changed = made_rows(3, seed=3), made_rows(3, seed=3)
    takes_over = np.arange(len(changed.days)) % 3 > 0
    changed.column("carrier")[takes_over] = 2
    before, after = _told(same), _told(changed)
    assert before.high is not None
    assert after.low is not None
    assert after.low > before.high
    assert "carrier" in after.columns
    assert "carrier" not in before.columns


def test_an_ignored_column_tells_nothing_and_one_day_has_no_interval() -> None:
    rows = made_rows(1, seed=3)
    rows.column("temperature")[:] += 100
    assert "temperature" not in _told(rows, WEATHER).columns
    seen = _told(rows, frozenset())
    assert seen.auc > 0.95
    assert seen.low is None
    assert "temperature" in seen.columns


def test_a_side_without_rows_is_not_known() -> None:
    nothing = summaries(LAYOUT, made_rows(1, seed=3)).take([])
    assert tell_apart(summaries(LAYOUT, HISTORY), nothing, COLUMNS, (0, 1), WEATHER) is None


def test_the_first_comparison_of_a_process_starts_no_threads_however_many_it_may() -> None:
    threads = [
        subprocess.run(
            [sys.executable, "-c", _FIRST_IN_A_PROCESS],
            env={**os.environ, "OMP_NUM_THREADS": allowed, "OPENBLAS_NUM_THREADS": "1"},
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
        for allowed in ("1", "4")
    ]
    assert threads[0] == threads[1]
