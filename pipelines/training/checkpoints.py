"""Checkpoints: a training that was killed goes on where it was, and ends as if nothing had happened.

They are named by all that the training depends on, so that another training never takes them, and are gone when it has
ended well. They can be computed again: one that cannot be read or written costs time, and nothing else.
"""

import os
import pickle
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from contracts.hashing import bytes_id, content_id
from contracts.input_schema import InputSchema
from pipelines.training.locks import installed_frameworks
from pipelines.training.rows import Pruned

_UNREADABLE = (OSError, RuntimeError, ValueError, EOFError, KeyError, AttributeError, pickle.UnpicklingError)


def inputs_id(
    trainer: str, parameters: msgspec.Struct, seed: int, schema: InputSchema, *arrays: NDArray[np.generic]
) -> str:
    """The hash of all that a trial's training depends on; `arrays` are its features and labels."""
    return content_id(
        {
            "trainer": trainer,
            "parameters": msgspec.to_builtins(parameters),
            "seed": seed,
            "schema": msgspec.to_builtins(schema),
            "arrays": [(a.shape, str(a.dtype), bytes_id(a.tobytes())) for a in arrays],
            "frameworks": installed_frameworks(),
        }
    )


@contextmanager
def kept_until_the_end(folder: Path | None) -> Iterator[None]:
    """Removes the checkpoints in `folder` when the training inside has ended or was given up, not when it broke off."""
    try:
        yield
    except Pruned:
        _forget(folder)
        raise
    _forget(folder)


class Checkpoint:
    """One file with the state of a fit, as torch writes it; without a path nothing is kept."""

    def __init__(self, path: Path | None, progress: Callable[[str], None]) -> None:
        self._path = path
        self._progress = progress

    def read(self) -> dict[str, Any] | None:
        """What was saved last; None where nothing was, or it cannot be read."""
        import torch

        if self._path is None or not self._path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(self._path, weights_only=True)
        except _UNREADABLE as error:
            self._progress(f"the checkpoint {self._path} cannot be read ({error}): starting from the beginning")
            return None
        return state

    def save(self, state: dict[str, Any]) -> None:
        """Keeps `state`; the file changes as a whole or not at all, and stays as it was where the disk is full."""
        import torch

        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._path.parent, prefix=".draft-", delete=False) as draft:
                try:
                    torch.save(state, draft)
                    draft.flush()
                    os.fsync(draft.fileno())
                    os.replace(draft.name, self._path)
                except (OSError, RuntimeError):
                    Path(draft.name).unlink(missing_ok=True)
                    raise
        except (OSError, RuntimeError) as error:
            self._progress(f"the checkpoint {self._path} cannot be written ({error}): going on without it")


def _forget(folder: Path | None) -> None:
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
