"""What a gateway is to do with the requests of one project, and the rules by which that changes. Pure.

The rules are those of the model server's own slots (`serving/slots.py`): one rollout at a time, a share under a lease,
no way back after a trip, compare-and-swap on the champion. Times are seconds since the epoch.
"""

from typing import Literal, Self

import msgspec

from contracts.slots import HardLimits, LoadSlot, RenewLease, SetShare, Tripped
from pipelines.rollout.platforms.port import SlotRefusedError

WEIGHTS = 10_000  # of both sides together: a share is exact to a hundredth of a percent
TRIPPED_KEPT = 20
LEASE_S_MAX = 3600.0


class Named(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A model: its registry version, its bundle's id, and where that lies for the servers."""

    version: str
    bundle: str
    path: str

    def is_same(self, other: "Named | None") -> bool:
        """Whether it is the same version of the same content, wherever that lies; without a bundle, of any."""
        if other is None or self.version != other.version:
            return False
        return not self.bundle or not other.bundle or self.bundle == other.bundle


class Split(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Who is to answer. Without a lease that has not run out the challenger gets nothing.

    `champion` is what the stable servers serve since the last promotion, `phase` counts changes of share or shadow.
    `fence` and `reign` are the latest entries of the ledger by which anybody was obeyed that asked for a share, or for
    a champion.
    """

    champion: Named | None = None
    rollout: str | None = None
    challenger: Named | None = None
    share: float = 0.0
    shadow: bool = False
    sample: float = 1.0
    phase: int = 0
    changed_s: float = 0.0
    lease_s: float = 0.0
    lease_ends_s: float | None = None
    hard_limits: HardLimits = HardLimits()
    latency_floor_ms: float = 0.0
    tripped: Tripped | None = None
    tripped_rollouts: tuple[str, ...] = ()
    fence: int | None = None
    reign: int | None = None

    @property
    def weight(self) -> int:
        """The challenger's part of `WEIGHTS`; never above its share."""
        return int(self.share * WEIGHTS + 1e-9)

    @property
    def has_traffic(self) -> bool:
        """Whether the challenger gets any request, also as a copy."""
        return self.share > 0 or self.shadow

    def lease_left_s(self, now_s: float) -> float:
        """Until the lease runs out; 0 where there is none."""
        return 0.0 if self.lease_ends_s is None else self.lease_ends_s - now_s

    def placed(self, message: LoadSlot) -> Self:
        """The challenger of another rollout has the slot, without a share. Raises SlotRefusedError."""
        wanted = Named(version=message.version, bundle=message.bundle, path=message.path)
        if self.champion is not None and wanted.is_same(self.champion):
            return self
        if self.rollout is not None and self.rollout == message.rollout:
            held = self.challenger
            if held is not None and held.is_same(wanted):
                return self
            raise SlotRefusedError(
                409,
                f"rollout {self.rollout} already holds the slot with version {held.version if held else None}, asked "
                f"for was {message.version}: a rollout has one version",
            )
        if message.rollout in self.tripped_rollouts:
            raise SlotRefusedError(409, f"rollout {message.rollout} has tripped and does not come back")
        if self.rollout is not None and (self.share > 0 or self.lease_ends_s is not None):
            raise SlotRefusedError(
                409, f"rollout {self.rollout} holds the challenger's slot, share {self.share:g}: end it first"
            )
        return msgspec.structs.replace(
            self.emptied(),
            rollout=message.rollout,
            challenger=wanted,
            hard_limits=message.hard_limits,
            latency_floor_ms=message.latency_floor_ms,
        )

    def shared(self, message: SetShare, now_s: float) -> Self:
        """The challenger has this share, or shadows, under a lease. Raises SlotRefusedError."""
        _require_lease(message.lease_s)
        if not 0 <= message.share <= 1:
            raise SlotRefusedError(422, f"share is {message.share:g}, expected 0 to 1")
        if message.shadow and message.share > 0:
            raise SlotRefusedError(422, f"a challenger shadows or has a share; found shadow with {message.share:g}")
        if not 0 < message.sample <= 1:
            raise SlotRefusedError(422, f"sample is {message.sample:g}, expected more than 0 and at most 1")
        if self.champion is None:
            raise SlotRefusedError(409, "there is no champion to fall back on: promote the first version instead")
        self.require_held(message.rollout)
        fence = latest(message.fence, self.fence)
        is_other = (self.share, self.shadow) != (message.share, message.shadow)
        return msgspec.structs.replace(
            self,
            share=message.share,
            shadow=message.shadow,
            sample=message.sample,
            phase=self.phase + is_other,
            changed_s=now_s if is_other else self.changed_s,
            lease_s=message.lease_s,
            lease_ends_s=now_s + message.lease_s,
            fence=fence,
        )

    def renewed(self, message: RenewLease, now_s: float) -> Self:
        """The share for another lease. Raises SlotRefusedError."""
        _require_lease(message.lease_s)
        self.require_held(message.rollout)
        fence, ends_s = latest(message.fence, self.fence), now_s + message.lease_s
        return msgspec.structs.replace(self, lease_s=message.lease_s, lease_ends_s=ends_s, fence=fence)

    def expired(self, now_s: float) -> Self:
        """The same, or without share when the lease has run out."""
        if self.lease_ends_s is None or self.tripped is not None or now_s < self.lease_ends_s:
            return self
        late_s = now_s - self.lease_ends_s
        reason = f"the lease of {self.lease_s:g} s ran out {late_s:.1f} s ago, and nobody renewed it"
        return self.after_trip("lease", reason)

    def after_trip(self, cause: Literal["hard_limit", "lease"], reason: str) -> Self:
        """Without share and shadow, for good."""
        names = (*self.tripped_rollouts, *([] if self.rollout is None else [self.rollout]))
        return msgspec.structs.replace(
            self,
            share=0.0,
            shadow=False,
            lease_ends_s=None,
            phase=self.phase + 1,
            tripped=Tripped(cause=cause, reason=reason),
            tripped_rollouts=tuple(dict.fromkeys(names))[-TRIPPED_KEPT:],
        )

    def dropped(self, rollout: str) -> Self:
        """Without the challenger, if `rollout` holds the slot."""
        return self.emptied() if self.rollout == rollout else self

    def promoted(self, version: str, reign: int | None = None) -> Self:
        """The challenger `version` is the champion, since the ledger's entry `reign`.

        Raises SlotRefusedError where another one has the slot, or the gateway was told of a later reign.
        """
        told = latest(reign, self.reign)
        found = self if told == self.reign else msgspec.structs.replace(self, reign=told)
        if self.champion is not None and self.champion.version == version:
            return found.emptied() if self.challenger is not None and self.challenger.version == version else found
        return msgspec.structs.replace(found.emptied(), champion=self.promotable(version))

    def promotable(self, version: str) -> Named:
        """The challenger `version`, which may lead. Raises SlotRefusedError."""
        if self.challenger is None or self.challenger.version != version:
            found = None if self.challenger is None else self.challenger.version
            raise SlotRefusedError(409, f"the challenger is {found}, asked to promote was {version}: load it first")
        if self.tripped is not None:
            raise SlotRefusedError(409, f"the challenger {version} has tripped: {self.tripped.reason}")
        return self.challenger

    def emptied(self) -> Self:
        """Only the champion and since when it leads, and which rollouts have tripped."""
        return type(self)(champion=self.champion, tripped_rollouts=self.tripped_rollouts, reign=self.reign)

    def require_held(self, rollout: str) -> None:
        """Raises SlotRefusedError unless `rollout` holds the slot and has not tripped."""
        if self.rollout != rollout:
            raise SlotRefusedError(
                409, f"the challenger's slot is held by {self.rollout}, not by rollout {rollout}: load it first"
            )
        if self.tripped is not None:
            raise SlotRefusedError(409, f"rollout {rollout} has tripped: {self.tripped.reason}")


def latest(fence: int | None, obeyed: int | None) -> int | None:
    """The later of both entries. Raises SlotRefusedError where whoever asks has not read what was obeyed before."""
    if fence is None or obeyed is None:
        return obeyed if fence is None else fence
    if fence < obeyed:
        raise SlotRefusedError(
            409, f"the gateway goes by entry {obeyed} of the ledger, this was asked by entry {fence}: read it again"
        )
    return fence


def _require_lease(lease_s: float) -> None:
    if not 0 < lease_s <= LEASE_S_MAX:
        raise SlotRefusedError(422, f"lease_s is {lease_s:g}, expected more than 0 and at most {LEASE_S_MAX:g}")
