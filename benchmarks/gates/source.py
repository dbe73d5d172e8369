"""The source of flight_delay with a planted fault: what the project folder of the benchmark has for its `source.py`."""

from pathlib import Path
from typing import Any

import ibis

from benchmarks.gates.fault import Planted
from pipelines.projects import load_project
from pipelines.wiring import REPOSITORY

_REAL = load_project(REPOSITORY / "projects" / "flight_delay").source()
_KEPT_OF = 3  # one flight in three: the whole matrix takes minutes and not an hour


def ingest(warehouse: Path, progress: Any) -> dict[str, int]:
    return _REAL.ingest(warehouse, progress)


def events(connection: Any, warehouse: Path) -> ibis.Table:
    whole = _REAL.events(connection, warehouse)
    window = (whole.scheduled >= ibis.date("2013-03-15")) & (whole.scheduled < ibis.date("2013-07-01"))
    kept = whole.filter(window & (whole.flight % _KEPT_OF == 0))
    if Planted.change is None:
        return kept
    return ibis.memtable(Planted.change(kept.order_by(kept.columns).to_pyarrow()))
