"""A holdout as the ledger tells it: it begins with a promotion under a plan that has one, and ends once.

| kind | body |
| --- | --- |
| `holdout.begun` | for people: the versions, the share, and the plan |
| `holdout.verdict` | what the judge said on a day: a `HoldoutJudgement`, with the numbers it rested on |
| `holdout.ended` | how it ended: `keep`, `rollback`, `void` or `lost`, why, and by whom |

The subject is the rollout. What runs is read from the promotion itself, so that no crash can leave a holdout that
nobody knows of.
"""

from datetime import datetime
from typing import Any

import msgspec

from contracts.slots import KeepHoldout
from pipelines.ledger import Champion, Ledger
from pipelines.rollout.events import Offered
from pipelines.rollout.plan import Holdout
from pipelines.rollout.story import EVENT, lengthen

BEGUN, VERDICT, ENDED = "holdout.begun", "holdout.verdict", "holdout.ended"
PROMOTED, SWAPPED = "rollout.promoted", "champion.swapped"


class Begun(msgspec.Struct, frozen=True, kw_only=True):
    """A holdout: `rollout` made version `new` the champion in place of `old`, at `since`, by the entry `reign`."""

    project: str
    rollout: str
    new: str
    old: str
    reign: int
    since: datetime
    plan: Holdout


def of_champion(ledger: Ledger, champion: Champion | None) -> Begun | None:
    """The holdout that the champion's promotion asks for, ended or not; None where its plan has none."""
    if champion is None:
        return None
    swap = ledger.entries(champion.project, (SWAPPED,), after=champion.since_entry - 1, limit=1)
    if not swap or swap[0].id != champion.since_entry:
        return None  # it leads again after a promotion that was undone
    return _of_rollout(ledger, champion.project, swap[0].subject, champion.since_entry, swap[0].at)


def running(ledger: Ledger, project: str) -> Begun | None:
    """The holdout of the champion that leads, until it has ended."""
    found = of_champion(ledger, ledger.champion(project))
    return None if found is None or ended(ledger, found) is not None else found


def unfinished(ledger: Ledger, project: str) -> Begun | None:
    """The last holdout that has not ended: also that of a version that leads no more, which has to be closed."""
    promoted = ledger.entries(project, (PROMOTED,))
    if not promoted:
        return None
    swaps = ledger.entries(project, (SWAPPED,), promoted[-1].subject)
    if not swaps:
        return None
    found = _of_rollout(ledger, project, promoted[-1].subject, swaps[-1].id, swaps[-1].at)
    return None if found is None or ended(ledger, found) is not None else found


def ended(ledger: Ledger, begun: Begun) -> dict[str, Any] | None:
    """How it ended, or None."""
    found = ledger.entries(begun.project, (ENDED,), begun.rollout)
    return found[0].body if found else None


def decided(ledger: Ledger, begun: Begun) -> dict[str, Any] | None:
    """The verdict that ends it, which may not have been carried out; None while it waits."""
    verdicts = ledger.entries(begun.project, (VERDICT,), begun.rollout)
    return next((entry.body for entry in verdicts if entry.body["verdict"] != "wait"), None)


def begin(ledger: Ledger, begun: Begun) -> None:
    """Tells people that it has begun."""
    ledger.append(begun.project, BEGUN, begun.rollout, msgspec.to_builtins(begun), key=f"{begun.rollout}/holdout/begun")


def end(ledger: Ledger, begun: Begun, how: str, reason: str, by: str) -> dict[str, Any]:
    """Writes how it ended, and returns what counts: the first."""
    body = {"how": how, "reason": reason, "by": by, "version": begun.new, "old": begun.old}
    return ledger.append(begun.project, ENDED, begun.rollout, body, key=f"{begun.rollout}/holdout/ended").body


def to_keep(ledger: Ledger, champion: Champion, serving: str | None) -> KeepHoldout | None:
    """What a server that still has `serving` is to keep when it is given the ledger's champion."""
    begun = of_champion(ledger, champion)
    if begun is None or begun.old != serving or ended(ledger, begun) is not None:
        return None
    return KeepHoldout(rollout=begun.rollout, share=begun.plan.share)


def _of_rollout(ledger: Ledger, project: str, rollout: str, reign: int, since: datetime) -> Begun | None:
    events = ledger.entries(project, (EVENT,), rollout, limit=1)
    first = lengthen(events[0].body) if events else None
    if not isinstance(first, Offered) or first.plan.holdout is None or first.offer.expected_champion is None:
        return None
    return Begun(
        project=project,
        rollout=rollout,
        new=first.offer.version,
        old=first.offer.expected_champion,
        reign=reign,
        since=since,
        plan=first.plan.holdout,
    )
