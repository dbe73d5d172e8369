"""Quality by outcomes for people: one page that loads nothing, on which what is not known yet is drawn as such."""

from collections.abc import Sequence
from typing import Any

import msgspec

from pipelines.monitoring.measures import Estimate, Quality
from pipelines.monitoring.outcomes import Coverage
from pipelines.monitoring.quality_parts import Maturity, Part
from pipelines.pages import Card, render
from pipelines.pages.day_chart import DayLine, DayValue, day_chart, day_grid
from pipelines.pages.document import Block, Chapter, Figure, Table, html

NOT_KNOWN: dict[Maturity, str] = {
    "not_due": "not known yet: no outcome is due",
    "missing": "outcomes are due, and none has come",
    "partly": "some outcomes have come",
    "known": "known",
}
_TONES = ("t1", "t2", "t4", "t5", "t6", "t7", "t3", "t8")
_METRICS = (("log_loss", "Log loss"), ("auc", "AUC"), ("false_positive_rate", "False-positive rate"))


class Assessed(msgspec.Struct, frozen=True, kw_only=True):
    """What the page is made of: the predictions of `days` days before `as_of`, as far as their outcomes are known."""

    project: str
    title: str
    as_of: str
    days: int
    label: str
    delay_days: int
    coverage: Coverage
    quarantine: dict[str, int]
    damaged: list[str]
    quality: tuple[Quality, ...]
    parts: tuple[Part, ...]


def quality_page(found: Assessed) -> str:
    """The whole page."""
    coverage = found.coverage
    lead = [
        f"Predictions of {found.days} days before {found.as_of}, with the outcomes known when that day began (UTC).",
        f"An outcome ({found.label}) is due {found.delay_days} days after its event's day; none is used before.",
    ]
    warnings = (
        [f"{len(found.damaged)} files of the log could not be read: {', '.join(found.damaged)}"]
        if found.damaged
        else []
    )
    if coverage.due and not coverage.labelled:
        warnings.append(f"{coverage.due:,} outcomes are due, and none has come.")
    return render(
        "document.html",
        title=f"{found.title}: quality by outcomes",
        lead=lead,
        warnings=warnings,
        cards=_cards(found),
        content=html(_chapters(found)),
        footer="Made by paceline quality; --json writes the same numbers for machines. Intervals are 95 %, by a "
        "bootstrap over whole days, or hours where there are fewer than five days.",
    )


def _cards(found: Assessed) -> list[Card]:
    coverage = found.coverage
    share = "–" if coverage.share is None else f"{coverage.share:.1%}"
    age = "–" if coverage.age_days is None else f"{coverage.age_days}"
    return [
        Card("outcomes known, of those due", share, more=f"{coverage.labelled:,} of {coverage.due:,}", lead=True),
        Card("newest outcome", age, "days old" if coverage.age_days is not None else ""),
        Card("predictions", f"{coverage.predictions:,}", more=f"{coverage.predictions - coverage.due:,} not due"),
        Card("early", f"{coverage.early:,}", more="known, not used yet"),
        Card("corrected", f"{coverage.corrected:,}"),
        Card("quarantined", f"{sum(found.quarantine.values()):,}", more=", ".join(found.quarantine)),
    ]


def _chapters(found: Assessed) -> list[Chapter]:
    chapters = [Chapter("By version and slot", [_version_table(found.quality)])]
    daily = [part for part in found.parts if part.day is not None and part.field is None]
    if daily:
        figures: list[Block] = [
            Figure(day_chart(f"{title} by day", "mean and 95 % interval", day_lines(daily, metric), metric))
            for metric, title in _METRICS
        ]
        chapters.append(Chapter("By day", [*figures, _day_table(daily)]))
    slices = [part for part in found.parts if part.day is None and part.field is not None]
    for field in sorted({part.field for part in slices if part.field}):
        of_field = [part for part in slices if part.field == field]
        blocks: list[Block] = [_slice_table(of_field)]
        both = [part for part in found.parts if part.day is not None and part.field == field]
        for name in sorted({_name(part) for part in both}):
            mine = [part for part in both if _name(part) == name]
            title = f"Log loss by {field} and day, {name}"
            grid = f"{field}-{name}".replace(" ", "-").replace(",", "")
            blocks.append(Figure(day_grid(title, "log loss", _grid_rows(mine), grid)))
        chapters.append(Chapter(f"By {field}", blocks))
    return chapters


def _version_table(quality: Sequence[Quality]) -> Table:
    head = (
        "Version",
        "Predictions",
        "Errors",
        "Outcomes",
        "Share of 1",
        *(title for _, title in _METRICS),
        "Brier score",
    )
    rows = [
        (
            f"{each.version}, {each.slot}",
            f"{each.rows:,}",
            f"{each.errors:,}",
            f"{each.labelled:,}",
            _share(each.positive_share),
            *(_estimate(getattr(each, metric)) for metric, _ in _METRICS),
            _estimate(each.brier),
        )
        for each in quality
    ]
    return Table(head, rows)


def _day_table(parts: Sequence[Part]) -> Table:
    head = ("Day", "Version", "Predictions", "Due", "Outcomes", "State", "Share of 1", "Log loss")
    return Table(head, [(part.day or "", *_cells(part)) for part in sorted(parts, key=lambda part: part.day or "")])


def _slice_table(parts: Sequence[Part]) -> Table:
    head = ("Slice", "Version", "Predictions", "Due", "Outcomes", "State", "Share of 1", "Log loss")
    return Table(head, [(f"{part.field} = {part.value}", *_cells(part)) for part in parts])


def _cells(part: Part) -> tuple[str, ...]:
    return (
        _name(part),
        f"{part.rows:,}",
        f"{part.due:,}",
        f"{part.labelled:,}",
        NOT_KNOWN[part.maturity],
        _share(part.positive_share),
        _estimate(part.log_loss),
    )


def day_lines(parts: Sequence[Part], metric: str) -> list[DayLine]:
    """`metric` of each version and slot by day; a day without it says why."""
    names = sorted({_name(part) for part in parts})
    return [
        DayLine(name, _TONES[place % len(_TONES)], [_value(part, metric) for part in parts if _name(part) == name])
        for place, name in enumerate(names)
    ]


def _grid_rows(parts: Sequence[Part]) -> list[DayLine]:
    words = sorted({part.value or "" for part in parts})
    return [DayLine(word, "t1", [_value(part, "log_loss") for part in parts if part.value == word]) for word in words]


def _value(part: Part, metric: str) -> DayValue:
    found: Estimate | None = getattr(part, metric)
    if found is None:
        why = NOT_KNOWN[part.maturity] if not part.labelled else "undefined for these outcomes"
        return DayValue(part.day or "", None, None, None, why)
    text = f"{found}, {part.labelled:,} of {part.due:,} due outcomes"
    return DayValue(part.day or "", found.value, found.low, found.high, text)


def _name(part: Part) -> str:
    return f"version {part.version}, {part.slot}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _estimate(found: Any) -> str:
    if found is None:
        return "–"
    if found.low is None:
        return f"{found.value:.4f}"
    return f"{found.value:.4f} ({found.low:.4f}\u00a0to\u00a0{found.high:.4f})"
