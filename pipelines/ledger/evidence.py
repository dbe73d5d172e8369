"""The evidence that a promotion names: a hash over all that the ledger holds of its rollout. Pure.

A rollout's events are its evidence: the looks with their counts, and what followed from them. Whoever promotes says
what the hash is over the events that it has decided on; the ledger compares it with its own, in the transaction of the
promotion. Who was asleep while somebody else carried the rollout on names an old hash, and is refused.
"""

import hashlib
from typing import Any

import msgspec

from contracts.hashing import canonical_json

EVENT = "rollout.event"
ENDS = ("rollout.promoted", "rollout.refused", "rollout.rolled_back", "rollout.not_chosen", "release.ended")
COMMAND, COMMAND_REFUSED = "rollout.command", "rollout.command.refused"
ENDING_COMMANDS = frozenset({"abort", "rollback"})


class Evidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`events` of a rollout, in the order in which they were recorded, and the hash over them.

    `first_entry` is the ledger's entry of the first: the reign that it is gathered against had begun before.
    `last_entry` is that of the last: what is asked of a server by less than that is out of date (`contracts.slots`).
    """

    events: int = 0
    sha256: str = ""
    first_entry: int | None = None
    last_entry: int | None = None

    def followed_by(self, entry: int, body: dict[str, Any]) -> "Evidence":
        """With one more event, the `body` of the ledger's `entry`."""
        sha256 = hashlib.sha256(self.sha256.encode() + canonical_json(body)).hexdigest()
        first = entry if self.first_entry is None else self.first_entry
        return Evidence(events=self.events + 1, sha256=sha256, first_entry=first, last_entry=entry)

    def __str__(self) -> str:
        return f"{self.events} events ({self.sha256[:12] or 'none'})"
