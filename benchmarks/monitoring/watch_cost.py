"""What a watch of one day costs: time and memory of a process of its own, by the rows of the log."""

import json
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.monitoring.installation import PROJECT, serve
from contracts.bundle import Bundle
from pipelines.monitoring.predictions import query_predictions
from pipelines.wiring import home

DAY = date(2013, 3, 4)
_MEASURED = """
import json, resource, sys, time
from datetime import date
from contracts.bundle import read_bundle
from pipelines.monitoring.day_summaries import layout_of
from pipelines.monitoring.logged_days import summarise_log
from pipelines.tasks import drifting, watching
from pipelines.wiring import find_project, home, open_ledger
what, day, end = sys.argv[1], date.fromisoformat(sys.argv[2]), sys.argv[3]
champion = open_ledger().champion("flight_delay")
bundle = read_bundle(home().bundles / champion.bundle, champion.bundle)
drifting.reference_days(find_project("flight_delay"), bundle, layout_of(bundle.baseline, bundle.schema))
started = time.perf_counter(), time.process_time()
if what == "drift":
    layout = layout_of(bundle.baseline, bundle.schema)
    rows = summarise_log(home().predictions("flight_delay"), day, date.fromisoformat(end), schema=bundle.schema,
                         layout=layout, version=champion.version).rows
else:
    rows = watching.observe("flight_delay", end, days=1)["predictions"]
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps([rows, time.perf_counter() - started[0], time.process_time() - started[1], peak]))
"""


def table(bundle: Bundle, sizes: tuple[int, ...]) -> list[list[str]]:
    """Watches a day of each size: the summaries of drift alone, and the whole watch for the first size."""
    rows = [["rows", "what", "seconds", "CPU seconds", "µs a row", "peak memory, MB"]]
    for number, size in enumerate(sizes):
        day = DAY + timedelta(days=number)
        _fill(bundle, day, size)
        for what in ("drift", "watch") if number == 0 else ("drift",):
            measured = subprocess.run(
                [sys.executable, "-c", _MEASURED, what, day.isoformat(), (day + timedelta(days=1)).isoformat()],
                check=True,
                capture_output=True,
                text=True,
            )
            found, wall_s, cpu_s, peak_mb = json.loads(measured.stdout.strip().splitlines()[-1])
            rows.append(
                [
                    f"{found:,}",
                    "summaries for drift" if what == "drift" else "the whole watch",
                    f"{wall_s:.1f}",
                    f"{cpu_s:.1f}",
                    f"{1e6 * cpu_s / found:.1f}",
                    f"{peak_mb:,.0f}",
                ]
            )
    return rows


def _fill(bundle: Bundle, day: date, size: int) -> None:
    """Repeats the day's real predictions, with ids of their own, in files of at most 100,000 rows."""
    served = serve(bundle, day)
    root = home().predictions(PROJECT)
    some: pa.Table = query_predictions(
        root, "*", "WHERE event_time >= ? AND event_time < ?", [day.isoformat(), (day + timedelta(days=1)).isoformat()]
    ).table
    folder = root / f"day={datetime(day.year, day.month, day.day, tzinfo=UTC).date()}"
    copies, written = max(1, 100_000 // served), served
    part = 0
    while written < size:
        count = min(copies, -(-(size - written) // served))
        ids = pa.array([f"{part:06x}-{number:08x}" for number in range(count * served)])
        many = pa.concat_tables([some] * count)
        many = many.set_column(many.column_names.index("prediction_id"), "prediction_id", ids)
        pq.write_table(many, folder / f"made-{part}.parquet", compression="zstd")
        written, part = written + count * served, part + 1
