"""What went wrong in a workflow, for the ledger."""

from pipelines.wiring import open_ledger


def record(project: str, *, workflow: str, task: str, run: str, attempt: int, error: str) -> None:
    """Writes one entry for a failed task; the same attempt is written once."""
    body = {"workflow": workflow, "task": task, "run": run, "attempt": attempt, "error": error[:2000]}
    key = f"failure:{project}:{workflow}:{run}:{task}:{attempt}"
    open_ledger().append(project, "failure", f"{workflow}/{run}", body, key=key)
