"""The feature flags of a project's model server: shown, and changed with a word of who and why in the ledger.

A change by the server's own route is found by whoever opens or settles a release, or watches: `audit` writes it down.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from contracts.flags import Flags, FlagsInForce, SetFlags, Variant
from contracts.hashing import content_id
from pipelines.ledger import Ledger
from pipelines.rollout.platforms.port import PlatformError
from pipelines.wiring import find_project, open_ledger, open_server, platform_name

CHANGED = "flags.changed"
logger = logging.getLogger("paceline")


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
    ledger = open_ledger()
    before, after = asyncio.run(_change(project, changes, by, reason))
    _record(ledger, project, _plain(before), _plain(after), found_by=None)
    return _plain(after)


def audit(project: str) -> dict[str, Any] | None:
    """Writes down the flags that the server goes by, where the ledger has others; what it wrote, or None.

    Of several changes since, the server knows the last; `unseen` is how many came before it, which are in its log. None
    as well where the server does not answer, or has none of these flags: this is never what ends a release.
    """
    if platform_name() != "local":
        return None
    try:
        in_force = _plain(asyncio.run(_in_force(project)))
    except PlatformError as error:
        logger.warning("the flags of %s are not compared with the ledger: %s", project, error)
        return None
    ledger = open_ledger(creates=False)
    told = ledger.entries(project, (CHANGED,))
    before = _plain(FlagsInForce()) if not told else {"flags": told[-1].body["after"], **told[-1].body}
    if (before["revision"], before["flags"]) == (in_force["revision"], in_force["flags"]):
        return None
    logger.warning("the flags of %s were changed without the ledger: revision %s", project, in_force["revision"])
    return _record(ledger, project, before, in_force, found_by="audit")


def _record(
    ledger: Ledger, project: str, before: Mapping[str, Any], after: Mapping[str, Any], found_by: str | None
) -> dict[str, Any]:
    """One entry for one state of the server, whoever writes it first."""
    body = {name: after[name] for name in ("by", "reason", "revision")}
    body |= {"before": before["flags"], "after": after["flags"], "found_by": found_by}
    body["unseen"] = max(0, after["revision"] - before["revision"] - 1)
    told = ledger.entries(project, (CHANGED,))
    if told and (told[-1].body["revision"], told[-1].body["after"]) == (after["revision"], after["flags"]):
        return told[-1].body
    key = f"{CHANGED}/{project}/{len(told)}/{content_id(dict(after))}"
    return ledger.append(project, CHANGED, project, body, key=key).body


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
