"""What somebody tells about outcomes, row by row: made canonical, or refused with the reason. No I/O, no clock.

An outcome names its prediction by `prediction_id`, or its event by `entity` and `event_time` (local, as in records).
`known_at` is the instant since which the value is known; of several values of one prediction the one known last counts.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, time, timedelta
from hashlib import blake2b
from typing import Any, Literal

import msgspec
import pyarrow as pa

from contracts.encoder import parse_timestamp

Reason = Literal[
    "unknown_prediction", "impossible_value", "no_target", "unreadable_time", "from_the_future", "before_the_event"
]
FIELDS = ("prediction_id", "entity", "event_time", "value", "known_at")
SKEW = timedelta(minutes=5)  # by which the clocks of who tells and who is told may differ
EARLIEST_ZONE = timedelta(hours=14)  # UTC+14: no place on Earth has a local time that is farther ahead
_WORDS = {"0": False, "1": True, "false": False, "true": True, "0.0": False, "1.0": True}
_SHOWN_CHARACTERS = 200
_TEXT, _INSTANT = pa.string(), pa.timestamp("us", "UTC")
OUTCOME_COLUMNS = pa.schema(
    [
        ("row_id", _TEXT),  # of what is told: the same told twice is the same row
        ("prediction_id", _TEXT),
        ("request_id", _TEXT),  # of that prediction: what a shadow said to the same request has the same outcome
        ("entity", _TEXT),  # as the log has it: masked where it is personal
        ("event_time", _TEXT),
        ("value", pa.bool_()),
        ("known_at", _INSTANT),
        ("added_at", _INSTANT),
        ("source", _TEXT),
    ]
)
QUARANTINE_COLUMNS = pa.schema(
    [
        ("row_id", _TEXT),  # of what is told, without an instant that was not told: the same file twice counts once
        ("outcome_id", _TEXT),  # the row_id that it has as an outcome, once its prediction is there
        ("prediction_id", _TEXT),
        ("entity", _TEXT),
        ("event_time", _TEXT),
        ("value", _TEXT),
        ("known_at", _TEXT),
        ("added_at", _INSTANT),
        ("source", _TEXT),
        ("reason", _TEXT),
        ("detail", _TEXT),
    ]
)


class ToldOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """A row that may be believed, if there is such a prediction."""

    prediction_id: str | None
    entity: str | None
    event_time: str | None
    value: bool
    known_at: datetime
    is_dated: bool  # False: nobody said since when it is known
    source: str

    @property
    def target(self) -> tuple[str | None, str | None, str | None]:
        """What it is the outcome of."""
        return self.prediction_id, self.entity, self.event_time

    @property
    def row_id(self) -> str:
        """The hash of all that is told."""
        return _hash(*self.target, str(self.value), self.known_at.isoformat(), self.source)


class RefusedOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """A row that goes into the quarantine: what it said, as text, and why it is not believed."""

    row_id: str
    outcome_id: str | None
    prediction_id: str | None
    entity: str | None
    event_time: str | None
    value: str
    known_at: str
    source: str
    reason: Reason
    detail: str


class UnknownColumnError(ValueError):
    """A row with a field that nobody reads: most probably a misspelt one."""


class _RefusedError(Exception):
    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason: Reason = reason
        self.detail = detail


def canonical_time(value: Any) -> str:
    """The one text of a local time, to the microsecond. Raises ValueError, TypeError."""
    return parse_timestamp(value).isoformat(timespec="microseconds")


def check_rows(
    rows: Iterable[Mapping[str, Any]], *, now: datetime, source: str
) -> tuple[list[ToldOutcome], list[RefusedOutcome]]:
    """The rows that may be believed at `now`, and those that may not. A row without `known_at` is known since `now`.

    Raises:
        UnknownColumnError: a row has another field than `FIELDS`.
    """
    told: list[ToldOutcome] = []
    refused: list[RefusedOutcome] = []
    for number, row in enumerate(rows, start=1):
        if unknown := row.keys() - set(FIELDS):
            listed = ", ".join(sorted(map(str, unknown)))
            raise UnknownColumnError(f"row {number} has {listed}; an outcome has {', '.join(FIELDS)}, and nothing else")
        try:
            told.append(_check(row, now, source))
        except _RefusedError as error:
            refused.append(_refused(row, source, error.reason, error.detail))
    return told, refused


def refuse(outcome: ToldOutcome, reason: Reason, detail: str) -> RefusedOutcome:
    """An outcome that was believable until its prediction was looked for."""
    known_at = outcome.known_at.isoformat() if outcome.is_dated else None
    return RefusedOutcome(
        row_id=_hash(*outcome.target, str(outcome.value), known_at, outcome.source, reason),
        outcome_id=outcome.row_id,
        prediction_id=outcome.prediction_id,
        entity=outcome.entity,
        event_time=outcome.event_time,
        value=str(int(outcome.value)),
        known_at=outcome.known_at.isoformat(),
        source=outcome.source,
        reason=reason,
        detail=detail,
    )


def again(row: Mapping[str, Any]) -> ToldOutcome:
    """The outcome that a row of the quarantine, refused only because its prediction was unknown, was made of."""
    return ToldOutcome(
        prediction_id=row["prediction_id"],
        entity=row["entity"],
        event_time=row["event_time"],
        value=row["value"] == "1",
        known_at=datetime.fromisoformat(row["known_at"]),
        is_dated=True,
        source=row["source"],
    )


def _check(row: Mapping[str, Any], now: datetime, source: str) -> ToldOutcome:
    prediction_id, entity = (_text(row.get(name)) for name in ("prediction_id", "entity"))
    event_time = _event_time(row.get("event_time"))
    if prediction_id is None and (entity is None or event_time is None):
        raise _RefusedError("no_target", "it has neither a prediction_id nor an entity with its event_time")
    value = _value(row.get("value"))
    known_at = _known_at(row.get("known_at"), now)
    if known_at > now + SKEW:
        raise _RefusedError("from_the_future", f"known at {known_at.isoformat()}, and it is {now.isoformat()}")
    if event_time is not None:
        earliest = datetime.fromisoformat(event_time).replace(tzinfo=UTC) - EARLIEST_ZONE
        if known_at < earliest:
            raise _RefusedError(
                "before_the_event", f"known at {known_at.isoformat()}, and the event is at {event_time} (local)"
            )
    return ToldOutcome(
        prediction_id=prediction_id,
        # by its id a prediction is found, and what is told beside it could only contradict it
        entity=entity if prediction_id is None else None,
        event_time=event_time if prediction_id is None else None,
        value=value,
        known_at=known_at,
        is_dated=_text(row.get("known_at")) is not None,
        source=source,
    )


def _text(value: Any) -> str | None:
    text = "" if value is None else str(value).strip()
    return text or None


def _event_time(value: Any) -> str | None:
    if _text(value) is None:
        return None
    try:
        return canonical_time(value)
    except (TypeError, ValueError) as error:
        raise _RefusedError(
            "unreadable_time", f"event_time {_shown(value)}: a local time such as 2013-07-01T08:30 ({error})"
        ) from None


def _value(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float) and value in (0, 1):
        return bool(value)
    known = _WORDS.get(str(value).strip().lower())
    if known is None:
        raise _RefusedError("impossible_value", f"{_shown(value)} is neither 0 nor 1")
    return known


def _known_at(value: Any, now: datetime) -> datetime:
    """An instant with its offset from UTC. Of a day (UTC) its end, or now where that is to come."""
    text = _text(value)
    if text is None:
        return now
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(text)
    except ValueError as error:
        raise _RefusedError("unreadable_time", f"known_at {_shown(value)}: {error}") from None
    is_day = not isinstance(value, datetime) and len(text) <= len("2013-07-01")
    if is_day:
        end = datetime.combine(moment.date() + timedelta(days=1), time(), UTC)
        return now if moment.date() == now.date() else end
    if moment.tzinfo is None:
        raise _RefusedError(
            "unreadable_time", f"known_at {_shown(value)} has no offset from UTC: 2013-07-02T06:00:00Z has one"
        )
    return moment.astimezone(UTC)


def _refused(row: Mapping[str, Any], source: str, reason: Reason, detail: str) -> RefusedOutcome:
    texts = [None if row.get(name) is None else _shown(row[name]) for name in FIELDS]
    prediction_id, entity, event_time, value, known_at = texts
    return RefusedOutcome(
        row_id=_hash(*texts, source, reason),
        outcome_id=None,
        prediction_id=prediction_id,
        entity=entity,
        event_time=event_time,
        value=value or "",
        known_at=known_at or "",
        source=source,
        reason=reason,
        detail=detail,
    )


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"


def _hash(*parts: str | None) -> str:
    content = msgspec.json.encode(parts)
    return blake2b(content, digest_size=16).hexdigest()
