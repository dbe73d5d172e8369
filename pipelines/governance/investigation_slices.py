"""Where it went wrong most: the slices of a rollout's rows, ranked by what the rollout was ended for; pure."""

from collections.abc import Sequence
from typing import Literal

import msgspec

from pipelines.monitoring.rollout_rows import Slice
from pipelines.statistics.rate_intervals import exact_interval

_MINIMUM_ROWS = 5  # of the challenger: fewer say nothing of a slice
_SHOWN = 12


class Ranked(msgspec.Struct, frozen=True, kw_only=True):
    """A slice with both versions' numbers; rates of failing with the exact 95 % interval of the challenger's.

    `share_of_errors` is of all the challenger's failures, `share_of_rows` of all its rows. `excess` is what it was
    ranked by: the lower bound of the rate less the champion's rate, or the ratio of p95, or the difference of scores.
    """

    field: str
    value: str
    rows: int
    errors: int
    rate: float
    low: float
    high: float
    champion_rows: int
    champion_rate: float | None
    share_of_errors: float
    share_of_rows: float
    p95_ms: float | None
    champion_p95_ms: float | None
    mean_score: float | None
    champion_mean_score: float | None
    excess: float


def rank(slices: Sequence[Slice], blames: Literal["errors", "latency", "scores"]) -> tuple[Ranked, ...]:
    """The slices with enough rows of the challenger, the worst first; without what is no worse."""
    champion = {(each.field, each.value): each for each in slices if each.arm == "champion"}
    mine = [each for each in slices if each.arm == "challenger"]
    rows = _totals(mine, "rows")
    errors = _totals(mine, "errors")
    ranked = [
        _ranked(each, champion.get((each.field, each.value)), rows[each.field], errors[each.field], blames)
        for each in mine
        if each.rows >= _MINIMUM_ROWS
    ]
    worst = sorted(
        (each for each in ranked if each.excess > 0), key=lambda each: (-each.excess, each.field, each.value)
    )
    return tuple(worst[:_SHOWN])


def worst_text(ranked: Sequence[Ranked]) -> str:
    """The slice that failed most, in a sentence; empty where none failed."""
    if not ranked or not ranked[0].errors:
        return ""
    worst = ranked[0]
    return (
        f"{worst.field} {worst.value} failed most: {worst.errors:,} of {worst.rows:,} ({worst.rate:.0%}, 95 % "
        f"{worst.low:.0%} … {worst.high:.0%}), which is {worst.share_of_errors:.0%} of all its failures from "
        f"{worst.share_of_rows:.0%} of its rows"
    )


def _ranked(
    mine: Slice, theirs: Slice | None, rows: int, errors: int, blames: Literal["errors", "latency", "scores"]
) -> Ranked:
    rate = mine.errors / mine.rows
    low, high = exact_interval(mine.errors, mine.rows)
    champion_rate = theirs.errors / theirs.rows if theirs is not None else None
    p95, score = (None, None) if theirs is None else (theirs.p95_ms, theirs.mean_score)
    excess = low - (champion_rate or 0.0)
    if blames == "latency":
        excess = mine.p95_ms / p95 - 1 if mine.p95_ms and p95 else 0.0
    elif blames == "scores":
        excess = abs(mine.mean_score - score) if mine.mean_score is not None and score is not None else 0.0
    return Ranked(
        field=mine.field,
        value=mine.value,
        rows=mine.rows,
        errors=mine.errors,
        rate=rate,
        low=low,
        high=high,
        champion_rows=0 if theirs is None else theirs.rows,
        champion_rate=champion_rate,
        share_of_errors=mine.errors / errors if errors else 0.0,
        share_of_rows=mine.rows / rows,
        p95_ms=mine.p95_ms,
        champion_p95_ms=p95,
        mean_score=mine.mean_score,
        champion_mean_score=score,
        excess=excess,
    )


def _totals(slices: Sequence[Slice], name: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for each in slices:
        found[each.field] = found.get(each.field, 0) + getattr(each, name)
    return found
