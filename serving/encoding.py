"""The rows of a request as features, piece by piece, so that a large request gives the loop back between its pieces."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from contracts.encoder import FieldProblem, InvalidRecordError
from serving.columns import Columns
from serving.engine import Model

PIECE_ROWS = 64  # then the event loop gets its turn
_MAXIMUM_PROBLEMS = 100
Record = Mapping[str, Any]
Value = TypeVar("Value")


def taken(values: Sequence[Value], rows: Sequence[int]) -> Sequence[Value]:
    """The `rows` of `values`, in their order; without a copy for the request of one record, which most are."""
    return values if len(values) == len(rows) == 1 else [values[row] for row in rows]


@dataclass(eq=False)
class Encoded:
    """Rows that a schema accepts, as features; `seconds` for all of them."""

    rows: list[int]
    features: NDArray[np.float32]
    seconds: float


async def encode(model: Model, records: Sequence[Record], rows: Sequence[int]) -> NDArray[np.float32]:
    """The `rows` of `records` as features. Raises InvalidRecordError with the rows' positions in the request."""
    pieces: list[NDArray[np.float32]] = []
    problems: list[FieldProblem] = []
    for start in range(0, len(rows), PIECE_ROWS):
        if start:
            await asyncio.sleep(0)
        piece = rows[start : start + PIECE_ROWS]
        try:
            if isinstance(records, Columns):
                pieces.append(model.encoder.encode_columns(records.part(piece)))
            else:
                pieces.append(model.encoder.encode_rows(taken(records, piece)))
        except InvalidRecordError as refused:
            problems.extend(msgspec.structs.replace(each, row=piece[each.row]) for each in refused.problems)
            if len(problems) >= _MAXIMUM_PROBLEMS:
                break
    if problems:
        raise InvalidRecordError(problems)
    if len(pieces) == 1:
        return pieces[0]
    return np.concatenate(pieces) if pieces else np.empty((0, model.encoder.width), dtype=np.float32)


async def encode_what_fits(
    challenger: Model, records: Sequence[Record], rows: list[int], champion: Model
) -> tuple[Encoded, list[int]]:
    """The rows that the challenger's schema accepts, and those that only the champion's does.

    Raises:
        InvalidRecordError: the champion's schema refuses a row as well: then it is the client's error.
    """
    started = time.perf_counter()
    try:
        features = await encode(challenger, records, rows)
        return Encoded(rows, features, time.perf_counter() - started), []
    except InvalidRecordError:
        await encode(champion, records, rows)
    good: list[int] = []
    bad: list[int] = []
    for row in rows:
        try:
            challenger.encoder.encode(records[row])
        except InvalidRecordError:
            bad.append(row)
        else:
            good.append(row)
    started = time.perf_counter()
    features = await encode(challenger, records, good)
    return Encoded(good, features, time.perf_counter() - started), bad
