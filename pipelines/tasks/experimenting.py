"""Opening an experiment: several registered versions that are to be rolled out beside each other, against one champion.

It is opened by the numbered `release.opened` of its first challenger, which has all of it: whoever opens something else
at that time has lost, or this one has. The others' entries follow, also after a crash between them.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec

from contracts.slots import MAXIMUM_CHALLENGERS, Lane
from pipelines.ledger import Champion
from pipelines.registry.port import Version
from pipelines.rollout import holdouts
from pipelines.rollout.events import Offer
from pipelines.rollout.ranking import Contender, Merit
from pipelines.tasks.offering import OPENED, Book, Opened, Said, not_ready, read_book, refusal, resume, start_experiment
from pipelines.tasks.sites import Site

ATTEMPTS_MAX = 50  # each is an opening that somebody else was faster with
logger = logging.getLogger("paceline")


def open_experiment(site: Site, versions: Sequence[str], note: str | None = None, by: str | None = None) -> Opened:
    """Opens the rollouts of `versions`, or says why not; an experiment of the same versions that runs is gone on with.

    It does not queue: where a rollout or a holdout runs, or somebody waits, it is refused.
    """
    if not 2 <= len(set(versions)) == len(versions) <= MAXIMUM_CHALLENGERS:
        listed = ", ".join(versions) or "none"
        return Opened(None, f"an experiment has 2 to {MAXIMUM_CHALLENGERS} different versions, found {listed}")
    for _ in range(ATTEMPTS_MAX):
        book = read_book(site.ledger, site.project)
        if book.running is not None and _versions_of(book) == set(versions):
            logger.info("going on with the experiment %s", book.running.body["experiment"]["name"])
            return resume(site, book.running)
        opened = _open(site, book, versions, Said.of(note, by))
        if opened is not None:
            return opened
    raise RuntimeError(f"others open rollouts of {site.project} all the time: look at its status, and try again")


def _open(site: Site, book: Book, versions: Sequence[str], said: Said) -> Opened | None:
    """None when somebody else has opened a rollout since `book` was read."""
    champion = site.ledger.champion(site.project)
    if champion is None:
        return Opened(None, f"{site.project} has no champion to compare with: release one version first")
    if (busy := _busy(site, book)) is not None:
        return Opened(None, busy)
    found: list[Version] = []
    for version in versions:
        each = site.registry.version(site.project, version)
        if each is None:
            return Opened(None, f"there is no version {version} of {site.project}")
        if (reason := refusal(site, each, said.note)) is not None:
            return Opened(None, reason)
        if (same := next((other for other in found if other.bundle == each.bundle), None)) is not None:
            return Opened(None, f"versions {same.version} and {version} are the same bundle")
        found.append(each)
    try:
        plan = site.plan.among(len(found))
    except ValueError as error:
        return Opened(None, f"the plan of {site.project} is not for {len(found)} challengers: {error}")
    names = {entry.body["experiment"]["name"] for entry in book.opened if entry.body.get("experiment")}
    experiment = f"{site.project}-x{len(names) + 1}"
    offers = [_offer(site, book, each, champion, experiment, place, len(found)) for place, each in enumerate(found)]
    for offer, each in zip(offers, found, strict=True):
        refused = not_ready(replace(site, plan=plan), offer, each)
        if refused is not None:
            return Opened(None, refused)
    contenders = [
        Contender(rollout=offer.rollout, version=each.version, merit=_merit(site, each, champion))
        for offer, each in zip(offers, found, strict=True)
    ]
    body: dict[str, Any] = {
        "name": experiment,
        "challengers": msgspec.to_builtins(offers),
        "contenders": msgspec.to_builtins(contenders),
    }
    first = {**msgspec.to_builtins(offers[0]), **said._asdict(), "experiment": body}
    key = f"opened/{len(book.opened)}"
    entry = site.ledger.append(site.project, OPENED, offers[0].rollout, first, key=key)
    if entry.subject != offers[0].rollout or (entry.body.get("experiment") or {}).get("name") != experiment:
        return None
    return start_experiment(site, entry)


def _busy(site: Site, book: Book) -> str | None:
    """Why no experiment begins now."""
    if book.running is not None:
        return (
            f"the rollout {book.running.subject} has not ended: wait for it, or abort it. An experiment does not queue"
        )
    if book.waiting:
        return f"version {book.waiting[0].body['version']} waits for its rollout: an experiment does not go before it"
    if (held := holdouts.running(site.ledger, site.project)) is not None:
        return f"the holdout of {held.rollout} compares version {held.new} with {held.old}: wait for it, or end it"
    return None


def _versions_of(book: Book) -> set[str]:
    """Those of the experiment that runs."""
    experiment = book.running.body.get("experiment") if book.running is not None else None
    return {each["version"] for each in experiment["challengers"]} if experiment else set()


def _offer(
    site: Site, book: Book, found: Version, champion: Champion, experiment: str, place: int, challengers: int
) -> Offer:
    earlier = sum(entry.body["version"] == found.version for entry in book.opened)
    return Offer(
        rollout=f"{site.project}-v{found.version}-{earlier + 1}",
        project=site.project,
        version=found.version,
        bundle=found.bundle,
        path=site.path(found.bundle),
        expected_champion=champion.version,
        lane=Lane(experiment=experiment, place=place, of=challengers),
    )


def _merit(site: Site, found: Version, champion: Champion) -> Merit:
    """What the gates found when they compared this bundle with this champion on held-out rows."""
    gain: float | None = None
    for entry in site.ledger.entries(site.project, ("gates",), found.bundle):
        if entry.body.get("champion") == champion.version:
            difference = entry.body["comparison"]["differences"].get("log_loss")
            gain = gain if difference is None else -float(difference["estimate"])
    return Merit(gain=gain, as_of=str(found.tags.get("as_of", "")))
