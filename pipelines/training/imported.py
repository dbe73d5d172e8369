"""The trainer `imported`: an ONNX model made elsewhere (LightGBM, XGBoost, TensorFlow …), calibrated here.

Nothing is trained again. The calibration is fitted on the validation rows as for every trainer, and parity is that of
the graph with the model run alone. The model sees the columns that the project's encoder makes, in the order that
`columns` says: a word is its code in the vocabulary, a missing value is NaN.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contracts.hashing import bytes_id
from contracts.input_schema import InputSchema
from pipelines.training.grafting import ForeignModel, OnnxModel
from pipelines.training.graph import GraphWriter
from pipelines.training.plan import Imported
from pipelines.training.rows import OnStep, Rows


class FittedImport:
    """The model as it came."""

    steps = 1
    curve: list[dict[str, float]]

    def __init__(self, model: ForeignModel, positions: list[int], width: int) -> None:
        self._model = model
        self._positions = positions
        self._width = width
        self.curve = []

    def log_odds(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """The log odds of label 1 by the model run alone, shape (rows,)."""
        return self._model.log_odds(features[:, self._positions])

    def write(self) -> tuple[GraphWriter, str]:
        """A graph that ends in the log odds (rows × 1), and the name of that tensor."""
        graph = GraphWriter(self._width)
        return graph, self._model.graft(graph, graph.columns(self._positions))


def read(folder: Path, parameters: Imported) -> bytes:
    """The model's file in the project's `folder`.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is another file than the one whose SHA-256 the parameters have.
    """
    path = folder / parameters.path
    try:
        content = path.read_bytes()
    except OSError as error:
        raise FileNotFoundError(f"path: no model {path}: {error.strerror}") from error
    if (found := bytes_id(content)) != parameters.sha256:
        raise ValueError(
            f"sha256: {path} has {found}, expected {parameters.sha256 or 'one to be given'}; if this is the model that "
            f"is meant, write sha256: {found}"
        )
    return content


def fit(
    content: bytes,
    parameters: Imported,
    seed: int,
    schema: InputSchema,
    rows: Rows,
    until: Rows | int,
    progress: Callable[[str], None],
    on_step: OnStep | None,
) -> FittedImport:
    """The model in `content`, checked against the parameters and the schema; the rows change nothing in it.

    Raises:
        ValueError: a column is not in the schema.
        ExportError: the model is unfit; see `ForeignModel`.
    """
    if absent := [name for name in parameters.columns if name not in schema.columns]:
        raise ValueError(
            f"columns: {', '.join(absent)} {'is' if len(absent) == 1 else 'are'} not among {', '.join(schema.columns)}"
        )
    positions = [schema.columns.index(name) for name in parameters.columns]
    model = OnnxModel(
        content=content,
        input=parameters.input,
        output=parameters.output,
        column=parameters.column,
        gives=parameters.gives,
    )
    fitted = FittedImport(ForeignModel(model, len(positions)), positions, len(schema.columns))
    if isinstance(until, Rows):
        progress(f"imported: {parameters.path} of {len(content):,} bytes, on {len(positions)} columns, as it is")
    return fitted
