"""What the DAG files share: defaults of their tasks, and the date that a run pretends is today."""

import os
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import Param

from delivery.failures import record_failure
from delivery.lineage import tell_lineage
from pipelines.projects import Project

START = datetime(2013, 1, 1, tzinfo=UTC)

# A retry repeats a task from its start. All are safe to repeat: what they make is named by its content.
DEFAULTS: dict[str, Any] = {
    "owner": "paceline",
    "retries": 2,
    "retry_delay": timedelta(seconds=10),
    "retry_exponential_backoff": True,
    "max_retry_delay": timedelta(minutes=10),
    "execution_timeout": timedelta(minutes=30),
    "on_failure_callback": record_failure,
    "post_execute": tell_lineage,
}
# What ends a rollout outlives an API server that is away: 10 s, 20 s … up to ten minutes apart, most of an hour in all.
MANY_RETRIES: dict[str, Any] = {"retries": 10}
# Where the same input gives the same refusal, a retry only delays the message.
NO_RETRY: dict[str, Any] = {"retries": 0}


def options(project: Project, workflow: str, description: str, **defaults: Any) -> dict[str, Any]:
    """What all DAGs have in common; `defaults` are more defaults of the DAG's tasks. One run at a time."""
    return {
        "dag_id": f"{project.name}.{workflow}",
        "description": description,
        "start_date": START,
        "catchup": False,
        "max_active_runs": 1,
        "default_args": {**DEFAULTS, **defaults},
        "tags": ["paceline", project.name],
    }


def schedule(cron: str | None) -> str | None:
    """The project's schedule, or none where `PACELINE_SCHEDULES=off`: history is replayed there, and the calendar's
    date has no data."""
    return None if os.environ.get("PACELINE_SCHEDULES") == "off" else cron


def as_of_param(description: str) -> Param:
    """A date, or empty for the run's own."""
    return Param(None, type=["null", "string"], format="date", title="As of", description=description, section="Data")


def as_of_run(context: Any) -> str:
    """The run's `as_of`, or else its logical date, or else the date it was due (asset runs have no logical date)."""
    named = context["params"]["as_of"]
    if named:
        return str(named)
    run = context["dag_run"]
    moment: datetime = run.logical_date or run.run_after
    return moment.date().isoformat()
