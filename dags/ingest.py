"""`<project>.ingest`: from the project's source into the warehouse; outcomes in the inbox into the outcome store."""

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Asset, task
from delivery.settings import options

from pipelines.projects import Project
from pipelines.views import projects


def ingest(project: Project) -> DAG:
    warehouse = Asset(name=f"{project.name}.warehouse", uri=f"paceline://{project.name}/warehouse")

    @task(outlets=[warehouse], execution_timeout=timedelta(hours=1))
    def load(*, outlet_events: Any = None) -> dict[str, Any]:
        from pipelines.tasks import ingesting

        loaded = ingesting.ingest(project.name)
        outlet_events[warehouse].extra = loaded
        return loaded

    @task(execution_timeout=timedelta(hours=1))
    def take_outcomes() -> dict[str, Any]:
        from pipelines.tasks import labelling

        return labelling.take_inbox(project.name)

    with DAG(
        **options(project, "ingest", f"Loads the source of {project.title} into the warehouse"),
        doc_md=__doc__,
        schedule=None,
    ) as dag:
        load()
        take_outcomes()
    return dag


for _project in projects().values():
    globals()[f"{_project.name}_ingest"] = ingest(_project)
