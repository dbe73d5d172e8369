"""Model servers that run already, in two groups: each is told by its own control routes what it serves."""

from collections.abc import Mapping, Sequence

from contracts.slots import LoadSlot, Observation, PromoteSlot
from pipelines.rollout.platforms.local import LocalPlatform
from pipelines.rollout.platforms.port import PlatformError, PlatformUnreachableError, SlotRefusedError
from pipelines.rollout.platforms.separate.split import Named

ATTEMPTS_MAX = 3


class ModelServers:
    """`Fleet` of servers at URLs. Those of the challenger go on running without traffic, so none is left behind."""

    def __init__(self, stable: Sequence[str], challenger: Sequence[str], token: str | None = None) -> None:
        if not stable or not challenger or set(stable) & set(challenger):
            raise ValueError(f"both groups have servers, each its own; found {list(stable)} and {list(challenger)}")
        self._stable = {url: LocalPlatform(url, token) for url in stable}
        self._challenger = {url: LocalPlatform(url, token) for url in challenger}

    async def champion(self) -> Named | None:
        """What the first stable server serves; its bundle is not known by that."""
        version = _version(await next(iter(self._stable.values())).observe())
        return None if version is None else Named(version=version, bundle="", path="")

    async def place(self, named: Named, rollout: str) -> None:
        """Makes `named` the champion of each of the challenger's servers."""
        for server in self._challenger.values():
            await _serve(server, named, f"{rollout}:placed")

    async def waiting_for(self, named: Named) -> str | None:
        """Which of the challenger's servers serves something else."""
        return await _lacking(self._challenger, named)

    async def why_gone(self, named: Named) -> str | None:
        """Why none of the challenger's servers can answer."""
        for server in self._challenger.values():
            try:
                if _version(await server.observe()) == named.version:
                    return None
            except PlatformUnreachableError:
                continue
        return f"no server of the challenger answers with version {named.version}"

    async def lead(self, named: Named) -> None:
        """One stable server after the other; each goes on answering while it loads, and swaps at once."""
        if named.path:  # else it is what they came up with
            for server in self._stable.values():
                await _serve(server, named, f"{named.version}:leads")

    async def leading(self, named: Named) -> str | None:
        """Which stable server serves something else."""
        return await _lacking(self._stable, named)

    async def placed(self) -> str | None:
        """None: servers without traffic are at rest."""

    async def remove(self, rollout: str) -> None:
        """Nothing."""

    async def servers(self) -> Mapping[str, str]:
        """All of both groups."""
        return {url: url for url in (*self._stable, *self._challenger)}

    async def aclose(self) -> None:
        """Closes the connections."""
        for server in (*self._stable.values(), *self._challenger.values()):
            await server.aclose()


async def _serve(server: LocalPlatform, named: Named, rollout: str) -> None:
    """Has one server serve `named`; whatever it holds in its challenger's slot gives way."""
    for attempt in range(ATTEMPTS_MAX):
        seen = await server.observe()
        serving = _version(seen)
        if serving == named.version:
            return
        if seen.rollout is not None:
            await server.drop(seen.rollout)
        load = LoadSlot(version=named.version, bundle=named.bundle, path=named.path, rollout=f"{rollout}:{attempt}")
        try:
            await server.load(load)
            await server.promote(PromoteSlot(version=named.version, expected=serving))
            return
        except SlotRefusedError:
            if attempt == ATTEMPTS_MAX - 1:
                raise


async def _lacking(servers: Mapping[str, LocalPlatform], named: Named) -> str | None:
    for url, server in servers.items():
        try:
            found = _version(await server.observe())
        except PlatformError as error:
            return str(error)
        if found != named.version:
            return f"{url} serves version {found}, not {named.version}"
    return None


def _version(seen: Observation) -> str | None:
    return None if seen.champion is None else seen.champion.version
