"""`<project>.rollback`: puts a kept version back, at once. For people: what is serving is worse than what was."""

from typing import Any

from airflow.sdk import DAG, Param, get_current_context, task
from delivery.notifying import tell_people
from delivery.settings import options

from pipelines.projects import Project
from pipelines.views import projects


@task
def put_back(project: str) -> dict[str, Any]:
    from pipelines.tasks import releasing

    context = get_current_context()
    params, run = context["params"], context["dag_run"]
    by = getattr(run, "triggering_user_name", None) or str(run.run_type)
    # a retry finishes this run's rollback, and begins no other
    return releasing.roll_back(project, params["version"], reason=params["reason"], request=run.run_id, by=by)


@task
def tell(project: str) -> dict[str, list[str]]:
    """Of this rollback, and of any that somebody was not told of yet."""
    return tell_people(project)


def rollback(project: Project) -> DAG:
    with DAG(
        **options(project, "rollback", f"Makes a kept version of {project.title} the champion again"),
        doc_md=__doc__,
        schedule=None,
        params={
            "version": Param(
                None,
                type=["null", "string"],
                pattern="^[0-9]+$",
                title="Version",
                description="The version to put back; empty: the champion before this one.",
            ),
            "reason": Param(
                "rolled back by hand",
                type="string",
                minLength=5,
                maxLength=500,
                title="Reason",
                description="For the ledger.",
            ),
        },
    ) as dag:
        put_back(project.name) >> tell(project.name)
    return dag


for _project in projects().values():
    globals()[f"{_project.name}_rollback"] = rollback(_project)
