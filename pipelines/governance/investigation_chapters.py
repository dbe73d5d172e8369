"""The chapters of an investigation's page, each from one part of the evidence. What is not there has no chapter."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pipelines.governance import investigation_plots as plots
from pipelines.governance.rollback_cause import LIGHT
from pipelines.monitoring.rollout_rows import Failure, Part
from pipelines.pages.document import Block, Bullets, Chapter, Figure, Table
from pipelines.pages.forest import Estimate, forest

if TYPE_CHECKING:
    from pipelines.governance.investigation import Investigation

_SHOWN_RECORDS = 6
_SHOWN_FAILURES = 20  # the evidence has more
_SHOWN_VALUE = 160


def next_steps(found: "Investigation") -> Chapter:
    """What a person does now."""
    close = (
        f"Write down what was found: `paceline investigation close {found.project} {found.rollout} --note … --by …`. "
        f"Until then version {found.version} is offered again only with a note of its own."
    )
    by = [f"Ended by {found.by}; ask what they saw."] if found.by else []
    return Chapter("What to do next", [Bullets([*by, *found.cause.steps, close])])


def evidence(found: "Investigation") -> Chapter | None:
    """All that the judge compared at the end, and how the evidence grew."""
    said: list[Block] = []
    if found.tripped is not None:
        told = found.tripped.get("challenger_requests_since_first_error")
        after = "" if told is None else f" It was asked {told:,} times since its first failure."
        said.append(f"The server itself took the share away: {found.tripped['reason']}.{after}")
    if found.findings:
        alpha = found.plan.get("alpha")
        shared = "" if alpha is None else f" The limits share out the plan's alpha of {alpha:.1%}."
        said.append(
            f"An e-value above its limit is a reason to roll back; it may be looked at after every request.{shared}"
        )
        head = ("Compared", "What was seen", "e-value", "Limit", "")
        lines = [
            (
                each["name"],
                each["what"],
                number(each["e_value"]),
                number(each["limit"]) if each["limit"] else "none asked",
                "exceeded" if each["limit"] and each["e_value"] > each["limit"] else "within",
            )
            for each in sorted(found.findings, key=lambda each: -each["e_value"] / (each["limit"] or float("inf")))
        ]
        said.append(Table(head, lines))
    said += [Figure(drawn) for drawn in plots.evidence_over_time(found)]
    return Chapter("Evidence", said) if said else None


def timeline(found: "Investigation") -> Chapter:
    """What happened when: steps with their shares, commands, questions, the first failure, the end."""
    start = found.started_s
    lines = [
        (clock(moment.at_s), "+{} {}".format(*lasted(max(0.0, moment.at_s - start))), moment.what, moment.detail or "–")
        for moment in found.timeline
    ]
    return Chapter("Timeline", [Table(("Time", "Since its start", "What", ""), lines)])


def both_versions(found: "Investigation") -> Chapter | None:
    """Failures, latency and scores of both versions, by phase and over time."""
    parts = found.rows.parts
    if not parts:
        return None
    head = ("Phase", "Version", "Predictions", "Failed", "Unanswered", "p50 ms", "p95 ms", "p99 ms", "Mean score")
    lines = [
        (
            part.name,
            _version(found, part),
            f"{part.rows:,}",
            f"{part.errors:,}",
            f"{part.unanswered:,}",
            figure(part.p50_ms),
            figure(part.p95_ms),
            figure(part.p99_ms),
            "–" if part.mean_score is None else f"{part.mean_score:.3f}",
        )
        for part in parts
    ]
    logged = sum(part.rows for part in parts if part.arm == "challenger" and part.name != "shadow")
    said: list[Block] = [Table(head, lines)]
    if found.counted and logged < found.counted:
        said.append(
            f"The log has {logged:,} of the {found.counted:,} requests that the judge counted for version "
            f"{found.version}: the rest was not written yet, or is not kept."
        )
    if found.rows.clients:
        asked = [(each.client, f"{each.rows:,}", f"{each.errors:,}") for each in found.rows.clients]
        said.append(Table((f"Client that version {found.version} was to answer", "Predictions", "Failed"), asked))
    return Chapter("Both versions, by phase and over time", [*said, *map(Figure, plots.over_time(found))])


def slices(found: "Investigation") -> Chapter | None:
    """Where it went wrong most."""
    if not found.slices:
        return None
    by_errors = found.cause.blames == "errors"
    said: list[Block] = []
    said.append("The worst first. Slices overlap, and the worst of many looks worse than it is.")
    head = ("Slice", "Predictions", "Failed", "Rate, 95 %", "Champion's rate", "p95 ms, both", "Mean score, both")
    said.append(
        Table(
            head,
            [
                (
                    f"{each.field} {each.value}",
                    f"{each.rows:,}",
                    f"{each.errors:,}",
                    f"{each.rate:.1%} ({each.low:.1%} … {each.high:.1%})",
                    "–" if each.champion_rate is None else f"{each.champion_rate:.1%}",
                    f"{figure(each.p95_ms)} · {figure(each.champion_p95_ms)}",
                    f"{_score(each.mean_score)} · {_score(each.champion_mean_score)}",
                )
                for each in found.slices
            ],
        )
    )
    if by_errors:
        drawn = [
            Estimate(f"{each.field} {each.value}", each.rate, each.low, each.high, f"{each.rate:.1%}", "t3")
            for each in found.slices
        ]
        mine = [part for part in found.rows.parts if part.arm == "challenger"]
        overall = sum(part.errors for part in mine) / max(1, sum(part.rows for part in mine))
        marks = [(overall, f"all {overall:.1%}")]
        said.append(Figure(forest("Failed, by slice", "share of the predictions, 95 % interval", drawn, marks)))
    return Chapter("Where it went wrong most", said)


def failures(found: "Investigation") -> Chapter | None:
    """The kinds of error, and requests that failed."""
    if not found.rows.failures:
        return None
    kinds = [(_cut(kind.error), kind.arm, f"{kind.rows:,}", f"{kind.entities:,}") for kind in found.rows.error_kinds]
    shown = found.rows.failures[:_SHOWN_FAILURES]
    total = sum(kind.rows for kind in found.rows.error_kinds)
    said: list[Block] = [
        Table(("Error", "Version of", "Predictions", "Entities"), kinds),
        f"{len(shown):,} of {total:,} failed predictions: the challenger's first, of those what nobody answered, "
        "then some of each kind. "
        f"`paceline lineage` with the beginning of an id says what the prediction was made from.",
        Table(
            ("When", "Phase", "Entity", "Error", "Answered by", "Prediction, request"),
            [_failure(each) for each in shown],
        ),
    ]
    records = [each for each in shown if each.inputs][:_SHOWN_RECORDS]
    if records:
        masked = f" Masked, since they are about persons: {', '.join(found.personal)}." if found.personal else ""
        said += [
            f"What was asked, of the first {len(records)}.{masked}",
            Table(
                ("Prediction", "Record"),
                [(f"`{each.prediction_id[:18]}`", f"`{(each.inputs or '').replace('`', '')}`") for each in records],
            ),
        ]
    return Chapter("Requests that failed", said)


def what_differs(found: "Investigation") -> Chapter | None:
    """Parameters, inputs, data, metrics, form and code of both versions, where they are not the same."""
    if found.cause.name in LIGHT or found.champion is None:
        return None
    if not found.differences:
        return Chapter("What differs between the versions", ["Nothing that is on record."])
    lines, area = list[tuple[str, ...]](), ""
    for each in found.differences:
        lines.append(("" if each.area == area else each.area, each.name, _cut(each.challenger), _cut(each.champion)))
        area = each.area
    head = ("", "What", f"Version {found.version}", f"Version {found.champion}")
    return Chapter("What differs between the versions", [Table(head, lines)])


def clock(at_s: float) -> str:
    """A time of day with its day, UTC."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M:%S")


def lasted(seconds: float) -> tuple[str, str]:
    """A length of time as a figure and its unit."""
    for unit, length in (("d", 86_400.0), ("h", 3_600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f}", unit
    return f"{seconds:.1f}", "s"


def number(value: float) -> str:
    """An e-value or its limit: small ones with digits, large ones short."""
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}" if value < 1e6 else f"{value:.1e}"


def figure(value: float | None) -> str:
    """Milliseconds."""
    return "–" if value is None else f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def _version(found: "Investigation", part: Part) -> str:
    return f"{part.arm} {found.version if part.arm == 'challenger' else found.champion or ''}".strip()


def _failure(each: Failure) -> Sequence[str]:
    answered = "nobody" if each.answered_by is None else f"version {each.answered_by}, {_score(each.score)}"
    when = each.served_at[11:23]
    return (
        when,
        each.phase,
        f"`{each.entity[:20]}`",
        _cut(each.error),
        answered,
        f"`{each.prediction_id}`, `{each.request_id[:36]}`",
    )


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_VALUE else text[: _SHOWN_VALUE - 1] + "…"
