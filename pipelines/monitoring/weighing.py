"""What of a drift report counts: not what the days of the reference do as well, nor what broken data explains. Pure."""

from collections.abc import Sequence

import msgspec

from pipelines.monitoring.board import Alarm, BoardReading
from pipelines.monitoring.data_quality import DataQuality
from pipelines.monitoring.drift import Answer, ColumnDrift, DriftReport
from pipelines.monitoring.drift_limits import DriftLimits


def weigh(
    report: DriftReport,
    reading: BoardReading | None,
    faults: Sequence[DataQuality],
    limits: DriftLimits,
    why_not: str = "",
) -> DriftReport:
    """`report`, which knows of rows only, with the answers that days and data quality allow.

    A column, the scores and the outcomes drifted where the board has an alarm of them. What is broken did not drift,
    nor did the scores that follow from it. Without a reading (`why_not` says why) nothing is known, unless the project
    declares no budget: then rows decide alone.
    """
    broken = {column: fault for fault in faults for column in fault.columns}
    if reading is None and limits.false_alarms_per_year is None:
        columns = tuple(_without_faults(column, broken) for column in report.columns)
        return _closed(report, columns, report.score, broken, limits)
    if reading is None:
        columns = tuple(_unknown(column, why_not) for column in report.columns)
        return msgspec.structs.replace(
            report,
            inputs="no_data",
            scores="no_data",
            reason=f"inputs: no data ({why_not})",
            columns=columns,
            score=_unknown(report.score, why_not),
            outcomes="no_data",
            outcomes_reason=f"outcomes: no data ({why_not})",
        )
    columns = tuple(_without_faults(_weighed(column, reading), broken) for column in report.columns)
    outcomes, outcomes_reason = _outcomes(reading)
    closed = _closed(report, columns, _weighed(report.score, reading, "scores"), broken, limits)
    return msgspec.structs.replace(closed, outcomes=outcomes, outcomes_reason=outcomes_reason)


def _closed(
    report: DriftReport,
    columns: tuple[ColumnDrift, ...],
    score: ColumnDrift,
    broken: dict[str, DataQuality],
    limits: DriftLimits,
) -> DriftReport:
    if broken and score.answer == "drift":
        kinds = ", ".join(sorted({fault.kind for fault in broken.values()}))
        score = msgspec.structs.replace(score, answer="no_data", reason=f"{score.reason}; they follow from: {kinds}")
    counting = [column for column in columns if column.counts]
    drifted = [column for column in counting if column.answer == "drift"]
    inputs: Answer = "drift" if len(drifted) >= limits.minimum_columns else "no_drift"
    if inputs == "no_drift" and not any(column.answer == "no_drift" for column in counting):
        inputs = "no_data"
    found = f"{len(drifted)} of {len(counting)} columns that count drifted"
    relation = ">=" if inputs == "drift" else "<"
    reason = f"inputs: {found} {relation} {limits.minimum_columns}" if inputs != "no_data" else report.reason
    for column in drifted[:3]:
        reason += (
            f"; {column.reason}" if column.reason.startswith(column.column) else f"; {column.column}: {column.reason}"
        )
    if broken:
        reason += f"; broken, and no drift: {', '.join(sorted(broken))}"
    return msgspec.structs.replace(
        report, inputs=inputs, scores=score.answer, reason=reason, columns=columns, score=score
    )


def _weighed(column: ColumnDrift, reading: BoardReading, what: str | None = None) -> ColumnDrift:
    alarms = [
        alarm for alarm in reading.alarms if (alarm.what == what if what is not None else alarm.column == column.column)
    ]
    if alarms:
        return msgspec.structs.replace(column, answer="drift", reason=_told(alarms))
    if not reading.units and column.answer == "drift":
        return msgspec.structs.replace(column, answer="no_data", reason=f"{column.reason}; {reading.reason}")
    if column.answer == "drift" and column.counts:
        usual = "no more than the days of the reference differ from each other"
        return msgspec.structs.replace(column, answer="no_drift", reason=f"{column.reason}; {usual}")
    return column


def _told(alarms: Sequence[Alarm]) -> str:
    return "; ".join(dict.fromkeys(alarm.reason for alarm in alarms))


def _without_faults(column: ColumnDrift, broken: dict[str, DataQuality]) -> ColumnDrift:
    fault = broken.get(column.column)
    if fault is None:
        return column
    return msgspec.structs.replace(column, answer="no_data", reason=f"broken data ({fault.kind}): {fault.reason}")


def _unknown(column: ColumnDrift, why_not: str) -> ColumnDrift:
    if column.answer == "no_data":
        return column
    return msgspec.structs.replace(column, answer="no_data", reason=f"{column.reason}; {why_not}")


def _outcomes(reading: BoardReading) -> tuple[Answer, str]:
    alarms = [alarm for alarm in reading.alarms if alarm.what == "outcomes"]
    if alarms:
        return "drift", f"label shift: {_told(alarms)}"
    if reading.labelled_units:
        return (
            "no_drift",
            f"outcomes: no more than those of the reference's days differ ({reading.labelled_units} days)",
        )
    return "no_data", "outcomes: of no new day are enough known"
