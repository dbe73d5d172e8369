"""The comparison for people: one HTML file in the style of `paceline bench serve`."""

from pathlib import Path

from comparison import ALONE, COLUMNS, Comparison, cell, goals

from pipelines.pages import Card, render
from pipelines.pages.plots import Bar, Markup, bars, number_text

_TONES = {"floor": "t8", "ours": "t1", "app": "t4", "peer": "t2", "variant": "t6"}
_CHARTS = (
    ("c16_rps", "Throughput, 16 connections", "requests/s, more is better", " /s"),
    ("c64_rps", "Throughput, 64 connections", "requests/s, more is better", " /s"),
    ("c16_cpu_us", "CPU time of a one-row request", "µs, less is better", " µs"),
    ("fixed_p99_ms", "p99 at 500 requests a second", "ms, less is better", " ms"),
    ("json_rps", "32 records a request, JSON", "rows/s, more is better", " rows/s"),
    ("memory_mb", "Memory after the load", "MB (PSS), less is better", " MB"),
    ("first_answer_s", "From process start to the first right answer", "s, less is better", " s"),
    ("c1_rps", "Throughput, 1 connection", "requests/s, more is better", " /s"),
)


def page(found: Comparison) -> str:
    """The whole page."""
    about = found.environment
    measured = [*found.measured("floor", "ours", "app", "peer"), *found.measured("variant")]
    rows = [(key, found.names[key], [cell(found, key, column) for column in COLUMNS]) for key in measured]
    if any(ALONE in each for each in found.rounds):
        rows.append((ALONE, "ONNX Runtime alone", [cell(found, ALONE, column) for column in COLUMNS]))
    return render(
        "compare.html",
        folders=[Path(__file__).parent],
        title="Model servers, side by side",
        summary=(
            f"{about['date']}, commit {about['commit']}: the same ONNX model ({about['model']}) on one machine, "
            f"{len(found.rounds)} interleaved rounds. Bars are medians, whiskers the smallest and the largest round."
        ),
        cards=_cards(found),
        charts=[chart for each in _CHARTS if (chart := _chart(found, *each)) is not None],
        variants=_variants(found),
        goals=goals(found),
        columns=COLUMNS,
        rows=rows,
        settings=[(found.names[key], found.settings[key]) for key in measured],
        skipped=[(found.names[key], reason) for key, reason in found.skipped.items()],
        facts=[(name.replace("_", " "), str(value)) for name, value in about.items()],
    )


def _cards(found: Comparison) -> list[Card]:
    peers = found.measured("peer")
    cards = []
    for title, value, unit, more, lead in (
        ("Throughput", found.median("paceline", "c16_rps"), "/s", "Paceline, 16 connections", True),
        ("by FastAPI as in tutorials", found.ratio("c16_rps", "paceline", ["plain"]), "×", "16 connections", False),
        ("by the best framework", found.ratio("c16_rps", "paceline", peers), "×", "16 connections", False),
        ("CPU by bare uvicorn", found.ratio("c16_cpu_us", "paceline", ["bare"]), "×", "goal: at most 2", False),
        ("p99 at 500/s", found.median("paceline", "fixed_p99_ms"), "ms", "Paceline", False),
        ("First answer", found.median("paceline", "first_answer_s"), "s", "from process start", False),
        ("Memory", found.median("paceline", "memory_mb"), "MB", "after the load", False),
    ):
        if value is not None:
            cards.append(Card(title, number_text(value), unit, more, lead=lead))
    return cards


def _chart(found: Comparison, measure: str, title: str, note: str, unit: str) -> Markup | None:
    made = [
        _bar(found, key, measure, unit)
        for key in found.measured("floor", "ours", "app", "peer")
        if found.values(key, measure)
    ]
    return bars(title, note, made) if made else None


def _variants(found: Comparison) -> Markup | None:
    keys = found.measured("variant")
    if not keys:
        return None
    made = [_bar(found, key, "c64_rps", " /s") for key in ("paceline", *keys) if found.values(key, "c64_rps")]
    return bars("Paceline's own settings", "requests/s at 64 connections", made)


def _bar(found: Comparison, key: str, measure: str, unit: str) -> Bar:
    values = found.values(key, measure)
    value = found.median(key, measure)
    text = "–" if value is None else number_text(value) + unit
    tone = _TONES[found.groups[key]]
    return Bar(found.names[key], value, tone, text, min(values, default=None), max(values, default=None))
