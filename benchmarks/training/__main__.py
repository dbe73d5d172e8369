"""What a retrain of flight_delay costs, and how good its models would have been through 2013.

`make bench-training` runs both, and with ARGS=--readme writes the results into this folder's README.
"""

import argparse
import os
import platform
import sys
import tempfile
from datetime import date
from pathlib import Path

from rich.console import Console

from pipelines.tasks import backtesting, bench_training, ingesting
from pipelines.wiring import home

PROJECT, COST_AS_OF, COST_DAYS = "flight_delay", "2013-07-01", 56
START, UNTIL, EVERY_DAYS = "2013-03-01", "2014-01-01", 14
README = Path(__file__).parent / "README.md"
PAGE = "walk-forward.html"
BEGIN, END = "<!-- results -->", "<!-- end of results -->"
console = Console(stderr=True)


def main() -> int:
    options = _options()
    page = options.page or home().reports(PROJECT) / PAGE
    with tempfile.TemporaryDirectory(prefix="paceline-training-") as folder, console.status("ingesting") as status:
        if not home().warehouse(PROJECT).is_dir():
            os.environ["PACELINE_HOME"] = folder
            ingesting.ingest(PROJECT)
        cost = bench_training.bench_train(PROJECT, COST_AS_OF, COST_DAYS, "boosted_trees", status.update)
        console.print(bench_training.cost_text(cost), highlight=False)
        found = backtesting.backtest(
            PROJECT,
            START,
            UNTIL,
            EVERY_DAYS,
            "boosted_trees",
            lambda number, of, step: status.update(f"{number} of {of}: {backtesting.step_text(step)}"),
        )
        backtesting.write_page(found, page)
    machine = f"{platform.system()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    text = (
        f"Run on {date.today()}, {machine}.\n\n```\n{bench_training.cost_text(cost)}\n```\n\n"
        f"Walk-forward, boosted trees, retrained every {EVERY_DAYS} days on all labels known by then:\n\n"
        f"```\n{backtesting.backtest_text(found)}\n```\n"
    )
    sys.stdout.write(text)
    console.print(f"the plots: {page}")
    if options.readme:
        before, _, rest = README.read_text().partition(BEGIN)
        README.write_text(f"{before}{BEGIN}\n{text}{END}{rest.partition(END)[2]}")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--readme", action="store_true", help="write the results into the README")
    parser.add_argument("--page", type=Path, metavar="FILE", help="where the page with the plots goes")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
