"""Model servers and registry follow the ledger: whatever crashed between the swap and them is finished here.

The ledger alone decides who leads. Both are set to what it says, and it is asked again afterwards: whoever sets
something last has seen the last word, so two that align at once leave the same behind as one.
"""

import logging
from collections.abc import Set

from contracts.slots import LoadSlot, Observation, PromoteSlot
from pipelines.ledger import Champion
from pipelines.rollout import holdouts
from pipelines.rollout.platforms.port import Platform, PlatformError, PlatformUnreachableError, SlotRefusedError
from pipelines.tasks.sites import Site

ATTEMPTS_MAX = 20  # each is a champion that somebody else has made meanwhile
logger = logging.getLogger("paceline")


async def align_servers(site: Site) -> str | None:
    """Gives the servers the ledger's champion, if they have another. Returns why they could not be, or None.

    A rollout that runs beside another champion than the ledger's loses its slot: what it counts is worth nothing.
    """
    reason: str | None = None
    for _ in range(ATTEMPTS_MAX):
        champion = site.ledger.champion(site.project)
        if champion is None:
            return None
        try:
            async with site.platform() as platform:
                observed = await platform.observe()
                if _serves(observed, champion):
                    if site.ledger.champion(site.project) == champion:
                        return None
                    continue
                await _hand_over(site, platform, observed, champion)
        except PlatformUnreachableError as error:
            return f"the server did not answer: {error}"
        except PlatformError as error:
            reason = str(error)  # somebody else was at it: look again
    logger.warning("the servers of %s do not follow the ledger: %s", site.project, reason)
    return reason or "the champion changed all the time"


def align_aliases(site: Site, offered: Set[str] = frozenset()) -> dict[str, str | None]:
    """Sets `champion` and `previous` as the ledger has them; the alias `challenger` of an ended offer goes.

    `offered` are the versions whose rollouts have ended.
    """
    for _ in range(ATTEMPTS_MAX):
        reigns = site.ledger.reigns(site.project)
        aliases: dict[str, str | None] = {
            "champion": reigns[-1] if reigns else None,
            "previous": reigns[-2] if len(reigns) > 1 else None,
        }
        challenger = site.registry.version(site.project, "challenger")
        if challenger is not None and challenger.version in {*offered, aliases["champion"]}:
            aliases["challenger"] = None
        site.registry.set_aliases(site.project, aliases)
        if site.ledger.reigns(site.project) == reigns:
            return aliases
    raise RuntimeError(f"the champion of {site.project} changed {ATTEMPTS_MAX} times: run it again")


async def drop_all(platform: Platform, observed: Observation) -> None:
    """Takes every challenger that was `observed` off the server."""
    for rollout in (observed.rollout, *(each.rollout for each in observed.beside)):
        if rollout is not None:
            await platform.drop(rollout)


def is_at_hand(observed: Observation, version: str) -> bool:
    """Whether the server could promote `version` as it is: it waits in the challenger's slot, or is kept warm."""
    if observed.holdout is not None and observed.holdout.counts.version == version:
        return True
    return observed.challenger is not None and observed.challenger.version == version and observed.tripped is None


def _serves(observed: Observation, champion: Champion) -> bool:
    """Whether it has the version, and knows since when it leads: else somebody of an earlier reign could undo it."""
    has = observed.champion is not None and observed.champion.version == champion.version
    return has and observed.fence is not None and observed.fence >= champion.since_entry


async def _hand_over(site: Site, platform: Platform, observed: Observation, champion: Champion) -> None:
    serving = None if observed.champion is None else observed.champion.version
    if serving != champion.version:
        logger.warning("the server of %s has version %s, the ledger %s", site.project, serving, champion.version)
    if serving != champion.version and not is_at_hand(observed, champion.version):
        rollout = f"{site.project}-reign-{champion.since_entry}"
        await drop_all(platform, observed)
        version = site.registry.version(site.project, champion.version)
        if version is not None:
            site.fetch(version, f"which leads {site.project}")
        path = site.path(champion.bundle)
        await platform.load(LoadSlot(version=champion.version, bundle=champion.bundle, path=path, rollout=rollout))
    now = site.ledger.champion(site.project)
    if now != champion:
        raise SlotRefusedError(409, f"the ledger's champion changed from entry {champion.since_entry}")
    keep = holdouts.to_keep(site.ledger, champion, serving)
    fence = champion.since_entry
    await platform.promote(PromoteSlot(version=champion.version, expected=serving, holdout=keep, fence=fence))
