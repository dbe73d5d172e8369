"""Encoded parts of a snapshot, cached by snapshot and schema: several tasks of a retrain need the same matrix."""

import os
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from contracts.encoder import Encoder
from contracts.hashing import content_id
from contracts.input_schema import InputSchema
from pipelines.data.snapshots import Snapshot
from pipelines.projects import Project
from pipelines.wiring import home

_BATCH_ROWS = 16_384


class Part(NamedTuple):
    """Rows of one part in time order: features (rows × columns), labels 0 or 1, days since 1970."""

    features: NDArray[np.float32]
    labels: NDArray[np.float64]
    days: NDArray[np.int64]


def encoded(project: Project, snapshot: Snapshot, schema: InputSchema, part: str) -> Part:
    """The rows of `part` (train, validation or test), encoded by `schema`; computed once, then read from the cache."""
    path = home().cache / "features" / f"{snapshot.id}-{content_id(schema)[:16]}-{part}.npz"
    try:
        return _read(path)
    except FileNotFoundError:
        _write(path, _encode(project, snapshot, schema, part))
        return _read(path)


def _read(path: Path) -> Part:
    with np.load(path) as stored:
        os.utime(path)  # what is used is not cleaned up as forgotten
        return Part(stored["features"], stored["labels"], stored["days"])


def _encode(project: Project, snapshot: Snapshot, schema: InputSchema, part: str) -> Part:
    table = snapshot.table(part)
    names = [field.name for field in schema.fields]
    encoder = Encoder(schema)
    batches = table.select(names).to_batches(max_chunksize=_BATCH_ROWS)  # records of all rows at once take gigabytes
    features = np.concatenate([encoder.encode_rows([]), *(encoder.encode_rows(b.to_pylist()) for b in batches)])
    labels = table[project.label.column].to_numpy(zero_copy_only=False).astype(np.float64)
    days = table[schema.time].to_numpy(zero_copy_only=False).astype("datetime64[D]").astype(np.int64)
    return Part(features, labels, days)


def _write(path: Path, part: Part) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".draft-", suffix=".npz", delete=False) as draft:
        try:
            np.savez(draft, features=part.features, labels=part.labels, days=part.days)
            draft.flush()
            os.replace(draft.name, path)
        except BaseException:
            os.unlink(draft.name)
            raise
