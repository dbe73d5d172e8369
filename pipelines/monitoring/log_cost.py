"""What the prediction log takes on disk, and what that costs at a rate of requests: measured bytes, then arithmetic."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pyarrow.parquet as pq

from pipelines.monitoring.predictions import STREAM_COLUMNS, connected
from pipelines.monitoring.retention import AGGREGATES
from pipelines.monitoring.segments import COMPACTED, DamagedStreamError, Files, list_files, read_stream

DAY_S = 86_400
DAYS_PER_MONTH = 365.25 / 12
FEW_ROWS = 10_000  # with fewer, the head and foot of a file are a large part of it
_MEASURED_FILES = 20  # the newest of each kind


class MeasuredLog(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes by row of a project's own files, as the server writes them and compacted, and what is kept for good.

    `special_share` are rows with errors or unusual flags, of which all are kept. None: there was nothing to measure.
    """

    segment_rows: int
    segment_bytes_per_row: float | None
    compacted_rows: int
    compacted_bytes_per_row: float | None
    special_share: float
    aggregate_bytes_per_day: float | None


class Month(msgspec.Struct, frozen=True, kw_only=True):
    """The end of the month `month`, from the start of logging: what lies there, and its price for that month."""

    month: int
    bytes: float
    cost: float | None


class LogCost(msgspec.Struct, frozen=True, kw_only=True):
    """`bytes_per_day` are written each day; `full_bytes` is the window that is kept whole, once it is full."""

    rate: float
    rows_per_day: float
    bytes_per_day: float
    compacted_bytes_per_day: float
    long_term_bytes_per_day: float
    full_bytes: float
    months: tuple[Month, ...]


def measure_log(root: Path) -> MeasuredLog:
    """Measures the newest files. Segments that were never compacted are, on the side, to see what that would give.

    Raises:
        LookupError: the log has no row.
    """
    files = list_files(root)
    streams = _newest(files.streams)
    compacted = _newest([path for path in files.tables if path.name.startswith(COMPACTED)])
    segment_bytes = segment_rows = 0
    readable: list[Path] = []
    for path in streams:
        try:
            segment_rows += sum(batch.num_rows for batch in read_stream(path, STREAM_COLUMNS))
        except DamagedStreamError:
            continue
        segment_bytes += path.stat().st_size
        readable.append(path)
    rows = sum(pq.ParquetFile(path).metadata.num_rows for path in compacted)
    size = sum(path.stat().st_size for path in compacted)
    if not rows and segment_rows:
        rows, size = _compacted_on_the_side(root, Files(tuple(readable), (), (), ()))
    if not rows:
        raise LookupError(f"no predictions were logged below {root}: there is nothing to measure")
    of = Files((), tuple(compacted), (), ()) if compacted else Files(tuple(readable), (), (), ())
    aggregates = [path.stat().st_size for path in (root / AGGREGATES).glob("[!.]*.parquet")]
    return MeasuredLog(
        segment_rows=segment_rows,
        segment_bytes_per_row=segment_bytes / segment_rows if segment_rows else None,
        compacted_rows=rows,
        compacted_bytes_per_row=size / rows,
        special_share=_special_share(root, of),
        aggregate_bytes_per_day=sum(aggregates) / len(aggregates) if aggregates else None,
    )


def cost_of(
    measured: MeasuredLog,
    *,
    rate: float,
    keep_days: int,
    sample: float,
    months: Sequence[int],
    price_per_gb_month: float | None,
) -> LogCost:
    """The arithmetic: `rate` rows a second, kept whole for `keep_days`, then a share `sample` and what is special.

    Today's rows lie as segments until the night; a GB is 10⁹ bytes. Of months only the one that ends is priced.

    Raises:
        ValueError: a rate, share or month that is none.
    """
    if rate <= 0 or not 0 <= sample <= 1 or any(month < 1 for month in months):
        raise ValueError(f"a rate above 0, a sample from 0 to 1 and months from 1 on; found {rate}, {sample}, {months}")
    compacted = measured.compacted_bytes_per_row or 0.0
    rows = rate * DAY_S
    written = rows * (measured.segment_bytes_per_row or compacted)
    kept = min(1.0, measured.special_share + sample * (1 - measured.special_share))
    later = rows * compacted * kept + (measured.aggregate_bytes_per_day or 0.0)

    def lies(days: float) -> float:
        whole = min(max(days - 1, 0), keep_days)
        return min(days, 1) * written + whole * rows * compacted + max(0.0, days - 1 - keep_days) * later

    found = []
    for month in months:
        size = lies(month * DAYS_PER_MONTH)
        price = None if price_per_gb_month is None else size / 1e9 * price_per_gb_month
        found.append(Month(month=month, bytes=size, cost=price))
    return LogCost(
        rate=rate,
        rows_per_day=rows,
        bytes_per_day=written,
        compacted_bytes_per_day=rows * compacted,
        long_term_bytes_per_day=later,
        full_bytes=keep_days * rows * compacted,
        months=tuple(found),
    )


def _newest(paths: Sequence[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: path.stat().st_mtime)[-_MEASURED_FILES:]


def _compacted_on_the_side(root: Path, files: Files) -> tuple[int, int]:
    """Rows and bytes of one Parquet file, as a compaction would write it."""
    with tempfile.TemporaryDirectory() as folder, connected(root, files, []) as connection:
        target = str(Path(folder) / "measured.parquet").replace("'", "''")
        connection.execute(
            f"COPY (SELECT * FROM predictions ORDER BY prediction_id) TO '{target}' (FORMAT parquet, COMPRESSION zstd)"
        )
        return pq.ParquetFile(target).metadata.num_rows, Path(target).stat().st_size


def _special_share(root: Path, files: Files) -> float:
    with connected(root, files, []) as connection:
        query = "SELECT count(*), count(*) FILTER (WHERE error IS NOT NULL OR unusual IS NOT NULL) FROM predictions"
        ((rows, special),) = connection.execute(query).fetchall()
    return special / rows if rows else 0.0
