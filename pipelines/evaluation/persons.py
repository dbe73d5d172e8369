"""Golden rows without persons: they travel in the bundle, and the model server's page shows them as examples."""

from collections.abc import Mapping, Sequence
from itertools import count, pairwise
from math import gcd
from typing import Any

from contracts.bundle import Baseline
from contracts.input_schema import Field, InputSchema


def without_persons(
    records: Sequence[Mapping[str, Any]], schema: InputSchema, baseline: Baseline
) -> list[dict[str, Any]]:
    """`records` with a made-up value in each personal field that has one; what is missing stays missing.

    A number becomes the middle of one of the baseline's bins, a category one of its words, and each record takes
    another one of them, so that the rows still reach all over the graph. What is not personal stays as it is: the
    scores of such rows have to be computed again.
    """
    made_up = [dict(record) for record in records]
    personal = [field for field in schema.fields if field.personal]
    for place, field in enumerate(personal):
        values = _values(field, baseline, len(records))
        # fields turn at different speeds: otherwise all of them would be low and high together
        step = next(step for step in count(place + 1) if gcd(step, len(values)) == 1)
        for row, record in enumerate(made_up):
            if isinstance(record.get(field.name), int) and field.kind == "identifier":
                record[field.name] = row
            elif record.get(field.name) is not None:
                record[field.name] = values[row * step % len(values)]
    return made_up


def _values(field: Field, baseline: Baseline, rows: int) -> list[Any]:
    if field.kind == "number":
        edges = baseline.numbers[field.name].edges
        return [(low + high) / 2 for low, high in pairwise(edges)] or [_lowest(field)]
    if field.kind == "category":
        return list(field.vocabulary)
    if field.kind == "boolean":
        return [False, True]
    if field.kind == "timestamp":
        return [f"2000-01-{1 + day:02}T00:00:00" for day in range(28)]
    return [f"{field.name}-{row}" for row in range(rows)]


def _lowest(field: Field) -> float:
    """A number that the field allows, where no training row had one."""
    low, high = field.minimum, field.maximum
    if low is not None and low > 0:
        return low
    return high if high is not None and high < 0 else 0.0
