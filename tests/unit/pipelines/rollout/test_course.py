"""A rollout told again from its entries, by a real controller on a simulated server."""

import asyncio
from itertools import pairwise
from pathlib import Path

from contracts.slots import LoadSlot, SetShare
from pipelines.ledger import Ledger
from pipelines.rollout.controller import Offer, run_rollout
from pipelines.rollout.course import Course, retell
from pipelines.rollout.events import Event, Loaded, Looked, Offered
from pipelines.rollout.plan import Plan, ShadowStep, Step
from pipelines.rollout.story import EVENT, lengthen
from tests.fixtures.platforms import SimulatedClock, SimulatedPlatform

PLAN = Plan(
    shadow=ShadowStep(minimum_pairs=100, minimum_s=3),
    steps=(Step(share=0.1, minimum_requests=100), Step(share=1.0, minimum_requests=100)),
)
OFFER = Offer(rollout="r", project="p", version="2", bundle="b2", path="/b2", expected_champion="1")


def course(folder: Path, error_rates: dict[str, float]) -> Course:
    clock = SimulatedClock()
    with Ledger.open(f"sqlite:///{folder}/ledger.db") as ledger:
        ledger.swap_champion("p", None, "1", "b1", "bootstrap", "the first")
        platform = SimulatedPlatform(clock, error_rates=error_rates)
        asyncio.run(run_rollout(platform, ledger, PLAN, OFFER, clock=clock, sleep=clock.sleep))
        return retell([lengthen(entry.body) for entry in ledger.entries("p", (EVENT,), "r")])


def test_the_same_events_tell_the_phases_and_the_end(tmp_path: Path) -> None:
    found = course(tmp_path, {})
    assert [each.phase for each in found.phases] == ["loading", "shadow", "10 %", "100 %", "promoting", "promoted"]
    assert [each.share for each in found.phases] == [0.0, 0.0, 0.1, 1.0, 0.0, 0.0]
    assert found.state.phase == "promoted"
    assert found.looked == len(found.looks)


def test_the_evidence_of_the_last_look_is_the_verdicts_own(tmp_path: Path) -> None:
    found = course(tmp_path, {"2": 0.2})
    assert found.state.phase == "rolled_back"
    assert found.looks[-1].findings == found.state.records[-1].findings
    assert any(each.exceeded for each in found.looks[-1].findings)
    assert not any(each.exceeded for look in found.looks[:-1] for each in look.findings)


def test_of_a_long_rollout_some_looks_and_all_of_the_last_are_kept() -> None:
    found = retell(_patient(seconds=1000))
    assert found.looked == 1000
    assert len(found.looks) < 400
    last = [look.at_s for look in found.looks[-30:]]
    assert [later - earlier for earlier, later in pairwise(last)] == [1.0] * 29


def test_no_events_are_no_course() -> None:
    assert retell([]).looks == ()


def _patient(seconds: int) -> list[Event]:
    """A shadow phase that goes on and on."""
    clock = SimulatedClock()
    platform = SimulatedPlatform(clock, requests_per_s=1)
    plan = Plan(shadow=ShadowStep(minimum_pairs=10, minimum_s=10_000, maximum_s=10_000))

    async def watch() -> list[Event]:
        await platform.load(LoadSlot(version="2", bundle="b2", path="/b2", rollout="r"))
        await platform.set_share(SetShare(rollout="r", share=0.0, shadow=True, lease_s=10_000))
        events: list[Event] = [Offered(offer=OFFER, plan=plan, at_s=clock()), Loaded(at_s=clock())]
        for _ in range(seconds):
            clock.pass_by(1.0)
            events.append(Looked(observation=await platform.observe(), at_s=clock()))
        return events

    return asyncio.run(watch())
