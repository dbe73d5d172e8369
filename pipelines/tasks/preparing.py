"""From a project's name to a validated snapshot, for whoever starts with nothing: an ingest where there was none, and
an as-of that the data has labels for."""

import logging
from datetime import date, timedelta
from typing import Any

from pipelines.tasks import ingesting, retraining
from pipelines.wiring import find_project, home

logger = logging.getLogger("paceline")


def prepare(project: str, as_of: str, today: date, accept_shifts: str | None = None) -> dict[str, Any]:
    """Ingests where the warehouse is empty, takes the snapshot as of a date, and validates it.

    An empty `as_of` is the first day on which all labels of the data are known, but not after `today`: of a source that
    grows that is today, of one that ended years ago the day that sees all of it. Returns the id of the snapshot, its
    windows, and `as_of` with `why` it was chosen.

    Raises:
        DataRejectedError: the snapshot failed its expectations.
        NotEnoughHistoryError: there are too few days before `as_of`.
    """
    warehouse = home().warehouse(project)
    find_project(project)
    if not warehouse.is_dir() or not any(warehouse.iterdir()):
        logger.info("the warehouse of %s is empty: ingesting", project)
        ingesting.ingest(project)
    chosen, why = (as_of, "as asked") if as_of else _choose_as_of(project, today)
    logger.info("as of %s: %s", chosen, why)
    windows = retraining.choose_window(project, chosen)
    snapshot = retraining.validate(project, retraining.take_snapshot(project, windows), accept_shifts)
    return {"snapshot": snapshot, "as_of": chosen, "why": why, "windows": windows}


def _choose_as_of(project: str, today: date) -> tuple[str, str]:
    last, delay_days = retraining.latest_day(project), find_project(project).label.delay_days
    complete = last + timedelta(days=1 + delay_days)
    if complete > today:
        return today.isoformat(), f"today; the data goes on to {last}, and later labels are not known yet"
    known = f"labels are known {delay_days} day{'s' if delay_days != 1 else ''} later"
    return complete.isoformat(), f"the data ends on {last}, and {known}; --as-of chooses another date"
