"""From the source of a project into the embedded warehouse."""

import logging
from typing import Any

from pipelines.wiring import find_project, home, open_ledger

logger = logging.getLogger("paceline")


def ingest(project: str) -> dict[str, Any]:
    """Loads the project's source into its warehouse, and returns the rows of each table."""
    found = find_project(project)
    warehouse = home().warehouse(project)
    warehouse.mkdir(parents=True, exist_ok=True)
    rows = found.source().ingest(warehouse, logger.info)
    open_ledger().append(project, "ingested", project, {"rows": rows})
    return {"project": project, "rows": rows}
