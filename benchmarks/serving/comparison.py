"""The results of all rounds: medians, spreads, ratios within each round, and whether the goals are reached. Pure."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipelines.benchmarking.results import BUSY_SHARE

Round = dict[str, dict[str, float]]  # key of a contender → its numbers
ALONE = "onnxruntime"


@dataclass(frozen=True)
class Column:
    """One measure of the table."""

    key: str
    title: str
    unit: str
    digits: int = 0


COLUMNS = (
    Column("c16_cpu_us", "CPU a request", "µs"),
    Column("c1_rps", "1 connection", "/s"),
    Column("c16_rps", "16 connections", "/s"),
    Column("c64_rps", "64 connections", "/s"),
    Column("fixed_p50_ms", "p50 at 500/s", "ms", 2),
    Column("fixed_p99_ms", "p99 at 500/s", "ms", 2),
    Column("json_rps", "32 records, JSON", "rows/s"),
    Column("encoded_rps", "32 encoded rows, JSON", "rows/s"),
    Column("binary_rps", "32 rows, binary", "rows/s"),
    Column("first_answer_s", "first answer", "s", 2),
    Column("memory_mb", "memory (PSS)", "MB"),
)


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A ratio or figure that must be reached; `found` None: it was not measured, for the reason in `remark`."""

    title: str
    wanted: str
    found: float | None
    unit: str
    reached: bool | None
    remark: str = ""

    @property
    def found_text(self) -> str:
        """For a table."""
        return "not measured" if self.found is None else f"{self.found:,.2f}{self.unit}"


@dataclass(kw_only=True)
class Comparison:
    """Everything that one run found. `skipped` says why a contender is not in it."""

    rounds: list[Round]
    names: dict[str, str]
    groups: dict[str, str]
    settings: dict[str, str]
    environment: dict[str, Any] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def values(self, contender: str, measure: str) -> list[float]:
        """Of all rounds that have it."""
        return [each[contender][measure] for each in self.rounds if measure in each.get(contender, {})]

    def median(self, contender: str, measure: str) -> float | None:
        """Over the rounds."""
        found = self.values(contender, measure)
        return statistics.median(found) if found else None

    def measured(self, *groups: str) -> list[str]:
        """The contenders of these groups that have results, in their order."""
        return [key for key in self.names if self.groups[key] in groups and any(key in each for each in self.rounds)]

    def ratio(
        self, measure: str, above: str, below: Sequence[str], best: Callable[[list[float]], float] = max
    ) -> float | None:
        """The median over the rounds of `above` by the best of `below` in the same round."""
        ratios = []
        for each in self.rounds:
            found = [each[key][measure] for key in below if each.get(key, {}).get(measure)]
            if found and each.get(above, {}).get(measure):
                ratios.append(each[above][measure] / best(found))
        return statistics.median(ratios) if ratios else None


def goals(found: Comparison) -> list[Goal]:
    """What the model server must reach, with what was found."""
    peers = found.measured("peer")
    made = [
        _at_most(
            "CPU a one-row request, times bare uvicorn", 2.0, found.ratio("c16_cpu_us", "paceline", ["bare"]), "×"
        ),
    ]
    for connections in (16, 64):
        for title, below, wanted in (
            ("FastAPI as tutorials write it", ["plain"], 5.0),
            ("FastAPI with our session options", ["tuned"], 3.0),
            ("the best framework", peers, 3.0),
        ):
            ratio = found.ratio(f"c{connections}_rps", "paceline", below)
            made.append(_at_least(f"throughput at {connections} connections, times {title}", wanted, ratio, "×"))
    made += [
        _at_most(
            "p99 at 500/s, times the best framework's", 0.5, found.ratio("fixed_p99_ms", "paceline", peers, min), "×"
        ),
        _at_least(
            "32 rows by binary tensors, share of ONNX Runtime alone",
            0.7,
            found.ratio("binary_rps", "paceline", [ALONE]),
            "",
        ),
        _at_least("32 records as JSON, times the best framework", 2.0, found.ratio("json_rps", "paceline", peers), "×"),
        _at_most("from process start to the first right answer", 1.0, found.median("paceline", "first_answer_s"), " s"),
        _at_most("resident memory (RSS) after the load", 150.0, found.median("paceline", "rss_mb"), " MB"),
        _at_least("goodput at overload, share of the peak", 0.9, found.median("paceline", "overload_goodput"), ""),
    ]
    for key, title in (("no-log", "prediction log"), ("no-metrics", "metrics")):
        ratio = found.ratio("c16_rps", "paceline", [key])
        made.append(
            _at_least(f"throughput with the {title} on, share of without", 0.9, ratio, "", found.skipped.get(key))
        )
    ratio = found.ratio("c16_rps", "shadow", ["paceline"])
    made.append(_at_least("throughput with shadow on, share of without", 0.9, ratio, "", found.skipped.get("shadow")))
    for measure, title in (("c64_rps", "single rows"), ("json_rps", "32 records a request")):
        ratio = found.ratio(measure, "two-workers", ["paceline"])
        made.append(_at_least(f"two workers, times one, {title}", 1.7, ratio, "×", found.skipped.get("two-workers")))
    return made


def markdown(found: Comparison) -> str:
    """The tables, for the README and the terminal."""
    lines = ["| server | " + " | ".join(f"{each.title}, {each.unit}" for each in COLUMNS) + " |"]
    lines.append("| --- |" + " ---: |" * len(COLUMNS))
    keys = [*found.measured("floor", "ours", "app", "peer"), *found.measured("variant"), ALONE]
    lines += [
        f"| {found.names.get(key, 'ONNX Runtime alone')} | "
        + " | ".join(cell(found, key, each) for each in COLUMNS)
        + " |"
        for key in keys
    ]
    lines += ["", "| goal | wanted | found | reached |", "| --- | --- | ---: | --- |"]
    for goal in goals(found):
        said = {True: "yes", False: "**no**", None: goal.remark or "–"}[goal.reached]
        lines.append(f"| {goal.title} | {goal.wanted} | {goal.found_text} | {said} |")
    overload = found.median("paceline", "overload_times")
    if overload is not None:
        p99, failed = found.median("paceline", "overload_p99_ms"), found.median("paceline", "overload_refused")
        lines += [
            "",
            f"Overload: {overload:.1f} times the capacity were due, {failed or 0.0:.0%} of them refused or given up; "
            f"p99 of answered requests {p99 or 0.0:,.0f} ms.",
        ]
    if busy := busy_generator(found):
        lines += ["", f"The generator, and not the server, may have been the limit in: {', '.join(busy)}."]
    lines += [f"Not measured: {found.names[key]}: {reason}" for key, reason in found.skipped.items()]
    return "\n".join(lines)


def busy_generator(found: Comparison) -> list[str]:
    """The loads in which the generator was busy for most of a core."""
    return [
        f"{found.names[key]} {measure.removesuffix('_generator_share')}"
        for key in found.names
        for measure in sorted({name for each in found.rounds for name in each.get(key, {})})
        if measure.endswith("_generator_share") and (found.median(key, measure) or 0.0) > BUSY_SHARE
    ]


def cell(found: Comparison, key: str, column: Column) -> str:
    """A median as text."""
    value = found.median(key, column.key)
    return "–" if value is None else f"{value:,.{column.digits}f}"


def _at_most(title: str, limit: float, found: float | None, unit: str, remark: str | None = None) -> Goal:
    reached = None if found is None else found <= limit
    return Goal(title=title, wanted=f"≤ {limit:g}{unit}", found=found, unit=unit, reached=reached, remark=remark or "")


def _at_least(title: str, limit: float, found: float | None, unit: str, remark: str | None = None) -> Goal:
    reached = None if found is None else found >= limit
    return Goal(title=title, wanted=f"≥ {limit:g}{unit}", found=found, unit=unit, reached=reached, remark=remark or "")
