"""Quality in parts: by day, by slice, and by both, as far as outcomes are known. No I/O.

Each part says how far it is: a day whose labels have not matured is `not_due`, and that is no zero and no gap, but a
state of its own. Rows of a slice are those with a word of a category; rare words are one slice together.
"""

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Literal, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.monitoring.input_texts import input_texts
from pipelines.monitoring.measures import Estimate
from pipelines.monitoring.outcomes import OUTCOME
from pipelines.monitoring.quality import Coded, by_version_and_slot, codes_of, hours_of, measure
from pipelines.statistics.bootstrap import Floats

# known: all that is due has its outcome; partly: some has; missing: none of what is due has; not_due: not known yet
Maturity = Literal["known", "partly", "missing", "not_due"]
MAXIMUM_WORDS = 12  # of a field; the rest are one slice
OTHERS, MISSING = "others", "missing"
_RESAMPLES = 300  # there are many parts, and each has an interval
_FIRST = date(1970, 1, 1)


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One version in one slot on a day (None: all days), in a slice (None: all rows)."""

    version: str
    slot: str
    day: str | None
    field: str | None
    value: str | None
    rows: int
    due: int
    labelled: int
    maturity: Maturity
    mean_score: float | None
    positive_share: float | None
    auc: Estimate | None
    log_loss: Estimate | None
    brier: Estimate | None
    false_positive_rate: Estimate | None


class _Rows(NamedTuple):
    """The rows of one version in one slot that have a score; parallel arrays."""

    scores: Floats
    decisions: Floats
    outcomes: Floats
    due: NDArray[np.bool_]
    hours: NDArray[np.int64]
    words: Mapping[str, Coded]


def measure_parts(labelled: pa.Table, fields: Sequence[str] = (), *, with_both: bool = False) -> tuple[Part, ...]:
    """The quality of each version and slot by day, and by the words of `fields`; with both, of a slice on a day too.

    `labelled` has the columns of the prediction log, `outcome` and `is_due`, as `pipelines.monitoring.outcomes` joins
    them. Rows without a score are in no part.
    """
    scored = labelled.filter(pc.is_valid(labelled["score"]))
    words = _words(scored, fields)
    hours = hours_of(scored["event_time"])
    scores, decisions, outcomes = (_floats(scored, name) for name in ("score", "decision", OUTCOME))
    due = scored["is_due"].to_numpy().astype(bool)
    parts: list[Part] = []
    for version, slot, mine in by_version_and_slot(scored):
        mine_words = {field: Coded(values.names, values.codes[mine]) for field, values in words.items()}
        rows = _Rows(scores[mine], decisions[mine], outcomes[mine], due[mine], hours[mine], mine_words)
        parts += _parts(version, slot, rows, with_both)
    return tuple(parts)


def _parts(version: str, slot: str, rows: _Rows, with_both: bool) -> list[Part]:
    days = rows.hours // 24
    each_day = [(str(_FIRST + timedelta(days=int(day))), days == day) for day in np.unique(days).tolist()]
    parts = [_part(version, slot, day, None, None, rows, mask) for day, mask in each_day]
    for field, values in rows.words.items():
        for code in sorted(np.unique(values.codes).tolist(), key=values.names.__getitem__):
            word, inside = values.names[code], values.codes == code
            parts.append(_part(version, slot, None, field, word, rows, inside))
            if with_both:
                parts += [
                    _part(version, slot, day, field, word, rows, both)
                    for day, mask in each_day
                    if (both := mask & inside).any()
                ]
    return parts


def _part(
    version: str,
    slot: str,
    day: str | None,
    field: str | None,
    value: str | None,
    rows: _Rows,
    mask: NDArray[np.bool_],
) -> Part:
    known = mask & ~np.isnan(rows.outcomes)
    due, labelled = int((mask & rows.due).sum()), int(known.sum())
    return Part(
        version=version,
        slot=slot,
        day=day,
        field=field,
        value=value,
        rows=int(mask.sum()),
        due=due,
        labelled=labelled,
        maturity=_maturity(due, labelled),
        mean_score=float(rows.scores[mask].mean()) if mask.any() else None,
        positive_share=float(rows.outcomes[known].mean()) if labelled else None,
        **measure(
            rows.outcomes[known], rows.scores[known], rows.decisions[known], rows.hours[known], resamples=_RESAMPLES
        ),
    )


def _maturity(due: int, labelled: int) -> Maturity:
    if not due:
        return "not_due"
    if not labelled:
        return "missing"
    return "known" if labelled == due else "partly"


def _words(table: pa.Table, fields: Sequence[str]) -> dict[str, Coded]:
    """For each of `fields` the word of each row; rare ones are one word."""
    texts = input_texts(table, fields)
    words = {}
    for field in fields:
        found = codes_of(texts[field])
        places = np.where(found.codes < 0, len(found.names), found.codes)
        known = _merged([*found.names, MISSING], places)
        counts = np.bincount(known.codes, minlength=len(known.names))
        by_count = np.argsort(-counts, kind="stable")  # the names are in order: of two as frequent the first
        rare = set(by_count[MAXIMUM_WORDS:].tolist())
        names = [OTHERS if code in rare else name for code, name in enumerate(known.names)]
        words[field] = _merged(names, known.codes)
    return words


def _merged(names: Sequence[str], codes: NDArray[np.int64]) -> Coded:
    """Rows with the same name have the same code."""
    different = sorted(set(names))
    place = {name: number for number, name in enumerate(different)}
    return Coded(different, np.array([place[name] for name in names], dtype=np.int64)[codes])


def _floats(table: pa.Table, column: str) -> Floats:
    values: Floats = table[column].cast(pa.float64()).to_numpy()
    return values
