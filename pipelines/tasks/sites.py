"""What a release works with: one project's plan, ledger, registry and model servers."""

from collections.abc import Callable, Set
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from pipelines.governance.archive import Archive
from pipelines.ledger import Ledger
from pipelines.registry.port import Registry, Version
from pipelines.rollout.plan import Plan
from pipelines.rollout.platforms.port import Platform
from pipelines.rollout.staging import Staging
from pipelines.tasks.archiving import ensure_at_hand
from pipelines.wiring import find_project, home, open_ledger, open_platform, open_registry, plan_of


@dataclass(frozen=True)
class Site:
    """The parts that a release of `project` is made of; `fetch` brings a version's bundle to hand, with the reason.

    `path` is where a bundle lies when it is at hand; while `kept` is held, nothing that is at hand goes away.
    `predictions` is the prediction log, None where there is none to look at; `supports` says what the platform can do,
    by the names of `pipelines.rollout.features`, None where the rollout itself has to ask.
    `staging` is where a challenger is tried before, None where it is not.
    """

    project: str
    plan: Plan
    ledger: Ledger
    registry: Registry
    platform: Callable[[], AbstractAsyncContextManager[Platform]]
    fetch: Callable[[Version, str], object]
    path: Callable[[str], str]
    kept: Callable[[], AbstractContextManager[object]]
    predictions: Path | None = None
    supports: Callable[[], Set[str]] | None = None
    staging: Staging | None = None


def open_site(project: str) -> Site:
    """The project's real parts. Raises LookupError when there is no such project."""
    found = find_project(project)
    return Site(
        project=project,
        plan=plan_of(found),
        ledger=open_ledger(creates=False),  # whatever a release or a rollback goes on with is in it
        registry=open_registry(),
        platform=lambda: open_platform(found),
        fetch=lambda version, reason: ensure_at_hand(project, version, reason),
        path=lambda bundle: str(home().bundles / bundle),
        kept=lambda: Archive(home().archive).removals_held(),
        predictions=home().predictions(project),
        supports=lambda: open_platform(found).supports(),
        staging=found.staging,
    )
