"""The investigation of a rollback: everything on record about one ended rollout, as evidence and as a page.

The evidence is named by its content: the same ledger and log give the same. `investigation_page` draws it; the chapters
are in `investigation_chapters` and `investigation_plots`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from contracts.hashing import bytes_id, canonical_json
from pipelines.governance import investigation_chapters as chapter
from pipelines.governance.investigation_slices import Ranked, worst_text
from pipelines.governance.rollback_cause import Cause
from pipelines.governance.version_differences import Difference
from pipelines.monitoring.rollout_rows import Part, RolloutRows
from pipelines.pages import Card, render
from pipelines.pages.document import Chapter, html
from pipelines.rollout.course import Entered, Look

OPENED, CLOSED = "investigation.opened", "investigation.closed"
EVIDENCE, PAGE = "evidence.json", "index.html"
_TEMPLATES = Path(__file__).parent / "templates"


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the timeline; `at_s` is since the epoch."""

    at_s: float
    what: str
    detail: str = ""


class Investigation(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a rollout that did not end in a promotion, or of a champion that a person took back.

    Args:
        rollout: its name, or that of the rollback by hand; `version` is who lost, `champion` who answers since.
        phase, share: where it was when it ended; `reason` is the verdict in words, `by` the person who ended it.
        findings: of the last verdict, all of them, also those within their limits.
        tripped: the server's own reason, where it was the server that ended it.
        looks, looked: what the judge had over time, of how many looks.
        counted: the challenger's requests by the judge's count, to hold the log's rows against.
        personal: the fields that are masked in all records shown here.
        gaps: what could not be read, in sentences.
    """

    project: str
    title: str
    rollout: str
    version: str
    champion: str | None
    state: str
    cause: Cause
    reason: str
    by: str | None = None
    phase: str = ""
    share: float = 0.0
    started_s: float
    ended_s: float
    findings: tuple[Mapping[str, Any], ...] = ()
    tripped: Mapping[str, Any] | None = None
    timeline: tuple[Moment, ...] = ()
    phases: tuple[Entered, ...] = ()
    looks: tuple[Look, ...] = ()
    looked: int = 0
    counted: int = 0
    plan: Mapping[str, Any] = {}
    rows: RolloutRows = RolloutRows()
    slices: tuple[Ranked, ...] = ()
    differences: tuple[Difference, ...] = ()
    personal: tuple[str, ...] = ()
    gaps: tuple[str, ...] = ()


class Affected(msgspec.Struct, frozen=True, kw_only=True):
    """Whom it touched: what the challenger was to answer for clients, what of it failed, and what nobody answered."""

    requests: int
    entities: int
    failed: int
    failed_entities: int
    unanswered: int


def evidence_bytes(found: Investigation) -> tuple[bytes, str]:
    """The evidence as canonical JSON, and its SHA-256."""
    content = canonical_json(found)
    return content, bytes_id(content)


def affected(found: Investigation) -> Affected:
    """Of the phases with a share; by the judge's counts where the log has no rows. Entities are summed over phases."""
    live = [part for part in found.rows.parts if part.arm == "challenger" and part.name != "shadow"]
    if not found.rows.parts and found.looks:
        last = found.looks[-1]
        return Affected(
            requests=last.challenger_requests,
            entities=0,
            failed=last.challenger_errors,
            failed_entities=0,
            unanswered=0,
        )
    return Affected(
        requests=_total(live, "rows"),
        entities=max((part.entities for part in live), default=0),
        failed=_total(live, "errors"),
        failed_entities=max((part.failed_entities for part in live), default=0),
        unanswered=_total(live, "unanswered"),
    )


def affected_text(found: Investigation) -> str:
    """Who was affected, in one or two sentences."""
    touched = affected(found)
    if found.cause.name == "load_refused":
        return "Nobody: the version was never loaded."
    if touched.requests == 0:
        return "Nobody: no client was answered by this version."
    said = (
        f"Version {found.version} was asked for {touched.requests:,} predictions"
        f"{f' of at least {touched.entities:,} entities' if touched.entities else ''}; {touched.failed:,} failed."
    )
    if touched.failed == 0:
        return said
    if touched.unanswered == 0:
        return f"{said} No client saw a failure: version {found.champion} answered each of them in its place."
    return f"{said} {touched.unanswered:,} of them nobody answered: those clients saw an error."


def where_text(found: Investigation) -> str:
    """The slice that failed most, where failures ended it, as a clause; else empty."""
    return worst_text(found.slices) if found.cause.blames == "errors" else ""


def investigation_page(found: Investigation, evidence: str) -> str:
    """The page, as one HTML file that loads nothing else; `evidence` is the hash of what it was drawn from."""
    return render(
        "document.html",
        [_TEMPLATES],
        title=f"{found.title}: why version {found.version} {_ended(found)}",
        lead=[
            f"{found.cause.title}. {found.reason[:1].upper()}{found.reason[1:]}.",
            affected_text(found),
            *([f"{worst[:1].upper()}{worst[1:]}."] if (worst := where_text(found)) else []),
        ],
        warnings=list(found.gaps),
        cards=_cards(found),
        content=html(_chapters(found)),
        footer=(
            f"Rollout {found.rollout} of {found.project}. Drawn from {EVIDENCE} beside this page, SHA-256 {evidence}, "
            "which is in the ledger. Times are UTC."
        ),
    )


def _ended(found: Investigation) -> str:
    return "was refused" if found.state == "refused" else "was rolled back"


def _cards(found: Investigation) -> list[Card]:
    touched = affected(found)
    told = Card(
        "ended", _ended(found).removeprefix("was "), more=f"at {found.phase or 'the champion'}", tone="bad", lead=True
    )
    cards = [told._replace(tone="" if found.cause.severity == "notice" else "bad")]
    if touched.requests:
        cards.append(Card("failed", f"{touched.failed:,}", more=f"of {touched.requests:,} predictions"))
        noticed = f"{touched.unanswered:,}" if touched.unanswered else "none"
        cards.append(Card("seen by clients", noticed, more="errors", tone="bad" if touched.unanswered else "good"))
    exceeded = [each for each in found.findings if each["limit"] and each["e_value"] > each["limit"]]
    if exceeded:
        worst = max(exceeded, key=lambda each: each["e_value"] / each["limit"])
        cards.append(
            Card("evidence", chapter.number(worst["e_value"]), more=f"e-value, limit {chapter.number(worst['limit'])}")
        )
    if (since := _since_first_failure(found)) is not None:
        cards.append(Card("reaction", f"{since:.1f}", unit="s", more="from the first failure"))
    cards.append(Card("lasted", *chapter.lasted(found.ended_s - found.started_s), more=f"{found.looked:,} looks"))
    return cards


def _since_first_failure(found: Investigation) -> float | None:
    """Seconds from the first failure to the end: by the server's clock where it tripped, else by the log's."""
    if found.tripped is not None and (told := found.tripped.get("seconds_since_first_error")) is not None:
        return float(told)
    first_s = found.rows.first_failed_s
    return None if first_s is None or found.cause.name != "errors" else max(0.0, found.ended_s - first_s)


def _chapters(found: Investigation) -> list[Chapter]:
    chapters: Sequence[Chapter | None] = [
        chapter.next_steps(found),
        chapter.evidence(found),
        chapter.timeline(found),
        chapter.both_versions(found),
        chapter.slices(found),
        chapter.failures(found),
        chapter.what_differs(found),
    ]
    return [each for each in chapters if each is not None]


def _total(parts: Sequence[Part], name: str) -> int:
    return sum(getattr(part, name) for part in parts)
