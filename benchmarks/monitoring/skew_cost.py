"""What a comparison of features costs: time and memory of a process of its own, by the sampled rows of one day.

python -m benchmarks.monitoring.skew_cost                # 50,000 rows, 5 % of a million, and 1,000,000
python -m benchmarks.monitoring.skew_cost --readme       # and write the table into README.md
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import timedelta

from benchmarks.monitoring.installation import PROJECT, install
from benchmarks.monitoring.watch_cost import DAY, fill, tell
from contracts.bundle import Bundle

BEGIN, END = "<!-- skew: written by skew_cost.py --readme -->", "<!-- end of skew -->"
SIZES = (50_000, 1_000_000)
HEAD = ("sampled rows", "seconds", "CPU seconds", "CPU µs a row", "peak memory, MB")
_MEASURED = """
import json, resource, sys, time
from pipelines.tasks import skewing
started = time.perf_counter(), time.process_time()
found = skewing.look(*sys.argv[1:])
compared = found["encoding"]["rows"], found["source"]["rows"], skewing.differing(found)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps([*compared, time.perf_counter() - started[0], time.process_time() - started[1], peak]))
"""


def main() -> int:
    """Prints the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=SIZES, help="of each day, all sampled")
    parser.add_argument("--readme", action="store_true", help="write the table into the README")
    options = parser.parse_args()
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="paceline-bench-") as folder:
        os.environ["PACELINE_HOME"] = folder
        os.environ.pop("PACELINE_LEDGER_URL", None)
        rows = table(install(), options.rows)
    tell(HEAD, rows, before, (BEGIN, END) if options.readme else None)
    return 0


def table(bundle: Bundle, sizes: Sequence[int]) -> list[list[str]]:
    """One row a size: each compared with training's encoding and with the source, without a difference."""
    rows = []
    for number, size in enumerate(sizes):
        day = DAY + timedelta(days=7 * number)
        fill(bundle, day, size, features_share=1.0)
        command = [sys.executable, "-c", _MEASURED, PROJECT, day.isoformat(), (day + timedelta(days=3)).isoformat()]
        measured = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        encoded, known, differing, wall_s, cpu_s, peak_mb = json.loads(measured.stdout.strip().splitlines()[-1])
        if differing or encoded < size or known < 0.9 * encoded:
            raise RuntimeError(f"{encoded} rows were encoded, {known} were in the source, {differing} differ")
        rows.append(
            [f"{encoded:,}", f"{wall_s:.1f}", f"{cpu_s:.1f}", f"{1e6 * cpu_s / encoded:.1f}", f"{peak_mb:,.0f}"]
        )
    return rows


if __name__ == "__main__":
    sys.exit(main())
