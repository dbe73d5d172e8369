"""The drift report for people: one HTML page by Evidently. What counts as drift is decided in `drift`, not there."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from contracts.input_schema import InputSchema

if TYPE_CHECKING:
    import pandas as pd

MAXIMUM_ROWS = 20_000  # of each side: the pictures do not get better beyond, and the page takes its time
SCORE = "score"


def write_drift_report(
    path: Path,
    schema: InputSchema,
    *,
    reference: NDArray[np.float32],
    current: NDArray[np.float32],
    reference_scores: NDArray[np.float32] | None = None,
    current_scores: NDArray[np.float32] | None = None,
) -> Path:
    """Writes the page to `path`, whole or not at all, and returns `path`.

    Args:
        schema: of the bundle, by which both sides are encoded.
        reference: encoded rows that the model was trained or tested on, of shape (n, columns).
        current: encoded live rows, of shape (m, columns). At most 20,000 rows of each side are drawn, evenly spread.
        reference_scores: the bundle's scores of the reference rows; shown when both sides have scores.
        current_scores: the logged scores of the live rows.

    Raises:
        ValueError: a side has no rows, or the two have no column in common that has a value.
    """
    if not len(reference) or not len(current):
        raise ValueError(f"a report needs rows on both sides, found {len(reference)} and {len(current)}")
    with_scores = reference_scores is not None and current_scores is not None
    before = _frame(reference, reference_scores if with_scores else None, schema)
    after = _frame(current, current_scores if with_scores else None, schema)
    # Evidently refuses a column without any value; our own decision reports those as a missing share
    shown = [name for name in before.columns if before[name].notna().any() and after[name].notna().any()]
    if not shown:
        raise ValueError("no column has values on both sides: nothing can be drawn")
    words = [field.name for field in schema.fields if field.kind == "category" and field.name in shown]
    page = _render(before[shown], after[shown], words)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".draft-") as draft:
        whole = Path(draft) / path.name
        whole.write_text(page)
        whole.replace(path)
    return path


def _frame(rows: NDArray[np.float32], scores: NDArray[np.float32] | None, schema: InputSchema) -> "pd.DataFrame":
    """Encoded rows as people read them: words instead of codes."""
    import pandas as pd

    chosen = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MAXIMUM_ROWS)).astype(np.int64))
    vocabularies = {field.name: field.vocabulary for field in schema.fields if field.kind == "category"}
    columns: dict[str, object] = {}
    for position, name in enumerate(schema.columns):
        values = rows[chosen, position].astype(np.float64)
        if name in vocabularies:
            codes = np.where(np.isnan(values), -1, values).astype(np.int64)
            columns[name] = [None if code < 0 else vocabularies[name][code] for code in codes.tolist()]
        else:
            columns[name] = values
    if scores is not None:
        columns[SCORE] = scores[chosen].astype(np.float64)
    return pd.DataFrame(columns)


def _render(before: "pd.DataFrame", after: "pd.DataFrame", words: list[str]) -> str:
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    numbers = [name for name in before.columns if name not in words]
    definition = DataDefinition(numerical_columns=numbers, categorical_columns=words)
    snapshot = Report([DataDriftPreset(method="psi")]).run(
        current_data=Dataset.from_pandas(after, data_definition=definition),
        reference_data=Dataset.from_pandas(before, data_definition=definition),
    )
    page: str = snapshot.get_html_str(as_iframe=False)
    return page
