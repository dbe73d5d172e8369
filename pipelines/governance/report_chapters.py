"""The chapters of an evaluation report about quality: what was judged, gates, both models on the same rows, slices.

`run_chapters` has those about the run itself: what was measured by a clock, and what was trained.
"""

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any

from pipelines.governance.card_chapters import METRICS, reliability_plot
from pipelines.pages.document import Block, Bullets, Chapter, Figure, Table
from pipelines.pages.forest import Estimate, forest

AREAS = ("sanity", "quality", "slices", "fairness", "robustness", "privacy", "latency")
_LOWER_IS_BETTER = ("log_loss", "brier", "calibration_error", "false_positive_rate", "cost")
_HIGHER_IS_BETTER = ("auc", "average_precision", "f1", "precision", "recall")
_SHOWN_SLICES, _SHOWN_FEATURES = 10, 8
_PARTS = (
    ("train", "Training", "trials are fitted on these"),
    (
        "validation",
        "Validation",
        "trials stop by these, are chosen by them and calibrated on them; the final fit has seen them too",
    ),
    ("test", "Test", "all numbers of quality below are of these; nothing was fitted or chosen on them"),
)
_SIDES = (("true_positives", "Called, and it happened"), ("false_positives", "Called, and it did not"))
_MISSED = (("false_negatives", "Not called, and it happened"), ("true_negatives", "Not called, and it did not"))


def subject(
    label: str,
    windows: Mapping[str, Any],
    rows: Mapping[str, int],
    threshold: float,
    costs: Mapping[str, float],
    facts: Mapping[str, str],
) -> Chapter:
    """What was judged, on which rows, and at which threshold decisions are taken."""
    lines = [
        (name, f"{windows[part]['start']} up to {windows[part]['end']}", f"{rows.get(part, 0):,}", use)
        for part, name, use in _PARTS
        if part in windows
    ]
    said: list[Block] = [
        f"A row counts as positive when “{label or 'the outcome'}”. It is called positive from a score of "
        f"{threshold:g} on. A false call costs {costs.get('false_positive', 1):g}, a missed one "
        f"{costs.get('false_negative', 1):g} (`costs` in project.yaml, in the project's own unit).",
    ]
    if lines:
        said.append(Table(("Rows", "Days", "How many", "What they are for"), lines))
    if facts:
        said.append(Table(("", ""), list(facts.items())))
    return Chapter("What was judged", said)


def gates(found: Sequence[Mapping[str, Any]]) -> Chapter:
    """Every gate with its numbers, those that failed first."""
    order = {area: place for place, area in enumerate(AREAS)}
    ordered = sorted(found, key=lambda gate: (gate["passed"], order.get(gate.get("area", "quality"), len(AREAS))))
    lines = [
        (gate["name"], "passed" if gate["passed"] else "FAILED", gate.get("area", "quality"), gate["reason"])
        for gate in ordered
    ]
    said = (
        "All must pass before the version is registered. Each says what was found, and the limit that it was held to."
    )
    return Chapter("Gates", [said, Table(("Gate", "Result", "Area", "Numbers"), lines)])


def quality(comparison: Mapping[str, Any]) -> Chapter | None:
    """All metrics of the challenger alone, with their intervals; where there is no champion to stand beside."""
    ours = comparison.get("challenger")
    if not ours or comparison.get("champion"):
        return None
    intervals = comparison.get("intervals") or {}
    lines = [
        (METRICS.get(name, name), _which_way(name), _figure(ours[name]), _span(intervals.get(name)))
        for name in [*METRICS, *sorted(ours.keys() - METRICS.keys())]
        if name in ours
    ]
    said: list[Block] = [_of_rows(comparison), Table(("Metric", "Better is", "Value", "95 % interval"), lines)]
    return Chapter("Quality on the test rows", [*said, *_decided(comparison), *comparison.get("notes", ())])


def against_the_champion(comparison: Mapping[str, Any]) -> Chapter | None:
    """Each metric of both sides, and the interval of the paired difference."""
    champion, differences = comparison.get("champion"), comparison.get("differences") or {}
    if not champion or not differences:
        return None
    ours = comparison["challenger"]
    lines, drawn = [], []
    for name, difference in differences.items():
        verdict, tone = _verdict(name, difference)
        text = f"{difference['estimate']:+.4f} ({difference['low']:+.4f} … {difference['high']:+.4f})"
        title = METRICS.get(name, name)
        lines.append((title, _which_way(name), _figure(ours.get(name)), _figure(champion.get(name)), text, verdict))
        estimate, low, high = (difference[key] for key in ("estimate", "low", "high"))
        drawn.append(Estimate(title, estimate, low, high, f"{estimate:+.4f}", tone))
    said: list[Block] = [
        f"{_of_rows(comparison)} Both models scored the same rows, so what a hard day does to both falls out of the "
        "difference. An interval that reaches over 0 shows neither better nor worse; how much worse is tolerated is "
        "the gates' to say.",
        Table(("Metric", "Better is", "Challenger", "Champion", "Difference (95 %)", "Shown to be"), lines),
        Figure(
            forest(
                "Challenger minus champion", "95 % intervals; green: better, orange: worse, grey: neither shown", drawn
            )
        ),
    ]
    return Chapter("Against the champion", [*said, *_decided(comparison), *comparison.get("notes", ())])


def calibration(reliability: Mapping[str, Any]) -> Chapter | None:
    """Both reliability curves in one plot."""
    curves = {name: curve for name, curve in reliability.items() if curve}
    if not curves:
        return None
    said = (
        "Rows in groups of equally many by score: where a curve is above the line, it happened more often than the "
        "scores said. A decision at a threshold rests on this."
    )
    return Chapter("Calibration", [said, Figure(reliability_plot(curves))])


def slices(section: Mapping[str, Any]) -> Chapter | None:
    """All declared slices, and the worst that were found, by how much the challenger is worse there."""
    reference = section.get("reference", "champion")
    declared = sorted(section.get("declared", ()), key=lambda part: (-part["rows"], part["name"]))
    names = {part["name"] for part in declared}
    found = [part for part in section.get("worst", ()) if part["name"] not in names and _is_measured(part)]
    if not declared and not found:
        return None
    looked_at = section.get("looked_at_one", 0) + section.get("looked_at_two", 0)
    said: list[Block] = [
        f"The difference is the challenger's log loss minus that of the {reference}: above 0 the challenger is worse "
        "there. “Not worse”: even the upper end of the interval is within the margin. “Worse”: it is shown to be "
        "beyond. “May be worse”: these rows show neither.",
    ]
    if declared:
        said += ["Declared by the project, and each judged:", _slice_table(declared, reference)]
        said += _slice_plot(f"Log loss minus the {reference}'s, declared slices", declared)
    if found:
        shown = found[:_SHOWN_SLICES]
        said += [
            f"Looked for: of {looked_at:,} slices of one and of two features the {len(shown)} that speak most against "
            "the challenger. Among so many some look bad by chance, so one counts as worse only after its p-value is "
            "adjusted for how many were looked at; the intervals here are not adjusted.",
            _slice_table(shown, reference),
        ]
        said += _slice_plot(f"Log loss minus the {reference}'s, slices found", shown)
    return Chapter("Slices", said)


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
            "What single columns can do alone; one far above the others hints at a leak:",
            Table(("Column", "AUC alone"), [(found["column"], f"{found['auc']:.3f}") for found in strongest]),
            "Rows that an earlier part has as well, beyond what chance makes:",
            Table(("Part", "Same key", "Same row", "More than chance"), doubled),
        ],
    )


def not_measured(said: Mapping[str, str]) -> Chapter | None:
    """What a reader may miss, and why it is not there."""
    return Chapter("Not measured", [Bullets([f"{what}: {why}." for what, why in said.items()])]) if said else None


def _of_rows(comparison: Mapping[str, Any]) -> str:
    return (
        f"On {comparison['rows']:,} test rows of {comparison['blocks']} days. Intervals are those of a bootstrap of "
        "whole days, since the rows of a day are not independent."
    )


def _which_way(name: str) -> str:
    return "lower" if name in _LOWER_IS_BETTER else "higher" if name in _HIGHER_IS_BETTER else "–"


def _verdict(name: str, difference: Mapping[str, float]) -> tuple[str, str]:
    """What the whole interval says, and the colour for it: green only where it is shown."""
    low, high = difference["low"], difference["high"]
    if low <= 0 <= high or _which_way(name) == "–":
        return "neither", "muted"
    is_better = high < 0 if name in _LOWER_IS_BETTER else low > 0
    return ("better", "t1") if is_better else ("worse", "t2")


def _decided(comparison: Mapping[str, Any]) -> list[Block]:
    """How many rows were called positive at the threshold, rightly or wrongly."""
    sides = comparison.get("decisions") or {}
    if not sides:
        return []
    lines = [(title, *(f"{found[name]:,}" for found in sides.values())) for name, title in (*_SIDES, *_MISSED)]
    return ["Decisions at the threshold, in rows:", Table(("Decision", *(name.capitalize() for name in sides)), lines)]


def _is_measured(part: Mapping[str, Any]) -> bool:
    return part.get("difference") is not None


def _slice_table(parts: Sequence[Mapping[str, Any]], reference: str) -> Table:
    lines = [
        (
            part["name"],
            f"{part['rows']:,}",
            f"{part['label_share']:.1%}",
            _figure(part.get("log_loss")),
            _figure(part.get("reference_log_loss")),
            f"{part['difference']:+.4f} ({part['low']:+.4f} … {part['high']:+.4f})" if _is_measured(part) else "–",
            part["verdict"],
        )
        for part in parts
    ]
    head = ("Slice", "Rows", "Positive", "Log loss", reference.capitalize(), "Difference (95 %)", "Shown to be")
    return Table(head, lines)


def _slice_plot(title: str, parts: Sequence[Mapping[str, Any]]) -> list[Block]:
    drawn = [
        Estimate(
            part["name"],
            part["difference"],
            part["low"],
            part["high"],
            f"{part['difference']:+.4f}",
            {"worse": "t2", "not worse": "t1"}.get(part["verdict"], "muted"),
        )
        for part in parts
        if _is_measured(part)
    ]
    unit = "95 % intervals; green: not worse, orange: worse, grey: may be worse"
    return [Figure(forest(title, unit, drawn))] if drawn else []


def _span(found: Mapping[str, float] | None) -> str:
    return "–" if found is None else f"{found['low']:.4f} … {found['high']:.4f}"


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _day(number: int) -> str:
    return str(date(1970, 1, 1) + timedelta(days=number))
