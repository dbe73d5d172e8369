"""A challenger's way to the lead and back: opening a rollout, running it, settling the registry, rolling back."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from contracts.slots import LoadSlot, Observation, PromoteSlot
from pipelines.governance.archive import Archive
from pipelines.ledger import Ledger, LedgerUnavailableError
from pipelines.projects import Project
from pipelines.registry.port import Registry, Version
from pipelines.rollout.controller import Offer, run_rollout
from pipelines.tasks.archiving import ensure_at_hand
from pipelines.tasks.covering import coverage_reader
from pipelines.tasks.investigating import closing_note, try_to_investigate
from pipelines.wiring import find_project, home, open_ledger, open_platform, open_registry

LEDGER_AWAY_S_MAX = 6 * 86_400.0  # below the seven days for which Airflow waits for a rollout
LEDGER_ASK_AGAIN_S = 5.0
logger = logging.getLogger("paceline")


@dataclass(frozen=True)
class Opened:
    """A rollout that may start, or the reason why not."""

    offer: dict[str, Any] | None
    reason: str = ""


def open_rollout(project: str, version: str | None = None, note: str | None = None) -> Opened:
    """Offers `version` (by default the registry's challenger) to the servers, if nothing speaks against it.

    Refused, with the reason: the champion itself; a model of older data than the champion's; a version that was rolled
    back before, without a note. An offer that was opened and has not ended is returned as it was, so that a run after a
    crash goes on with it.
    """
    ledger, registry = open_ledger(), open_registry()
    found = registry.version(project, version or "challenger")
    if found is None:
        return Opened(None, f"there is no version {version or 'with the alias challenger'} of {project}")
    champion = ledger.champion(project)
    earlier = [
        e for e in ledger.entries(project=project, kinds=("release.opened",)) if e.body["version"] == found.version
    ]
    ended = {e.subject for e in ledger.entries(project=project, kinds=("release.ended",))}
    unfinished = [e for e in earlier if e.subject not in ended]
    if unfinished:
        logger.info("going on with the rollout %s", unfinished[-1].subject)
        ensure_at_hand(project, found, f"for the rollout {unfinished[-1].subject}")
        return Opened(unfinished[-1].body)
    distrusted = _distrust(ledger, project, found.version)
    if champion is not None and (reason := _refusal(found, champion.version, registry, project, distrusted, note)):
        ledger.append(project, "release.refused", found.version, {"version": found.version, "reason": reason})
        return Opened(None, reason)
    offer = Offer(
        rollout=f"{project}-v{found.version}-{len(earlier) + 1}",
        project=project,
        version=found.version,
        bundle=found.bundle,
        path=str(home().bundles / found.bundle),
        expected_champion=None if champion is None else champion.version,
    )
    body: dict[str, Any] = msgspec.to_builtins(offer)
    ledger.append(project, "release.opened", offer.rollout, {**body, "note": note}, key=f"opened:{offer.rollout}")
    ensure_at_hand(project, found, f"for the rollout {offer.rollout}")  # after the entry, which keeps it at hand
    return Opened(body)


def _refusal(
    found: Version, champion: str, registry: Registry, project: str, distrusted: str | None, note: str | None
) -> str | None:
    if found.version == champion:
        return f"version {champion} is the champion already"
    reigning = registry.version(project, champion)
    if reigning is not None and found.tags["as_of"] < reigning.tags["as_of"]:
        return (
            f"version {found.version} was trained as of {found.tags['as_of']}, the champion {champion} as of "
            f"{reigning.tags['as_of']}: older data does not replace newer. To go back, use {project}.rollback"
        )
    if distrusted and not note:
        return (
            f"version {found.version} was {distrusted}. To offer it again, start {project}.release with the version "
            "and a note that says what was found, or close its investigation with one (paceline investigation list "
            f"{project})"
        )
    return None


def _distrust(ledger: Ledger, project: str, version: str) -> str | None:
    """Why `version` needs a person's note before it gets traffic again: it was rolled back, by itself or by hand.

    None where the investigation of its last rollback was closed: that note says what was found.
    """
    for entry in reversed(ledger.entries(project=project, kinds=("release.ended", "rollback"))):
        if entry.kind == "rollback" and entry.body["from"] == version:
            told, subject = f"rolled back by hand on {entry.at} ({entry.body['reason']})", entry.key or entry.subject
        elif entry.kind == "release.ended" and entry.body["version"] == version and entry.body["state"] != "promoted":
            told, subject = f"{entry.body['state']} on {entry.at} ({entry.body['reason']})", entry.subject
        else:
            continue
        return None if closing_note(ledger, project, subject) is not None else told
    return None


async def roll_out(
    project: str, offer: dict[str, Any], on_look: Callable[[Observation], None] | None = None
) -> dict[str, Any]:
    """Runs the rollout of `offer` to its end, from wherever the ledger says that it is, and returns how it went.

    A ledger that is away ends nothing: the share falls with its lease, and the rollout goes on when the ledger is back.

    Raises:
        LedgerUnavailableError: it was away for LEDGER_AWAY_S_MAX.
    """
    clock = asyncio.get_running_loop().time
    ends_s = clock() + LEDGER_AWAY_S_MAX
    while True:
        try:
            return await _roll_out(project, offer, on_look)
        except LedgerUnavailableError as error:
            if clock() >= ends_s:
                raise
            logger.warning("the rollout %s waits for the ledger: %s", offer["rollout"], error)
            await asyncio.sleep(LEDGER_ASK_AGAIN_S)


async def _roll_out(
    project: str, offer: dict[str, Any], on_look: Callable[[Observation], None] | None
) -> dict[str, Any]:
    found = await asyncio.to_thread(find_project, project)
    ledger = await asyncio.to_thread(open_ledger, creates=False)  # the offer is in it
    parsed = msgspec.convert({key: offer[key] for key in Offer.__struct_fields__}, Offer)
    async with open_platform(found) as platform:
        reader = coverage_reader(home().predictions(project), ledger)
        outcome = await run_rollout(platform, ledger, found.rollout, parsed, on_look=on_look, coverage=reader)
    return {"rollout": parsed.rollout, "version": parsed.version, **msgspec.to_builtins(outcome)}


def settle(project: str, outcome: dict[str, Any]) -> dict[str, Any]:
    """Brings the registry's aliases in line with the ledger, and closes the rollout there."""
    ledger = open_ledger()
    aliases = align_aliases(project, ledger, open_registry(), offered=outcome["version"])
    ledger.append(project, "release.ended", outcome["rollout"], outcome, key=f"ended:{outcome['rollout']}")
    logger.info("version %s was %s: %s", outcome["version"], outcome["state"], outcome["reason"])
    if outcome["state"] != "promoted":
        try_to_investigate(project, outcome["rollout"])
    return {**outcome, "aliases": aliases}


def align_aliases(
    project: str, ledger: Ledger, registry: Registry, offered: str | None = None
) -> dict[str, str | None]:
    """Sets `champion` and `previous` as the ledger has them; the alias `challenger` of an ended offer goes."""
    reigns = ledger.reigns(project)
    aliases: dict[str, str | None] = {
        "champion": reigns[-1] if reigns else None,
        "previous": reigns[-2] if len(reigns) > 1 else None,
    }
    challenger = registry.version(project, "challenger")
    if challenger is not None and challenger.version in (offered, aliases["champion"]):
        aliases["challenger"] = None
    registry.set_aliases(project, aliases)
    return aliases


def roll_back(project: str, version: str | None = None, reason: str = "rolled back by hand") -> dict[str, Any]:
    """Makes a kept version (by default the champion before this one) the champion again, without steps.

    An archived one is restored before.

    Raises:
        LookupError: there is no such version, or no earlier champion.
    """
    found, ledger, registry = find_project(project), open_ledger(), open_registry()
    champion = ledger.champion(project)
    if version is None:
        reigns = ledger.reigns(project)
        if len(reigns) < 2:
            raise LookupError(f"{project} has had no champion before this one: name the version to put back")
        version = reigns[-2]
    target = registry.version(project, version)
    if target is None:
        kept = ", ".join(kept.version for kept in registry.versions(project))
        raise LookupError(f"{project} has no version {version}; kept are: {kept or 'none'}")
    rollback = f"{project}-back-to-v{version}-{0 if champion is None else champion.since_entry}"
    expected = None if champion is None else champion.version
    with Archive(home().archive).removals_held():
        ensure_at_hand(project, target, f"for the rollback {rollback}")
        seconds = asyncio.run(_put_back(found, target, rollback, expected, ledger, reason))
    aliases = align_aliases(project, ledger, registry)
    outcome = {"version": version, "from": expected, "reason": reason, "aliases": aliases, "seconds": seconds}
    ledger.append(project, "rollback", version, outcome, key=rollback)
    try_to_investigate(project, rollback)
    return outcome


async def _put_back(
    project: Project, target: Version, rollback: str, expected: str | None, ledger: Ledger, reason: str
) -> float:
    clock = asyncio.get_running_loop()
    started = clock.time()
    async with open_platform(project) as platform:
        observed = await platform.observe()
        if observed.rollout is not None:
            await platform.drop(observed.rollout)
        path = str(home().bundles / target.bundle)
        await platform.load(LoadSlot(version=target.version, bundle=target.bundle, path=path, rollout=rollback))
        swapped = ledger.swap_champion(
            project.name, expected, target.version, target.bundle, subject=rollback, reason=reason
        )
        if not swapped:
            await platform.drop(rollback)
            raise RuntimeError(f"the champion of {project.name} changed meanwhile: look at its status, and try again")
        serving = None if observed.champion is None else observed.champion.version
        await platform.promote(PromoteSlot(version=target.version, expected=serving))
    return clock.time() - started
