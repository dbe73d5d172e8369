"""The trainers by name, and what each needs besides rows: a file of the project's folder, a folder for checkpoints."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from contracts.input_schema import InputSchema
from pipelines.training import boosted_trees, imported, linear, neural_net, own
from pipelines.training.export import ExportError
from pipelines.training.graph import GraphWriter
from pipelines.training.parity import ParityError
from pipelines.training.plan import Imported, TrialSpec, is_own, parse_parameters, parse_with
from pipelines.training.rows import OnStep, Pruned, Rows

Progress = Callable[[str], None]


class TrainerError(RuntimeError):
    """A trainer failed; the message names it, and what was raised in it."""


class Fitted(Protocol):
    """A fitted model, before calibration. `curve` is its loss by step, empty where nothing stopped it."""

    curve: list[dict[str, float]]

    @property
    def steps(self) -> int:
        """How many trees, epochs or iterations are in it."""
        ...

    def log_odds(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """The log odds of label 1, shape (rows,), by the framework that fitted it."""
        ...

    def write(self) -> tuple[GraphWriter, str]:
        """A graph that ends in the log odds (rows × 1), and the name of that tensor."""
        ...


class Trainer(Protocol):
    """Fits on `rows`, until the loss on other rows is least or for a number of steps; repeatable to the byte.

    `parameters` is the Struct of `pipelines.training.plan` that belongs to this trainer. `on_step` is called now and
    then while it fits until the loss on other rows is least; what it raises ends the fit.
    """

    def __call__(
        self,
        parameters: Any,
        seed: int,
        schema: InputSchema,
        rows: Rows,
        until: Rows | int,
        progress: Progress,
        on_step: OnStep | None,
    ) -> Fitted: ...


class Ready(NamedTuple):
    """A trainer with all that it needs, and its complete parameters."""

    fit: Trainer
    parameters: Any

    def keeping(self, checkpoints: Path | None) -> Trainer:
        """The trainer, which keeps its state in the folder `checkpoints` if it is one that can go on from there."""
        return partial(neural_net.fit, checkpoints=checkpoints) if self.fit is neural_net.fit else self.fit


TRAINERS: Mapping[str, Trainer] = {
    "boosted_trees": boosted_trees.fit,
    "neural_net": neural_net.fit,
    "logistic_regression": linear.fit,
}


def find_trainer(spec: TrialSpec, folder: Path | None = None) -> Ready:
    """The trainer of a trial. `imported` and a project's own read their file in the project's `folder`.

    Raises:
        ValueError: wrong parameters, no folder where one is needed, or a model with another SHA-256.
        FileNotFoundError: the file is not in the folder.
        TypeError: the project's file does not define a trainer.
    """
    if spec.trainer in TRAINERS:
        return Ready(TRAINERS[spec.trainer], parse_parameters(spec))
    if folder is None:
        raise ValueError(f"the trainer {spec.trainer} reads a file of its project: give the project's folder")
    if spec.trainer == "imported":
        parameters = parse_with(spec, Imported)
        return Ready(partial(imported.fit, imported.read(folder, parameters)), parameters)
    if not is_own(spec.trainer):
        raise ValueError(f"trainer: there is none called {spec.trainer!r}")
    trainer = own.load(folder, spec.trainer)

    def fit(
        parameters: Any,
        seed: int,
        schema: InputSchema,
        rows: Rows,
        until: Rows | int,
        progress: Progress,
        on_step: OnStep | None,
    ) -> Fitted:
        return own.CheckedFit(trainer.fit(parameters, seed, schema, rows, until, progress, on_step), schema)

    return Ready(fit, parse_with(spec, trainer.Parameters))


@contextmanager
def naming(trainer: str) -> Iterator[None]:
    """Whatever is raised in a trainer is a TrainerError with its name; giving up and a wrong graph are told as such."""
    try:
        yield
    except (Pruned, ParityError, ExportError):
        raise
    except Exception as error:
        raise TrainerError(f"the trainer {trainer} failed: {type(error).__name__}: {error}") from error
