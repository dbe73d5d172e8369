"""Opening rollouts, one of a project at a time: what speaks against an offer, and the queue of those that wait.

| kind | body |
| --- | --- |
| `release.queued` | a version waits while another is rolled out: its ticket |
| `release.preflight` | what the check before the first step foretold |
| `release.staging` | how the version did on staging, where the project has that |
| `release.opened` | a rollout may run: its offer, who has made it, and the note that this person gave |
| `release.refused` | an offer that is not opened, with the reason; `ticket` when it had waited |
| `release.ended` | the outcome; now the next may be opened |

Openings are numbered, and the ledger gives each number once: of two that open at once one wins, the other looks again.
"""

import logging
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from pipelines.ledger import Entry, Ledger, evidence
from pipelines.registry.port import Version
from pipelines.rollout import holdouts
from pipelines.rollout.events import Offer
from pipelines.tasks import preflighting, staging
from pipelines.tasks.investigating import closing_note
from pipelines.tasks.sites import Site

OPENED, ENDED, QUEUED, REFUSED = "release.opened", "release.ended", "release.queued", "release.refused"
BEGUN, PUT_BACK = "rollback.begun", "rollback"
BY_HOLDOUT = "holdout/"  # how the request of a rollback begins that nobody asked for
ATTEMPTS_MAX = 50  # each is an opening that somebody else was faster with
logger = logging.getLogger("paceline")


@dataclass(frozen=True)
class Opened:
    """The rollout that is to be run now, or the reason why there is none.

    It may be another one than that which was asked for: `waits` is the version that is in the queue behind it then.
    """

    offer: dict[str, Any] | None
    reason: str = ""
    waits: str | None = None


@dataclass(frozen=True)
class Book:
    """What the ledger has of a project's releases: the openings, the one that runs, and who waits, in order.

    Of an experiment several have not ended: `unended`, of which `running` is one.
    """

    opened: tuple[Entry, ...]
    running: Entry | None
    waiting: tuple[Entry, ...]
    unended: tuple[Entry, ...] = ()


class Said(NamedTuple):
    """The note that a person gave with an offer, if any, and who has made the offer."""

    note: str | None
    by: str | None

    @classmethod
    def of(cls, note: str | None, by: str | None, ticket: Entry | None = None) -> "Said":
        """Of an offer that waited: what was said then, unless there is another note.

        Raises:
            ValueError: a note of nobody.
        """
        if ticket is not None and note in (None, "", ticket.body["note"]):
            return cls(ticket.body["note"], ticket.body.get("by"))
        if note and not (by or "").strip():
            raise ValueError("a note names who gives it; found nobody")
        return cls(note, by)


def read_book(ledger: Ledger, project: str) -> Book:
    entries = ledger.entries(project, (OPENED, ENDED, QUEUED, REFUSED))
    opened = tuple(entry for entry in entries if entry.kind == OPENED)
    ended = {entry.subject for entry in entries if entry.kind == ENDED}
    waiting: dict[int, Entry] = {}
    for entry in entries:
        if entry.kind == QUEUED:
            waiting[entry.id] = entry
        elif entry.kind == OPENED:
            version = entry.body["version"]
            waiting = {number: each for number, each in waiting.items() if each.body["version"] != version}
        elif entry.kind == REFUSED:
            waiting.pop(entry.body.get("ticket", 0), None)
    running = [entry for entry in opened if entry.subject not in ended]
    return Book(
        opened=opened,
        running=running[-1] if running else None,
        waiting=tuple(waiting.values()),
        unended=tuple(running),
    )


def open_rollout(site: Site, version: str | None = None, note: str | None = None, by: str | None = None) -> Opened:
    """Opens the rollout of `version`, or says what is to be run before it, or why it is refused."""
    found = site.registry.version(site.project, version or "challenger")
    if found is None:
        return Opened(None, f"there is no version {version or 'with the alias challenger'} of {site.project}")
    for _ in range(ATTEMPTS_MAX):
        book = read_book(site.ledger, site.project)
        if (mine := next((each for each in book.unended if each.body["version"] == found.version), None)) is not None:
            logger.info("going on with the rollout %s", mine.subject)
            return resume(site, mine)
        ticket = next((each for each in book.waiting if each.body["version"] == found.version), None)
        said = Said.of(note, by, ticket)
        if reason := refusal(site, found, said.note):
            return _refuse(site, found.version, reason, ticket)
        if (overtaken := _overtaken(book)) is not None:
            older, reason = overtaken
            refused = _refuse(site, older.body["version"], reason, older)
            if older is ticket:
                return refused
            continue
        held = holdouts.running(site.ledger, site.project) if book.running is None else None
        if held is not None:
            return _after_holdout(site, book, found, said, ticket, held)
        if book.running is None and not book.waiting:
            opened = _open(site, book, found, said, None)
        elif ticket is None:
            opened = _enqueue(site, book, found, said)
        elif book.running is not None:
            reason = f"version {found.version} waits until the rollout {book.running.subject} has ended"
            logger.info("%s: %s; going on with that one", site.project, reason)
            return resume(site, book.running, reason, waits=found.version)
        else:
            opened = _open_first(site, book, ticket)
        if opened is not None:
            return opened
    raise RuntimeError(f"others open rollouts of {site.project} all the time: look at its status, and try again")


def next_offer(site: Site) -> dict[str, Any] | None:
    """The version, with its note, whose turn it is now; None while a rollout or a holdout runs, and if nobody waits."""
    book = read_book(site.ledger, site.project)
    if book.running is not None or not book.waiting or holdouts.running(site.ledger, site.project) is not None:
        return None
    first = book.waiting[0].body
    return {"version": first["version"], "note": first["note"]}


def refusal(site: Site, found: Version, note: str | None) -> str | None:
    """Why `found` gets no traffic now, or None."""
    champion = site.ledger.champion(site.project)
    if champion is None:
        return None
    if found.version == champion.version:
        return f"version {champion.version} is the champion already"
    reigning = site.registry.version(site.project, champion.version)
    if reigning is not None and found.tags["as_of"] < reigning.tags["as_of"]:
        return (
            f"version {found.version} was trained as of {found.tags['as_of']}, the champion {champion.version} as of "
            f"{reigning.tags['as_of']}: older data does not replace newer. To go back, use {site.project}.rollback"
        )
    distrusted = distrust(site.ledger, site.project, found.version, found.bundle)
    if distrusted is None:
        return None
    used = _used(site.ledger, site.project, found, note) if note else None
    if note and used is None:
        return None
    told = f"version {found.version} was {distrusted}"
    told += f", and this note is that of {used}, which was before" if used else ""
    return (
        f"{told}. To offer it again, start {site.project}.release with the version and a note that says what was "
        f"found, or close its investigation with one (paceline investigation list {site.project})"
    )


def distrust(ledger: Ledger, project: str, version: str, bundle: str) -> str | None:
    """Why `version` needs a person's note before it gets traffic again: it was rolled back, by itself or by hand.

    Also under another number: what was rolled back is the bundle. None where the investigation of its last rollback
    was closed: that note says what was found.
    """
    entries = ledger.entries(project, (OPENED, BEGUN, PUT_BACK, "champion.swapped", *evidence.ENDS))
    bundles = {entry.subject: entry.body.get("bundle") for entry in entries if entry.kind == OPENED}
    requests = {entry.subject: entry.body["request"] or "" for entry in entries if entry.kind == BEGUN}
    for entry in reversed(entries):
        body, subject = entry.body, entry.subject
        if entry.kind == PUT_BACK:
            is_meant, subject = body["from"] == version, entry.key or subject
            how = _how(requests.get(subject, ""))
        elif entry.kind == "champion.swapped":
            left = body["previous"] or {}
            is_meant = subject in requests and (version == left.get("version") or bundle == left.get("bundle"))
            how = _how(requests.get(subject, ""))
        elif entry.kind in evidence.ENDS:
            how = body.get("state") or entry.kind.removeprefix("rollout.")
            # not chosen beside a better one is nothing against it
            is_meant = how not in ("promoted", "not_chosen") and (
                body["version"] == version or bundles.get(subject) == bundle
            )
        else:
            continue
        if is_meant:
            told = f"{how} on {entry.at} ({body['reason']})"
            return told if closing_note(ledger, project, subject) is None else None
    return None


def _how(request: str) -> str:
    return f"rolled back by {'its holdout' if request.startswith(BY_HOLDOUT) else 'hand'}"


def _used(ledger: Ledger, project: str, found: Version, note: str) -> str | None:
    """The rollout that was opened with this very note: a task that is retried or cleared brings it again."""
    for entry in ledger.entries(project, (OPENED,)):
        is_same = found.version == entry.body["version"] or found.bundle == entry.body.get("bundle")
        if is_same and (entry.body.get("note") or "").strip() == note.strip():
            return entry.subject
    return None


def _enqueue(site: Site, book: Book, found: Version, said: Said) -> Opened | None:
    """A ticket for `found`, unless the plan's `when_busy` refuses it; None: it waits, look again."""
    policy, why = site.plan.when_busy, "others were there before"
    if (running := book.running) is not None:
        why = f"the rollout {running.subject} has not ended"
        if policy == "refuse":
            reason = f"{why}, and the plan's when_busy is refuse: wait for it, or end it"
            return _refuse(site, found.version, reason, None)
        if policy == "supersede" and all(_is_newer(site, found, each.body["version"]) for each in book.unended):
            why = f"superseded by version {found.version}"
            body = {"command": "abort", "by": "paceline", "reason": why, "phase": None}
            for each in book.unended:
                site.ledger.append(site.project, evidence.COMMAND, each.subject, body, f"{each.subject}/superseded")
    _queue(site, found, said, why)
    return None


def _queue(site: Site, found: Version, said: Said, why: str) -> None:
    earlier = site.ledger.entries(site.project, (QUEUED,), found.version)
    body = {"version": found.version, **said._asdict(), "as_of": found.tags["as_of"], "reason": why, "state": "queued"}
    site.ledger.append(site.project, QUEUED, found.version, body, key=f"queued/{found.version}/{len(earlier)}")


def _after_holdout(
    site: Site, book: Book, found: Version, said: Said, ticket: Entry | None, held: holdouts.Begun
) -> Opened:
    """No rollout runs, and yet `found` has to wait: outcomes have not said yet whether the champion should stay."""
    why = (
        f"the holdout of {held.rollout} compares version {held.new} with {held.old} until outcomes have matured: wait "
        f"for its verdict, or end it (paceline holdout {site.project} --end REASON)"
    )
    if ticket is None:
        if site.plan.when_busy == "refuse":
            return _refuse(site, found.version, why, None)
        _queue(site, found, said, why)
    return Opened(None, f"version {found.version} waits: {why}", waits=found.version)


def _open_first(site: Site, book: Book, mine: Entry) -> Opened | None:
    """Opens whose turn it is: `mine`, or one before it. None when somebody else was faster, or it was refused."""
    first = book.waiting[0]
    version, said = first.body["version"], Said.of(None, None, first)
    found = site.registry.version(site.project, version)
    reason = f"there is no version {version} any more" if found is None else refusal(site, found, said.note)
    if found is None or reason is not None:
        _refuse(site, version, reason or "", first)
        return None
    opened = _open(site, book, found, said, first)
    if opened is None or first.id == mine.id:
        return opened
    if opened.offer is None:  # refused: the next one is the first now
        return None
    waits = str(mine.body["version"])
    return Opened(opened.offer, f"version {waits} waits behind version {version}", waits)


def _overtaken(book: Book) -> tuple[Entry, str] | None:
    """One that waits and has lost its turn, and why: of the offers without a person's note only the newest keeps it,
    since it has seen the data of the older ones. Each with a note keeps its own."""
    line = [each for each in book.waiting if not each.body["note"]]
    if len(line) < 2:
        return None
    newest = max(line, key=lambda each: (each.body["as_of"], int(each.body["version"])))
    as_of, version = newest.body["as_of"], newest.body["version"]
    return next(each for each in line if each is not newest), f"version {version} waits as well, as of {as_of}: newer"


def _open(site: Site, book: Book, found: Version, said: Said, ticket: Entry | None) -> Opened | None:
    champion = site.ledger.champion(site.project)
    earlier = sum(entry.body["version"] == found.version for entry in book.opened)
    offer = Offer(
        rollout=f"{site.project}-v{found.version}-{earlier + 1}",
        project=site.project,
        version=found.version,
        bundle=found.bundle,
        path=site.path(found.bundle),
        expected_champion=None if champion is None else champion.version,
    )
    # the first champion has no steps
    if champion is not None and (reason := not_ready(site, offer, found)) is not None:
        return _refuse(site, found.version, reason, ticket)
    body = {**msgspec.to_builtins(offer), **said._asdict()}
    entry = site.ledger.append(site.project, OPENED, offer.rollout, body, key=f"opened/{len(book.opened)}")
    if entry.subject != offer.rollout:
        return None  # somebody else has opened a rollout since the book was read
    return resume(site, entry)  # after the entry, which keeps the bundle at hand


def not_ready(site: Site, offer: Offer, found: Version) -> str | None:
    """What speaks against the first step: the plan at this traffic, or how the version did on staging."""
    if (reason := preflighting.refusal(site, offer.rollout, found.version)) is not None or site.staging is None:
        return reason
    site.fetch(found, f"for the staging of {offer.rollout}")
    return staging.refusal(site, offer.rollout, found.version, found.bundle)


def resume(site: Site, opened: Entry, reason: str = "", waits: str | None = None) -> Opened:
    """What is to be run: the rollout that was `opened`, or the experiment that it is a part of."""
    if opened.body.get("experiment"):
        return start_experiment(site, opened, reason, waits)
    _fetch(site, opened.body["version"], opened.subject)
    offer = {name: opened.body[name] for name in Offer.__struct_fields__ if name in opened.body}
    return Opened(offer, reason, waits)


def start_experiment(site: Site, opened: Entry, reason: str = "", waits: str | None = None) -> Opened:
    """All challengers of the experiment that `opened` is the opening of, each with an opening of its own."""
    experiment = opened.body["experiment"]
    known = {entry.subject for entry in site.ledger.entries(site.project, (OPENED,))}
    for offer in experiment["challengers"]:
        if offer["rollout"] not in known:
            said = Said(opened.body["note"], opened.body.get("by"))
            body = {**offer, **said._asdict(), "experiment": experiment}
            key = f"opened/{experiment['name']}/{offer['rollout']}"
            site.ledger.append(site.project, OPENED, offer["rollout"], body, key=key)
        _fetch(site, offer["version"], offer["rollout"])
    versions = ", ".join(offer["version"] for offer in experiment["challengers"])
    told = {"rollout": experiment["name"], "project": site.project, "version": versions}
    return Opened({**told, **{name: experiment[name] for name in ("challengers", "contenders")}}, reason, waits)


def _fetch(site: Site, version: str, rollout: str) -> None:
    found = site.registry.version(site.project, version)
    if found is not None:
        site.fetch(found, f"for the rollout {rollout}")


def _refuse(site: Site, version: str, reason: str, ticket: Entry | None) -> Opened:
    body: dict[str, Any] = {"version": version, "reason": reason}
    if ticket is None:
        site.ledger.append(site.project, REFUSED, version, body)
    else:
        site.ledger.append(site.project, REFUSED, version, {**body, "ticket": ticket.id}, key=f"refused/{ticket.id}")
    return Opened(None, reason)


def _is_newer(site: Site, found: Version, running: str) -> bool:
    other = site.registry.version(site.project, running)
    return other is None or (found.tags["as_of"], int(found.version)) > (other.tags["as_of"], int(other.version))
