"""What a watch of one day costs: time and memory of a process of its own, by the rows of the day and of its history.

python -m benchmarks.monitoring.watch_cost                      # days of 1,000,000 and of 10,000,000 rows
python -m benchmarks.monitoring.watch_cost --rows 100000        # of others
python -m benchmarks.monitoring.watch_cost --readme             # and write the table into README.md
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.monitoring.installation import PROJECT, install, serve
from contracts.bundle import Bundle
from pipelines.monitoring.compaction import COMPACTED
from pipelines.monitoring.predictions import query_predictions
from pipelines.wiring import find_project, home

README = Path(__file__).parent / "README.md"
BEGIN, END = "<!-- cost: written by watch_cost.py --readme -->", "<!-- end of cost -->"
SIZES = (1_000_000, 10_000_000)
DAY = date(2013, 3, 4)
HEAD = (
    "rows of the day",
    "rows in the log",
    "which watch",
    "seconds",
    "CPU seconds",
    "µs a row",
    "rows a second",
    "peak memory, MB",
)
_FILE_ROWS = 100_000
_MEASURED = """
import json, resource, sys, time
from contracts.bundle import read_bundle
from pipelines.monitoring.day_summaries import layout_of
from pipelines.tasks import drifting, watching
from pipelines.wiring import find_project, home, open_ledger
project, as_of, days = sys.argv[1], sys.argv[2], int(sys.argv[3])
bundle = read_bundle(home().bundles / (champion := open_ledger().champion(project)).bundle, champion.bundle)
drifting.reference_days(find_project(project), bundle, layout_of(bundle.baseline, bundle.schema))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
started = time.perf_counter(), time.process_time()
found = watching.observe(project, as_of, days=days)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
told = found["predictions"], found["coverage"]["labelled"], time.perf_counter() - started[0]
print(json.dumps([*told, time.process_time() - started[1], peak, before]))
"""


def main() -> int:
    """Prints the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=SIZES, help="of each day")
    parser.add_argument("--readme", action="store_true", help="write the table into the README")
    options = parser.parse_args()
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="paceline-bench-") as folder:
        os.environ["PACELINE_HOME"] = folder
        os.environ.pop("PACELINE_LEDGER_URL", None)
        head, *rows = table(install(), options.rows)
    tell(head, rows, before, (BEGIN, END) if options.readme else None)
    return 0


def tell(head: Sequence[str], rows: Sequence[Sequence[str]], load: float, section: tuple[str, str] | None) -> None:
    """Prints the table, with the machine's `load` before the run, and writes it between the README's two markers."""
    loads = f"{load:.1f} before it and {os.getloadavg()[0]:.1f} at its end"
    lines = [f"Run on {date.today()}, {os.cpu_count()} cores, whose load was {loads}.", ""]
    lines += ["| " + " | ".join(row) + " |" for row in (head, ["---:"] * len(head), *rows)]
    text = "\n".join(lines) + "\n"
    sys.stdout.write(text)
    if section is not None:
        begin, end = section
        start, _, rest = README.read_text().partition(begin)
        README.write_text(f"{start}{begin}\n{text}{end}{rest.partition(end)[2]}")


def table(bundle: Bundle, sizes: Sequence[int]) -> list[list[str]]:
    """Watches of a day of each size, in a log that has the days before as well; then the first day again.

    Each watch has the outcomes of its whole day: its as-of date is the first on which they are due. The last one knows
    when the events of all files are, and reads those of its day only.
    """
    rows, written = [list(HEAD)], 0
    for number, size in enumerate(sizes):
        day = DAY + timedelta(days=7 * number)
        written += fill(bundle, day, size)
        rows.append(_watched(day, written, f"of day {number + 1}"))
    rows.append(_watched(DAY, written, "of day 1 again"))
    return rows


def _watched(day: date, written: int, which: str) -> list[str]:
    delay = find_project(PROJECT).label.delay_days
    as_of = day + timedelta(days=delay + 1)
    measured = subprocess.run(
        [sys.executable, "-c", _MEASURED, PROJECT, as_of.isoformat(), str(delay + 1)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    found, labelled, wall_s, cpu_s, peak_mb, before_mb = json.loads(measured.stdout.strip().splitlines()[-1])
    if labelled < 0.9 * found:
        raise RuntimeError(f"{labelled} of {found} predictions have an outcome: not the whole watch was measured")
    sys.stderr.write(f"{found:,} rows in {wall_s:.1f} s, peak {peak_mb:,.0f} MB ({before_mb:,.0f} MB before)\n")
    figures = (
        f"{wall_s:.1f}",
        f"{cpu_s:.1f}",
        f"{1e6 * cpu_s / found:.1f}",
        f"{found / wall_s:,.0f}",
        f"{peak_mb:,.0f}",
    )
    return [f"{found:,}", f"{written:,}", which, *figures]


def fill(bundle: Bundle, day: date, size: int, features_share: float = 0.0) -> int:
    """Repeats the day's real predictions, each with an id of its own, as a compaction leaves them; says how many."""
    served = serve(bundle, day, features_share=features_share)
    root = home().predictions(PROJECT)
    some: pa.Table = query_predictions(
        root,
        "*",
        "WHERE event_time >= ? AND event_time < ?",
        [day.isoformat(), (day + timedelta(days=1)).isoformat()],
        lambda served_on: served_on == day.isoformat(),
    ).table
    folder = root / f"day={day.isoformat()}"
    for path in folder.glob("*.arrows"):
        path.unlink()
    copies = -(-size // served)
    with pq.ParquetWriter(folder / f"{COMPACTED}made.parquet", some.schema, compression="zstd") as writer:
        for rows in _repeated(some, copies):
            writer.write_table(rows, row_group_size=_FILE_ROWS)
    return copies * served


def _repeated(some: pa.Table, copies: int) -> Iterator[pa.Table]:
    """`copies` of `some`, a few at a time; the ids end in the number of the copy."""
    at_once = max(1, _FILE_ROWS // some.num_rows)
    place = some.column_names.index("prediction_id")
    for start in range(0, copies, at_once):
        numbers = range(start, min(start + at_once, copies))
        many = pa.concat_tables([some] * len(numbers)).combine_chunks()
        endings = pa.array([f"-{number:06x}" for number in numbers]).take(
            pa.array([copy for copy in range(len(numbers)) for _ in range(some.num_rows)])
        )
        yield many.set_column(place, "prediction_id", pc.binary_join_element_wise(many["prediction_id"], endings, ""))


if __name__ == "__main__":
    sys.exit(main())
