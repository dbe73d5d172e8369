"""What happens in a rollout, and what is to be done about it: the events and actions of the machine. Frozen values."""

from typing import Literal

import msgspec

from contracts.slots import HardLimits, Lane, Observation
from pipelines.rollout.coverage import Covered
from pipelines.rollout.plan import Plan
from pipelines.rollout.quality import Graded

CommandName = Literal["pause", "resume", "advance", "share", "abort", "rollback", "approve", "reject"]
LEAST_SHARE = 0.0001  # what a platform can divide by: a hundredth of a percent


class Offer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A challenger that wants to lead: `version` of `project` in the bundle at `path`, against `expected_champion`.

    `rollout` names this attempt and salts the assignment of entities. No `expected_champion` asks for the bootstrap.
    With a `lane` it is one of several challengers of an experiment.
    """

    rollout: str
    project: str
    version: str
    bundle: str
    path: str
    expected_champion: str | None
    lane: Lane | None = None


class Offered(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """The rollout begins. The plan is part of it, so that a changed configuration does not change a running rollout."""

    offer: Offer
    plan: Plan
    at_s: float


class Loaded(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """The server has verified the challenger's bundle and holds it in the challenger's slot."""

    at_s: float


class LoadRefused(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """The server will not hold the challenger."""

    reason: str
    at_s: float


class ShareRefused(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """The server will not give the share, or renew its lease, and has not tripped."""

    reason: str
    at_s: float


class Looked(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """What both slots show. `at_s` of all events is the controller's clock, seconds since the epoch.

    `coverage` and `outcomes` are what was read from the prediction log meanwhile; None: nothing new.
    """

    observation: Observation
    at_s: float
    coverage: Covered | None = None
    outcomes: Graded | None = None


class Unreachable(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """The server did not answer."""

    reason: str
    at_s: float


class PromotionDone(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """The ledger and the server both have the challenger as champion."""

    at_s: float


class PromotionRefused(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """The compare-and-swap failed; neither ledger nor server has the challenger as champion."""

    reason: str
    at_s: float


class Chosen(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Of several challengers this one goes on, and no other is on the server any more."""

    reason: str
    at_s: float


class NotChosen(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Of several challengers another one goes on. Nothing was found against this one."""

    reason: str
    at_s: float


class Aborted(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Somebody wants the rollout to end. Comes too late for one that is being promoted."""

    reason: str
    by: str
    at_s: float


class Command(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a person wants of a running rollout: the body of a ledger entry `rollout.command`.

    `phase` is the label of the phase that the person saw; None where it does not matter. `share` is that which the
    command of this name wants, as a part of 1; no other command has one.
    """

    command: CommandName
    by: str
    reason: str
    phase: str | None = None
    share: float | None = None

    def __post_init__(self) -> None:
        for name in ("by", "reason"):
            if not getattr(self, name).strip():
                raise ValueError(f"a command says `{name}`: who wants it, and why; found nothing")
        if (self.command == "share") != (self.share is not None):
            raise ValueError(f"the command share says which, and no other does; found {self.command} of {self.share}")
        if self.share is not None and not LEAST_SHARE <= self.share <= 1:
            raise ValueError(f"share lies between {LEAST_SHARE:g} and 1, found {self.share:g}; abort takes all of it")


class Commanded(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Somebody wants something; `entry` is the ledger's number of the command, by which it is obeyed once."""

    entry: int
    command: Command
    at_s: float


Event = (
    Offered
    | Loaded
    | LoadRefused
    | ShareRefused
    | Looked
    | Unreachable
    | PromotionDone
    | PromotionRefused
    | Chosen
    | NotChosen
    | Aborted
    | Commanded
)


class Load(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Put the challenger into its slot."""

    offer: Offer
    hard_limits: HardLimits


class SetShare(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Give the challenger a share of the entities, or let it shadow a sample of the requests, under a lease.

    With a `lane` of those in it alone.
    """

    share: float
    shadow: bool
    lease_s: float
    sample: float = 1.0
    lane: Lane | None = None


class RenewLease(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Keep the share that is in force."""

    lease_s: float


class Promote(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Swap the champion: first in the ledger, then on the server."""

    version: str
    expected: str | None


class Drop(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """All traffic to the champion, the challenger's slot empty, the ledger as it was."""

    reason: str


Action = Load | SetShare | RenewLease | Promote | Drop
