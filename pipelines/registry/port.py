"""What a registry of models is to Paceline; `mlflow_registry` is the one that is used."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from contracts.bundle import Bundle


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """A registered version of a project's model: a pointer at a bundle, by its id. `run` is where its trials are."""

    project: str
    version: str
    bundle: str
    aliases: tuple[str, ...] = ()
    tags: dict[str, str] = {}
    metrics: dict[str, float] = {}
    run: str | None = None


class Trial(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One training that competed for the version; `curve` has one mapping of metrics for each iteration.

    `state` is `finished`, or how else it ended, with the `error`; `behind` is how much worse its log loss is than that
    of the best on the same rows, and `behind_se` the standard error of that.
    """

    name: str
    parameters: dict[str, Any] = {}
    metrics: dict[str, float] = {}
    curve: tuple[dict[str, float], ...] = ()
    chosen: bool = False
    state: str = "finished"
    error: str | None = None
    seconds: float | None = None
    behind: float | None = None
    behind_se: float | None = None


class DataPart(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the snapshot that a version was made from: `name` is train, validation or test.

    `uri` is where the rows are; `columns` maps each to its Arrow type; `start` up to and without `end` are days.
    """

    name: str
    snapshot: str
    uri: str
    columns: dict[str, str]
    rows: int
    start: str
    end: str
    label: str
    label_share: float | None


class RegistryAwayError(ConnectionError):
    """The registry's server does not answer: which one, why, and what to do meanwhile."""


class Versions(Protocol):
    """What is registered, for whoever only reads."""

    def version(self, project: str, version_or_alias: str) -> Version | None:
        """The version of that number or alias, or None."""
        ...

    def versions(self, project: str) -> list[Version]:
        """All versions of `project`, the oldest first; none when the project is unknown."""
        ...


class NoVersions:
    """A registry in which nothing was ever registered."""

    def version(self, project: str, version_or_alias: str) -> Version | None:
        return None

    def versions(self, project: str) -> list[Version]:
        return []


class Registry(Versions, Protocol):
    """Registers bundles as versions, and moves aliases between versions. Raises RegistryAwayError."""

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
        """The version that points at `bundle`, made now unless there is one already. A trial may be a mapping.

        `importances` says for each trainer of a search how much each parameter mattered.
        `reports` are files for people that go with the version. `data` is what it was made from, `against` the version
        that its gates compared it with.
        """
        ...

    def set_aliases(self, project: str, aliases: Mapping[str, str | None]) -> None:
        """Points each alias at a version, or takes it away (None). Setting the same again changes nothing."""
        ...

    def set_tags(self, project: str, version: str, tags: Mapping[str, str | None]) -> None:
        """Sets each tag of a version, or takes it away (None). Setting the same again changes nothing."""
        ...
