"""The platform `envoy`: which servers a project has behind its Envoy, from a file (docs/envoy.md)."""

import asyncio
import fcntl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from pipelines.rollout.platforms.envoy.routes_file import RoutesFile
from pipelines.rollout.platforms.envoy.servers import ModelServers
from pipelines.rollout.platforms.separate.platform import BY_REQUEST, SeparateServers
from pipelines.rollout.platforms.separate.reading import Scraped

Answer = TypeVar("Answer")
SETTLE_S = 1.0
ASK_AGAIN_S = 0.2


class Group(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One project's servers: `routes` is the file that Envoy watches, `stable` and `challenger` are URLs.

    With `entity_header`, requests with the same value of that header stick to a side. Requests are then no units by
    themselves, and a plan that counts them is refused (docs/decisions/0012).
    """

    routes: str
    stable: tuple[str, ...]
    challenger: tuple[str, ...]
    entity_header: str | None = None


def read_group(file: Path, project: str) -> Group:
    """The group of `project`. Raises ValueError for a wrong file, LookupError where it does not name the project."""
    try:
        found = msgspec.yaml.decode(file.read_bytes(), type=dict[str, Group])
    except (OSError, msgspec.DecodeError) as error:
        raise ValueError(f"{file} does not say which servers are behind Envoy: {error}") from error
    if project not in found:
        raise LookupError(f"{file} has no servers of {project}; it has: {', '.join(found) or 'none'}")
    return found[project]


def envoy_platform(
    group: Group, token: str | None = None, *, metrics_key: str | None = None, settle_s: float = SETTLE_S
) -> SeparateServers:
    """The platform of one group; `token` is what the servers' control routes ask for, `metrics_key` their counters."""
    return SeparateServers(
        RoutesFile(Path(group.routes), entity_header=group.entity_header),
        ModelServers(group.stable, group.challenger, token),
        Scraped(metrics_key),
        counted=BY_REQUEST if group.entity_header is None else frozenset(),
        is_retried=True,
        settle_s=settle_s,
    )


class FileTurn:
    """A turn that a lock on a file gives to one process at a time; the system takes it from one that is gone."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def take(self, work: Callable[[], Awaitable[Answer]]) -> Answer:
        """Waits for the lock, and works."""
        with self._path.open("a") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    await asyncio.sleep(ASK_AGAIN_S)
            return await work()
