"""The ledger's folder goes away in the middle of a rollout: nothing is decided, the lease falls, and it goes on."""

import asyncio
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.ledger import Ledger, LedgerUnavailableError
from pipelines.rollout.controller import Offer, Outcome, run_rollout
from pipelines.rollout.plan import Plan, ShadowStep, Step
from tests.fixtures.platforms import SimulatedClock, SimulatedPlatform

PLAN = Plan(
    shadow=ShadowStep(minimum_pairs=50, minimum_s=1, maximum_s=60),
    steps=(
        Step(share=0.2, minimum_requests=20, minimum_s=20, maximum_s=200),
        Step(share=1.0, minimum_requests=50, minimum_s=1, maximum_s=60),
    ),
    lease_s=15,
    look_every_s=1,
)
OFFER = Offer(rollout="flights-v2-1", project="flights", version="2", bundle="b2", path="/b2", expected_champion="1")


class Away:
    """Takes the ledger's folder away once the share of 20 % is in force, for some seconds of the simulated clock."""

    def __init__(self, platform: SimulatedPlatform, folder: Path, seconds: float) -> None:
        self.platform, self.folder, self.seconds = platform, folder, seconds
        self.gone = folder.with_name("gone")
        self.since_s: float | None = None
        self.leases_s: set[float] = set()  # ends of the leases that were in force while it was away
        platform.clock.listeners.append(self.check)

    def check(self, _seconds: float) -> None:
        if self.since_s is None and self.platform.share == 0.2:
            self.since_s = self.platform.clock()
            self.folder.rename(self.gone)
        elif self.gone.exists():
            if self.platform.lease_ends_s is not None:
                self.leases_s.add(self.platform.lease_ends_s)
            if self.platform.clock() - (self.since_s or 0) >= self.seconds:
                self.come_back()

    def come_back(self) -> None:
        self.gone.rename(self.folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "ledger"


@pytest.fixture
def ledger(folder: Path) -> Iterator[Ledger]:
    with Ledger.open(f"sqlite:///{folder}/ledger.db") as opened:
        opened.swap_champion("flights", None, "1", "b1", "bootstrap", "the first")
        yield opened


def run(platform: SimulatedPlatform, ledger: Ledger) -> Outcome:
    clock = platform.clock
    return asyncio.run(run_rollout(platform, ledger, PLAN, OFFER, clock=clock, sleep=clock.sleep))


def test_a_short_absence_of_the_ledger_is_waited_out(folder: Path, ledger: Ledger) -> None:
    platform = SimulatedPlatform(SimulatedClock())
    Away(platform, folder, seconds=6)
    assert run(platform, ledger).state == "promoted"
    assert len(ledger.entries(kinds=["rollout.promoted"])) == 1


def test_without_the_ledger_no_lease_is_renewed_and_the_share_falls(folder: Path, ledger: Ledger) -> None:
    platform = SimulatedPlatform(SimulatedClock())
    away = Away(platform, folder, seconds=40)
    outcome = run(platform, ledger)
    assert len(away.leases_s) <= 2  # the one that was in force, and one that was asked for in the same second
    assert (outcome.state, outcome.reason) == ("rolled_back", "the lease ran out and nobody renewed it")
    assert (platform.share, platform.challenger) == (0, None)
    assert ledger.entries()[-1].kind == "rollout.rolled_back"


def test_a_ledger_that_stays_away_is_said_to_and_the_next_run_ends_the_rollout(folder: Path, ledger: Ledger) -> None:
    platform = SimulatedPlatform(SimulatedClock())
    away = Away(platform, folder, seconds=1e9)
    with pytest.raises(LedgerUnavailableError, match="unable to open database file"):
        run(platform, ledger)
    assert platform.share == 0
    assert not folder.exists(), "an empty ledger in the place of the one that is away"
    away.come_back()
    assert run(platform, ledger).state == "rolled_back"
    assert [entry.body for entry in ledger.entries(kinds=["rollout.resumed"])] == [{"phase": "20 %"}]


def test_a_ledger_that_takes_nothing_renews_no_lease_of_a_run_that_begins_anew(folder: Path, ledger: Ledger) -> None:
    platform = SimulatedPlatform(SimulatedClock())
    away = Away(platform, folder, seconds=1e9)
    with pytest.raises(LedgerUnavailableError):
        run(platform, ledger)
    away.come_back()
    entries = ledger.entries()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))  # as a full disk: it reads, and takes nothing
    try:
        with pytest.raises(LedgerUnavailableError):
            run(platform, ledger)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert ledger.entries() == entries
    assert run(platform, ledger).state == "rolled_back"


def test_who_goes_on_with_a_ledger_does_not_make_one(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/not/mounted/ledger.db"
    with pytest.raises(LedgerUnavailableError, match="is its folder mounted"):
        Ledger.open(url, creates=False)
    assert not (tmp_path / "not").exists()
    Ledger.open(url).close()
    Ledger.open(url, creates=False).close()
