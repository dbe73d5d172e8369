"""What becomes of a holdout: outcomes that have matured, the judge's verdict, and its end on the servers.

Verdict → servers → ledger. A verdict that ends it is written first, so whoever comes after a crash carries that one
out, and does not judge anew.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.monitoring.predictions import read_holdout
from pipelines.projects import Project
from pipelines.rollout import holdouts
from pipelines.rollout.holdout import Side, judge_holdout
from pipelines.rollout.holdouts import Begun
from pipelines.rollout.platforms.port import PlatformUnreachableError
from pipelines.tasks import grading, offering
from pipelines.tasks.investigating import try_to_investigate
from pipelines.tasks.putting_back import put_back
from pipelines.tasks.sites import Site, open_site
from pipelines.wiring import find_project, home, read_ledger

logger = logging.getLogger("paceline")


@dataclass(frozen=True)
class Measured:
    """Both versions, and for how many days they have answered side by side."""

    new: Side
    old: Side
    days: int


def judge(project: str, as_of: str) -> dict[str, Any]:
    """Judges the project's holdout by the outcomes that are known at `as_of`, and ends it when there is a verdict.

    One look a day: the same date again gives the same answer. Safe to repeat; what a crash interrupted is finished.

    Raises:
        PlatformError: the server refuses the end, or does not answer; the next run finishes it.
    """
    found = find_project(project)
    begun = holdouts.unfinished(read_ledger(), project)
    if begun is None:
        return {"state": "none", "reason": f"no holdout of {project} runs"}
    site = open_site(project)
    outcome = judge_at(site, begun, as_of, lambda: measure(found, site, begun, as_of))
    logger.info("the holdout of %s: %s, %s", begun.rollout, outcome["state"], outcome["reason"])
    if outcome["state"] == "rollback":
        try_to_investigate(project, outcome["rollback"])
    return outcome


def judge_at(site: Site, begun: Begun, as_of: str, measured: Callable[[], Measured]) -> dict[str, Any]:
    """`judge` with the parts of `site`; `measured` is asked only where there is something to judge."""
    final = holdouts.decided(site.ledger, begun)
    if final is None:
        if (ending := asyncio.run(_over(site, begun))) is not None:
            return _ended(site, begun, *ending)
        found = measured()
        judgement = judge_holdout(begun.plan, found.new, found.old, found.days)
        body = {"as_of": as_of, **msgspec.to_builtins(judgement)}
        key = f"{begun.rollout}/holdout/verdict/{as_of}"
        final = site.ledger.append(site.project, holdouts.VERDICT, begun.rollout, body, key).body
    if final["verdict"] == "wait":
        return {"state": "wait", "rollout": begun.rollout, "reason": final["reason"], "verdict": final}
    return {**_carry_out(site, begun, final), "verdict": final}


def end(project: str, reason: str, by: str) -> dict[str, Any]:
    """Ends the holdout because a person wants it: the champion gets all entities.

    Raises:
        LookupError: none runs.
        PlatformError: the server does not answer; nothing has ended then.
    """
    return end_at(open_site(project), reason, by)


def end_at(site: Site, reason: str, by: str) -> dict[str, Any]:
    """`end` with the parts of `site`."""
    begun = holdouts.unfinished(site.ledger, site.project)
    if begun is None:
        raise LookupError(f"no holdout of {site.project} runs")
    asyncio.run(_end_on_server(site, begun))
    return _ended(site, begun, "ended", reason, by)


def next_offer(project: str) -> dict[str, Any] | None:
    """Who waits for the end of the holdout, and may be opened now."""
    return offering.next_offer(open_site(project))


def _carry_out(site: Site, begun: Begun, final: dict[str, Any]) -> dict[str, Any]:
    reason = final["reason"]
    if final["verdict"] == "keep":
        asyncio.run(_end_on_server(site, begun))
        return _ended(site, begun, "keep", reason)
    request = f"{offering.BY_HOLDOUT}{begun.rollout}"
    is_begun = any(entry.body["request"] == request for entry in site.ledger.entries(site.project, (offering.BEGUN,)))
    if not is_begun and not _leads(site, begun):
        return _ended(site, begun, "void", f"version {begun.new} leads no more, and was worse: {reason}")
    told = f"the holdout of {begun.rollout}: {reason}"
    rollback, _ = asyncio.run(put_back(site, begun.old, told, request, by="judge", reign=begun.reign))
    return {**_ended(site, begun, "rollback", reason), "rollback": rollback}


async def _over(site: Site, begun: Begun) -> tuple[str, str] | None:
    """Why there is nothing left to judge, or None."""
    if not _leads(site, begun):
        return "void", f"version {begun.new} leads no more"
    try:
        async with site.platform() as platform:
            observed = await platform.observe()
    except PlatformUnreachableError as error:
        logger.warning("the server of %s does not say whether it keeps its holdout: %s", site.project, error)
        return None
    leads = observed.champion is not None and observed.champion.version == begun.new
    if leads and (observed.holdout is None or observed.holdout.rollout != begun.rollout):
        return "lost", f"the server does not keep version {begun.old} any more: its state or the bundle was gone"
    return None


def _leads(site: Site, begun: Begun) -> bool:
    champion = site.ledger.champion(site.project)
    return champion is not None and champion.since_entry == begun.reign


async def _end_on_server(site: Site, begun: Begun) -> None:
    async with site.platform() as platform:
        await platform.end_holdout(begun.rollout)


def _ended(site: Site, begun: Begun, how: str, reason: str, by: str = "judge") -> dict[str, Any]:
    body = holdouts.end(site.ledger, begun, how, reason, by)
    return {"state": body["how"], "rollout": begun.rollout, "reason": body["reason"], "by": body["by"]}


# -- outcomes ----------------------------------------------------------------------------------------------------------


def measure(found: Project, site: Site, begun: Begun, as_of: str) -> Measured:
    """The losses of all entities whose outcome is known at `as_of`. Days count from the first event of the holdout."""
    today = date.fromisoformat(as_of)
    log = read_holdout(home().predictions(found.name), begun.rollout, new=begun.new, old=begun.old, since=begun.since)
    for segment in log.damaged:
        logger.error("a segment of the prediction log cannot be read, and was left out: %s", segment)
    if log.table.num_rows == 0:
        days = max(0, (today - begun.since.date()).days)
        return Measured(Side(begun.new, 0, np.empty(0)), Side(begun.old, 0, np.empty(0)), days)
    first = min(datetime.fromisoformat(text).date() for text in log.table["event_time"].to_pylist())
    labelled = grading.labelled(found, site.ledger, log.table, first, today)
    new = _side(labelled, begun, "champion", begun.new)
    old = _side(labelled, begun, "holdout", begun.old)
    return Measured(new, old, max(0, (today - first).days))


def _side(labelled: pa.Table, begun: Begun, slot: str, version: str) -> Side:
    mine = labelled.filter(pc.equal(labelled["slot"], slot))
    found = grading.in_chance_order(grading.by_entity(mine, begun.plan), begun.rollout)
    entities = pc.count_distinct(mine["entity"]).as_py()
    return Side(version, entities, found["loss_mean"].to_numpy())
