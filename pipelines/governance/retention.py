"""What stays at hand, what goes to the archive, and what is cleaned up; each with its reason. Pure.

Registered versions are never deleted: the archive gives their bundle and snapshot back byte for byte. What is never
archived: the champion, the one before it, the challenger, what an open rollout offers, and what a prediction refers to
of which the log still keeps every row. The sample that the log keeps of older days refers to archived versions too, and
finds them in the archive.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import msgspec

Kind = Literal["bundles", "snapshots", "artifacts", "cache", "drafts", "archive"]
Action = Literal["keep", "archive", "delete"]


class RetentionPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How many of the last versions that led stay at hand, whatever refers to them, and for how many days anything
    does that nothing refers to: a version since it was registered or restored, an unregistered bundle or snapshot, an
    artifact, a cached file since it was last used."""

    hot_versions: Annotated[int, msgspec.Meta(ge=2, le=1000)] = 5
    unused_days: Annotated[int, msgspec.Meta(ge=1, le=3650)] = 14


class Holding(msgspec.Struct, frozen=True, kw_only=True):
    """A registered version. `age_days` counts from its registration, `restored_days` from its last restore."""

    version: str
    bundle: str
    snapshot: str
    aliases: tuple[str, ...] = ()
    age_days: float
    restored_days: float | None = None


class References(msgspec.Struct, frozen=True, kw_only=True):
    """Who needs which version: `reigns` (the present champion last, as the ledger has them), the open rollout of a
    version, and how many predictions of it the log keeps whole."""

    reigns: tuple[str, ...] = ()
    rollouts: Mapping[str, str] = {}
    predictions: Mapping[str, int] = {}


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of a version, or of something else that is stored, and why."""

    name: str
    action: Action
    reason: str


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """A folder or file that belongs to no registered version. `needed_by` is who refers to it all the same, if any."""

    kind: Kind
    name: str
    bytes: int
    age_days: float
    needed_by: str | None = None


def claim(version: str, references: References) -> str | None:
    """Who must have `version` at hand, whatever its age; None where nobody must."""
    reigns = references.reigns
    if reigns and version == reigns[-1]:
        return "it is the champion"
    if len(reigns) > 1 and version == reigns[-2]:
        return "it was the champion before this one: a rollback goes back to it"
    if (rollout := references.rollouts.get(version)) is not None:
        return f"the rollout {rollout} offers it"
    if rows := references.predictions.get(version, 0):
        return f"{rows:,} predictions refer to it, of days that the log keeps whole"
    return None


def decide(policy: RetentionPolicy, holdings: Sequence[Holding], references: References) -> tuple[Decision, ...]:
    """For each version whether it stays at hand or goes to the archive, and why; the newest first."""
    last = _last_distinct(references.reigns)
    newest = sorted(holdings, key=lambda holding: int(holding.version), reverse=True)
    return tuple(_decide(policy, holding, references, last) for holding in newest)


def decide_snapshots(
    policy: RetentionPolicy, holdings: Sequence[Holding], decisions: Sequence[Decision]
) -> tuple[Decision, ...]:
    """For each snapshot of a version: it stays as long as one version with it does."""
    kept = {decision.name for decision in decisions if decision.action == "keep"}
    users: dict[str, list[str]] = {}
    for holding in holdings:
        users.setdefault(holding.snapshot, []).append(holding.version)
    found = []
    for snapshot, versions in sorted(users.items()):
        needed = sorted((version for version in versions if version in kept), key=int)
        reason = (
            f"of the kept {_listed(needed)}" if needed else f"only of the archived {_listed(sorted(versions, key=int))}"
        )
        found.append(Decision(name=snapshot, action="keep" if needed else "archive", reason=reason))
    return tuple(found)


def decide_unregistered(policy: RetentionPolicy, stored: Sequence[Stored]) -> tuple[Decision, ...]:
    """What becomes of what no registered version refers to, in the given order."""
    return tuple(_decide_stored(policy, each) for each in stored)


def _decide(policy: RetentionPolicy, holding: Holding, references: References, last: Sequence[str]) -> Decision:
    reason = claim(holding.version, references) or _lesser_claim(policy, holding, last)
    if reason is not None:
        return Decision(name=holding.version, action="keep", reason=reason)
    if holding.version in last:
        place = last.index(holding.version) + 1
        why = f"{place} versions have led since it did, with itself; {policy.hot_versions} stay"
    else:
        why = f"it never led, and was registered {holding.age_days:.0f} days ago"
    return Decision(name=holding.version, action="archive", reason=f"{why}; nothing refers to it")


def _lesser_claim(policy: RetentionPolicy, holding: Holding, last: Sequence[str]) -> str | None:
    """What keeps a version at hand that nobody must have."""
    if holding.aliases:
        return f"the registry's alias {' and '.join(holding.aliases)} points at it"
    if holding.version in last[: policy.hot_versions]:
        return f"it is among the last {policy.hot_versions} that led"
    if holding.restored_days is not None and holding.restored_days < policy.unused_days:
        return f"it was restored {holding.restored_days:.0f} days ago, less than {policy.unused_days}"
    if holding.version not in last and holding.age_days < policy.unused_days:
        return f"it was registered {holding.age_days:.0f} days ago, less than {policy.unused_days}"
    return None


def _decide_stored(policy: RetentionPolicy, stored: Stored) -> Decision:
    if stored.needed_by is not None:
        return Decision(name=stored.name, action="keep", reason=stored.needed_by)
    if stored.age_days < policy.unused_days:
        reason = f"last used {stored.age_days:.0f} days ago, less than {policy.unused_days}"
        return Decision(name=stored.name, action="keep", reason=reason)
    reason = f"no version refers to it, and it was last used {stored.age_days:.0f} days ago"
    # a snapshot cannot be had again when its source has changed since, and costs little beside its neighbours
    return Decision(name=stored.name, action="archive" if stored.kind == "snapshots" else "delete", reason=reason)


def _last_distinct(reigns: Sequence[str]) -> list[str]:
    """The versions that have led, the present champion first, each once."""
    return list(dict.fromkeys(reversed(reigns)))


def _listed(versions: Sequence[str]) -> str:
    return f"version{'s' if len(versions) > 1 else ''} {', '.join(versions)}"
