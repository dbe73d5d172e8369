"""The chapters of a model card, each from one section of the evaluation. A section that is not there has no chapter."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.pages.document import Block, Bullets, Chapter, Figure, Table
from pipelines.pages.forest import Estimate, forest
from pipelines.pages.plots import Axis, Series, chart

METRICS = {
    "auc": "AUC",
    "average_precision": "Average precision",
    "log_loss": "Log loss (nats)",
    "brier": "Brier score",
    "calibration_error": "Expected calibration error",
    "false_positive_rate": "False-positive rate at the threshold",
    "f1": "F1 at the threshold",
    "precision": "Precision at the threshold",
    "recall": "Recall at the threshold",
    "cost": "Cost a decision at the threshold",
    "base_rate": "Share of positive outcomes",
    "base_rate_log_loss": "Log loss of the base rate alone (nats)",
    "mean_score": "Mean score",
}
_PARTS = {
    "train": ("Training", "fitting"),
    "validation": ("Validation", "stopping, choosing among trials, calibration; the final fit has seen them too"),
    "test": ("Test", "the numbers below; nothing was fitted or chosen on them"),
}
_PERTURBATIONS = {
    "missing": "is missing",
    "noise": "has noise",
    "unseen": "has words that training has not seen",
    "mixed": "a little of everything",
    "undisturbed": "is as it was",
    "smallest": "is at the schema's minimum",
    "largest": "is at the schema's maximum",
}
_SHOWN_PERTURBATIONS = 10


def intended_use(label: str, threshold: float, text: str, not_for: Sequence[str]) -> Chapter:
    """For whom and what, and what it is not for."""
    of = f"“{label}”" if label else "the outcome"
    said: list[Block] = [
        text.strip()
        or (
            f"The score is a calibrated probability of {of} for one event that has not happened yet. It supports a "
            f"decision at the threshold {threshold:g}; other uses have not been evaluated."
        )
    ]
    if not_for:
        said += ["It is not for:", Bullets(not_for)]
    return Chapter("Intended use", said)


def data(windows: Mapping[str, Any], rows: Mapping[str, int], personal: Sequence[str]) -> Chapter:
    """The windows, and which fields are about persons."""
    lines = [
        (name, f"{windows[part]['start']} up to {windows[part]['end']}", f"{rows.get(part, 0):,}", use)
        for part, (name, use) in _PARTS.items()
        if part in windows
    ]
    said: list[Block] = [Table(("Part", "Days", "Rows", "Used for"), lines)]
    if personal:
        named = ", ".join(f"`{name}`" for name in personal)
        said.append(f"About persons, and never logged or shown in clear: {named}.")
    return Chapter("Data", said)


def model(trainer: str, parameters: Mapping[str, Any]) -> Chapter:
    """The trainer and its parameters."""
    if not parameters:
        return Chapter("Model", [f"Trainer `{trainer}` with its default parameters."])
    lines = [(f"`{name}`", f"`{value}`") for name, value in sorted(parameters.items())]
    return Chapter("Model", [f"Trainer `{trainer}`.", Table(("Parameter", "Value"), lines)])


def quality(metrics: Mapping[str, float], section: Mapping[str, Any], threshold: float) -> Chapter:
    """All metrics on the test rows, with intervals where they are known, and how well scores are calibrated."""
    told = (
        f"A row is called positive from a score of {threshold:g} on. AUC, average precision, F1, precision and recall "
        "are better when higher; losses, errors, false positives and costs when lower."
    )
    intervals = section.get("comparison", {}).get("intervals", {})
    known = [name for name in METRICS if name in metrics] + sorted(metrics.keys() - METRICS.keys())
    lines = [(METRICS.get(name, name), f"{metrics[name]:.4f}", _interval(intervals.get(name))) for name in known]
    table = (
        Table(("Metric", "Value", "95 % interval"), lines)
        if intervals
        else Table(("Metric", "Value"), [line[:2] for line in lines])
    )
    said: list[Block] = [told, table]
    if curve := section.get("reliability", {}).get("challenger"):
        said.append(Figure(reliability_plot({"this model": curve})))
    return Chapter("Quality on the test rows", said)


def reliability_plot(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> Any:
    """Observed shares against mean scores, in groups of equally many rows, beside what perfect calibration would be."""
    most = max(max(point["mean_score"], point["observed"]) for curve in curves.values() for point in curve)
    drawn = [Series("perfectly calibrated", [(0.0, 0.0), (most, most)], "muted", "dashed")]
    for tone, (name, curve) in zip(("t1", "t2", "t4"), curves.items(), strict=False):
        tips = [f"{name}: {point['observed']:.1%} of {point['rows']:,} rows" for point in curve]
        drawn.append(Series(name, [(p["mean_score"], p["observed"]) for p in curve], tone, "line", tips))
    return chart(
        "Are the scores what happens?", Axis("mean score", start=0.0), Axis("observed share", start=0.0), drawn
    )


def references(section: Mapping[str, Any]) -> Chapter | None:
    """Beside what the model must beat: always saying the base rate, and a simple model."""
    rows = [found for found in section.get("references", []) if found["name"] != "champion"]
    if not rows:
        return None
    lines = [("this model", _metric(section["challenger"], "log_loss"), _metric(section["challenger"], "auc"), "")]
    for found in rows:
        difference = found["differences"].get("log_loss")
        lines.append(
            (
                found["name"],
                _metric(found["metrics"], "log_loss"),
                _metric(found["metrics"], "auc"),
                "" if difference is None else _signed(difference),
            )
        )
    head = ("", "Log loss", "AUC", "This model's log loss minus it (95 %)")
    return Chapter("Beside simpler models", [Table(head, lines)])


def slices(section: Mapping[str, Any]) -> Chapter | None:
    """The declared parts of the test rows, by their rows."""
    found = sorted(section.get("declared", []), key=lambda part: (-part["rows"], part["name"]))
    if not found:
        return None
    lines = [
        (
            part["name"],
            f"{part['rows']:,}",
            f"{part['label_share']:.1%}",
            _share(part.get("mean_score")),
            _number(part.get("log_loss")),
            _number(part.get("auc")),
        )
        for part in found
    ]
    head = ("Slice", "Rows", "Positive", "Mean score", "Log loss", "AUC")
    return Chapter("Quality on slices", [Table(head, lines), "A slice without numbers has too few rows to say."])


def fairness(fields: Sequence[Mapping[str, Any]]) -> Chapter | None:
    """How decisions at the threshold differ between the groups of each declared field."""
    if not fields:
        return None
    said: list[Block] = [
        "Decisions at the threshold, by groups, with 95 % intervals. Called positive: of all rows of the group. True "
        "positives: of those where it happened. False positives: of those where it did not. The equalised odds "
        "difference is the largest difference between groups in either of the last two."
    ]
    for found in fields:
        lines = [
            (
                group["name"],
                f"{group['rows']:,}",
                _rate(group.get("selection_rate"), group["status"]),
                _rate(group.get("true_positive_rate"), group["status"]),
                _rate(group.get("false_positive_rate"), group["status"]),
            )
            for group in found["groups"]
        ]
        head = (f"By {found['field']}", "Rows", "Called positive", "True positives", "False positives")
        said += [Table(head, lines), _differences(found)]
        drawn = [
            Estimate(
                group["name"],
                group["selection_rate"]["estimate"],
                group["selection_rate"]["low"],
                group["selection_rate"]["high"],
                f"{group['selection_rate']['estimate']:.1%}",
            )
            for group in found["groups"]
            if group.get("selection_rate")
        ]
        if drawn:
            said.append(Figure(forest(f"Called positive, by {found['field']}", "share, 95 % interval", drawn)))
    return Chapter("Fairness", said)


def _differences(found: Mapping[str, Any]) -> str:
    measured = (
        ("demographic parity difference", found.get("demographic_parity_difference")),
        ("ratio of selection rates", found.get("selection_rate_ratio")),
        ("equalised odds difference", found.get("equalized_odds_difference")),
    )
    said = [f"{name} {'not known' if value is None else _plain(value)}" for name, value in measured]
    return f"Over all groups of {found['field']} with enough rows: {'; '.join(said)}."


def _rate(found: Mapping[str, float | None] | None, status: str) -> str:
    if found is None:
        return status
    if found["low"] is None or found["high"] is None:
        return f"{found['estimate']:.1%}"
    return f"{found['estimate']:.1%} ({found['low']:.1%} … {found['high']:.1%})"


def robustness(section: Mapping[str, Any]) -> Chapter | None:
    """How far quality falls when inputs are disturbed, the worst first."""
    measured = [found for found in section.get("perturbations", []) if found.get("log_loss_rise")]
    if not measured:
        return None
    worst = sorted(measured, key=lambda found: -found["log_loss_rise"]["estimate"])[:_SHOWN_PERTURBATIONS]
    lines = [
        (_perturbation(found), _signed(found["log_loss_rise"]), "yes" if found["plausible"] else "no")
        for found in worst
    ]
    drawn = [
        Estimate(
            _perturbation(found),
            found["log_loss_rise"]["estimate"],
            found["log_loss_rise"]["low"],
            found["log_loss_rise"]["high"],
            f"{found['log_loss_rise']['estimate']:+.4f}",
            "t1" if found["plausible"] else "muted",
        )
        for found in worst
    ]
    return Chapter(
        "When inputs are disturbed",
        [
            f"Log loss {section['log_loss']:.4f} on {section['rows']:,} undisturbed rows; the worst of "
            f"{len(measured)} disturbances, each for all rows at once:",
            Table(("Disturbance", "Log loss rises by (95 %)", "The schema allows it"), lines),
            Figure(forest("How far log loss rises", "nats, 95 % interval; green: the schema allows it", drawn)),
        ],
    )


def privacy(section: Mapping[str, Any]) -> Chapter | None:
    """Whether the model gives away whose rows it was trained on."""
    if not section:
        return None
    if not section.get("ran"):
        return Chapter("Privacy", [f"Not tested: {section.get('reason', 'no reason is recorded')}."])
    lines = [
        (
            found["name"],
            _plain(found["auc"]["found"]),
            _plain(found["true_positive_rate"]["found"]),
            f"{found['auc']['control']:.3f}",
        )
        for found in section["attacks"]
    ]
    return Chapter(
        "Privacy",
        [
            f"Membership inference: can somebody who sees scores tell the {section['members']:,} rows it was trained "
            f"on from {section['non_members']:,} others? 0.5 is a guess. The control is a model that has seen neither.",
            Table(("Attack", "AUC (95 %)", "True positives at 1 % false ones (95 %)", "AUC of the control"), lines),
        ],
    )


def limits(
    windows: Mapping[str, Any], rows: Mapping[str, int], metrics: Mapping[str, float], more: Sequence[str]
) -> Chapter:
    """What follows from its windows, and what the project says."""
    said = []
    if "train" in windows:
        first, last = windows["train"]["start"], windows.get("validation", windows["train"])["end"]
        said.append(f"It knows only what happened from {first} up to {last}; seasons outside of it are new to it.")
    if "test" in rows:
        said.append(f"The quality above is that of {rows['test']:,} rows of one test window; live quality may differ.")
    if "base_rate" in metrics:
        said.append(
            f"{metrics['base_rate']:.1%} of the test outcomes were positive; where that share is another, "
            "the calibration is off until the next retrain."
        )
    said.append("A category that training has not seen, and a missing value, are scored as “missing”.")
    return Chapter("Limits", [Bullets([*said, *more])])


def sentences(title: str, said: Sequence[str]) -> Chapter | None:
    """A list that the project gives."""
    return Chapter(title, [Bullets(said)]) if said else None


def elsewhere() -> Chapter:
    """What of a version changes from run to run, so that it cannot be hashed with the model, and where it is."""
    return Chapter(
        "Energy, cost, gates and latency",
        [
            "They differ from run to run, and this card is hashed with its model; so they are kept beside it. Energy "
            "and cost of training are tags of the version in the registry (`training_energy_wh`, `training_cpu_s`, "
            "`training_cost`). Gates, the comparison with whoever led on that day, latency and all trials are in "
            "the report of its evaluation: `paceline report` says where it lies."
        ],
    )


def lineage(found: Mapping[str, str]) -> Chapter | None:
    """What it was made from, by names and ids."""
    if not found:
        return None
    lines = [(name, f"`{value}`") for name, value in found.items()]
    return Chapter(
        "Lineage", [Table(("", ""), lines), "`paceline lineage` goes on from here, to source files and queries."]
    )


def _perturbation(found: Mapping[str, Any]) -> str:
    said = _PERTURBATIONS.get(found["kind"], found["kind"])
    if found["field"] and found["field"].startswith("all "):
        said = f"are {said.removeprefix('is ')}" if said.startswith("is ") else said
    return f"{found['field']} {said}" if found["field"] else said


def _interval(found: Mapping[str, Any] | None) -> str:
    return "" if found is None else f"{found['low']:.4f} … {found['high']:.4f}"


def _signed(found: Mapping[str, float]) -> str:
    return f"{found['estimate']:+.4f} ({found['low']:+.4f} … {found['high']:+.4f})"


def _plain(found: Mapping[str, float]) -> str:
    return f"{found['estimate']:.3f} ({found['low']:.3f} … {found['high']:.3f})"


def _metric(metrics: Mapping[str, float], name: str) -> str:
    return _number(metrics.get(name))


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"
