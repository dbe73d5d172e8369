"""Parity: the ONNX graph gives the scores of the model that it was written from, on real rows and on edge rows.

Both are run on the same rows, and the graph in batches of one row, of a few and of many: runtimes have a code path of
their own for one row, and an exporter that fixed the number of rows is found here. What is reported is the worst
difference, with the row that it was on.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from contracts.input_schema import InputSchema
from pipelines.inference import INPUT, OUTPUT, open_session
from pipelines.training.edge_rows import edge_rows

TOLERANCE = 1e-4  # of a score; a decision of a millionth of the rows may turn on less
REAL_ROWS = 20_000  # of each part of the rows; at least 10,000 in all, or as many as there are
FEW_ROWS, MANY_ROWS = 7, 16_384
_RUNS_OF_FEW = 256
_SINGLE_ROWS = 64

Floats = NDArray[np.float64]
Scores = Callable[[NDArray[np.float32]], Floats]


class ParityError(ArithmeticError):
    """The ONNX graph gives other scores than the model it was written from; it must not be served."""


class Worst(msgspec.Struct, frozen=True, kw_only=True):
    """The row on which graph and model differ most.

    `part` is a part of the real rows or `edge`, `row` the position in it. On an edge row `column` was altered (None
    stands for all columns) to what `alteration` says; the row of the first part that it was made from is `row`.
    """

    difference: float
    part: str
    row: int
    batch_rows: int
    model: float
    graph: float
    column: str | None = None
    alteration: str | None = None

    def __str__(self) -> str:
        if self.alteration is None:
            where = f"on row {self.row} of {self.part}"
        else:
            altered = "all columns" if self.column is None else f"column {self.column}"
            where = f"on an edge row ({altered}: {self.alteration}, on row {self.row})"
        return (
            f"{self.difference:.2e} {where}, in batches of {self.batch_rows}: "
            f"the model says {self.model:.6g}, the graph {self.graph:.6g}"
        )


class Parity(msgspec.Struct, frozen=True, kw_only=True):
    """How far the graph's scores are from the model's own, calibrated, on `rows` real rows and `edge_rows` made ones.

    `batch_rows` are the sizes that the graph was run with; `worst` is the worst difference of all, and
    `worst_real_difference` that on real rows alone.
    """

    rows: int
    edge_rows: int
    batch_rows: tuple[int, ...]
    worst_difference: float
    worst_real_difference: float
    worst: Worst

    def __str__(self) -> str:
        return f"differs by at most {self.worst} ({self.rows:,} real and {self.edge_rows:,} edge rows)"


class _Compared(NamedTuple):
    """Some rows run by both: the positions among all rows, and the scores of each."""

    batch_rows: int
    positions: NDArray[np.int64]
    model: Floats
    graph: Floats

    @property
    def differences(self) -> Floats:
        """A score that is not a number from 0 to 1, on either side, differs infinitely."""
        found = np.abs(self.model - self.graph)
        valid = (self.model >= 0) & (self.model <= 1) & (self.graph >= 0) & (self.graph <= 1)
        return np.where(valid, found, np.inf)


def check_parity(model: Scores, graph: bytes, real: Mapping[str, NDArray[np.float32]], schema: InputSchema) -> Parity:
    """Compares the graph with `model` (features → calibrated scores) on parts of real rows, and on edge rows of them.

    Of each part of `real` (name → rows × columns) at most `REAL_ROWS` are taken, evenly spread.

    Raises:
        ParityError: they differ by more than `TOLERANCE`, a score is no number from 0 to 1, or the graph does not run
            with some number of rows. The message has the row, both scores, and how many differ.
        ValueError: there are no rows.
    """
    chosen = {
        part: np.unique(np.linspace(0, len(rows) - 1, min(REAL_ROWS, len(rows))).astype(int))
        for part, rows in real.items()
        if len(rows)
    }
    if not chosen:
        raise ValueError("parity needs real rows, found none")
    first = next(iter(chosen))
    edges = edge_rows(schema, real[first])
    features = np.concatenate([*(real[part][rows] for part, rows in chosen.items()), edges.features])
    rows = sum(map(len, chosen.values()))
    compared = _compare(model, graph, features, rows)
    whole = compared[-1]
    part_of = [(part, int(row)) for part, positions in chosen.items() for row in positions]

    def described(run: _Compared, place: int) -> Worst:
        position = int(run.positions[place])
        edge = None if position < rows else edges.alterations[position - rows]
        part, row = part_of[position] if edge is None else ("edge", edge.base_row)
        return Worst(
            difference=float(run.differences[place]),
            part=part,
            row=row,
            batch_rows=run.batch_rows,
            model=float(run.model[place]),
            graph=float(run.graph[place]),
            column=None if edge is None else edge.column,
            alteration=None if edge is None else edge.value,
        )

    run = max(compared, key=lambda each: float(each.differences.max()))
    worst = described(run, int(np.argmax(run.differences)))
    if not worst.difference <= TOLERANCE:
        wrong = whole.positions[~(whole.differences <= TOLERANCE)]
        raise ParityError(
            f"the graph differs from the model by {worst}; by more than {TOLERANCE:g} on {int((wrong < rows).sum())} "
            f"of {rows} real and {int((wrong >= rows).sum())} of {len(edges.features)} edge rows; it must not be served"
        )
    return Parity(
        rows=rows,
        edge_rows=len(edges.features),
        batch_rows=tuple(each.batch_rows for each in compared),
        worst_difference=worst.difference,
        worst_real_difference=max(float(each.differences[each.positions < rows].max()) for each in compared),
        worst=worst,
    )


def _compare(model: Scores, graph: bytes, features: NDArray[np.float32], rows: int) -> list[_Compared]:
    """Runs both; the first `rows` of the features are real, all others are run with every size of batch."""
    everything = np.arange(len(features))
    edges = everything[rows:]
    few = np.unique(np.linspace(0, rows - 1, min(rows, FEW_ROWS * _RUNS_OF_FEW)).astype(int))
    single = np.unique(np.linspace(0, rows - 1, min(rows, _SINGLE_ROWS)).astype(int))
    expected = model(features)
    session = open_session(graph)
    compared = []
    for batch_rows, positions in (
        (1, np.concatenate([single, edges])),
        (FEW_ROWS, np.concatenate([few, edges])),
        (min(MANY_ROWS, len(features)), everything),
    ):
        found = np.empty(len(positions))
        for start in range(0, len(positions), batch_rows):
            batch = positions[start : start + batch_rows]
            try:
                scores = np.asarray(session.run([OUTPUT], {INPUT: features[batch]})[0], dtype=np.float64).reshape(-1)
            except Exception as error:
                raise ParityError(f"the graph does not run with {len(batch)} rows: {error}") from error
            if len(scores) != len(batch):
                raise ParityError(f"the graph gives {len(scores)} scores for {len(batch)} rows, expected one for each")
            found[start : start + batch_rows] = scores
        compared.append(_Compared(batch_rows, positions, expected[positions], found))
    return compared
