"""The groups of test rows that slices and fairness look at: by the model's features, or by any field of the table."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from contracts.bundle import Baseline
from contracts.input_schema import InputSchema
from pipelines.data.snapshots import Snapshot
from pipelines.evaluation.groups import Grouping, by_edges, by_word, feature_groupings
from pipelines.projects import Project

if TYPE_CHECKING:
    import pyarrow as pa


def slice_groupings(
    project: Project, snapshot: Snapshot, schema: InputSchema, features: NDArray[np.float32], baseline: Baseline
) -> tuple[list[Grouping], list[Grouping], list[Grouping]]:
    """The declared slices, and all features in fine and in coarse groups, for `features` (test rows × columns)."""
    fine = feature_groupings(schema, features, baseline)
    fields = {field.name: field for field in schema.fields}
    declared: list[Grouping] = []
    for name in project.slices.fields:
        columns = fields[name].columns
        if columns:
            declared += [grouping for grouping in fine if grouping.field in columns]
        else:
            declared.append(_by_word(snapshot.table("test"), name))
    return declared, fine, feature_groupings(schema, features, baseline, coarse=True)


def fairness_groupings(project: Project, snapshot: Snapshot) -> list[Grouping]:
    """The declared groups of the test rows; a field need not be a feature, so they come from the table.

    Raises:
        ValueError: the snapshot does not have the field, it has no numbers for the edges, or too many words.
    """
    if not project.fairness.groups:
        return []
    table = snapshot.table("test")
    return [
        _by_edges(table, group.field, group.edges) if group.edges else _by_word(table, group.field)
        for group in project.fairness.groups
    ]


def _by_word(table: "pa.Table", field: str) -> Grouping:
    return by_word(field, _column(table, field).to_pylist())


def _by_edges(table: "pa.Table", field: str, edges: tuple[float, ...]) -> Grouping:
    import pyarrow as pa

    try:
        numbers = _column(table, field).cast(pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid as error:
        raise ValueError(f"fairness.groups: {field} has edges, and a value that is no number: {error}") from error
    return by_edges(field, numbers, edges)


def _column(table: "pa.Table", field: str) -> "pa.ChunkedArray":
    if field not in table.column_names:
        raise ValueError(f"the snapshot has no column {field!r}, by which rows are grouped; take a new snapshot")
    return table.column(field)
