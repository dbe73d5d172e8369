"""What becomes of a holdout, with a simulated server, a real ledger, and crashes at every call."""

import asyncio
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from contracts.slots import Observation, PromoteSlot, SetShare
from pipelines.ledger import Ledger
from pipelines.rollout import holdouts
from pipelines.rollout.controller import Offer, run_rollout
from pipelines.rollout.holdout import Side
from pipelines.rollout.holdouts import Begun
from pipelines.rollout.plan import Holdout, Plan, Step
from pipelines.rollout.platforms.port import PlatformUnreachableError, SlotRefusedError
from pipelines.tasks import holding, offering
from pipelines.tasks.aligning import align_servers
from pipelines.tasks.holding import Measured
from pipelines.tasks.offering import Opened, open_rollout
from pipelines.tasks.putting_back import put_back
from pipelines.tasks.releasing import settle_at
from pipelines.tasks.sites import Site
from tests.fixtures.platforms import CrashedError, Fuse, SimulatedClock, SimulatedPlatform
from tests.fixtures.sites import PROJECT, MemoryRegistry, make_site

AS_OF = {"1": "2013-01-07", "2": "2013-01-14", "3": "2013-01-21"}
PLAN = Plan(
    shadow=None,
    steps=(Step(share=0.5, minimum_requests=20, minimum_s=1), Step(share=1.0, minimum_requests=20, minimum_s=1)),
    holdout=Holdout(share=0.05, margin=0.1, minimum_outcomes=30, maximum_days=10, alpha=0.1),
)
CALLS = {"load", "promote", "drop", "observe", "end_holdout", "append", "swap_champion", "set_aliases"}


def measured(new: float, *, n: int = 100, days: int = 3) -> Callable[[], Measured]:
    """Losses of 0.2 on the old champion and of `new` on the new one."""
    random = np.random.default_rng(1)
    sides = (Side("2", 19 * n, random.normal(new, 0.02, 19 * n)), Side("1", n, random.normal(0.2, 0.02, n)))
    return lambda: Measured(*sides, days)


GOOD, BAD, UNCLEAR = measured(0.2), measured(0.6), measured(0.2, n=3)


def unasked() -> Measured:
    raise AssertionError("there is nothing to judge")


def rolled_out(ledger: Ledger, platform: SimulatedPlatform, plan: Plan = PLAN) -> Site:
    """Version 2 was promoted by the rollout of this plan, and settled."""
    site = make_site(ledger, platform, MemoryRegistry(AS_OF), plan)
    run(site, open_rollout(site, "2"))
    return site


def run(site: Site, opened: Opened) -> dict[str, Any]:
    assert opened.offer is not None, opened.reason
    offer = msgspec.convert(opened.offer, Offer)

    async def rollout() -> Any:
        async with site.platform() as platform:
            clock = platform.clock  # type: ignore[attr-defined]
            return await run_rollout(platform, site.ledger, site.plan, offer, clock=clock, sleep=clock.sleep)

    outcome = msgspec.to_builtins(asyncio.run(rollout()))
    return settle_at(site, {"rollout": offer.rollout, "version": offer.version, **outcome})


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(f"sqlite:///{tmp_path}/ledger.db") as opened:
        opened.swap_champion(PROJECT, None, "1", "b1", "bootstrap", "the first")
        yield opened


@pytest.fixture
def platform() -> SimulatedPlatform:
    return SimulatedPlatform(SimulatedClock())


@pytest.fixture
def site(ledger: Ledger, platform: SimulatedPlatform) -> Site:
    return rolled_out(ledger, platform)


def begun(site: Site) -> Begun:
    found = holdouts.unfinished(site.ledger, PROJECT)
    assert found is not None
    return found


def judge(site: Site, found: Callable[[], Measured], as_of: str = "2013-01-20") -> dict[str, Any]:
    return holding.judge_at(site, begun(site), as_of, found)


def leads(site: Site, platform: SimulatedPlatform) -> tuple[str | None, str | None]:
    champion = site.ledger.champion(PROJECT)
    return (champion.version if champion else None, platform.champion.version if platform.champion else None)


def kinds(site: Site) -> list[str]:
    return [entry.kind for entry in site.ledger.entries(PROJECT) if entry.kind.startswith("holdout.")]


def test_a_rollout_under_such_a_plan_leaves_its_share_on_the_old_champion(
    site: Site, platform: SimulatedPlatform
) -> None:
    assert set(platform.shares) == {("2", 0.5), ("2", 0.95)}, "the last step stops short of it"
    held = platform.holdout
    assert held is not None
    assert (held.rollout, held.share, held.counts.version) == ("flights-v2-1", 0.05, "1")
    assert kinds(site) == [holdouts.BEGUN]
    found = holdouts.running(site.ledger, PROJECT)
    assert found is not None
    assert (found.new, found.old, found.plan) == ("2", "1", PLAN.holdout)


def test_a_version_that_is_no_worse_is_kept(site: Site, platform: SimulatedPlatform) -> None:
    done = judge(site, GOOD)
    assert (done["state"], leads(site, platform), platform.holdout) == ("keep", ("2", "2"), None)
    assert kinds(site) == [holdouts.BEGUN, holdouts.VERDICT, holdouts.ENDED]
    verdict = site.ledger.entries(PROJECT, (holdouts.VERDICT,))[0].body
    assert verdict["with_outcome"] == [1900, 100]
    assert "at most 0.1 worse: e-value" in verdict["reason"]
    assert holdouts.unfinished(site.ledger, PROJECT) is None


def test_a_version_that_is_worse_is_rolled_back_at_once_and_not_trusted_again(
    site: Site, platform: SimulatedPlatform
) -> None:
    loads: list[Any] = []
    platform.load = loads.append  # type: ignore[method-assign, assignment]
    done = judge(site, BAD)
    assert (done["state"], leads(site, platform), platform.holdout) == ("rollback", ("1", "1"), None)
    assert loads == [], "the old champion was warm"
    entry = site.ledger.entries(PROJECT, ("rollback",))[0].body
    assert (entry["version"], entry["from"]) == ("1", "2")
    assert entry["reason"].startswith("the holdout of flights-v2-1: mean Brier score of an entity 0.5996 on version 2")
    refused = open_rollout(site, "2")
    assert refused.offer is None
    assert "version 2 was rolled back by its holdout on" in refused.reason


def test_a_look_without_a_verdict_waits_and_the_same_day_is_the_same_look(
    site: Site, platform: SimulatedPlatform
) -> None:
    assert judge(site, UNCLEAR)["state"] == "wait"
    assert judge(site, BAD)["state"] == "wait", "a day is one look"
    assert platform.holdout is not None
    assert judge(site, BAD, "2013-01-21")["state"] == "rollback"


def test_a_verdict_holds_whatever_comes_after_it(site: Site, platform: SimulatedPlatform) -> None:
    found = begun(site)
    platform.is_unreachable = True
    with pytest.raises(PlatformUnreachableError, match="connection refused"):
        holding.judge_at(site, found, "2013-01-20", GOOD)
    platform.is_unreachable = False
    assert judge(site, unasked, "2013-01-21")["state"] == "keep"
    assert platform.holdout is None


def test_a_person_ends_it_without_a_verdict(site: Site, platform: SimulatedPlatform) -> None:
    platform.is_unreachable = True
    with pytest.raises(PlatformUnreachableError):
        holding.end_at(site, "the next one waits", "ada")
    assert holdouts.running(site.ledger, PROJECT) is not None, "nothing has ended then"
    platform.is_unreachable = False
    done = holding.end_at(site, "the next one waits", "ada")
    assert (done["state"], done["by"], leads(site, platform), platform.holdout) == ("ended", "ada", ("2", "2"), None)
    with pytest.raises(LookupError, match="no holdout of flights runs"):
        holding.end_at(site, "again", "ada")


def test_whoever_leads_instead_makes_the_holdout_void(site: Site, platform: SimulatedPlatform) -> None:
    found = begun(site)
    asyncio.run(put_back(site, "1", "numbers look odd", None, by="ada"))
    assert platform.holdout is None
    assert holdouts.running(site.ledger, PROJECT) is None, "nothing waits for it"
    assert holding.judge_at(site, found, "2013-01-20", unasked)["state"] == "void"
    assert kinds(site) == [holdouts.BEGUN, holdouts.ENDED]


def test_a_rollback_that_somebody_was_faster_than_ends_no_other_reign(site: Site, platform: SimulatedPlatform) -> None:
    found = begun(site)
    site.ledger.append(PROJECT, holdouts.VERDICT, found.rollout, {"verdict": "rollback", "reason": "worse"})
    site.ledger.swap_champion(PROJECT, "2", "3", "b3", "flights-v3-1", "by hand")
    assert judge(site, unasked)["state"] == "void"
    asyncio.run(align_servers(site))
    assert leads(site, platform) == ("3", "3")


def test_a_server_that_has_lost_it_ends_it(site: Site, platform: SimulatedPlatform) -> None:
    platform.holdout = None
    done = judge(site, unasked)
    assert done["state"] == "lost"
    assert leads(site, platform) == ("2", "2")


def test_without_a_word_of_the_server_outcomes_are_judged_all_the_same(site: Site, platform: SimulatedPlatform) -> None:
    platform.is_unreachable = True
    assert judge(site, UNCLEAR)["state"] == "wait"


def test_the_next_offer_waits_until_the_holdout_has_ended(site: Site, platform: SimulatedPlatform) -> None:
    for _ in range(2):
        waiting = open_rollout(site, "3")
        assert (waiting.offer, waiting.waits) == (None, "3")
        assert "the holdout of flights-v2-1 compares version 2 with 1 until outcomes have matured" in waiting.reason
    assert len(site.ledger.entries(PROJECT, (offering.QUEUED,))) == 1
    assert offering.next_offer(site) is None
    judge(site, GOOD)
    assert offering.next_offer(site) == {"version": "3", "note": None}
    assert run(site, open_rollout(site, "3"))["state"] == "promoted"
    assert platform.holdout is not None
    assert platform.holdout.counts.version == "2"


def test_the_next_offer_is_refused_where_the_plan_says_so(ledger: Ledger, platform: SimulatedPlatform) -> None:
    site = rolled_out(ledger, platform, msgspec.structs.replace(PLAN, when_busy="refuse"))
    assert open_rollout(site, "3").waits is None
    assert site.ledger.entries(PROJECT, (offering.REFUSED,))[0].body["version"] == "3"
    assert offering.next_offer(site) is None


def test_a_plan_without_a_holdout_leaves_nobody_behind(ledger: Ledger, platform: SimulatedPlatform) -> None:
    site = rolled_out(ledger, platform, msgspec.structs.replace(PLAN, holdout=None))
    assert platform.holdout is None
    assert holdouts.unfinished(site.ledger, PROJECT) is None
    assert open_rollout(site, "3").offer is not None


def test_the_first_champion_has_nobody_to_hold_out(tmp_path: Path) -> None:
    platform = SimulatedPlatform(SimulatedClock(), champion=None)
    with Ledger.open(f"sqlite:///{tmp_path}/empty.db") as ledger:
        site = rolled_out(ledger, platform)
        assert leads(site, platform) == ("2", "2")
        assert (platform.holdout, holdouts.unfinished(ledger, PROJECT)) == (None, None)


def test_a_promotion_that_others_finish_keeps_the_holdout_as_well(ledger: Ledger, platform: SimulatedPlatform) -> None:
    class Dies(SimulatedPlatform):
        async def promote(self, message: PromoteSlot) -> None:
            raise CrashedError("between the ledger and the server")

    dying = Dies(platform.clock)
    with pytest.raises(CrashedError):
        rolled_out(ledger, dying)
    site = make_site(ledger, platform, MemoryRegistry(AS_OF), PLAN)
    assert asyncio.run(align_servers(site)) is None
    assert leads(site, platform) == ("2", "2")
    assert platform.holdout is not None
    assert platform.holdout.counts.version == "1"


def test_no_challenger_gets_a_share_beside_a_holdout(site: Site, platform: SimulatedPlatform) -> None:
    with pytest.raises(SlotRefusedError, match="holdout"):
        asyncio.run(platform.set_share(SetShare(rollout="r", share=0.1)))
    observed: Observation = asyncio.run(platform.observe())
    assert observed.holdout == platform.holdout


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(("found", "expected"), [(GOOD, ("keep", "2")), (BAD, ("rollback", "1"))])
def test_a_crash_at_any_call_is_finished_by_the_next_run(
    tmp_path: Path, found: Callable[[], Measured], expected: tuple[str, str], after: bool
) -> None:
    with Ledger.open(f"sqlite:///{tmp_path}/template.db") as ledger:
        ledger.swap_champion(PROJECT, None, "1", "b1", "bootstrap", "the first")
        platform = SimulatedPlatform(SimulatedClock())
        rolled_out(ledger, platform)
        held = platform.holdout
    for at in range(60):
        shutil.copy(tmp_path / "template.db", tmp_path / f"{at}.db")
        platform.champion, platform.holdout = msgspec.structs.replace(held.counts, version="2"), held  # type: ignore[union-attr]
        registry = MemoryRegistry(AS_OF)
        fuse = Fuse(at, after=after)
        with Ledger.open(f"sqlite:///{tmp_path}/{at}.db") as ledger:
            guarded = make_site(
                fuse.guard(ledger, CALLS), fuse.guard(platform, CALLS), fuse.guard(registry, CALLS), PLAN
            )
            crashed = False
            try:
                judge(guarded, found)
            except CrashedError:
                crashed = True
            site = make_site(ledger, platform, registry, PLAN)
            if holdouts.unfinished(ledger, PROJECT) is not None:
                judge(site, found, "2013-01-21")
            ended = ledger.entries(PROJECT, (holdouts.ENDED,))
            assert [entry.body["how"] for entry in ended] == [expected[0]], f"crash at call {at}"
            assert leads(site, platform) == (expected[1], expected[1])
            assert platform.holdout is None
            assert len(ledger.entries(PROJECT, ("rollback",))) == (expected[0] == "rollback")
        if not crashed:
            assert at >= 4, "there was something to crash at"
            return
    raise AssertionError("it crashes for ever")
