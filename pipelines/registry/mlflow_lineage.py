"""What MLflow's own pages show of a version's lineage: its datasets, its model, the champion it was compared with.

A version's run has one dataset for each part of the snapshot (context training, validation and test), a logged model as
its output, and the champion's logged model as an input; the metrics belong to the model and to the test rows.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from contracts.bundle import Bundle
from pipelines.registry.port import DataPart

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Dataset, DatasetInput
    from mlflow.entities.model_registry import ModelVersion

MODEL_TAG, AGAINST_TAG, AGAINST_RUN_TAG = "logged_model", "compared_with", "compared_with_run"
MODEL_TYPE = "paceline bundle"
VERSIONS_TAG = "mlflow.modelVersions"  # MLflow's own
_DIGEST_CHARACTERS_MAX = 36  # MLflow's limit; the whole id is in the source, the profile and a tag
_CONTEXTS = {"train": "training", "validation": "validation", "test": "test"}
_COLUMN_TYPES = {  # of Arrow → of MLflow's schemas
    "bool": "boolean",
    "int8": "integer",
    "int16": "integer",
    "int32": "integer",
    "int64": "long",
    "float": "float",
    "double": "double",
    "string": "string",
    "large_string": "string",
}


class Logged(NamedTuple):
    """The logged model's id and where its files are; the tags that link a version with it and with the champion."""

    model: str
    source: str
    tags: dict[str, str]
    description: str


def log_lineage(
    client: "MlflowClient",
    run: str,
    project: str,
    bundle: Bundle,
    metrics: Mapping[str, float],
    data: Sequence[DataPart],
    champion: "ModelVersion | None",
    files: Sequence[Path],
) -> Logged:
    """Logs the lineage of the version that `run` becomes, with the bundle's `files`; `champion`: compared with it."""
    from mlflow.entities import LoggedModelInput, LoggedModelOutput, Metric

    experiment = client.get_run(run).info.experiment_id
    tags = _tags(champion)
    name = f"{project}-{bundle.id[:12]}"
    model = client.create_logged_model(
        experiment, name=name, source_run_id=run, tags={"bundle": bundle.id, **tags}, model_type=MODEL_TYPE
    )
    # a store on SQL does not keep the model's id with the version: the tag does
    rival = None if champion is None else champion.tags.get(MODEL_TAG)
    rivals = [] if rival is None else [LoggedModelInput(rival)]
    client.log_inputs(run, datasets=[_input(project, part) for part in data], models=rivals)
    client.log_outputs(run, [LoggedModelOutput(model.model_id, step=0)])
    test = next((_dataset(project, part) for part in data if part.name == "test"), None)
    client.log_batch(
        run,
        metrics=[
            Metric(
                key,
                float(value),
                0,
                0,
                model_id=model.model_id,
                dataset_name=None if test is None else test.name,
                dataset_digest=None if test is None else test.digest,
            )
            for key, value in metrics.items()
            if math.isfinite(value)
        ],
    )
    for path in files:
        client.log_model_artifact(model.model_id, str(path))
    client.finalize_logged_model(model.model_id, "READY")
    return Logged(
        model=model.model_id,
        source=model.artifact_location,
        tags={MODEL_TAG: model.model_id, **tags},
        description=_description(bundle, champion),
    )


def name_version(client: "MlflowClient", model: str, project: str, version: str) -> None:
    """Lets the page of the logged model name its version. A server does it itself, a store on SQL does not."""
    if VERSIONS_TAG not in client.get_logged_model(model).tags:
        named = [{"name": project, "version": version}]
        client.set_logged_model_tags(model, {VERSIONS_TAG: json.dumps(named)})


def _tags(champion: "ModelVersion | None") -> dict[str, str]:
    if champion is None:
        return {}
    return {AGAINST_TAG: str(champion.version), **({AGAINST_RUN_TAG: champion.run_id} if champion.run_id else {})}


def _description(bundle: Bundle, champion: "ModelVersion | None") -> str:
    """Markdown, as MLflow's page of a version shows it."""
    told = f"bundle {bundle.id}, trained on the snapshot {bundle.manifest.snapshot}"
    if champion is None:
        return f"{told}; there was no champion to compare it with"
    return f"{told}; compared with [version {champion.version}](#/models/{champion.name}/versions/{champion.version})"


def _input(project: str, part: DataPart) -> "DatasetInput":
    from mlflow.entities import DatasetInput, InputTag

    tags = {"mlflow.data.context": _CONTEXTS.get(part.name, part.name), "snapshot": part.snapshot, "label": part.label}
    return DatasetInput(_dataset(project, part), [InputTag(key, value) for key, value in tags.items()])


def _dataset(project: str, part: DataPart) -> "Dataset":
    from mlflow.entities import Dataset

    columns = [{"name": name, "type": _column_type(kind), "required": True} for name, kind in part.columns.items()]
    profile = {
        "num_rows": part.rows,
        "start": part.start,
        "end": part.end,
        "label_share": part.label_share,
        "snapshot": part.snapshot,
    }
    return Dataset(
        name=f"{project}.{part.name}",
        digest=part.snapshot[:_DIGEST_CHARACTERS_MAX],
        source_type="local",
        source=json.dumps({"uri": part.uri}),
        schema=json.dumps({"mlflow_colspec": columns}),
        profile=json.dumps(profile),
    )


def _column_type(arrow: str) -> str:
    return "datetime" if arrow.startswith(("timestamp", "date")) else _COLUMN_TYPES.get(arrow, "string")
