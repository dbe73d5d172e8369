"""The chapters of an evaluation report that a model card has not: they compare, and they have clocks."""

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any

from pipelines.governance.card_chapters import METRICS, reliability_plot
from pipelines.pages.document import Block, Chapter, Figure, Table
from pipelines.pages.forest import Estimate, forest
from pipelines.pages.plots import Axis, Series, chart

AREAS = ("sanity", "quality", "slices", "fairness", "robustness", "privacy", "latency")
_LOWER_IS_BETTER = ("log_loss", "brier", "calibration_error", "false_positive_rate", "cost")
_SHOWN_SLICES, _SHOWN_FEATURES = 20, 8
_TONES = ("t1", "t2", "t4", "t5", "t6", "t7", "t3", "t8")


def gates(found: Sequence[Mapping[str, Any]]) -> Chapter:
    """Every gate with its numbers, those that failed first."""
    order = {area: place for place, area in enumerate(AREAS)}
    ordered = sorted(found, key=lambda gate: (gate["passed"], order.get(gate.get("area", "quality"), len(AREAS))))
    lines = [
        (gate["name"], "passed" if gate["passed"] else "FAILED", gate.get("area", "quality"), gate["reason"])
        for gate in ordered
    ]
    return Chapter("Gates", [Table(("Gate", "", "Area", "Numbers"), lines)])


def against_the_champion(comparison: Mapping[str, Any]) -> Chapter | None:
    """Each metric of both sides, and the interval of the paired difference."""
    champion, differences = comparison.get("champion"), comparison.get("differences") or {}
    if not champion or not differences:
        return None
    ours = comparison["challenger"]
    lines, drawn = [], []
    for name, difference in differences.items():
        better = difference["estimate"] < 0 if name in _LOWER_IS_BETTER else difference["estimate"] > 0
        text = f"{difference['estimate']:+.4f} ({difference['low']:+.4f} … {difference['high']:+.4f})"
        lines.append((METRICS.get(name, name), _figure(ours.get(name)), _figure(champion.get(name)), text))
        drawn.append(
            Estimate(
                METRICS.get(name, name),
                difference["estimate"],
                difference["low"],
                difference["high"],
                f"{difference['estimate']:+.4f}",
                "t1" if better else "t2",
            )
        )
    said: list[Block] = [
        f"On the same {comparison['rows']:,} rows of {comparison['blocks']} days; intervals are those of a bootstrap "
        "of whole days, since the rows of a day are not independent.",
        Table(("Metric", "Challenger", "Champion", "Difference (95 %)"), lines),
        Figure(forest("Challenger minus champion", "95 % intervals; green is better", drawn)),
    ]
    said += list(comparison.get("notes", ()))
    return Chapter("Against the champion", said)


def calibration(reliability: Mapping[str, Any]) -> Chapter | None:
    """Both reliability curves in one plot."""
    curves = {name: curve for name, curve in reliability.items() if curve}
    return Chapter("Calibration", [Figure(reliability_plot(curves))]) if curves else None


def slices(section: Mapping[str, Any]) -> Chapter | None:
    """The declared slices and the worst that were found, by how much the challenger is worse there."""
    known = {part["name"]: part for part in (*section.get("worst", ()), *section.get("declared", ()))}
    measured = [part for part in known.values() if part.get("difference") is not None]
    if not measured:
        return None
    worst = sorted(measured, key=lambda part: -(part["high"] or part["difference"]))[:_SHOWN_SLICES]
    lines = [
        (
            part["name"],
            f"{part['rows']:,}",
            _figure(part.get("log_loss")),
            _figure(part.get("reference_log_loss")),
            f"{part['difference']:+.4f} ({part['low']:+.4f} … {part['high']:+.4f})",
            part["verdict"],
        )
        for part in worst
    ]
    drawn = [
        Estimate(part["name"], part["difference"], part["low"], part["high"], f"{part['difference']:+.4f}")
        for part in worst
    ]
    looked_at = section.get("looked_at_one", 0) + section.get("looked_at_two", 0)
    return Chapter(
        "Slices",
        [
            f"{looked_at:,} slices of one and two features were looked at; verdicts are adjusted for how many. "
            f"The reference is {section.get('reference', 'the champion')}. The worst {len(worst)}:",
            Table(("Slice", "Rows", "Log loss", "Reference", "Difference (95 %)", "Verdict"), lines),
            Figure(forest("Log loss minus the reference's", "95 % intervals", drawn)),
        ],
    )


def sanity(section: Mapping[str, Any]) -> Chapter | None:
    """What a leak would show in."""
    if not section:
        return None
    strongest = sorted(section.get("alone", ()), key=lambda found: -found["auc"])[:_SHOWN_FEATURES]
    shuffled = section["shuffled"]
    spans = [
        (
            part["part"],
            f"{_day(part['first_day'])} … {_day(part['last_day'])}",
            f"{part['rows']:,}",
            f"{part['label_share']:.1%}",
        )
        for part in section["parts"]
    ]
    doubled = [
        (found["part"], f"{found['same_key']:,}", f"{found['same_row']:,}", f"{found['excess']:.2%}")
        for found in section.get("duplicates", ())
    ]
    return Chapter(
        "Sanity",
        [
            f"With shuffled labels a quick model reaches AUC {shuffled['auc']:.3f} ({shuffled['low']:.3f} … "
            f"{shuffled['high']:.3f}), where 0.5 is chance; with the true ones {shuffled['auc_with_labels']:.3f}.",
            Table(("Part", "Days", "Rows", "Positive"), spans),
            "What single features can do alone:",
            Table(("Column", "AUC alone"), [(found["column"], f"{found['auc']:.3f}") for found in strongest]),
            "Rows that training has seen before:",
            Table(("Part", "Same key", "Same row", "More than chance"), doubled),
        ],
    )


def latency(section: Mapping[str, Any]) -> Chapter | None:
    """Quantiles of the challenger's graph runs."""
    measured = section.get("challenger", ())
    if not measured:
        return None
    lines = [
        (f"{found['rows']}", f"{found['us_p50']:,.0f}", f"{found['us_p95']:,.0f}", f"{found['us_p99']:,.0f}")
        for found in measured
    ]
    said: list[Block] = [Table(("Rows at once", "p50 µs", "p95 µs", "p99 µs"), lines)]
    if difference := section.get("difference_us_p50"):
        said.append(
            f"One row: {difference['estimate']:+.1f} µs beside the champion (95 % {difference['low']:+.1f} … "
            f"{difference['high']:+.1f}), run in turns."
        )
    return Chapter("Latency of the graph", said)


def optimisation(candidates: Sequence[Mapping[str, Any]], chosen: str) -> Chapter | None:
    """The forms of the graph: what each costs and saves, and which serves."""
    if not candidates:
        return None
    lines, not_made = [], dict[str, list[str]]()
    for found in candidates:
        if found.get("size_bytes") is None:
            not_made.setdefault(found["reason"], []).append(found["name"])
            continue
        verdict = "serves" if found["name"] == chosen else "accepted" if found["accepted"] else "refused"
        size = f"{found['size_bytes'] / 1024:,.0f}"
        lines.append((found["name"], verdict, size, _figure(found.get("log_loss")), _times(found), found["reason"]))
    measured = [found for found in candidates if found.get("latency")]
    said: list[Block] = [Table(("Form", "", "KiB", "Log loss", "p50 µs (rows)", "Why"), lines)]
    if not_made:
        said.append(Table(("Not made", "Why"), [(", ".join(names), why) for why, names in not_made.items()]))
    if measured:
        drawn = [
            Series(found["name"], [(float(t["rows"]), t["us_p50"]) for t in found["latency"]], tone)
            for found, tone in zip(measured, _TONES, strict=False)
        ]
        said.append(Figure(chart("Latency by batch", Axis("rows at once", "log"), Axis("p50 µs", "log"), drawn)))
    return Chapter("Optimisation", said)


def trials(found: Sequence[Mapping[str, Any]]) -> Chapter | None:
    """Every trial of the search, and the learning curves of the best."""
    if not found:
        return None
    lines = [
        (
            trial["name"],
            "chosen" if trial.get("chosen") else str(trial.get("state", "finished")),
            _figure(trial.get("metrics", {}).get("log_loss")),
            _figure(trial.get("metrics", {}).get("auc")),
            ", ".join(f"{name} {value}" for name, value in sorted(trial.get("parameters", {}).items())) or "defaults",
            trial.get("error") or "",
        )
        for trial in found
    ]
    said: list[Block] = [Table(("Trial", "", "Log loss", "AUC", "Parameters", "Error"), lines)]
    for trial in found:
        curve: Sequence[Mapping[str, float]] = trial.get("curve") or []
        if trial.get("chosen") and len(curve) > 1:
            names = [name for name in curve[0] if name != "step"]
            drawn = [
                Series(name.replace("_", " "), [(point["step"], point[name]) for point in curve], tone)
                for name, tone in zip(names, _TONES, strict=False)
            ]
            least = min(point[name] for point in curve for name in names)
            said.append(Figure(chart("Learning curve", Axis("step"), Axis("log loss", start=least), drawn)))
    return Chapter("Trials", said)


def energy(found: Sequence[Mapping[str, Any]]) -> Chapter | None:
    """What training took: time, energy, and what it cost where a price is known."""
    spent = [trial["spent"] for trial in found if trial.get("spent")]
    if not spent:
        return None
    seconds = sum(each["cpu_s"] for each in spent)
    hours = sum(each["energy_kwh"] or 0.0 for each in spent)
    said = [
        f"{len(spent)} trials took {seconds:,.0f} s of processor time and an estimated {hours * 1000:,.2f} Wh "
        f"({spent[0]['method']}).",
    ]
    prices = [each["cost"] for each in spent if each.get("cost") is not None]
    if prices:
        said.append(f"At the price of `PACELINE_PRICE_PER_CPU_HOUR`: {sum(prices):,.4f}.")
    return Chapter("Energy and cost of training", said)


def _times(found: Mapping[str, Any]) -> str:
    return ", ".join(f"{time['us_p50']:,.0f} ({time['rows']})" for time in found.get("latency", ())) or "–"


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _day(number: int) -> str:
    return str(date(1970, 1, 1) + timedelta(days=number))
