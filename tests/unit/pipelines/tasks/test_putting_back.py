import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.ledger import Ledger
from pipelines.rollout.platforms.port import PlatformUnreachableError
from pipelines.tasks.aligning import align_aliases, align_servers
from pipelines.tasks.offering import BEGUN, open_rollout
from pipelines.tasks.putting_back import put_back
from pipelines.tasks.sites import Site
from tests.fixtures.platforms import CrashedError, Fuse, SimulatedClock, SimulatedPlatform
from tests.fixtures.sites import PROJECT, MemoryRegistry, make_site

AS_OF = {"1": "2013-01-07", "2": "2013-01-14", "3": "2013-01-21"}
CALLS = {"load", "promote", "drop", "observe", "append", "swap_champion", "set_aliases"}


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(f"sqlite:///{tmp_path}/ledger.db") as opened:
        opened.swap_champion(PROJECT, None, "1", "b1", "bootstrap", "the first")
        opened.swap_champion(PROJECT, "1", "2", "b2", "flights-v2-1", "won")
        yield opened


@pytest.fixture
def platform() -> SimulatedPlatform:
    return SimulatedPlatform(SimulatedClock(), champion="2")


@pytest.fixture
def site(ledger: Ledger, platform: SimulatedPlatform) -> Site:
    return make_site(ledger, platform, MemoryRegistry(AS_OF))


def back(site: Site, version: str | None = None, request: str | None = None) -> dict[str, Any]:
    return asyncio.run(put_back(site, version, "numbers look odd", request, by="ada"))[1]


def states(site: Site, platform: SimulatedPlatform) -> tuple[str | None, ...]:
    """Who leads in the ledger, on the server, by the alias, and who did before by the alias."""
    champion, found = site.ledger.champion(PROJECT), site.registry.version
    aliases = (found(PROJECT, "champion"), found(PROJECT, "previous"))
    return (
        None if champion is None else champion.version,
        None if platform.champion is None else platform.champion.version,
        *(None if alias is None else alias.version for alias in aliases),
    )


def test_the_champion_before_leads_again_everywhere(site: Site, platform: SimulatedPlatform) -> None:
    done = back(site)
    assert (done["version"], done["from"], done["by"], done["reason"]) == ("1", "2", "ada", "numbers look odd")
    (intent,) = site.ledger.entries(PROJECT, (BEGUN,))
    assert (intent.body["by"], intent.body["reason"]) == ("ada", "numbers look odd")
    assert states(site, platform) == ("1", "1", "1", "2")
    assert platform.challenger is None


def test_the_same_request_again_changes_nothing(site: Site, platform: SimulatedPlatform) -> None:
    first = back(site, request="manual__1")
    entries = site.ledger.entries()
    assert back(site, request="manual__1") == first  # and does not take the rolled-back version for the one before
    assert (site.ledger.entries(), states(site, platform)) == (entries, ("1", "1", "1", "2"))


def test_a_cleared_request_does_not_end_a_later_reign(site: Site, platform: SimulatedPlatform) -> None:
    back(site, request="manual__1")
    site.ledger.swap_champion(PROJECT, "1", "3", "b3", "flights-v3-1", "won")
    back(site, request="manual__1")
    assert states(site, platform) == ("3", "3", "3", "1")


def test_the_rolled_back_version_is_not_the_one_before(site: Site, platform: SimulatedPlatform) -> None:
    back(site)
    with pytest.raises(LookupError, match="name the version to put back"):
        back(site)
    assert back(site, "2")["version"] == "2"  # a person may name it
    assert states(site, platform) == ("2", "2", "2", "1")


def test_a_version_that_leads_already_is_only_aligned(site: Site, platform: SimulatedPlatform) -> None:
    entries = site.ledger.entries()
    assert back(site, "2")["reason"] == "version 2 leads already"
    assert (site.ledger.entries(), states(site, platform)) == (entries, ("2", "2", "2", "1"))


@pytest.mark.parametrize("request_id", [None, "manual__1"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_rollback_that_crashes_at_any_call_is_finished_by_the_next_run(
    tmp_path: Path, after: bool, request_id: str | None
) -> None:
    at, crashed = 0, True
    while crashed:
        platform = SimulatedPlatform(SimulatedClock(), champion="2")
        with Ledger.open(f"sqlite:///{tmp_path}/{at}.db") as ledger:
            ledger.swap_champion(PROJECT, None, "1", "b1", "bootstrap", "the first")
            ledger.swap_champion(PROJECT, "1", "2", "b2", "flights-v2-1", "won")
            registry, fuse = MemoryRegistry(AS_OF), Fuse(at, after=after)
            guarded = [fuse.guard(part, CALLS) for part in (ledger, platform, registry)]
            try:
                back(make_site(*guarded), request=request_id)
                crashed = False
            except CrashedError:
                site = make_site(ledger, platform, registry)
                if request_id is not None or not ledger.entries(kinds=["rollback"]):  # else done, never again
                    back(site, request=request_id)
                assert states(site, platform) == ("1", "1", "1", "2"), at
                assert ledger.reigns(PROJECT) == ["1", "2", "1"], at
                assert len(ledger.entries(kinds=["rollback"])) == 1, at
        at += 1
    assert at > 8


def test_a_champion_that_somebody_else_made_meanwhile_stays(site: Site, platform: SimulatedPlatform) -> None:
    ledger = site.ledger

    class Slow:
        def __getattr__(self, name: str) -> Any:
            return getattr(ledger, name)

        def swap_champion(self, *arguments: Any, **options: Any) -> bool:
            ledger.swap_champion(PROJECT, "2", "3", "b3", "flights-v3-1", "won")
            ledger.swap_champion(PROJECT, "3", "2", "b2", "again", "won")  # the same version, another reign
            return ledger.swap_champion(*arguments, **options)

    with pytest.raises(RuntimeError, match="changed meanwhile"):
        back(make_site(Slow(), platform, site.registry))
    assert states(site, platform) == ("2", "2", "2", "3")


def test_a_server_that_is_silent_is_put_right_by_the_next_run(site: Site, platform: SimulatedPlatform) -> None:
    class FallsSilent:
        def __getattr__(self, name: str) -> Any:
            return getattr(platform, name)

        async def promote(self, message: Any) -> None:
            raise PlatformUnreachableError("read timeout")

    with pytest.raises(PlatformUnreachableError, match="leads in the ledger, and not on the server"):
        back(make_site(site.ledger, FallsSilent(), site.registry), request="manual__1")
    assert states(site, platform)[:2] == ("1", "2")
    back(site, request="manual__1")
    assert states(site, platform) == ("1", "1", "1", "2")


def test_a_version_that_was_put_back_from_needs_a_note_also_when_the_rollback_crashed(site: Site) -> None:
    crashing = Fuse(1, after=True).guard(site.ledger, {"append", "swap_champion"})
    with pytest.raises(CrashedError):
        back(make_site(crashing, SimulatedPlatform(SimulatedClock(), champion="2"), site.registry))
    assert site.ledger.champion(PROJECT).version == "1"  # type: ignore[union-attr]
    assert "was rolled back by hand" in open_rollout(site, "2").reason


def test_a_new_server_is_given_the_champion(site: Site) -> None:
    empty = SimulatedPlatform(SimulatedClock(), champion=None)
    assert asyncio.run(align_servers(make_site(site.ledger, empty, site.registry))) is None
    assert empty.champion is not None
    assert empty.champion.version == "2"


def test_aliases_that_were_set_by_a_slower_hand_are_set_right(site: Site) -> None:
    registry, ledger = site.registry, site.ledger

    class Slow(MemoryRegistry):
        """Between reading the ledger and setting the aliases another champion is made, and its aliases set."""

        raced = False

        def set_aliases(self, project: str, aliases: Any) -> None:
            if not self.raced:
                self.raced = True
                ledger.swap_champion(PROJECT, "2", "3", "b3", "flights-v3-1", "won")
                registry.set_aliases(project, {"champion": "3", "previous": "2"})
            registry.set_aliases(project, aliases)

    align_aliases(make_site(ledger, None, Slow(AS_OF)))
    assert registry.version(PROJECT, "champion").version == "3"  # type: ignore[union-attr]
