"""`<project>.reproduce`: trains a registered version again, and fails unless the bundle has the same hash.

For people, and for auditors: nothing is registered, no alias moves; the ledger gets the entry `reproduction`.
"""

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Param, get_current_context, task
from delivery.settings import NO_RETRY, options

from pipelines.projects import Project
from pipelines.views import projects


@task(**NO_RETRY, execution_timeout=timedelta(hours=6))
def make_again(project: str) -> dict[str, Any]:
    from pipelines.tasks import reproducing

    params = get_current_context()["params"]
    return reproducing.reproduce(
        project, params["version"], tolerance=params["tolerance"], accept_dirty=params["accept_dirty"]
    )


@task(**NO_RETRY)
def judge(result: dict[str, Any]) -> str:
    from airflow.sdk.exceptions import AirflowFailException

    if result["outcome"] == "different":
        raise AirflowFailException(f"Version {result['version']} came out otherwise: {result['reason']}")
    return str(result["outcome"])


def reproduce(project: Project) -> DAG:
    with DAG(
        **options(project, "reproduce", f"Trains a version of {project.title} again and compares the bundles"),
        doc_md=__doc__,
        schedule=None,
        params={
            "version": Param(
                "champion",
                type="string",
                pattern="^([0-9]+|champion|challenger|previous)$",
                title="Version",
                description="A number in the registry, or the alias champion, challenger or previous.",
            ),
            "tolerance": Param(
                0.01,
                type="number",
                minimum=0,
                maximum=1,
                title="Tolerance",
                description="Of a score. Counts only where a GPU or another processor makes equal bytes impossible.",
            ),
            "accept_dirty": Param(
                False,
                type="boolean",
                title="Accept changes that were never committed",
                description="Try the commit also where the version was trained with changes on top of it.",
            ),
        },
    ) as dag:
        judge(make_again(project.name))
    return dag


for _project in projects().values():
    globals()[f"{_project.name}_reproduce"] = reproduce(_project)
