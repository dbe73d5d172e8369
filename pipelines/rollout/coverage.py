"""How much of the usual traffic a challenger has seen: by hour of the day and segment, against a reference. Pure.

Time that has passed says nothing about the evening to a rollout that began in the morning. Neither do many requests: a
cell (an hour, a segment) counts as seen when the challenger has answered a minimum of requests in it, and weighs what
it has of the reference's requests.
"""

from collections.abc import Mapping
from itertools import groupby
from typing import Self

import msgspec

HOURS = 24
OTHER = "other"  # the segments beyond the largest, and those that the reference does not know
MAXIMUM_SEGMENTS = 30
_LISTED = 3  # spans of hours and segments that a text names
_MOSTLY = 0.5  # of an hour's requests missing: then the hour is named, and not its segments

Cell = tuple[int, str]  # hour of the day from 0 to 23, segment


class Pattern(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The usual traffic: of `requests` on `days` different days, the share of each (hour, segment); 1 together."""

    cells: tuple[tuple[int, str, float], ...] = ()
    requests: int = 0
    days: int = 0

    @classmethod
    def of(cls, counts: Mapping[Cell, int], days: int) -> Self:
        """From requests by cell; the smallest segments of too many become one."""
        by_segment: dict[str, int] = {}
        for (_, segment), count in counts.items():
            by_segment[segment] = by_segment.get(segment, 0) + count
        largest = set(sorted(by_segment, key=lambda name: (-by_segment[name], name))[:MAXIMUM_SEGMENTS])
        merged = _merged(counts, largest)
        total = sum(merged.values())
        cells = tuple((hour, segment, count / total) for (hour, segment), count in sorted(merged.items()) if count)
        return cls(cells=cells, requests=total, days=days)

    @property
    def segments(self) -> frozenset[str]:
        return frozenset(segment for _, segment, _ in self.cells)

    @property
    def by_hour(self) -> tuple[float, ...]:
        """The share of each hour of the day."""
        found = [0.0] * HOURS
        for hour, _, share in self.cells:
            found[hour] += share
        return tuple(found)


class Covered(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What share of the usual traffic was seen, and what is missing or unknown, in words.

    `share` is None where it is not known; with `without_reference`, since there is nothing usual to compare with.
    """

    share: float | None
    words: str = ""
    without_reference: bool = False


def covered(seen: Mapping[Cell, int], pattern: Pattern, minimum_per_cell: int) -> Covered:
    """The share of `pattern` that lies in cells with at least `minimum_per_cell` requests of `seen`.

    >>> day = Pattern.of({(8, "AA"): 60, (20, "AA"): 40}, days=7)
    >>> covered({(8, "AA"): 12, (20, "AA"): 1}, day, minimum_per_cell=5)
    Covered(share=0.6, words='missing 20–21 h (0.40)', without_reference=False)
    """
    found = _merged(seen, pattern.segments)
    missing = {
        (hour, segment): share
        for hour, segment, share in pattern.cells
        if found.get((hour, segment), 0) < minimum_per_cell
    }
    return Covered(share=round(1 - sum(missing.values()), 9), words=_in_words(missing, pattern))


def lacking(found: Covered | None, asked: float, *, bears_no_reference: bool) -> str | None:
    """Why a step that asks for the share `asked` of the usual traffic must wait; None: it need not."""
    if found is None:
        return f"coverage was not read yet, asked {asked:.2f}"
    if found.share is None:
        if found.without_reference and bears_no_reference:
            return None
        return f"coverage is not known, asked {asked:.2f}: {found.words}"
    if found.share < asked - 1e-9:
        return f"covers {found.share:.2f} of the usual traffic, asked {asked:.2f}: {found.words}"
    return None


def satisfied(found: Covered | None) -> str:
    """What a step that asks for coverage advances with, in words."""
    if found is None or found.share is None:
        return "without a reference of the usual traffic, which the plan ignores"
    return f"covers {found.share:.2f} of the usual traffic"


def _merged(counts: Mapping[Cell, int], segments: frozenset[str] | set[str]) -> dict[Cell, int]:
    merged: dict[Cell, int] = {}
    for (hour, segment), count in counts.items():
        cell = (hour, segment if segment in segments else OTHER)
        merged[cell] = merged.get(cell, 0) + count
    return merged


def _in_words(missing: Mapping[Cell, float], pattern: Pattern) -> str:
    """The spans of hours that are mostly missing, then the segments that are missing in the others."""
    usual = pattern.by_hour
    by_hour = [0.0] * HOURS
    for (hour, _), share in missing.items():
        by_hour[hour] += share
    hours = [hour for hour in range(HOURS) if by_hour[hour] > _MOSTLY * usual[hour]]
    parts = [(sum(by_hour[hour % HOURS] for hour in span), _span(span)) for span in _spans(hours)]
    rest: dict[str, float] = {}
    for (hour, segment), share in missing.items():
        if hour not in hours:
            rest[segment] = rest.get(segment, 0.0) + share
    told = _largest(parts) + _largest([(share, segment) for segment, share in rest.items()])
    left = sum(missing.values()) - sum(share for share, _ in told)
    listed = [f"{name} ({share:.2f})" for share, name in told]
    if left >= 0.005:  # what two digits show
        listed.append(f"more ({left:.2f})")
    return f"missing {', '.join(listed)}" if listed else "nothing is missing"


def _largest(parts: list[tuple[float, str]]) -> list[tuple[float, str]]:
    kept = [part for part in parts if part[0] >= 0.005]
    return sorted(kept, key=lambda part: (-part[0], part[1]))[:_LISTED]


def _spans(hours: list[int]) -> list[list[int]]:
    """Hours that follow each other, over midnight as well: then those after it count on from 24."""
    spans = [[hour for _, hour in run] for _, run in groupby(enumerate(hours), key=lambda pair: pair[1] - pair[0])]
    if len(spans) > 1 and spans[0][0] == 0 and spans[-1][-1] == HOURS - 1:
        night = [*spans.pop(), *(hour + HOURS for hour in spans.pop(0))]
        spans.append(night)
    return spans


def _span(hours: list[int]) -> str:
    return f"{hours[0]}–{(hours[-1] + 1) % HOURS or HOURS} h"
