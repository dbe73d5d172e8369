"""How good live predictions were, in parts, as far as their outcomes are known: numbers, and a page."""

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import msgspec

from contracts.bundle import read_bundle
from pipelines.monitoring.predictions import read_predictions
from pipelines.monitoring.quality import measure_quality
from pipelines.monitoring.quality_page import NOT_KNOWN, Assessed, quality_page
from pipelines.monitoring.quality_parts import measure_parts
from pipelines.pages import write_whole
from pipelines.projects import Project
from pipelines.tasks import labelling
from pipelines.wiring import find_project, home, read_ledger


def assess(project: str, as_of: str, days: int = 14) -> Assessed:
    """Quality by version, slot, slice and day of the predictions for events of `days` days before `as_of`.

    Raises:
        LookupError: the project has no champion, whose schema says how events are identified.
    """
    found, today = find_project(project), date.fromisoformat(as_of)
    champion = read_ledger().champion(project)
    if champion is None:
        raise LookupError(f"{project} has no champion: release one first")
    schema = read_bundle(home().bundles / champion.bundle, champion.bundle).schema
    start = today - timedelta(days=days)
    log = read_predictions(home().predictions(project), start, today)
    labelled = labelling.label(found, schema, log.table, start, today)
    return Assessed(
        project=project,
        title=found.title,
        as_of=as_of,
        days=days,
        label=found.label.description or found.label.column,
        delay_days=found.label.delay_days,
        coverage=labelled.coverage,
        quarantine=labelling.open_store(project).quarantine_counts(),
        damaged=[each.path for each in log.damaged],
        quality=measure_quality(labelled.table),
        parts=measure_parts(labelled.table, slice_fields(found), with_both=True),
    )


def slice_fields(found: Project) -> tuple[str, ...]:
    """The declared slices whose words the log has: categories and booleans that are not personal."""
    known = {
        field.name for field in found.schema.fields if field.kind in ("category", "boolean") and not field.personal
    }
    return tuple(field for field in found.slices.fields if field in known)


def write_page(assessed: Assessed, path: Path | None = None) -> Path:
    """The page of an assessment; by default among the reports of its project."""
    name = f"quality-{assessed.as_of}-{assessed.days}d.html"
    file = home().reports(assessed.project) / name if path is None else path
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, quality_page(assessed))
    return file


def assessed_json(assessed: Assessed) -> dict[str, Any]:
    """All numbers, for machines."""
    found: dict[str, Any] = msgspec.to_builtins(assessed)
    return found


def assessed_text(assessed: Assessed) -> str:
    """The whole and its days, as lines for a terminal; slices are on the page."""
    coverage = assessed.coverage
    share = "nothing is due" if coverage.share is None else f"{coverage.share:.1%} of what is due"
    lines = [
        f"{assessed.project} as of {assessed.as_of}, {assessed.days} days: {coverage.predictions:,} predictions, "
        f"{coverage.due:,} outcomes due, {coverage.labelled:,} known ({share})"
    ]
    for each in assessed.quality:
        told = [f"{name} {value}" for name, value in (("AUC", each.auc), ("log loss", each.log_loss)) if value]
        lines.append(f"  version {each.version}, {each.slot}: " + ("; ".join(told) if told else "not known yet"))
    for part in assessed.parts:
        if part.field is None:
            known = NOT_KNOWN[part.maturity] if part.log_loss is None else f"log loss {part.log_loss}"
            lines.append(
                f"  {part.day} version {part.version}, {part.slot}: {part.labelled:,} of {part.due:,} due; {known}"
            )
    return "\n".join(lines)
