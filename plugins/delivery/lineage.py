"""Inputs and outputs of our tasks for OpenLineage, where a transport is configured (docs/lineage.md); else nothing."""

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openlineage.client.event_v2 import Dataset

logger = logging.getLogger(__name__)


def tell_lineage(context: Any, result: Any) -> None:
    """Airflow calls this after a task's own work, in its process; the provider's listener reads `inlets` and `outlets`.

    A task never fails by it: what could not be told is a warning in its log.
    """
    from airflow.providers.openlineage import conf

    if conf.is_disabled():
        return
    operator = context["task"]
    project, _, workflow = operator.dag_id.rpartition(".")
    try:
        from pipelines.views import exchange

        told = exchange(project, workflow, operator.task_id, result)
        operator.inlets = _told_anew(operator.inlets, told["inputs"])
        operator.outlets = _told_anew(operator.outlets, told["outputs"])
    except Exception:
        logger.warning("the inputs and outputs of %s are not told to OpenLineage", operator.task_id, exc_info=True)


def _told_anew(declared: list[Any], told: list[dict[str, Any]]) -> list[Any]:
    """What the DAG file declares (assets), and `told`; not what an earlier run left on the same operator."""
    from openlineage.client.event_v2 import Dataset

    return [*(each for each in declared if not isinstance(each, Dataset)), *map(_dataset, told)]


def _dataset(data: dict[str, Any]) -> "Dataset":
    from airflow.providers.openlineage import conf
    from openlineage.client.event_v2 import Dataset
    from openlineage.client.facet_v2 import (
        DatasetFacet,
        dataset_version_dataset,
        datasource_dataset,
        schema_dataset,
    )

    facets: dict[str, DatasetFacet] = {}
    if data["version"]:
        facets["version"] = dataset_version_dataset.DatasetVersionDatasetFacet(datasetVersion=data["version"])
    if data["uri"]:
        facets["dataSource"] = datasource_dataset.DatasourceDatasetFacet(name=data["name"], uri=data["uri"])
    if data["columns"]:
        fields = [schema_dataset.SchemaDatasetFacetFields(name=n, type=t) for n, t in data["columns"].items()]
        facets["schema"] = schema_dataset.SchemaDatasetFacet(fields=fields)
    return Dataset(namespace=conf.namespace(), name=data["name"], facets=facets)
