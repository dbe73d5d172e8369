"""A task that failed for good leaves its reason in the ledger, where the schedule's owner looks first."""

from typing import Any


def record_failure(context: Any) -> None:
    """Airflow calls this in the task's own process, after its last retry."""
    from pipelines.tasks.failing import record

    instance = context["task_instance"]
    project, _, workflow = instance.dag_id.rpartition(".")
    record(
        project,
        workflow=workflow,
        task=instance.task_id,
        run=instance.run_id,
        attempt=instance.try_number,
        error=str(context.get("exception")),
    )
