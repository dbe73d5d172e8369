"""Summaries of days as one file of numpy arrays: what takes a minute to count again is kept in the cache."""

import os
import tempfile
from pathlib import Path

import numpy as np

from pipelines.monitoring.day_summaries import Days

_COUNTS = "counts_"


def write_days(path: Path, days: Days) -> None:
    """Writes `days` to `path`, whole or not at all. Raises OSError."""
    arrays = {name: value for name, value in vars(days).items() if name != "counts"}
    arrays |= {f"{_COUNTS}{place}": counts for place, counts in enumerate(days.counts)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".draft-", suffix=".npz", delete=False) as draft:
        try:
            np.savez(draft, **arrays)
            draft.flush()
            os.replace(draft.name, path)
        except BaseException:
            os.unlink(draft.name)
            raise


def read_days(path: Path) -> Days:
    """What was written to `path`. Raises FileNotFoundError."""
    with np.load(path) as stored:
        os.utime(path)  # what is used is not cleaned up as forgotten
        columns = sum(name.startswith(_COUNTS) for name in stored.files)
        rest = {name: stored[name] for name in stored.files if not name.startswith(_COUNTS)}
        return Days(counts=tuple(stored[f"{_COUNTS}{place}"] for place in range(columns)), **rest)
