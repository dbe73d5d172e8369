"""Where events come from: what a project's `source.py` must give, and the engine that its expressions run on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import ibis
    from ibis.backends import BaseBackend

Progress = Callable[[str], None]


class Source(Protocol):
    """The two functions of a project's `source.py`.

    A third one is optional: `origins(warehouse)` tells what the last ingest filled the warehouse from, as a list of
    mappings with the keys of `pipelines.data.origins.Origin`. Without it a lineage ends at the warehouse's files.
    """

    def ingest(self, warehouse: Path, progress: Progress) -> dict[str, int]:
        """Brings the raw tables into `warehouse` (a folder of the project's own) and returns the rows of each."""

    def events(self, connection: BaseBackend, warehouse: Path) -> ibis.Table:
        """One row per event with an outcome: the declared fields and the label."""


def connect() -> BaseBackend:
    """The embedded engine: DuckDB in memory, over the Parquet files of a warehouse."""
    import ibis

    return ibis.duckdb.connect()
