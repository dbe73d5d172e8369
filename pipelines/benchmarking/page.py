"""The result for people: one HTML file that needs nothing from elsewhere, and a few lines for the terminal."""

from pathlib import Path

from markupsafe import Markup

from pipelines.benchmarking.results import BenchResult, Latency, Measured
from pipelines.pages import Card, render
from pipelines.pages.plots import WIDE, Axis, Series, chart, number_text

OPEN_NOTE = (
    "Latency counts from the moment a request was due, however late it could be sent: what clients that come by "
    "themselves would have felt. Requests that were given up count as long as they waited."
)
CLOSED_NOTE = (
    "Each connection waited for its answer before it sent the next request: this shows capacity, not what clients feel."
)
_TEMPLATES = Path(__file__).parent / "templates"
_SLOT_TONES = ("t1", "t2", "t4", "t5", "t6", "t7", "t3", "t8")


def bench_page(result: BenchResult) -> str:
    """The whole page."""
    measured = result.measured
    is_open = result.mode != "concurrency"
    stopped = " It was stopped early: these are the results until then." if measured.was_stopped else ""
    return render(
        "bench.html",
        [_TEMPLATES],
        title=f"Load on {result.environment.get('project', 'a model server')}",
        summary=f"{result.url} on {result.started.replace('T', ' ')}: {_described(result)}.{stopped}",
        warnings=measured.generator.warnings,
        cards=_cards(result),
        result=result,
        measured=measured,
        search_chart=_search_chart(result),
        charts=_charts(result),
        latency_note=OPEN_NOTE if is_open else CLOSED_NOTE,
        facts=_facts(result),
        footer=(
            "Percentiles are exact, over all requests behind the warm-up. "
            "Made by paceline bench serve; --json FILE writes the same numbers for machines."
        ),
    )


def bench_text(result: BenchResult) -> str:
    """A few lines."""
    measured, counts = result.measured, result.measured.counts
    lines = []
    if result.search is not None:
        best = result.search.best_rate
        found = "no rate met it" if best is None else f"{best:,.0f} requests a second"
        lines.append(f"largest rate with p99 <= {result.search.objective_p99_ms:g} ms: {found}")
        lines += [
            f"  {step.rate:>9,.0f}/s  {'yes' if step.meets else 'no ':<3}  {step.reason}"
            for step in result.search.steps
        ]
    intended = "" if measured.rates.intended is None else f"{measured.rates.intended:,.0f}/s intended, "
    lines.append(
        f"{intended}{measured.rates.answered:,.0f}/s answered, {measured.rates.rows:,.0f} rows/s; "
        f"{counts.requests:,} requests in {measured.seconds:.1f} s, {counts.failed:,} failed, "
        f"{counts.not_sent:,} not sent"
    )
    lines.append("latency: " + _latency_text(measured.latency_ms))
    lines += [
        f"  {slot.slot or 'version'} {slot.version}: {slot.requests:,} ({slot.share:.1%}), "
        + _latency_text(slot.latency_ms)
        for slot in measured.slots
    ]
    lines += [
        f"  failed {failure.requests:,}: {failure.cause}{': ' + failure.example if failure.example else ''}"
        for failure in measured.failures
    ]
    if result.server_process is not None:
        found_process = result.server_process
        lines.append(
            f"server: {found_process.cpu_us_per_request:.0f} µs CPU a request, {found_process.resident_mb:.0f} MB, "
            f"{found_process.processes} process{'es' if found_process.processes > 1 else ''}"
        )
    generator = measured.generator
    lines.append(f"generator: {generator.cpu_us_per_request:.0f} µs CPU a request, {generator.cpu_share:.0%} of a core")
    lines += [f"warning: {warning}" for warning in generator.warnings]
    if measured.was_stopped:
        lines.append("stopped early: these are the results until then")
    return "\n".join(lines)


def _described(result: BenchResult) -> str:
    rows = _rows_text(result.rows_per_request)
    if result.mode == "concurrency":
        load = f"{result.connections} connections, each sending its next request when it has its answer"
    elif result.search is not None:
        load = f"a search for the largest rate with a p99 of at most {result.search.objective_p99_ms:g} ms"
    else:
        load = f"{number_text(result.measured.rates.intended or 0.0)} requests a second, {result.arrivals} arrivals"
    return f"{load}, {rows} a request, protocol {result.protocol}, {result.measured.seconds:.1f} s"


def _rows_text(rows: int) -> str:
    return "one row" if rows == 1 else f"{rows} rows"


def _cards(result: BenchResult) -> list[Card]:
    measured, counts, latency = result.measured, result.measured.counts, result.measured.latency_ms
    cards = []
    if result.search is not None:
        best = result.search.best_rate
        cards.append(
            Card(
                "Largest rate",
                "none" if best is None else number_text(best),
                "" if best is None else "/s",
                f"p99 ≤ {result.search.objective_p99_ms:g} ms, {len(result.search.steps)} steps",
                "bad" if best is None else "good",
                lead=True,
            )
        )
    intended = measured.rates.intended
    cards.append(
        Card(
            "Answered",
            number_text(measured.rates.answered),
            "/s",
            "as fast as the answers came" if intended is None else f"{number_text(intended)} /s intended",
        )
    )
    for name, value in (("p50", latency.p50), ("p99", latency.p99), ("p99.9", latency.p99_9), ("Slowest", latency.max)):
        label = f"Latency {name}" if name.startswith("p") else "Slowest answer"
        cards.append(Card(label, *(("–", "") if value is None else (number_text(value), "ms"))))
    failed_more = f"{counts.not_sent:,} of them not sent" if counts.not_sent else f"of {counts.requests:,} requests"
    cards.append(Card("Failed", f"{counts.failed:,}", "", failed_more, "bad" if counts.failed else "good"))
    if result.server_process is not None:
        process = result.server_process
        more = (
            f"{process.resident_mb:.0f} MB resident, {process.processes} process{'es' if process.processes > 1 else ''}"
        )
        cards.append(Card("Server CPU a request", number_text(process.cpu_us_per_request), "µs", more))
    return cards


def _charts(result: BenchResult) -> list[Markup]:
    measured = result.measured
    charts = []
    if measured.curve:
        points = [(point.percentile, point.latency_ms) for point in measured.curve]
        charts.append(
            chart(
                "Latency by percentile",
                Axis("percentile of requests", "nines", " %"),
                Axis("ms, log scale", "log", " ms"),
                [Series("latency", points, "t1")],
                _objective(result),
            )
        )
    moments = [moment for moment in measured.timeline if moment.p50_ms is not None]
    if moments:
        charts.append(
            chart(
                "Latency over time",
                Axis("second of the run", unit=" s", start=0.0, end=measured.seconds),
                Axis("ms, log scale", "log", " ms"),
                [
                    Series("p50", [(each.middle_s, each.p50_ms) for each in measured.timeline], "t1"),
                    Series("p99", [(each.middle_s, each.p99_ms) for each in measured.timeline], "t2"),
                    Series("slowest", [(each.middle_s, each.max_ms) for each in measured.timeline], "t3", "dashed"),
                ],
                _objective(result),
            )
        )
    if measured.timeline and measured.counts.requests:
        charts.append(_rate_chart(measured, is_open=result.mode != "concurrency"))
    if len([slot for slot in measured.slots if slot.latency_ms.p50 is not None]) > 1:
        charts.append(_slot_chart(measured))
    return charts


def _rate_chart(measured: Measured, *, is_open: bool) -> Markup:
    series = [Series("answered", [(each.middle_s, each.answered) for each in measured.timeline], "t1", "area")]
    if is_open:
        intended = [(each.middle_s, each.intended) for each in measured.timeline]
        series.append(Series("intended", intended, "t4", "dashed"))
    if measured.counts.failed:
        series.append(Series("failed", [(each.middle_s, each.failed) for each in measured.timeline], "t3"))
    return chart(
        "Rate by when requests were due" if is_open else "Rate over time",
        Axis("second of the run", unit=" s", start=0.0, end=measured.seconds),
        Axis("requests a second", unit=" /s"),
        series,
    )


def _slot_chart(measured: Measured) -> Markup:
    series = []
    for tone, slot in zip(_SLOT_TONES * len(measured.slots), measured.slots, strict=False):
        named = zip((50.0, 90.0, 99.0, 99.9), _percentiles(slot.latency_ms), strict=True)
        points = [(each, value) for each, value in named if slot.requests * (1 - each / 100) >= 1]
        series.append(Series(f"{slot.slot} {slot.version}".strip(), points, tone))
    return chart(
        "Latency by slot", Axis("percentile of answers", "nines", " %"), Axis("ms, log scale", "log", " ms"), series
    )


def _search_chart(result: BenchResult) -> Markup | None:
    if result.search is None:
        return None
    steps = [step for step in result.search.steps if step.p99_ms is not None]
    if not steps:
        return None
    series = [
        Series(
            name,
            [(step.rate, step.p99_ms) for step in chosen],
            tone,
            "dots",
            [f"{number_text(step.rate)} /s: {step.reason}" for step in chosen],
        )
        for name, tone, chosen in (
            ("meets the objective", "t1", [step for step in steps if step.meets]),
            ("does not", "t3", [step for step in steps if not step.meets]),
        )
        if chosen
    ]
    return chart(
        "p99 by rate",
        Axis("requests a second, log scale", "log", " /s"),
        Axis("p99 in ms, log scale", "log", " ms"),
        series,
        _objective(result),
        width=WIDE,
    )


def _objective(result: BenchResult) -> list[tuple[float, str]]:
    if result.search is None:
        return []
    return [(result.search.objective_p99_ms, f"objective: p99 ≤ {result.search.objective_p99_ms:g} ms")]


def _facts(result: BenchResult) -> list[tuple[str, str]]:
    generator = result.measured.generator
    return [
        *((name.replace("_", " "), value) for name, value in result.environment.items()),
        ("protocol", f"{result.protocol}, {_rows_text(result.rows_per_request)} a request"),
        ("connections, at most", str(result.connections)),
        ("patience of a client", f"{result.timeout_s:g} s"),
        ("arrivals", f"{result.arrivals}, seed {result.seed}"),
        ("warm-up, not counted", f"{result.warmup_s:g} s"),
        ("generator", f"{generator.cpu_us_per_request:.0f} µs CPU a request, {generator.cpu_share:.0%} of a core"),
        (
            "statuses",
            ", ".join(f"{status}: {number:,}" for status, number in result.measured.statuses.items()) or "none",
        ),
    ]


def _percentiles(latency: Latency) -> tuple[float | None, ...]:
    return latency.p50, latency.p90, latency.p99, latency.p99_9


def _latency_text(latency: Latency) -> str:
    names = ("p50", "p90", "p99", "p99.9", "max")
    values = (*_percentiles(latency), latency.max)
    return ", ".join(
        f"{name} {'–' if value is None else f'{value:.2f} ms'}" for name, value in zip(names, values, strict=True)
    )
