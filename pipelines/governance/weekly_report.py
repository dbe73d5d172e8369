"""The weekly report of a project: one page that loads nothing, for whoever answers for the model. Pure.

What is not known yet (outcomes that are not due, a week without a watch) is said and drawn as such, and never as zero.
The same entries and rows give the same page, byte for byte: no clock is read.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from pipelines.monitoring.holds import PastRetrain
from pipelines.monitoring.measures import Estimate, Quality
from pipelines.monitoring.outcomes import Coverage
from pipelines.monitoring.quality_page import day_lines
from pipelines.monitoring.quality_parts import Part
from pipelines.monitoring.week_traffic import DayOfVersion, WeekTraffic
from pipelines.pages import Card, render
from pipelines.pages.day_chart import DayLine, DayValue, day_chart
from pipelines.pages.document import Block, Bullets, Chapter, Figure, Table, html

NOT_KNOWN = "not known yet"
_TONES = ("t1", "t2", "t4", "t5", "t6", "t7", "t3", "t8")
_MEASURES = ("log_loss", "auc", "false_positive_rate")
_BROUGHT = {"better": "a champion", "not_better": "no champion", "failed": "failed", "unknown": NOT_KNOWN}
_DRIFT = {"drift": "drifted", "no_drift": "as before", "no_data": NOT_KNOWN}


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of the ledger: when it was written, or the date that it is as of, and what it says."""

    at: str
    subject: str
    body: dict[str, Any]


class Week(msgspec.Struct, frozen=True, kw_only=True):
    """All that the page is made of. `days` are the seven dates, `watch_days` those as of which a watch has them as its
    last day: the days after. `coverage` and what follows of quality is None before
    the first champion. Watches, comparisons of
    features (`skews`), retrains and what was held back are as of these days; rollouts, score alarms and
    failures were written down in them."""

    project: str
    title: str
    week: str
    days: tuple[str, ...]
    watch_days: tuple[str, ...]
    champion: str | None
    label: str
    delay_days: int
    traffic: WeekTraffic
    coverage: Coverage | None
    quality: tuple[Quality, ...]
    parts: tuple[Part, ...]
    watches: tuple[Told, ...] = ()
    skews: tuple[Told, ...] = ()
    retrains: tuple[PastRetrain, ...] = ()
    suppressed: tuple[Told, ...] = ()
    rollouts: tuple[Told, ...] = ()
    score_alarms: tuple[Told, ...] = ()
    failures: tuple[Told, ...] = ()
    investigations: tuple[dict[str, Any], ...] = ()


def weekly_report(found: Week) -> str:
    """The whole page."""
    leads = "nobody leads yet" if found.champion is None else f"version {found.champion} leads"
    return render(
        "document.html",
        title=f"{found.title}: week {found.week}",
        lead=[
            f"Events of {found.days[0]} to {found.days[-1]}, with what was known when the week was over; {leads}.",
            f"An outcome ({found.label}) is due {_days(found.delay_days)} after its event's day: what is not due is "
            "hatched.",
        ],
        warnings=_warnings(found),
        cards=_cards(found),
        content=html(_chapters(found)),
        footer=f"Made by paceline report weekly {found.project} --week {found.week}, from the prediction log, the "
        "outcomes and the ledger, which has this page by its hash. Drift: docs/drift.md; what starts a retrain: "
        "docs/triggers.md.",
    )


def _warnings(found: Week) -> list[str]:
    said = [f"Investigations that are open: {len(found.investigations)}."] if found.investigations else []
    if found.traffic.damaged:
        said.append(f"{len(found.traffic.damaged)} files of the prediction log could not be read: counts are too low.")
    if not found.watches:
        said.append("No watch ran for these days: of drift nothing is known.")
    if any(each.body["encoding"]["differing"] for each in found.skews):
        said.append("The servers encoded features otherwise than training does: see Skew.")
    said += [
        f"{each.at}: {each.body['workflow']}.{each.body['task']} failed: {each.body['error']}"
        for each in found.failures
    ]
    return said


def _cards(found: Week) -> list[Card]:
    rows = _answers(found.traffic.days)
    requests, errors = sum(each.rows for each in rows), sum(each.errors for each in rows)
    slowest = max((each.latency_ms_p99 for each in rows if each.latency_ms_p99 is not None), default=None)
    leading = next((each for each in found.quality if each.version == found.champion and each.slot == "champion"), None)
    loss = None if leading is None or leading.log_loss is None else leading.log_loss.value
    promoted = sum(each.body["state"] == "promoted" for each in found.rollouts)
    last = found.watches[-1].body.get("drift") if found.watches else None
    drift = NOT_KNOWN if last is None else _DRIFT[last["inputs"]]
    return [
        Card("predictions", f"{requests:,}", lead=True),
        Card(
            "errors", f"{errors / requests:.2%}" if requests else "–", more=f"{errors:,}", tone="bad" if errors else ""
        ),
        Card("slowest day, p99", "–" if slowest is None else f"{slowest:.2f}", "" if slowest is None else "ms"),
        Card("log loss", NOT_KNOWN if loss is None else f"{loss:.4f}", more="of the champion"),
        Card("inputs", drift, tone="bad" if drift == "drifted" else ""),
        Card("retrains", f"{len(found.retrains)}", more=f"{len(found.suppressed)} held back"),
        Card("rollouts", f"{len(found.rollouts)}", more=f"{promoted} promoted"),
        Card("open investigations", f"{len(found.investigations)}", tone="bad" if found.investigations else ""),
    ]


def _chapters(found: Week) -> list[Chapter]:
    return [
        Chapter("Traffic", _traffic(found)),
        Chapter("Latency", _latency(found)),
        Chapter("Quality", _quality(found)),
        Chapter("Drift", _drift(found)),
        Chapter("Skew", _skew(found)),
        Chapter("Retrains", _retrains(found)),
        Chapter("Rollouts", _rollouts(found)),
        Chapter("Open investigations", _investigations(found)),
    ]


def _answers(days: Sequence[DayOfVersion]) -> list[DayOfVersion]:
    return [each for each in days if each.slot != "shadow"]


def _by_version(found: Week, value: str, digits: int = 0) -> list[DayLine]:
    """A line for each version and slot; a day without rows is one without a value."""
    names = sorted({(each.version, each.slot) for each in found.traffic.days})
    lines = []
    for place, (version, slot) in enumerate(names):
        mine = {each.day: each for each in found.traffic.days if (each.version, each.slot) == (version, slot)}
        values = [_day_value(day, None if day not in mine else getattr(mine[day], value), digits) for day in found.days]
        lines.append(DayLine(f"version {version}, {slot}", _TONES[place % len(_TONES)], values))
    return lines


def _day_value(day: str, value: float | None, digits: int) -> DayValue:
    text = "no prediction" if value is None else f"{value:,.{digits}f}"
    return DayValue(day, value, None, None, text)


def _traffic(found: Week) -> list[Block]:
    if not found.traffic.days:
        return ["The prediction log has no prediction for events of this week."]
    head = ("Version", "Predictions", "Errors", "Mean score", "Decisions yes")
    rows = [
        (
            name,
            f"{sum(each.rows for each in mine):,}",
            f"{sum(each.errors for each in mine):,}",
            _weighted(mine, "mean_score", "{:.3f}"),
            _weighted(mine, "decision_share", "{:.1%}"),
        )
        for name, mine in _versions(found.traffic.days).items()
    ]
    return [
        Figure(day_chart("Predictions by day", "rows of the log", _by_version(found, "rows"), "rows")),
        Figure(
            day_chart("Decisions yes by day", "share of the answers", _by_version(found, "decision_share", 3), "yes")
        ),
        Table(head, rows),
    ]


def _versions(days: Sequence[DayOfVersion]) -> dict[str, list[DayOfVersion]]:
    found: dict[str, list[DayOfVersion]] = {}
    for each in sorted(days, key=lambda day: (day.version, day.slot)):
        found.setdefault(f"{each.version}, {each.slot}", []).append(each)
    return found


def _weighted(days: Sequence[DayOfVersion], value: str, text: str) -> str:
    """The mean over the answers of all days."""
    told = [(getattr(each, value), each.rows - each.errors) for each in days if getattr(each, value) is not None]
    answers = sum(rows for _, rows in told)
    return "–" if answers == 0 else text.format(sum(each * rows for each, rows in told) / answers)


def _latency(found: Week) -> list[Block]:
    if all(each.latency_ms_p99 is None for each in found.traffic.days):
        return [f"{NOT_KNOWN.capitalize()}: no row of this week has a latency."]
    lines = _by_version(found, "latency_ms_p99", 2)
    rows = [
        (each.day, f"{each.version}, {each.slot}", _ms(each.latency_ms_p50), _ms(each.latency_ms_p99))
        for each in found.traffic.days
    ]
    return [
        "Encoding and scoring of a request's rows, as the server logged it; without network and queue.",
        Figure(day_chart("p99 of the latency by day", "ms", lines, "p99")),
        Table(("Day", "Version", "p50 ms", "p99 ms"), rows),
    ]


def _days(count: int) -> str:
    return "1 day" if count == 1 else f"{count} days"


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _quality(found: Week) -> list[Block]:
    if found.coverage is None or not found.quality:
        return [f"{NOT_KNOWN.capitalize()}: no version has made predictions for events of this week."]
    covered = found.coverage
    share = "none is due" if covered.share is None else f"{covered.labelled:,} of {covered.due:,} that are due"
    blocks: list[Block] = [f"Outcomes known when the week was over: {share}."]
    daily = [part for part in found.parts if part.day is not None and part.field is None]
    for metric, title in (("log_loss", "Log loss"), ("auc", "AUC")) if daily else ():
        figure = day_chart(f"{title} by day", "mean and 95 % interval", day_lines(daily, metric), metric)
        blocks.append(Figure(figure))
    rows = [
        (f"{each.version}, {each.slot}", f"{each.labelled:,}", *(_interval(getattr(each, name)) for name in _MEASURES))
        for each in found.quality
    ]
    return [*blocks, Table(("Version", "Outcomes", "Log loss", "AUC", "False-positive rate"), rows)]


def _interval(found: Estimate | None) -> str:
    if found is None:
        return NOT_KNOWN
    return f"{found.value:.4f}" if found.low is None else f"{found.value:.4f} ({found.low:.4f} to {found.high:.4f})"


def _drift(found: Week) -> list[Block]:
    blocks: list[Block] = []
    if found.watches:
        rows = [_watch_row(each) for each in found.watches]
        blocks.append(Table(("As of", "Predictions", "Inputs", "Scores", "Columns that drifted"), rows))
        blocks.append(Bullets([f"{each.subject}: {each.body['decision']['reason']}" for each in found.watches]))
        seen = {each.subject: _distance(each.body) for each in found.watches}
        unseen = (None, None, None, f"{NOT_KNOWN}: no watch")
        line = DayLine("largest distance", "t1", [DayValue(day, *seen.get(day, unseen)) for day in found.watch_days])
        blocks.insert(
            0, Figure(day_chart("Largest distance of a column, in its limit", "1 is the limit", [line], "drift"))
        )
    else:
        blocks.append(f"{NOT_KNOWN.capitalize()}: no watch ran.")
    blocks += (
        [Bullets([f"{each.at}: {each.body['reason']}" for each in found.score_alarms])] if found.score_alarms else []
    )
    blocks.append(
        f"Alarms of the fast watch over scores: {len(found.score_alarms)}."
        if found.score_alarms
        else "The fast watch over scores raised no alarm, or did not run."
    )
    return blocks


def _watch_row(watch: Told) -> tuple[str, ...]:
    drift = watch.body.get("drift")
    drifted = [c["column"] for c in (drift or {}).get("columns", ()) if c["answer"] == "drift" and c["counts"]]
    return (
        watch.subject,
        f"{watch.body['predictions']:,}",
        NOT_KNOWN if drift is None else _DRIFT[drift["inputs"]],
        NOT_KNOWN if drift is None else _DRIFT[drift["scores"]],
        ", ".join(drifted) or "–",
    )


def _distance(watch: Mapping[str, Any]) -> tuple[float | None, None, None, str]:
    """The largest distance of a column that counts, as a multiple of its limit, with its name."""
    columns = (watch.get("drift") or {}).get("columns", ())
    known = [
        (c["distance"] / c["limit"], c["column"])
        for c in columns
        if c["counts"] and c["distance"] is not None and c["limit"]
    ]
    if not known:
        return None, None, None, NOT_KNOWN
    largest, column = max(known)
    return largest, None, None, f"{column}: {largest:.2f} of its limit"


def _skew(found: Week) -> list[Block]:
    if not found.skews:
        return [f"{NOT_KNOWN.capitalize()}: nothing compared what the servers encoded with what training does."]
    rows = [
        (
            each.subject,
            f"{each.body['sampled']:,}",
            _differing(each.body["encoding"]),
            _differing(each.body["source"]),
            f"{each.body['not_due'] + each.body['absent'] + each.body['ambiguous']:,}",
        )
        for each in found.skews
    ]
    return [
        "Sampled rows whose features, recomputed, or whose inputs, held against the source, differ in a byte.",
        Table(("As of", "Sampled", "Encoding differs", "Source differs", "Source not known yet"), rows),
    ]


def _differing(compared: Mapping[str, Any]) -> str:
    """How many of how many, and in which columns."""
    if not compared["rows"]:
        return NOT_KNOWN
    columns = ", ".join(column["column"] for column in compared["columns"])
    return f"{compared['differing']:,} of {compared['rows']:,}" + (f": {columns}" if columns else "")


def _retrains(found: Week) -> list[Block]:
    blocks: list[Block] = []
    if found.retrains:
        rows = [
            (
                str(each.as_of),
                each.trigger,
                _BROUGHT[each.brought],
                "–" if each.cpu_hours is None else f"{each.cpu_hours:.2f}",
            )
            for each in found.retrains
        ]
        blocks.append(Table(("As of", "Trigger", "Brought", "CPU hours"), rows))
    else:
        blocks.append("No retrain was started.")
    if found.suppressed:
        held = [(each.subject, each.body["trigger"], each.body["why"]) for each in found.suppressed]
        blocks.append(Table(("As of", "Asked for", "Why none was started"), held))
    return blocks


def _rollouts(found: Week) -> list[Block]:
    if not found.rollouts:
        return ["No rollout ended."]
    rows = [
        (each.at, each.body["version"], each.body["state"].replace("_", " "), each.body["reason"])
        for each in found.rollouts
    ]
    return [Table(("Ended", "Version", "How", "Why"), rows)]


def _investigations(found: Week) -> list[Block]:
    if not found.investigations:
        return ["None is open."]
    rows = [(each["opened"], each["rollout"], each["version"], each["title"]) for each in found.investigations]
    return [Table(("Since", "Rollout", "Version", "What happened"), rows)]
