"""A challenger's way to the lead and back: opening a rollout, running it, settling the registry, rolling back.

Several challengers at a time are an experiment: `open_experiment` opens it, and all that follows takes its offer, which
has an offer for each of them, as that of one challenger.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from contracts.slots import Observation
from pipelines.ledger import LedgerUnavailableError
from pipelines.rollout import holdouts
from pipelines.rollout.controller import Offer, Outcome, run_rollout
from pipelines.rollout.experiment import Contest, run_all
from pipelines.rollout.platforms.turns import TurnLostError
from pipelines.rollout.ranking import Contender
from pipelines.tasks import experimenting, offering
from pipelines.tasks.aligning import align_aliases, align_servers
from pipelines.tasks.covering import coverage_reader
from pipelines.tasks.flags import audit
from pipelines.tasks.grading import outcome_reader
from pipelines.tasks.investigating import try_to_investigate
from pipelines.tasks.offering import Opened
from pipelines.tasks.putting_back import put_back
from pipelines.tasks.sites import Site, open_site
from pipelines.wiring import find_project, home, open_ledger, open_platform, open_turn, plan_of

__all__ = ["Opened", "next_offer", "open_experiment", "open_rollout", "roll_back", "roll_out", "settle", "settle_at"]

LEDGER_AWAY_S_MAX = 6 * 86_400.0  # below the seven days for which Airflow waits for a rollout
LEDGER_ASK_AGAIN_S = 5.0
logger = logging.getLogger("paceline")


def open_rollout(project: str, version: str | None = None, note: str | None = None, by: str | None = None) -> Opened:
    """Offers `version` (by default the registry's challenger) to the servers, if nothing speaks against it.

    Refused, with the reason: the champion itself; a model of older data than the champion's; a version that was rolled
    back before, without a note that is new. A rollout that was opened and has not ended is returned as it was, so that
    a run after a crash goes on with it.

    A project has one rollout at a time. While another one has not ended, the plan's `when_busy` says what happens: the
    offer waits in the queue, ends the other one, or is refused. Where it waits, what is returned is the rollout that is
    to be run before it: two that run one rollout do no harm, and one that nobody runs would keep the queue waiting.

    `by` is who offers it, and is kept with the note. Raises ValueError for a note of nobody.
    """
    site = open_site(project)
    asyncio.run(align_servers(site))
    audit(project)
    return offering.open_rollout(site, version, note, by)


def open_experiment(project: str, versions: Sequence[str], note: str | None = None, by: str | None = None) -> Opened:
    """Offers several versions at once, each a lane of its own; at most one of them leads in the end.

    Refused as by `open_rollout`, for any of them; and while a rollout or a holdout of the project runs, since an
    experiment does not queue. An experiment of the same versions that has not ended is returned as it was.
    """
    site = open_site(project)
    asyncio.run(align_servers(site))
    audit(project)
    return experimenting.open_experiment(site, versions, note, by)


def next_offer(project: str) -> dict[str, Any] | None:
    """`version` and `note` of who waits and may be opened now; None while a rollout runs, and when nobody waits."""
    return offering.next_offer(open_site(project))


async def roll_out(
    project: str, offer: dict[str, Any], on_look: Callable[[Observation], None] | None = None
) -> dict[str, Any]:
    """Runs the rollout of `offer` to its end, from wherever the ledger says that it is, and returns how it went.

    A ledger that is away ends nothing: the share falls with its lease, and the rollout goes on when the ledger is back.
    On platforms where whoever judges also counts, one process at a time does; the others wait for what comes of it.

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
        except TurnLostError as error:
            logger.warning("the rollout %s waits for its turn again: %s", offer["rollout"], error)


async def _roll_out(
    project: str, offer: dict[str, Any], on_look: Callable[[Observation], None] | None
) -> dict[str, Any]:
    found = await asyncio.to_thread(find_project, project)
    ledger = await asyncio.to_thread(open_ledger, creates=False)  # the offer is in it
    parsed = [_parsed(each) for each in offer.get("challengers", [offer])]
    contenders = [msgspec.convert(each, Contender) for each in offer.get("contenders", [])]
    contest = Contest(ledger, project, offer["rollout"], contenders) if contenders else None
    plan = plan_of(found) if contest is None else plan_of(found).among(len(parsed))

    async def run(each: Offer) -> Outcome:
        async with open_platform(found, each.rollout) as platform:
            reader = coverage_reader(home().predictions(project), ledger)
            outcomes = outcome_reader(found, ledger)
            return await run_rollout(
                platform, ledger, plan, each, on_look=on_look, coverage=reader, outcomes=outcomes, contest=contest
            )

    outcomes = [
        {"rollout": each.rollout, "version": each.version, **msgspec.to_builtins(outcome)}
        for each, outcome in zip(parsed, await open_turn(found).take(lambda: run_all(run, parsed)), strict=True)
    ]
    return outcomes[0] if contest is None else _together(offer, outcomes)


def _parsed(offer: dict[str, Any]) -> Offer:
    return msgspec.convert({key: offer[key] for key in Offer.__struct_fields__ if key in offer}, Offer)


def _together(offer: dict[str, Any], outcomes: list[dict[str, Any]]) -> dict[str, Any]:
    """How an experiment went: promoted with one of them, else rolled back."""
    told = {"rollout": offer["rollout"], "version": offer["version"], "state": "rolled_back", "challengers": outcomes}
    told["reason"] = "; ".join(f"version {each['version']} {each['state']}: {each['reason']}" for each in outcomes)
    told["seconds"] = max(each["seconds"] for each in outcomes)
    for each in outcomes:
        if each["state"] == "promoted":
            told |= {"state": "promoted", "version": each["version"]}
    return told


def settle(project: str, outcome: dict[str, Any]) -> dict[str, Any]:
    """Brings servers and registry in line with the ledger, and closes the rollout there; `next` may be opened now."""
    settled = settle_at(open_site(project), outcome)
    audit(project)
    for each in outcome.get("challengers", [outcome]):
        if each["state"] not in ("promoted", "not_chosen"):
            try_to_investigate(project, each["rollout"])
    return settled


def settle_at(site: Site, outcome: dict[str, Any]) -> dict[str, Any]:
    """`settle` with the parts of `site`. A server that does not answer follows the ledger when it is next asked."""
    unaligned = asyncio.run(align_servers(site))
    each_outcome = outcome.get("challengers", [outcome])
    aliases = align_aliases(site, offered={each["version"] for each in each_outcome})
    for each in [*each_outcome, outcome]:  # that of an experiment as a whole last: all of its rollouts have ended then
        rollout = each["rollout"]
        site.ledger.append(site.project, offering.ENDED, rollout, each, key=f"ended:{rollout}")
    if outcome["state"] == "promoted" and (held := holdouts.running(site.ledger, site.project)) is not None:
        holdouts.begin(site.ledger, held)
    logger.info("version %s was %s: %s", outcome["version"], outcome["state"], outcome["reason"])
    return {**outcome, "aliases": aliases, "unaligned": unaligned, "next": offering.next_offer(site)}


def roll_back(
    project: str,
    version: str | None = None,
    reason: str = "rolled back by hand",
    request: str | None = None,
    *,
    by: str,
) -> dict[str, Any]:
    """Makes a kept version (by default the last champion that was not rolled back) the champion again, without steps.

    An archived one is restored before. The same `request` again finishes what it began, and begins nothing else. Who
    wants it and why is in the ledger.

    Raises:
        ValueError: nobody is named, or no reason.
        LookupError: there is no such version, or no earlier champion.
        RuntimeError: somebody else has made another champion meanwhile.
        PlatformError: the server refuses the version, or does not answer; the same request again finishes it.
    """
    if not by.strip() or not reason.strip():
        raise ValueError("a rollback says who wants it, and why, for the ledger; found nothing")
    rollback, outcome = asyncio.run(put_back(open_site(project), version, reason, request, by=by.strip()))
    if rollback is not None:
        try_to_investigate(project, rollback)
    return outcome
