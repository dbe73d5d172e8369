"""Feature flags of a rollout: which clients may see a challenger, and by what their requests stick to a version.

They are messages of `/control/flags`, valid from the next request on, in all workers, and after a restart.
"""

from typing import Literal

import msgspec

Variant = Literal["champion", "challenger"]
MAXIMUM_CLIENTS = 1_000  # in each of the lists
ENTITY, CLIENT, FIELD_PREFIX, HEADER_PREFIX = "entity", "client", "field:", "header:"


class Flags(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Clients are named as their credentials name them; a server without credentials knows no clients.

    `deny`: these clients always get the champion. `allow`: where it is not empty, all other clients do. `pins`: these
    clients see the named version while a rollout has a share, whatever that share is; a pin goes before `allow`.
    `sticky_by` is what sticks to a version: `entity`, `client`, `field:NAME` of the record, or `header:NAME` of the
    request; where a request has none, its entity.
    """

    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    pins: dict[str, Variant] = {}
    sticky_by: str = ENTITY

    def __post_init__(self) -> None:
        for name, clients in (("allow", self.allow), ("deny", self.deny), ("pins", tuple(self.pins))):
            if len(clients) > MAXIMUM_CLIENTS:
                raise ValueError(f"{name} has {len(clients)} clients, expected at most {MAXIMUM_CLIENTS}")
            if not all(clients):
                raise ValueError(f"{name} has a client without a name")
        twice = sorted(set(self.deny) & ({*self.allow, *self.pins}))
        if twice:
            raise ValueError(f"{twice[0]!r} is denied, and allowed or pinned as well: take one of them away")
        if self.sticky_by in (ENTITY, CLIENT):
            return
        for prefix in (FIELD_PREFIX, HEADER_PREFIX):
            if self.sticky_by.startswith(prefix) and len(self.sticky_by) > len(prefix):
                return
        raise ValueError(f"sticky_by is {self.sticky_by!r}, expected entity, client, field:NAME or header:NAME")


class SetFlags(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Put `flags` in force, in place of all that are. `by` and `reason` go into the server's log.

    With `expected` only if the flags in force still have that revision: nobody undoes what he has not seen.
    """

    flags: Flags
    by: str
    reason: str
    expected: int | None = None

    def __post_init__(self) -> None:
        if not self.by.strip() or not self.reason.strip():
            raise ValueError("a change of the flags needs `by` and `reason`: who wants it, and why")


class FlagsInForce(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The flags that a server goes by; each change has the next `revision`. At 0 nobody has ever set any."""

    flags: Flags = Flags()
    revision: int = 0
    by: str = ""
    reason: str = ""
