"""What must hold after a run, whatever the fault was; each finding is a sentence. Pure."""

from collections.abc import Iterator, Sequence

from benchmarks.chaos.installation import BROKEN, CHAMPION, LEASE_S, SOUND
from benchmarks.chaos.run import ENDED, Answer, Seen
from pipelines.ledger import Entry
from pipelines.rollout.machine import fold
from pipelines.rollout.story import EVENT, OUTCOMES, lengthen

CLOCKS_S = 0.5  # between a client's due time, a kill and the server's next turn, on a busy machine


def findings(seen: Seen) -> list[str]:
    """All that does not hold; none, if the run was survived."""
    if seen.gave_up:
        return [seen.gave_up]
    return [*_agreement(seen), *_record(seen), *_promotion(seen), *avoidable(seen), *kept_shares(seen)]


def _agreement(seen: Seen) -> Iterator[str]:
    """Exactly one champion: the ledger's, the server's, the one that it remembers, and the registry's."""
    found = seen.final
    leaders = {name: found[name] for name in ("ledger", "server", "remembered")} | {
        "alias champion": found["aliases"]["champion"]
    }
    if len(set(leaders.values())) != 1:
        yield f"the champion is not the same everywhere: {leaders}"
    before = found["reigns"][-2] if len(found["reigns"]) > 1 else None
    if found["aliases"]["previous"] != before:
        yield f"the alias previous is {found['aliases']['previous']}, the ledger's champion before is {before}"
    if found["share"] or found["held"] is not None:
        yield f"after the end the server holds rollout {found['held']} with share {found['share']}"


def _record(seen: Seen) -> Iterator[str]:
    """No entry is lost or changed, and the events lead to the outcome."""
    entries = seen.final_entries
    if seen.ledger_is_sound != "ok":
        yield f"SQLite finds the ledger damaged: {seen.ledger_is_sound}"
    if [entry.id for entry in entries] != list(range(1, len(entries) + 1)):
        yield "the ledger's sequence has gaps"
    by_id = {entry.id: entry for entry in entries}
    lost = [number for number, entry in seen.entries.items() if by_id.get(number) != entry]
    if lost:
        yield f"entries that were there are gone or other ones: {lost}"
    outcomes = [entry for entry in entries if entry.kind in OUTCOMES]
    ended = [entry for entry in entries if entry.kind == ENDED]
    if len(outcomes) != 1 or len(ended) != 1:
        yield f"one rollout has {len(outcomes)} outcomes and {len(ended)} ends"
        return
    state, _ = fold([lengthen(entry.body) for entry in entries if entry.kind == EVENT])
    if f"rollout.{state.phase}" != outcomes[0].kind:
        yield f"the events lead to {state.phase}, the outcome is {outcomes[0].kind}"
    if ended[0].body["state"] != state.phase:
        yield f"the release ended as {ended[0].body['state']}, its rollout as {state.phase}"
    led = seen.final["ledger"]
    expected = CHAMPION if state.phase != "promoted" else _offered(seen)
    if led != expected:
        yield f"the rollout was {state.phase}, and version {led} leads in place of {expected}"


def _promotion(seen: Seen) -> Iterator[str]:
    is_bad = seen.case.challenger == "broken" or seen.bad_since is not None
    if is_bad and seen.final["ledger"] != CHAMPION:
        yield f"a challenger that is {seen.case.challenger} was promoted"


def avoidable(seen: Seen) -> list[str]:
    """Errors that a client saw while the server's process was there."""
    errors = [answer for answer in seen.answers if answer.status != 200]
    unexcused = [answer for answer in errors if not _is_within(answer, seen.downs)]
    if not unexcused:
        return []
    first = unexcused[0]
    said = f"{first.status} {first.error} after {first.ended_at - first.due_at:.2f} s"
    return [f"{len(unexcused)} of {len(seen.answers)} clients saw an error that was to be avoided, first: {said}"]


def _is_within(answer: Answer, downs: Sequence[tuple[float, float]]) -> bool:
    return any(answer.due_at <= up + CLOCKS_S and answer.ended_at >= down - CLOCKS_S for down, up in downs)


def kept_shares(seen: Seen) -> list[str]:
    """Deaths of the controller that the share outlived for longer than the lease."""
    found = []
    for death, late_s in shares_after_death(seen):
        if late_s > LEASE_S + CLOCKS_S:
            found.append(
                f"the challenger still answered {late_s:.2f} s after the controller died "
                f"(at {death - seen.started_at:.2f} s), its lease is {LEASE_S:g} s"
            )
    return found


def shares_after_death(seen: Seen) -> list[tuple[float, float]]:
    """When the controller died, and for how long a challenger without any controller went on answering."""
    found = []
    for place, (_, death) in enumerate(seen.lives):
        if death is None:
            continue
        successor = seen.lives[place + 1][0] if place + 1 < len(seen.lives) else float("inf")
        due = [a.due_at for a in seen.answers if a.slot == "challenger" and death < a.due_at < successor]
        if due:
            found.append((death, max(due) - death))
    return found


def _offered(seen: Seen) -> str:
    return BROKEN if seen.case.challenger == "broken" else SOUND


def outcome_of(entries: Sequence[Entry]) -> str:
    """promoted, rolled_back, refused, or nothing."""
    return next((entry.kind.removeprefix("rollout.") for entry in entries if entry.kind in OUTCOMES), "nothing")
