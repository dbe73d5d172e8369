"""From the source of a project into the embedded warehouse."""

import logging
from typing import Any

import msgspec

from pipelines.wiring import find_project, home, open_ledger

logger = logging.getLogger("paceline")


def ingest(project: str) -> dict[str, Any]:
    """Loads the project's source into its warehouse, and returns the rows of each table."""
    found = find_project(project)
    warehouse = home().warehouse(project)
    warehouse.mkdir(parents=True, exist_ok=True)
    rows = found.source().ingest(warehouse, logger.info)
    return record_ingest(project, rows)


def record_ingest(project: str, rows: dict[str, int]) -> dict[str, Any]:
    """Tells the ledger what lies in the warehouse now, by the hash of each file, and what that was made from.

    Also for a warehouse that something else than `ingest` has filled: a lineage calls files that nobody told of a gap.
    """
    from pipelines.data import origins

    warehouse = home().warehouse(project)
    files = origins.warehouse_files(warehouse)
    told = origins.origins_of(find_project(project).source(), warehouse)
    body = {"rows": rows, "files": msgspec.to_builtins(files), "origins": msgspec.to_builtins(told)}
    open_ledger().append(project, "ingested", project, body)
    return {"project": project, "rows": rows}
