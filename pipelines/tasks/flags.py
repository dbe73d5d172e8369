"""The feature flags of a project's model server: shown, and changed with a word of who and why in the ledger."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from contracts.flags import Flags, FlagsInForce, SetFlags, Variant
from pipelines.wiring import find_project, open_ledger, open_server

CHANGED = "flags.changed"


def show(project: str) -> dict[str, Any]:
    """The flags that the server of `project` goes by, with who set them and why.

    Raises:
        PlatformError: the server does not answer, or refuses.
    """
    return _plain(asyncio.run(_in_force(project)))


def change(
    project: str,
    *,
    by: str,
    reason: str,
    allow: Sequence[str] | None = None,
    deny: Sequence[str] | None = None,
    pins: Mapping[str, Variant] | None = None,
    sticky_by: str | None = None,
) -> dict[str, Any]:
    """Changes what is given and leaves the rest; the server first, then the ledger. The same again is safe.

    Raises:
        ValueError: the flags contradict each other, or nobody is named, or no reason.
        PlatformError: the server does not answer, refuses, or has got other flags since they were read.
    """
    changes: dict[str, Any] = {
        "allow": None if allow is None else tuple(allow),
        "deny": None if deny is None else tuple(deny),
        "pins": None if pins is None else dict(pins),
        "sticky_by": sticky_by,
    }
    before, after = asyncio.run(_change(project, changes, by, reason))
    body = {"by": by, "reason": reason, "before": before.flags, "after": after.flags, "revision": after.revision}
    open_ledger().append(project, CHANGED, project, body)
    return _plain(after)


def _plain(flags: FlagsInForce) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(flags))
    return found


async def _in_force(project: str) -> FlagsInForce:
    async with open_server(find_project(project)) as platform:
        return await platform.flags()


async def _change(project: str, changes: Mapping[str, Any], by: str, reason: str) -> tuple[FlagsInForce, FlagsInForce]:
    async with open_server(find_project(project)) as platform:
        before = await platform.flags()
        given = {name: value for name, value in changes.items() if value is not None}
        flags = Flags(**{**msgspec.structs.asdict(before.flags), **given})
        return before, await platform.set_flags(SetFlags(flags=flags, by=by, reason=reason, expected=before.revision))


def pins_of(texts: Sequence[str]) -> dict[str, Variant]:
    """Pins from texts like `acme=challenger`. Raises ValueError for one that is none."""
    found: dict[str, Variant] = {}
    for text in texts:
        client, _, variant = text.rpartition("=")
        match variant:
            case "champion" | "challenger" if client:
                found[client] = variant
            case _:
                raise ValueError(f"found the pin {text!r}, expected CLIENT=champion or CLIENT=challenger")
    return found
