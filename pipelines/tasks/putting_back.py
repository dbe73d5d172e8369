"""Putting a kept version back, at once: intent → slot → ledger → servers → aliases → done.

`rollback.begun` is the intent, written first: what is to lead again, which reign is to end, who wants it and why. A
request that comes again (a task that Airflow retries, or that somebody clears) finds it and finishes that very
rollback; it never takes the rolled-back version for "the one before", and it ends no reign but the one that its person
saw.
"""

import time
from typing import Any

from contracts.slots import LoadSlot
from pipelines.ledger import Champion, Entry
from pipelines.registry.port import Version
from pipelines.rollout.platforms.port import PlatformUnreachableError, SlotRefusedError
from pipelines.tasks.aligning import align_aliases, align_servers, drop_all
from pipelines.tasks.offering import BEGUN, PUT_BACK, distrust
from pipelines.tasks.sites import Site

SLOT_ATTEMPTS_MAX = 5


async def put_back(
    site: Site, version: str | None, reason: str, request: str | None, *, by: str, reign: int | None = None
) -> tuple[str | None, dict[str, Any]]:
    """Makes a kept version the champion again, and says by which rollback, and how: see `releasing.roll_back`.

    With `reign` only that one is ended: the entry that made its champion.
    """
    started = time.monotonic()
    intent = _found(site, version, request)
    if intent is None and (leads := site.ledger.champion(site.project)) is not None and leads.version == version:
        await align_servers(site)
        same = {"version": version, "from": version, "reason": f"version {version} leads already"}
        return None, {**same, "aliases": align_aliases(site), "seconds": time.monotonic() - started}
    intent = intent or _begin(site, version, reason, request, by, reign)
    done = site.ledger.entries(site.project, (PUT_BACK,), limit=None)
    recorded = next((entry.body for entry in done if entry.key == intent.subject), None)
    if recorded is not None:
        await align_servers(site)
        return intent.subject, {**recorded, "aliases": align_aliases(site)}
    target, left = intent.body["version"], intent.body["from"]
    with site.kept():
        kept = _version(site, target)
        site.fetch(kept, f"for the rollback {intent.subject}")
        await _verify(site, kept, intent.subject)
        swapped = site.ledger.swap_champion(
            site.project,
            left,
            target,
            kept.bundle,
            subject=intent.subject,
            reason=intent.body["reason"],
            reign=intent.body["reign"],
        )
        unaligned = await align_servers(site)
    aliases = align_aliases(site)
    if not swapped:
        raise RuntimeError(f"the champion of {site.project} changed meanwhile: look at its status, and try again")
    if unaligned is not None:
        raise PlatformUnreachableError(f"version {target} leads in the ledger, and not on the server: {unaligned}")
    seconds = time.monotonic() - started
    outcome = {name: intent.body.get(name) for name in ("version", "from", "by", "reason")}
    outcome |= {"aliases": aliases, "seconds": seconds}
    return intent.subject, site.ledger.append(site.project, PUT_BACK, target, outcome, key=intent.subject).body


def _found(site: Site, version: str | None, request: str | None) -> Entry | None:
    """The rollback that this request has begun already; without one, that which leads and was never finished."""
    begun = site.ledger.entries(site.project, (BEGUN,))
    if request is not None:
        return next((entry for entry in begun if entry.body["request"] == request), None)
    champion = site.ledger.champion(site.project)
    if champion is None or not begun:
        return None
    last = begun[-1]
    swaps = site.ledger.entries(site.project, ("champion.swapped",), last.subject)
    leads = any(entry.id == champion.since_entry for entry in swaps)
    is_done = any(entry.key == last.subject for entry in site.ledger.entries(site.project, (PUT_BACK,)))
    return last if leads and not is_done and version in (None, last.body["version"]) else None


def _begin(site: Site, version: str | None, reason: str, request: str | None, by: str, only: int | None) -> Entry:
    champion = site.ledger.champion(site.project)
    if only is not None and (champion is None or champion.since_entry != only):
        raise RuntimeError(f"the champion of {site.project} changed meanwhile: look at its status, and try again")
    target = _version(site, version or _before(site, champion))
    reign = None if champion is None else champion.since_entry
    rollback = f"{site.project}-back-to-v{target.version}-{reign or 0}"
    body = {
        "version": target.version,
        "from": None if champion is None else champion.version,
        "reign": reign,
        "by": by,
        "reason": reason,
        "request": request,
    }
    return site.ledger.append(site.project, BEGUN, rollback, body, key=f"begun/{request or rollback}")


def _before(site: Site, champion: Champion | None) -> str:
    """The last version that led before, other than the champion, and was not rolled back itself."""
    for version in reversed(site.ledger.reigns(site.project)[:-1]):
        kept = site.registry.version(site.project, version)
        bundle = "" if kept is None else kept.bundle
        is_another = champion is not None and version != champion.version
        if is_another and distrust(site.ledger, site.project, version, bundle) is None:
            return version
    raise LookupError(f"{site.project} has had no champion before this one: name the version to put back")


def _version(site: Site, version: str) -> Version:
    target = site.registry.version(site.project, version)
    if target is None:
        kept = ", ".join(kept.version for kept in site.registry.versions(site.project))
        raise LookupError(f"{site.project} has no version {version}; kept are: {kept or 'none'}")
    return target


async def _verify(site: Site, kept: Version, rollback: str) -> None:
    """Has the server take the bundle before anything changes. Whoever is rolled out meanwhile loses the slot."""
    for attempt in range(1, SLOT_ATTEMPTS_MAX + 1):
        async with site.platform() as platform:
            observed = await platform.observe()
            if observed.champion is not None and observed.champion.version == kept.version:
                return
            await drop_all(platform, observed)
            if observed.holdout is not None and observed.holdout.counts.version == kept.version:
                return  # kept warm: it answers a share already
            path = site.path(kept.bundle)
            try:
                await platform.load(LoadSlot(version=kept.version, bundle=kept.bundle, path=path, rollout=rollback))
            except SlotRefusedError:  # its bundle is wrong, or a rollout has taken the slot since it was looked at
                if attempt == SLOT_ATTEMPTS_MAX:
                    raise
            else:
                return
