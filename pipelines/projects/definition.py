"""What a project's configuration may say. Each capability owns the Struct of its own slice."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, cast

import msgspec

from contracts.bundle import ServingProfile
from pipelines.data.rules import ValidationRules
from pipelines.data.schema import DeclaredSchema, Label
from pipelines.data.sources import Source
from pipelines.data.windows import SplitRule
from pipelines.evaluation.fairness import FairnessLimits
from pipelines.evaluation.limits import GateLimits
from pipelines.evaluation.metrics import Costs
from pipelines.evaluation.slices import SliceLimits
from pipelines.governance.model_card import CardTexts
from pipelines.governance.retention import RetentionPolicy
from pipelines.governance.rollback_message import NotifyPolicy
from pipelines.monitoring.drift_limits import DriftLimits
from pipelines.monitoring.score_watch import ScoreWatchLimits
from pipelines.monitoring.triggers import TriggerPolicy
from pipelines.optimization.limits import OptimizationLimits
from pipelines.project_code import load_code
from pipelines.rollout.plan import Plan
from pipelines.rollout.staging import Staging
from pipelines.training.plan import TrainingPlan
from pipelines.training.pods import TrainingPod

Text = Annotated[str, msgspec.Meta(min_length=1)]
_CRON_FIELD = re.compile(r"(\*|\d+(-\d+)?)(/\d+)?(,(\*|\d+(-\d+)?)(/\d+)?)*")
_CRON_FIELDS = 5
ServersApart = Literal["kubernetes", "kserve", "envoy"]


class Schedules(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When the workflows start by themselves, as five cron fields in UTC; None means only by hand or by an event."""

    retrain: str | None = None
    watch: str | None = None

    def __post_init__(self) -> None:
        for name in ("retrain", "watch"):
            cron = getattr(self, name)
            fields = [] if cron is None else cron.split()
            if cron is not None and (len(fields) != _CRON_FIELDS or not all(map(_CRON_FIELD.fullmatch, fields))):
                raise ValueError(f"{name}: found {cron!r}, expected five cron fields such as '0 3 * * 1', or null")


class MonitoringPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When live predictions count as drifted, and what makes a retrain due.

    The watch as of `report_weekday` (1 is Monday) writes the report of the last ISO week that is over.
    """

    drift: DriftLimits = DriftLimits()
    triggers: TriggerPolicy = TriggerPolicy()
    scores: ScoreWatchLimits = ScoreWatchLimits()
    report_weekday: Annotated[int, msgspec.Meta(ge=1, le=7)] = 1


class ProjectFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The keys of `project.yaml`. Raises ValueError, naming the key, where two slices contradict each other.

    `sensitive` says that it must not be found out from the model whose records it was trained on: then membership
    inference is tried on every challenger, and gated by `gates.privacy`. `signed_bundles` says that what is registered
    is signed, and that its model server refuses what is not. `rollout_on` has the plans of other platforms: in the file
    only what differs from `rollout` there.
    """

    name: Annotated[str, msgspec.Meta(pattern="^[a-z][a-z0-9_]{0,62}$")]
    title: Text
    description: Text
    owner: Text
    source_file: Annotated[str, msgspec.Meta(pattern=r"^\w+\.py$")] = msgspec.field(name="source", default="source.py")
    label: Label
    schema: DeclaredSchema
    card: CardTexts = CardTexts()
    decision_threshold: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.5
    sensitive: bool = False
    split: SplitRule = SplitRule()
    emergency_split: SplitRule | None = None
    validation: ValidationRules = ValidationRules()
    training: TrainingPlan = TrainingPlan()
    training_pod: TrainingPod | None = None
    optimization: OptimizationLimits = OptimizationLimits()
    costs: Costs = Costs()
    gates: GateLimits = GateLimits()
    slices: SliceLimits = SliceLimits()
    fairness: FairnessLimits = FairnessLimits()
    rollout: Plan = Plan()
    rollout_on: dict[ServersApart, Plan] = {}
    staging: Staging | None = None
    monitoring: MonitoringPolicy = MonitoringPolicy()
    schedules: Schedules = Schedules()
    retention: RetentionPolicy = RetentionPolicy()
    notify: NotifyPolicy = NotifyPolicy()
    serving: ServingProfile = ServingProfile()
    signed_bundles: bool = False
    serving_port: Annotated[int, msgspec.Meta(ge=1024, le=65535)] = 8500

    def __post_init__(self) -> None:
        names = self.schema.names
        self._check_plan("rollout", self.rollout)
        for platform, plan in self.rollout_on.items():
            self._check_plan(f"rollout_on.{platform}", plan)
        categories = [field.name for field in self.schema.fields if field.kind == "category"]
        if self.label.column in names:
            raise ValueError(f"label.column: {self.label.column!r} is also a field; what is predicted is no input")
        for name in self.optimization.slice_fields:
            if name not in categories:
                allowed = ", ".join(categories) or "none"
                raise ValueError(f"optimization.slice_fields: found {name!r}, expected categories: {allowed}")
        if unknown := self.validation.missing_shares.keys() - set(names):
            raise ValueError(f"validation.missing_shares: {', '.join(sorted(unknown))} is not among {', '.join(names)}")
        if unknown := set(self.validation.shifts.seasonal) - set(names):
            listed = ", ".join(sorted(unknown))
            raise ValueError(f"validation.shifts.seasonal: {listed} is not among {', '.join(names)}")
        if leaked := sorted(set(self.gates.sanity.known_after) & set(names)):
            raise ValueError(
                f"gates.sanity.known_after: {', '.join(leaked)} is known only after the event, and a field of the "
                "schema; leave it out of schema.fields"
            )
        moments = [field.name for field in self.schema.fields if field.kind == "timestamp"]
        if unknown := set(self.gates.sanity.planned) - set(moments):
            raise ValueError(
                f"gates.sanity.planned: {', '.join(sorted(unknown))} is no timestamp among {', '.join(moments)}"
            )
        columns = {column for field in self.schema.fields for column in field.columns}
        if unknown := set(self.monitoring.drift.ignored) - columns - set(names):
            raise ValueError(f"monitoring.drift.ignored: {', '.join(sorted(unknown))} is not among {', '.join(names)}")
        joined = {name for fields in self.monitoring.drift.sources.values() for name in fields}
        if unknown := joined - set(names):
            raise ValueError(f"monitoring.drift.sources: {', '.join(sorted(unknown))} is not among {', '.join(names)}")
        if unknown := set(self.slices.fields) - set(names):
            raise ValueError(f"slices.fields: {', '.join(sorted(unknown))} is not among {', '.join(names)}")
        kinds = {field.name: field.kind for field in self.schema.fields}
        for group in self.fairness.groups:
            if (kind := kinds.get(group.field)) is None:
                raise ValueError(f"fairness.groups: {group.field} is not among {', '.join(names)}")
            if kind == "timestamp" or (kind == "number" and not group.edges):
                raise ValueError(
                    f"fairness.groups: {group.field} is a {kind}; a number needs edges, a time is no group"
                )
            if group.edges and kind not in ("number", "identifier"):
                raise ValueError(f"fairness.groups: {group.field} is a {kind}; edges belong to numbers")

    def _check_plan(self, key: str, plan: Plan) -> None:
        if plan.challengers != 1:
            raise ValueError(
                f"{key}.challengers is {plan.challengers}: leave it out, a release is started with so many"
            )
        held = plan.holdout
        if held is not None and held.maximum_days <= self.label.delay_days:
            raise ValueError(
                f"{key}.holdout: maximum_days is {held.maximum_days}, and the first outcome is known after "
                f"{self.label.delay_days} days (label.delay_days): give it more"
            )
        if plan.quality is not None and self.label.delay_days > 0:
            raise ValueError(
                f"{key}.quality: the first outcome is known after {self.label.delay_days} days (label.delay_days), and "
                "quality asks for those of a rollout that still runs: the holdout sees the later ones"
            )
        segment = plan.coverage.segment
        if segment is not None and segment not in [
            field.name for field in self.schema.fields if field.kind in ("category", "boolean") and not field.personal
        ]:
            raise ValueError(
                f"{key}.coverage.segment: found {segment!r}, expected a category or boolean that is not personal"
            )


class Project(ProjectFile, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A project: its configuration, and the folder that it came from."""

    folder: Path

    def plan_on(self, platform: str) -> Plan:
        """The plan of a rollout on `platform`, a name of `pipelines.wiring.PLATFORMS`."""
        return self.rollout_on.get(cast(ServersApart, platform), self.rollout)

    @property
    def file(self) -> Path:
        """The configuration file."""
        return self.folder / "project.yaml"

    def source(self) -> Source:
        """The project's own code: `ingest` and `events`, from the file that `source` names.

        Raises:
            FileNotFoundError: there is no such file.
            TypeError: it does not define both functions.
        """
        path = self.folder / self.source_file
        try:
            module = load_code(path, f"paceline_project_{self.name}")
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{self.file}: source: {error}") from error
        if absent := [function for function in ("ingest", "events") if not callable(getattr(module, function, None))]:
            raise TypeError(f"{path} must define {' and '.join(absent)}: see pipelines.data.sources.Source")
        return cast(Source, module)
