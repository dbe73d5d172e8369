"""A project's own trainer: a class `Trainer` in a file of its folder. `docs/trainers.md` has an example."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from contracts.input_schema import InputSchema
from pipelines.project_code import load_code
from pipelines.training.grafting import ForeignModel, OnnxModel
from pipelines.training.graph import GraphWriter
from pipelines.training.plan import file_of


def load(folder: Path, trainer: str) -> Any:
    """An instance of the class `Trainer` in the project's file.

    Raises:
        FileNotFoundError: there is no such file.
        TypeError: there is no such class, or it has no `fit`, or no `Parameters` that is a msgspec.Struct.
    """
    path = folder / file_of(trainer)
    try:
        module = load_code(path, f"paceline_project_{folder.name}_{path.stem}")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"trainer: {error}") from error
    made = getattr(module, "Trainer", None)
    if not isinstance(made, type):
        raise TypeError(f"{path} must define a class Trainer: see docs/trainers.md")
    if not callable(getattr(made, "fit", None)):
        raise TypeError(f"{path}: Trainer must have a method fit: see docs/trainers.md")
    parameters = getattr(made, "Parameters", None)
    if not (isinstance(parameters, type) and issubclass(parameters, msgspec.Struct)):
        raise TypeError(f"{path}: Trainer.Parameters must be a msgspec.Struct, found {parameters!r}")
    return made()


class CheckedFit:
    """What a project's own trainer fitted, held to what every trainer promises."""

    def __init__(self, fitted: Any, schema: InputSchema) -> None:
        self._fitted = fitted
        self._width = len(schema.columns)
        self.curve: list[dict[str, float]] = list(getattr(fitted, "curve", []))

    @property
    def steps(self) -> int:
        """Its trees or epochs; 1 where it does not count them."""
        steps = getattr(self._fitted, "steps", 1)
        if not isinstance(steps, int) or steps < 1:
            raise TypeError(f"steps: found {steps!r}, expected a whole number from 1")
        return steps

    def log_odds(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """The log odds of label 1, shape (rows,).

        Raises:
            ValueError: another shape, or values that are no finite numbers.
        """
        found = np.asarray(self._fitted.log_odds(features), dtype=np.float64)
        if found.shape != (len(features),):
            raise ValueError(f"log_odds: found the shape {found.shape}, expected ({len(features)},)")
        if not np.isfinite(found).all():
            raise ValueError(f"log_odds: {int((~np.isfinite(found)).sum())} of {len(found)} are no finite numbers")
        return found

    def write(self) -> tuple[GraphWriter, str]:
        """The graph as it was written, or the ONNX model that was, grafted on all columns.

        Raises:
            TypeError: `write` returned something else.
            ExportError: the ONNX model is unfit.
        """
        written = self._fitted.write()
        if isinstance(written, bytes):
            written = OnnxModel(content=written, gives="log_odds")
        if isinstance(written, OnnxModel):
            graph = GraphWriter(self._width)
            return graph, ForeignModel(written, self._width).graft(graph, graph.columns(list(range(self._width))))
        if isinstance(written, tuple) and len(written) == 2 and isinstance(written[0], GraphWriter):
            return written
        raise TypeError(
            f"write: found {type(written).__name__}, expected (GraphWriter, name of the log odds), an OnnxModel, or "
            "the bytes of an ONNX model with one output, the log odds"
        )
