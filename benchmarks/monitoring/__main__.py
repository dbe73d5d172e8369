"""False alarms, detection and the season of 2013, on real flights.

`make bench-monitoring` prints the tables; `ARGS=--readme` writes them into this folder's README and draws the season,
`ARGS=--quick` takes few replays.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path

from benchmarks.monitoring import tables
from benchmarks.monitoring.flights import Flights, named
from benchmarks.monitoring.installation import install
from benchmarks.monitoring.rules import Night

FOLDER = Path(__file__).parent
README = FOLDER / "README.md"
BEGIN, END = "<!-- results -->", "<!-- end of results -->"


def main() -> int:
    """Exit code 1 when an injected change was not found on its day, and named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readme", action="store_true", help="write the results into the README, and draw the plot")
    parser.add_argument("--quick", action="store_true", help="few replays")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="paceline-bench-") as folder:
        os.environ["PACELINE_HOME"] = folder
        os.environ.pop("PACELINE_LEDGER_URL", None)
        bundle = install()
        flights = Flights(bundle)
        replays, tries = (3, 8) if options.quick else (10, 20)
        nights = tables.season(flights)
        found, is_all = tables.detection(flights, tries)
        text = _text(flights, nights, found, replays)
    sys.stdout.write(text)
    if options.readme:
        _draw(flights, nights)
        before, _, rest = README.read_text().partition(BEGIN)
        README.write_text(f"{before}{BEGIN}\n{text}{END}{rest.partition(END)[2]}")
    return 0 if is_all else 1


def _text(flights: Flights, nights: Sequence[Night], found: Sequence[Sequence[str]], replays: int) -> str:
    lines = [
        f"Run on {date.today()}, {os.cpu_count()} cores; {replays} replays of a year; the budget is "
        f"{flights.limits.false_alarms_per_year:g} false alarms a year.",
        "",
        "## Without a change",
        "",
        *_markdown(tables.false_alarms(flights, replays)),
        "",
        "## A change of one day",
        "",
        *_markdown(found),
        "",
        "## A change that stays: days until it is found, five times",
        "",
        *_markdown(tables.delays(flights)),
        "",
        "## The season of 2013",
        "",
        *_markdown(tables.season_table(flights, nights)),
        "",
        "",
    ]
    return "\n".join(lines)


def _markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    head, *body = rows
    return ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *body)]


def _draw(flights: Flights, nights: Sequence[Night]) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "paceline", "font.size": 10, "axes.spines.top": False})
    matplotlib.rcParams["axes.spines.right"] = False
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 3.8), layout="constrained")
    outcomes = flights.days.outcomes
    days = [named(place) for place in range(len(outcomes))]
    axes.bar(days, 100 * outcomes[:, 1] / outcomes.sum(axis=1), 1.0, color="#cbd5e1", label="late, of a day")
    firsts = [place for place, day in enumerate(days) if day.day == 1]
    for first, end in zip(firsts, [*firsts[1:], len(days)], strict=True):
        part = outcomes[first:end].sum(axis=0)
        label = "late, of a month" if first == 0 else None
        share = 100 * part[1] / part.sum()
        axes.hlines(share, days[first], days[end - 1], color="#0f766e", linewidth=2.5, label=label)
    for number, night in enumerate(nights):
        alarm = night.alarms[0]
        label = "alarm, and since when" if number == 0 else None
        axes.axvspan(alarm.since, named(night.day), color="#be123c", alpha=0.12)
        axes.axvline(named(night.day), color="#be123c", linewidth=1.5, label=label)
        offset, side = (-3, "right") if number % 2 == 0 else (3, "left")
        axes.annotate(
            f"{named(night.day):%-d %b}",
            (named(night.day), 84),
            xytext=(offset, 0),
            textcoords="offset points",
            ha=side,
            va="top",
            color="#be123c",
        )
    axes.axvspan(days[0], days[tables.SEASON_STARTS - 1] + timedelta(days=1), color="#64748b", alpha=0.15)
    axes.set_ylabel("15 minutes late or more, %")
    axes.set_ylim(0, 85)
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    figure.savefig(FOLDER / "season.svg", metadata={"Date": None})


if __name__ == "__main__":
    sys.exit(main())
