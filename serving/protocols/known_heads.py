"""Heads of binary requests that came before: what they say about their tensors is worked out once.

A client sends the same names, types and shapes again and again. A head that the general way (`open_inference`) has
accepted is kept with the places of its tensors, and the next body behind the same bytes is read from there, neighbours
of one type of floats at once. What does not come out as it should goes the general way again, which tells why.
"""

import math
from itertools import groupby
from typing import NamedTuple

import numpy as np

from contracts.input_schema import InputSchema
from serving.columns import Column, Columns, nan_as_missing
from serving.protocols import binary_tensors
from serving.protocols.open_inference import Decoded, InferRequest
from serving.protocols.records import MalformedRequestError

MAXIMUM_HEADS = 64  # the oldest go
MAXIMUM_HEAD_BYTES = 16 << 10


class _Run(NamedTuple):
    """Neighbours of one datatype and size, from `start` behind the head; of floats there may be several."""

    names: tuple[str, ...]
    datatype: str
    start: int
    size: int  # of each, in bytes


class _Plan(NamedTuple):
    request: InferRequest
    rows: int
    runs: tuple[_Run, ...]
    end: int


class KnownHeads:
    """The heads that requests by `schema` had."""

    def __init__(self, schema: InputSchema) -> None:
        self.schema = schema
        self._plans: dict[bytes, _Plan] = {}

    def read(self, body: bytes, head_length: str) -> tuple[InferRequest, Columns] | None:
        """The request in `body`, and its rows; None where the general way has to look at it."""
        if not (
            head_length.isascii() and head_length.isdigit() and len(head_length) < len(str(MAXIMUM_HEAD_BYTES)) + 1
        ):
            return None
        length = int(head_length)
        plan = self._plans.get(body[:length])
        if plan is None or len(body) != length + plan.end:
            return None
        columns: dict[str, Column] = {}
        rows = plan.rows
        try:
            for run in plan.runs:
                read = _read(run, body, length, rows)
                if len(read[0]) != rows:
                    return None
                columns.update(zip(run.names, read, strict=True))
        except MalformedRequestError:
            return None
        return plan.request, Columns(columns, rows)

    def keep(self, body: bytes, head_length: str, decoded: Decoded, rows: int) -> None:
        """Remembers the head of `body`, which the general way has read as `decoded`, of `rows` rows."""
        length, request = int(head_length), decoded.request
        if length > MAXIMUM_HEAD_BYTES or any(tensor.data is not None for tensor in request.inputs):
            return
        runs: list[_Run] = []
        end = 0
        sized = [(each.name, each.datatype, each.parameters[binary_tensors.SIZE]) for each in request.inputs]
        for (datatype, size), neighbours in groupby(sized, key=lambda each: each[1:]):
            names = [name for name, _, _ in neighbours]
            together = [tuple(names)] if _is_float(datatype) else [(name,) for name in names]
            for some in together:
                runs.append(_Run(some, datatype, end, size))
                end += size * len(some)
        self._plans[body[:length]] = _Plan(request, rows, tuple(runs), end)
        if len(self._plans) > MAXIMUM_HEADS:
            del self._plans[next(iter(self._plans))]


def _is_float(datatype: str) -> bool:
    kind = binary_tensors.DTYPES.get(datatype)
    return kind is not None and kind.kind == "f"


def _read(run: _Run, body: bytes, head_length: int, rows: int) -> list[Column]:
    start = head_length + run.start
    if len(run.names) == 1:
        data = memoryview(body)[start : start + run.size]
        return [binary_tensors.values_of(run.names[0], run.datatype, data)]
    count = rows * len(run.names)
    numbers = np.frombuffer(body, dtype=binary_tensors.DTYPES[run.datatype], count=count, offset=start)
    columns: list[Column] = list(numbers.reshape(len(run.names), rows))
    if math.isnan(numbers[numbers.argmin()]):
        return [nan_as_missing(each) for each in columns]  # type: ignore[arg-type]  # arrays all
    return columns
