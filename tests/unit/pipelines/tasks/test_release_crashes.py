"""A release that crashes at any of its calls, to ledger, server or registry, is finished or undone by the next run."""

from typing import Any

import pytest

from pipelines.ledger import Ledger
from pipelines.tasks.offering import read_book
from tests.fixtures.interleavings import LEDGER_CALLS, PLAN, PLATFORM_CALLS, memory_ledger, release
from tests.fixtures.platforms import CrashedError, Fuse, SimulatedClock, SimulatedPlatform
from tests.fixtures.sites import MemoryRegistry, make_site

AS_OF = {"1": "2013-01-07", "2": "2013-01-14"}
WRITES = LEDGER_CALLS - {"entries", "champion", "reigns", "evidence"}


class CrashingRegistry(MemoryRegistry):
    """Each alias is a call of its own."""

    def __init__(self, fuse: Fuse) -> None:
        super().__init__(AS_OF)
        self.aliases = {"champion": "1", "challenger": "2"}
        self.setting = fuse.guard(super(), {"set_alias"})

    def set_alias(self, alias: str, version: str | None) -> None:
        self.setting.set_alias(alias, version)


def play(ledger: Ledger, project: str, fuse: Fuse, error_rate: float, downtime_s: float = 0) -> bool:
    """A release that crashes where `fuse` blows, and a second one that does not; whether the first had crashed."""
    ledger.swap_champion(project, None, "1", "b1", "bootstrap", "the first")
    server = SimulatedPlatform(SimulatedClock(), requests_per_s=30, error_rates={"2": error_rate})
    registry = CrashingRegistry(fuse)
    crashing: Any = fuse.guard(server, PLATFORM_CALLS)
    crashed = False
    try:
        release(make_site(fuse.guard(ledger, WRITES), crashing, registry, PLAN, project), crashing, "2")
    except CrashedError:
        crashed = True
    fuse.at = None
    server.clock.pass_by(downtime_s)
    release(make_site(ledger, server, registry, PLAN, project), server, "2")
    champion = ledger.champion(project)
    assert champion is not None
    assert server.champion is not None
    assert champion.version == server.champion.version == registry.aliases["champion"], fuse
    assert registry.aliases.get("previous") == ("1" if champion.version == "2" else None)
    assert (server.challenger, server.share, read_book(ledger, project).running) == (None, 0, None)
    assert len(ledger.entries(project, ("release.ended",))) == 1
    return crashed


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("error_rate", "downtime_s"), [(0.0, 0), (0.0, 60), (0.7, 0)], ids=["sound", "late", "broken"])
def test_one_champion_is_left_everywhere(after: bool, error_rate: float, downtime_s: float) -> None:
    leads, at = [], 0
    with memory_ledger() as ledger:
        while play(ledger, f"flights-{at}", Fuse(at, after=after), error_rate, downtime_s):
            champion = ledger.champion(f"flights-{at}")
            assert champion is not None
            leads.append(champion.version)
            at += 1
    assert len(leads) > 20
    assert set(leads) == {(0.0, 0): {"2"}, (0.0, 60): {"1", "2"}, (0.7, 0): {"1"}}[error_rate, downtime_s]
