"""The registry in MLflow: a registered model for each project, by a tracking store on SQL or a server."""

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from contracts.bundle import Bundle
from pipelines.registry import trial_plots
from pipelines.registry.mlflow_lineage import log_lineage, name_version
from pipelines.registry.port import DataPart, RegistryAwayError, Trial, Version

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from mlflow.entities.model_registry import ModelVersion

BUNDLE_TAG, PROJECT_TAG = "bundle", "project"
ARTIFACT_BYTES_MAX = 256 << 20  # a larger file of a bundle stays in the bundle alone
_PARAMETER_CHARACTERS_MAX = 500
_STATUS_OF_STATE = {"finished": "FINISHED", "pruned": "KILLED", "over budget": "KILLED"}  # any other is FAILED
_METRICS_A_BATCH = 1000  # MLflow's limit
_RETRIES = ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # MLflow's own seven wait for minutes
_NO_ANSWER = "API request to "  # how its message begins when there was none
_PARAMETERS_A_BATCH = 100  # MLflow's limit


class RegistryError(ValueError):
    """The registry was asked for something that cannot be: what was found, and what to do."""


class MlflowRegistry:
    """Versions and aliases in MLflow. Importing MLflow takes seconds, so it happens at the first use."""

    def __init__(self, tracking_uri: str, artifact_root: Path | str | None = None) -> None:
        """`tracking_uri` is `sqlite:///…` or `http://…`; `artifact_root`, a folder or a URI, is where the files go.

        A server chooses the place of the files itself, and an experiment keeps the one that it was made with.
        """
        os.environ.setdefault(*_RETRIES)
        from mlflow import MlflowClient

        self._client: Any = _Answering(MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri), tracking_uri)
        is_server = tracking_uri.startswith(("http://", "https://"))
        if isinstance(artifact_root, Path):
            artifact_root = artifact_root.resolve().as_uri()
        self._artifact_root = None if is_server else artifact_root

    def register(
        self,
        project: str,
        bundle: Bundle,
        *,
        metrics: Mapping[str, float],
        parameters: Mapping[str, Any],
        tags: Mapping[str, str],
        trials: Sequence[Trial | Mapping[str, Any]] = (),
        importances: Mapping[str, Mapping[str, float]] = {},
        reports: Sequence[Path] = (),
        data: Sequence[DataPart] = (),
        against: str | None = None,
    ) -> Version:
        """The version of `project` that points at `bundle`, made now unless there is one already.

        The version's run holds the metrics, the parameters, the bundle's files, plots of its trials and the lineage;
        each trial is a run nested in it, also one that failed or was given up.
        Two that register one bundle at once get the same version: the lowest stays.

        Raises:
            RegistryError: a trial has a key or a value that `Trial` does not, or the version was deleted meanwhile.
        """
        if (found := self._of_bundle(project, bundle.id)) is not None:
            return found
        parsed = [trial if isinstance(trial, Trial) else _trial(trial) for trial in trials]
        all_tags = {**tags, **_manifest_tags(project, bundle)}
        run = self._log_run(project, bundle, metrics, parameters, all_tags, parsed, importances, reports)
        champion = None if against is None else self._model_version(project, against)
        lineage = log_lineage(self._client, run, project, bundle, metrics, data, champion, _files(bundle))
        for key, value in lineage.tags.items():
            self._client.set_tag(run, key, value)
        self._create_model(project)
        made = self._client.create_model_version(
            project,
            source=lineage.source,
            run_id=run,
            tags={**all_tags, **lineage.tags},
            description=lineage.description,
            model_id=lineage.model,
        )
        name_version(self._client, lineage.model, project, str(made.version))
        kept = self._of_bundle(project, bundle.id)
        if kept is None:
            raise RegistryError(
                f"version {made.version} of {project} was deleted while it was registered: register again"
            )
        if kept.version != str(made.version):
            self._client.delete_model_version(project, str(made.version))
        return kept

    def version(self, project: str, version_or_alias: str) -> Version | None:
        """The version of that number or alias, or None."""
        found = self._model_version(project, version_or_alias)
        return None if found is None else self._version(found)

    def _model_version(self, project: str, version_or_alias: str) -> "ModelVersion | None":
        from mlflow.exceptions import MlflowException

        try:
            if version_or_alias.isdecimal():
                return self._client.get_model_version(project, version_or_alias)
            return self._client.get_model_version_by_alias(project, version_or_alias)
        except MlflowException as error:
            # an alias that is not set is an invalid parameter value to MLflow
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise

    def versions(self, project: str) -> list[Version]:
        """All versions of `project`, the oldest first; none when the project is unknown."""
        return [self._version(found) for found in self._search(project)]

    def set_aliases(self, project: str, aliases: Mapping[str, str | None]) -> None:
        """Points each alias at a version, or takes it away (None). Setting the same again changes nothing.

        Raises:
            RegistryError: a version that the project does not have; no alias was moved then.
        """
        for alias, version in aliases.items():
            if version is not None and self.version(project, version) is None:
                known = ", ".join(found.version for found in self.versions(project)) or "none"
                raise RegistryError(f"the alias {alias} cannot point at version {version} of {project}; it has {known}")
        for alias, version in aliases.items():
            if version is not None:
                self._client.set_registered_model_alias(project, alias, version)
            elif self.version(project, alias) is not None:
                self._client.delete_registered_model_alias(project, alias)

    def set_tags(self, project: str, version: str, tags: Mapping[str, str | None]) -> None:
        """Sets each tag of a version, or takes it away (None). Setting the same again changes nothing.

        Raises:
            RegistryError: there is no such version.
        """
        found = self.version(project, version)
        if found is None:
            raise RegistryError(f"no tags can be set: {project} has no version {version}")
        for name, value in tags.items():
            if value is not None:
                self._client.set_model_version_tag(project, found.version, name, value)
            elif name in found.tags:
                self._client.delete_model_version_tag(project, found.version, name)

    def _search(self, project: str) -> "list[ModelVersion]":
        found: list[ModelVersion] = []
        token: str | None = None
        while True:
            page = self._client.search_model_versions(
                f"name = '{_quoted(project)}'", max_results=1000, page_token=token
            )
            found.extend(page)
            token = page.token
            if not token:
                return sorted(found, key=lambda version: int(version.version))

    def _of_bundle(self, project: str, bundle: str) -> Version | None:
        return next(
            (self._version(found) for found in self._search(project) if found.tags.get(BUNDLE_TAG) == bundle), None
        )

    def _version(self, found: "ModelVersion") -> Version:
        # what a search returns carries no aliases on some stores
        full = self._client.get_model_version(found.name, found.version)
        metrics = self._client.get_run(full.run_id).data.metrics if full.run_id else {}
        return Version(
            project=full.name,
            version=str(full.version),
            bundle=full.tags.get(BUNDLE_TAG, ""),
            aliases=tuple(sorted(full.aliases)),
            tags=dict(full.tags),
            metrics=dict(metrics),
            run=full.run_id,
        )

    def _create_model(self, project: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(project, tags={PROJECT_TAG: project})
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _experiment(self, project: str) -> str:
        from mlflow.exceptions import MlflowException

        if (found := self._client.get_experiment_by_name(project)) is not None:
            return str(found.experiment_id)
        location = None if self._artifact_root is None else f"{self._artifact_root.rstrip('/')}/{project}"
        try:
            return str(self._client.create_experiment(project, artifact_location=location))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        found = self._client.get_experiment_by_name(project)  # somebody else was first
        if found is None:
            raise RegistryError(f"the experiment {project} was deleted in MLflow: restore it, or rename the project")
        return str(found.experiment_id)

    def _log_run(
        self,
        project: str,
        bundle: Bundle,
        metrics: Mapping[str, float],
        parameters: Mapping[str, Any],
        tags: Mapping[str, str],
        trials: Sequence[Trial],
        importances: Mapping[str, Mapping[str, float]],
        reports: Sequence[Path],
    ) -> str:
        experiment = self._experiment(project)
        run = self._client.create_run(experiment, run_name=f"{project} {bundle.id[:12]}", tags=dict(tags)).info.run_id
        try:
            self._log(run, metrics, parameters, ())
            for trial in trials:
                self._log_trial(experiment, run, trial)
            for name, figure in trial_plots.overview(trials, importances).items():
                self._client.log_figure(run, figure, f"plots/{name}.png")
            for report in reports:
                self._client.log_artifact(run, str(report), "reports")
            for path in _files(bundle):
                self._client.log_artifact(run, str(path), "bundle")
        except BaseException:
            self._client.set_terminated(run, "FAILED")
            raise
        self._client.set_terminated(run, "FINISHED")
        return str(run)

    def _log_trial(self, experiment: str, parent: str, trial: Trial) -> None:
        tags = {
            "mlflow.parentRunId": parent,
            "chosen": str(trial.chosen).lower(),
            "state": trial.state,
            # a duration is a tag: the metrics of equal trials are equal
            **({} if trial.seconds is None else {"seconds": f"{trial.seconds:.1f}"}),
            **({} if trial.error is None else {"error": trial.error}),
            **({} if trial.behind is None else {"behind_the_best": _behind(trial.behind, trial.behind_se)}),
        }
        run = self._client.create_run(experiment, run_name=trial.name, tags=tags).info.run_id
        self._log(run, trial.metrics, trial.parameters, trial.curve)
        if (figure := trial_plots.curve(trial)) is not None:
            self._client.log_figure(run, figure, "plots/curve.png")
        self._client.set_terminated(run, _STATUS_OF_STATE.get(trial.state, "FAILED"))

    def _log(
        self,
        run: str,
        metrics: Mapping[str, float],
        parameters: Mapping[str, Any],
        curve: Iterable[Mapping[str, float]],
    ) -> None:
        from mlflow.entities import Param

        points = [*_points(metrics, 0)]
        for step, values in enumerate(curve):
            points.extend(_points({f"curve.{name}": value for name, value in values.items()}, step))
        for start in range(0, len(points), _METRICS_A_BATCH):
            self._client.log_batch(run, metrics=points[start : start + _METRICS_A_BATCH])
        pairs = [Param(key, _short(str(value))) for key, value in parameters.items()]
        for start in range(0, len(pairs), _PARAMETERS_A_BATCH):
            self._client.log_batch(run, params=pairs[start : start + _PARAMETERS_A_BATCH])


class _Answering:
    """MLflow's client; where its server does not answer, RegistryAwayError is raised."""

    def __init__(self, client: Any, uri: str) -> None:
        self._client, self._uri = client, uri

    def __getattr__(self, name: str) -> Callable[..., Any]:
        from mlflow.exceptions import MlflowException

        method = getattr(self._client, name)

        def call(*arguments: Any, **named: Any) -> Any:
            try:
                return method(*arguments, **named)
            except MlflowException as error:
                if not error.message.startswith(_NO_ANSWER):
                    raise
                cause = error.message.partition("(Caused by ")[2].rpartition(")")[0] or error.message
                raise RegistryAwayError(
                    f"the registry at {self._uri} does not answer ({cause}): bring MLflow back. Servers and what they "
                    "answer do not need it (docs/runbook/procedures/failure_modes.md)"
                ) from error

        return call


def _files(bundle: Bundle) -> list[Path]:
    """Those of the bundle that are not too large to lie twice."""
    paths = [bundle.path / name for name in (*sorted(bundle.manifest.files), "manifest.json")]
    return [path for path in paths if path.stat().st_size <= ARTIFACT_BYTES_MAX]


def _trial(trial: Mapping[str, Any]) -> Trial:
    try:
        return msgspec.convert(trial, Trial)
    except msgspec.ValidationError as error:
        raise RegistryError(f"the trial {trial.get('name')!r} cannot be registered: {error}") from error


def _behind(log_loss: float, standard_error: float | None) -> str:
    return f"{log_loss:.5f}" + ("" if standard_error is None else f" ± {standard_error:.5f}")


def _manifest_tags(project: str, bundle: Bundle) -> dict[str, str]:
    manifest = bundle.manifest
    return {
        PROJECT_TAG: project,
        BUNDLE_TAG: bundle.id,
        "snapshot": manifest.snapshot,
        "lock": manifest.lock,
        "trainer": manifest.trainer,
        "optimization": manifest.optimization,
        "schema_version": str(bundle.schema.version),
    }


def _points(metrics: Mapping[str, float], step: int) -> "list[Metric]":
    from mlflow.entities import Metric

    # the time of a point is that of no event here: equal inputs log equal points; a value that is no number is left out
    return [Metric(name, float(value), 0, step) for name, value in metrics.items() if math.isfinite(value)]


def _short(text: str) -> str:
    return text if len(text) <= _PARAMETER_CHARACTERS_MAX else text[: _PARAMETER_CHARACTERS_MAX - 1] + "…"


def _quoted(name: str) -> str:
    if "'" in name:
        raise RegistryError(f"a project's name has no apostrophe, found {name!r}")
    return name
