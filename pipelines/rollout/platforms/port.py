"""What a rollout asks of whatever runs the model servers. Every method is safe to repeat.

PlatformError
├── SlotRefusedError          the server understood, and refuses
└── PlatformUnreachableError  no answer, or none that can be read: what was asked may have been done
"""

from collections.abc import Set
from typing import Protocol

from contracts.slots import LoadSlot, Observation, PromoteSlot, RenewLease, SetShare


class PlatformError(RuntimeError):
    """Something that was asked of the model server did not come to be."""


class SlotRefusedError(PlatformError):
    """The server refuses what was asked; `detail` is its reason, `status` that of HTTP."""

    def __init__(self, status: int, detail: str) -> None:
        self.status = status
        self.detail = detail
        super().__init__(f"{detail} ({status})")


class PlatformUnreachableError(PlatformError):
    """The server did not answer; what was asked may have been done or not."""


class Platform(Protocol):
    """Both slots of one project's model server. All methods raise SlotRefusedError and PlatformUnreachableError."""

    def supports(self) -> Set[str]:
        """What it can do, by the names of `pipelines.rollout.features`; asked without a network."""
        ...

    async def load(self, message: LoadSlot) -> None:
        """Puts a bundle into the challenger's slot, verified and without a share."""
        ...

    async def set_share(self, message: SetShare) -> None:
        """Gives the challenger a share, or its shadow, under a lease."""
        ...

    async def renew_lease(self, message: RenewLease) -> None:
        """Keeps the share for another lease."""
        ...

    async def promote(self, message: PromoteSlot) -> None:
        """Makes the challenger the champion, if the champion is still the expected one."""
        ...

    async def drop(self, rollout: str) -> None:
        """Empties the challenger's slot if `rollout` holds it."""
        ...

    async def end_holdout(self, rollout: str) -> None:
        """Gives the champion all entities, if it was `rollout` that left some on the old one."""
        ...

    async def observe(self) -> Observation:
        """Both slots at this instant."""
        ...
