"""How good the live predictions were, for each version and slot, as far as outcomes are known. No I/O.

The intervals come from a bootstrap over whole days (hours, where there are fewer than five days): rows of one day share
its weather and its disruptions, and intervals that take them as independent are far too narrow. "Not known yet" is
None, and never a zero.
"""

from collections.abc import Iterator
from datetime import datetime
from itertools import product
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.monitoring.measures import Estimate, Quality
from pipelines.monitoring.outcomes import OUTCOME
from pipelines.statistics.bootstrap import Blocks, Floats, interval, together
from pipelines.statistics.classification import auc, log_losses

_RESAMPLES = 1000
_MINIMUM_DAYS = 5
_EPOCH_H = datetime(1970, 1, 1).toordinal() * 24
_MAXIMUM_BLOCKS = 400  # neighbours are taken together beyond that: the AUC's table of pairs is blocks × blocks


def measure_quality(labelled: pa.Table) -> tuple[Quality, ...]:
    """The quality of each version and slot in `labelled`, in the order of version and slot.

    `labelled` has the columns of the prediction log and `outcome`, as `pipelines.monitoring.outcomes` joins them.
    """
    return tuple(
        _quality(labelled.filter(pa.array(mine)), version, slot)
        for version, slot, mine in by_version_and_slot(labelled)
    )


def by_version_and_slot(table: pa.Table) -> Iterator[tuple[str, str, NDArray[np.bool_]]]:
    """Each version and slot of `table`, in their order, with its rows."""
    versions, slots = codes_of(table["version"]), codes_of(table["slot"])
    for version, slot in sorted(product(versions.names, slots.names)):
        mine = (versions.codes == versions.names.index(version)) & (slots.codes == slots.names.index(slot))
        if mine.any():
            yield version, slot, mine


def _quality(mine: pa.Table, version: str, slot: str) -> Quality:
    scored = mine.filter(pc.is_valid(mine["score"]))
    known = scored.filter(pc.is_valid(scored[OUTCOME]))
    everything, decided = _floats(scored, "score"), _floats(scored.filter(pc.is_valid(scored["decision"])), "decision")
    outcomes = _floats(known, OUTCOME)
    found = measure(outcomes, _floats(known, "score"), _floats(known, "decision"), hours_of(known["event_time"]))
    return Quality(
        version=version,
        slot=slot,
        rows=mine.num_rows,
        errors=mine.num_rows - scored.num_rows,
        labelled=known.num_rows,
        mean_score=float(everything.mean()) if everything.size else None,
        decision_share=float(decided.mean()) if decided.size else None,
        positive_share=float(outcomes.mean()) if outcomes.size else None,
        **found,
    )


def measure(
    outcomes: Floats, scores: Floats, decisions: Floats, hours: NDArray[np.int64], *, resamples: int = _RESAMPLES
) -> dict[str, Estimate | None]:
    """The measures of rows whose outcome is known, by their names in `Quality`; all None without a row.

    Args:
        outcomes, decisions: 0 and 1, shape (n,); a decision that was not made is NaN, and counts as none.
        scores: from 0 to 1, shape (n,).
        hours: of the events, as hours since 1970, shape (n,); rows of a day (or an hour) vary together.
    """
    if not len(outcomes):
        return dict.fromkeys(("auc", "log_loss", "brier", "false_positive_rate"))
    decided, negative = np.nan_to_num(decisions), outcomes == 0
    ids = _blocks(hours)
    blocks = Blocks(ids, resamples=resamples) if len(np.unique(ids)) > 1 else None
    n = len(scores)
    return {
        "auc": _estimate(_auc(blocks, outcomes, scores), n, blocks),
        "log_loss": _estimate(_mean(blocks, log_losses(outcomes, scores)), n, blocks),
        "brier": _estimate(_mean(blocks, (scores - outcomes) ** 2), n, blocks),
        "false_positive_rate": _estimate(_mean(blocks, decided, negative), int(negative.sum()), blocks),
    }


class Coded(NamedTuple):
    """Texts as places in a list of the different ones, -1 where there is none."""

    names: list[str]
    codes: NDArray[np.int64]


def codes_of(column: pa.ChunkedArray) -> Coded:
    """The texts of a column, which may be a dictionary's."""
    whole = column.combine_chunks()
    found = whole if pa.types.is_dictionary(whole.type) else whole.dictionary_encode()
    return Coded(found.dictionary.to_pylist(), found.indices.fill_null(-1).to_numpy().astype(np.int64))


def hours_of(event_times: pa.ChunkedArray) -> NDArray[np.int64]:
    """The local hour of each event, as hours since 1970. Raises ValueError for a time that is none."""
    texts = codes_of(event_times)
    moments = [datetime.fromisoformat(text) for text in texts.names]
    hours = np.array([moment.toordinal() * 24 + moment.hour for moment in moments], dtype=np.int64) - _EPOCH_H
    return hours[texts.codes]


def _floats(table: pa.Table, column: str) -> Floats:
    """A column as floats, null as NaN."""
    values: Floats = table[column].cast(pa.float64()).to_numpy()
    return values


def _blocks(hours: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each row the number of its block of time."""
    days = hours // 24
    is_long = len(np.unique(days)) >= _MINIMUM_DAYS
    return together(days if is_long else hours, _MAXIMUM_BLOCKS)


def _auc(blocks: Blocks | None, outcomes: Floats, scores: Floats) -> Floats:
    if blocks is not None:
        return blocks.auc(outcomes, scores)
    value = auc(outcomes, scores)
    return np.array([np.nan if value is None else value])


def _mean(blocks: Blocks | None, values: Floats, among: NDArray[np.bool_] | None = None) -> Floats:
    if blocks is not None:
        return blocks.mean(values, among)
    chosen = values if among is None else values[among]
    return np.array([chosen.mean() if chosen.size else np.nan])


def _estimate(values: Floats, n: int, blocks: Blocks | None) -> Estimate | None:
    """The first value with the interval of the others; None if it is undefined (an AUC without a positive, say)."""
    if not np.isfinite(values[0]):
        return None
    count = 1 if blocks is None else blocks.count
    if blocks is None or not np.isfinite(values).all():
        return Estimate(value=float(values[0]), low=None, high=None, n=n, blocks=count)
    found = interval(values)
    return Estimate(value=found.estimate, low=found.low, high=found.high, n=n, blocks=count)
