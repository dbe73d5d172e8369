import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contracts.slots import HardLimits, Observation, PromoteSlot
from pipelines.ledger import Ledger
from pipelines.rollout.controller import Offer, Outcome, run_rollout
from pipelines.rollout.plan import Plan, ShadowStep, Step
from pipelines.rollout.platforms.port import PlatformUnreachableError
from tests.fixtures.platforms import CrashedError, Fuse, SimulatedClock, SimulatedPlatform

PLAN = Plan(
    shadow=ShadowStep(minimum_pairs=50, minimum_s=1, maximum_s=60),
    steps=(
        Step(share=0.2, minimum_requests=20, minimum_s=1, maximum_s=60),
        Step(share=1.0, minimum_requests=50, minimum_s=1, maximum_s=60),
    ),
    lease_s=15,
    look_every_s=1,
)
OFFER = Offer(rollout="flights-v2-1", project="flights", version="2", bundle="b2", path="/b2", expected_champion="1")
PLATFORM_CALLS = {"load", "set_share", "renew_lease", "promote", "drop", "observe"}
LEDGER_CALLS = {"append", "promote", "restore_champion"}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ledger") / "ledger.db"
    with Ledger.open(f"sqlite:///{path}") as ledger:
        ledger.swap_champion("flights", None, "1", "b1", "bootstrap", "the first")
    return path


@pytest.fixture
def new_ledger(template: Path, tmp_path: Path) -> Callable[[], Ledger]:
    numbers = iter(range(10_000))

    def make() -> Ledger:
        path = tmp_path / f"{next(numbers)}.db"
        shutil.copy(template, path)
        return Ledger.open(f"sqlite:///{path}")

    return make


@pytest.fixture
def ledger(new_ledger: Callable[[], Ledger]) -> Ledger:
    return new_ledger()


def run(platform: Any, ledger: Any, plan: Plan = PLAN, offer: Offer = OFFER, **options: Any) -> Outcome:
    clock = platform.clock
    return asyncio.run(run_rollout(platform, ledger, plan, offer, clock=clock, sleep=clock.sleep, **options))


def leads(ledger: Ledger) -> str | None:
    champion = ledger.champion("flights")
    return None if champion is None else champion.version


def test_a_sound_challenger_takes_each_step_and_leads_in_the_end(ledger: Ledger) -> None:
    platform = SimulatedPlatform(SimulatedClock())
    looks: list[Observation] = []
    outcome = run(platform, ledger, on_look=looks.append)
    assert outcome.state == "promoted"
    assert [(step.name, step.verdict) for step in outcome.steps] == [
        ("shadow", "advance"),
        ("20 %", "advance"),
        ("100 %", "advance"),
    ]
    assert (leads(ledger), platform.champion.version, platform.challenger) == ("2", "2", None)  # type: ignore[union-attr]
    assert outcome.challenger_requests == looks[-1].challenger.requests  # type: ignore[union-attr]
    assert set(platform.shares) == {("2", 0.2), ("2", 1.0)}
    assert outcome.tripped is None


def test_the_ledger_tells_the_steps_the_verdicts_and_the_promotion_with_their_numbers(ledger: Ledger) -> None:
    run(SimulatedPlatform(SimulatedClock()), ledger)
    told = ledger.entries(subject=OFFER.rollout)
    kinds = [entry.kind for entry in told if entry.kind != "rollout.event"]
    step, verdict = "rollout.step", "rollout.verdict"
    assert kinds == [step, verdict, step, verdict, step, "champion.swapped", verdict, "rollout.promoted"]
    last = [entry for entry in told if entry.kind == "rollout.verdict"][-1].body
    assert last["challenger_requests"] >= 50
    assert "errors for 0 of" in last["reason"]
    assert {finding["name"] for finding in last["findings"]} >= {"errors", "slower than p95", "higher scores"}


def test_a_challenger_that_fails_is_rolled_back_with_the_servers_reason(ledger: Ledger) -> None:
    platform = SimulatedPlatform(SimulatedClock())

    def break_it(observation: Observation) -> None:
        platform.error_rates = {"2": 0.5} if observation.share > 0 else {}

    outcome = run(platform, ledger, on_look=break_it)
    assert outcome.state == "rolled_back"
    assert outcome.reason.startswith("8 errors in the last ")
    assert outcome.tripped is not None
    assert outcome.tripped.cause == "hard_limit"
    assert (leads(ledger), platform.champion.version, platform.challenger) == ("1", "1", None)  # type: ignore[union-attr]
    assert ledger.entries(kinds=["rollout.rolled_back"])[0].body["reason"] == outcome.reason


def test_the_judge_rolls_back_below_the_hard_limits(ledger: Ledger) -> None:
    plan = Plan(
        shadow=None, steps=(Step(share=0.5, minimum_requests=5000), Step(share=1.0)), hard_limits=HardLimits(errors=20)
    )
    outcome = run(SimulatedPlatform(SimulatedClock(), error_rates={"2": 0.1}), ledger, plan)
    assert (outcome.state, outcome.tripped) == ("rolled_back", None)
    assert outcome.reason.startswith("errors ")
    assert "against 0 of" in outcome.reason


def test_a_challenger_that_fails_in_the_shadow_never_gets_a_share(ledger: Ledger) -> None:
    platform = SimulatedPlatform(SimulatedClock(), error_rates={"2": 0.3})
    outcome = run(platform, ledger)
    assert (outcome.state, platform.shares, outcome.steps[0].shadow) == ("rolled_back", [], True)


def test_the_first_version_of_a_project_is_promoted_without_steps(tmp_path: Path) -> None:
    platform = SimulatedPlatform(SimulatedClock(), champion=None)
    first = Offer(rollout="first", project="flights", version="1", bundle="b1", path="/b1", expected_champion=None)
    with Ledger.open(f"sqlite:///{tmp_path}/ledger.db") as ledger:
        outcome = run(platform, ledger, offer=first)
        assert (outcome.state, outcome.steps, leads(ledger)) == ("promoted", (), "1")
    assert platform.promotions == ["1"]


def test_a_bundle_that_the_server_refuses_is_refused(ledger: Ledger) -> None:
    platform = SimulatedPlatform(SimulatedClock())
    other = Offer(rollout="other", project="flights", version="3", bundle="b3", path="/b3", expected_champion="1")

    async def hold() -> None:
        from contracts.slots import LoadSlot, SetShare

        await platform.load(LoadSlot(version="3", bundle="b3", path="/b3", rollout=other.rollout))
        await platform.set_share(SetShare(rollout=other.rollout, share=0.5))

    asyncio.run(hold())
    outcome = run(platform, ledger)
    assert outcome.state == "refused"
    assert "rollout other holds the challenger slot" in outcome.reason
    assert platform.rollout == "other"  # whose slot it is keeps it


def test_a_rollout_that_has_ended_is_told_again_and_not_repeated(ledger: Ledger) -> None:
    platform = SimulatedPlatform(SimulatedClock())
    first = run(platform, ledger)
    entries = ledger.entries()
    platform.is_unreachable = True
    assert run(platform, ledger) == first
    assert ledger.entries() == entries


def test_a_rollouts_name_belongs_to_one_version(ledger: Ledger) -> None:
    platform = SimulatedPlatform(SimulatedClock())
    with pytest.raises(CrashedError):
        run(Fuse(6).guard(platform, PLATFORM_CALLS), ledger)
    other = Offer(rollout=OFFER.rollout, project="flights", version="3", bundle="b3", path="/", expected_champion="1")
    with pytest.raises(ValueError, match=r"of version 2 .*offered was 3"):
        run(platform, ledger, offer=other)


def test_somebody_who_wants_it_to_stop_gets_a_rollback(ledger: Ledger) -> None:
    platform = SimulatedPlatform(SimulatedClock())
    outcome = run(platform, ledger, should_stop=lambda: "freeze" if platform.share == 0.2 else None)
    assert (outcome.state, outcome.reason) == ("rolled_back", "aborted by request: freeze")
    assert (leads(ledger), platform.challenger) == ("1", None)


def count_calls(new_ledger: Callable[[], Ledger], guarded: str) -> int:
    fuse, platform = Fuse(), SimulatedPlatform(SimulatedClock())
    run_guarded(platform, new_ledger(), fuse, guarded)
    return fuse.calls


def run_guarded(platform: SimulatedPlatform, ledger: Ledger, fuse: Fuse, guarded: str) -> Outcome:
    if guarded == "platform":
        return run(fuse.guard(platform, PLATFORM_CALLS), ledger)
    return run(platform, fuse.guard(ledger, LEDGER_CALLS))


@pytest.mark.parametrize("downtime_s", [0, 60])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("guarded", ["platform", "ledger"])
def test_a_crash_at_any_call_is_finished_or_undone_by_the_next_run(
    new_ledger: Callable[[], Ledger], guarded: str, after: bool, downtime_s: float
) -> None:
    states = set()
    for at in range(count_calls(new_ledger, guarded)):
        platform, ledger = SimulatedPlatform(SimulatedClock()), new_ledger()
        with pytest.raises(CrashedError):
            run_guarded(platform, ledger, Fuse(at, after=after), guarded)
        was_decided = leads(ledger) == "2"
        platform.clock.pass_by(downtime_s)
        outcome = run(platform, ledger)
        states.add(outcome.state)
        winner = "2" if outcome.state == "promoted" else "1"
        assert (leads(ledger), platform.champion.version) == (winner, winner), at  # type: ignore[union-attr]
        assert (platform.challenger, platform.share) == (None, 0), at
        assert platform.promotions == ["2"] * (winner == "2"), at
        assert len(ledger.entries(kinds=["champion.swapped"])) == 1 + (winner == "2"), at
        assert len(ledger.entries(kinds=["rollout.promoted", "rollout.rolled_back", "rollout.refused"])) == 1, at
        assert winner == "2" or not was_decided, f"at {at}: a promotion that the ledger has is finished"
        if downtime_s == 0:
            assert outcome.state == "promoted", at
        ledger.close()
    assert "promoted" in states
    assert ("rolled_back" in states) == (downtime_s > 0)


def test_a_dead_controller_leaves_all_traffic_to_the_champion_and_the_next_run_says_why(ledger: Ledger) -> None:
    platform = SimulatedPlatform(SimulatedClock())

    def crash(observation: Observation) -> None:
        if observation.share == 0.2:
            raise CrashedError("the host is gone")

    with pytest.raises(CrashedError):
        run(platform, ledger, on_look=crash)
    platform.clock.pass_by(PLAN.lease_s)
    assert platform.share == 0
    outcome = run(platform, ledger)
    assert (outcome.state, outcome.reason) == ("rolled_back", "the lease ran out and nobody renewed it")


def crash_between_the_swaps(platform: SimulatedPlatform, ledger: Ledger) -> None:
    with pytest.raises(CrashedError):
        run(Fuse(0).guard(platform, {"promote"}), ledger)
    assert (leads(ledger), platform.promotions) == ("2", [])


def test_a_server_that_restarted_between_the_swaps_is_given_the_new_champion(ledger: Ledger) -> None:
    platform = SimulatedPlatform(SimulatedClock())
    crash_between_the_swaps(platform, ledger)
    platform.restart()
    assert run(platform, ledger).state == "promoted"
    assert (leads(ledger), platform.promotions) == ("2", ["2"])


def test_a_challenger_that_trips_between_the_swaps_is_undone_in_the_ledger(ledger: Ledger) -> None:
    platform = SimulatedPlatform(SimulatedClock())
    crash_between_the_swaps(platform, ledger)
    platform.trip("hard_limit", "5 errors in the last 9 challenger requests")
    outcome = run(platform, ledger)
    assert (outcome.state, outcome.reason) == ("rolled_back", "5 errors in the last 9 challenger requests")
    assert (leads(ledger), platform.promotions, platform.challenger) == ("1", [], None)
    assert ledger.reigns("flights") == ["1"]


def test_a_promotion_that_the_server_refuses_is_undone_in_the_ledger(ledger: Ledger) -> None:
    platform = SimulatedPlatform(SimulatedClock())
    platform.refuses_promotion = True
    outcome = run(platform, ledger)
    assert (outcome.state, outcome.reason) == ("rolled_back", "the promotion was refused: the disk is full")
    assert (leads(ledger), ledger.reigns("flights"), platform.challenger) == ("1", ["1"], None)


def test_a_rollout_that_lost_the_race_for_the_champion_is_rolled_back(ledger: Ledger) -> None:
    platform = SimulatedPlatform(SimulatedClock())

    def be_first(observation: Observation) -> None:
        if observation.share == 1:
            ledger.swap_champion("flights", "1", "9", "b9", "another", "was first")

    outcome = run(platform, ledger, on_look=be_first)
    assert outcome.reason == "the promotion was refused: the ledger's champion is version 9, expected 1"
    assert (leads(ledger), platform.promotions, platform.challenger) == ("9", [], None)


def test_a_champion_put_back_by_hand_is_not_replaced_by_a_resumed_rollout(ledger: Ledger) -> None:
    platform = SimulatedPlatform(SimulatedClock())
    crash_between_the_swaps(platform, ledger)
    ledger.swap_champion("flights", "2", "1", "b1", "rollback-by-hand", "numbers look odd")
    assert run(platform, ledger).state == "rolled_back"
    assert (leads(ledger), platform.promotions) == ("1", [])


class Silence:
    """Makes the platform unreachable for some seconds, once the share is in force."""

    def __init__(self, platform: SimulatedPlatform, share: float, seconds: float) -> None:
        self.platform, self.share, self.seconds, self.since_s = platform, share, seconds, 0.0
        platform.clock.listeners.append(self.check)

    def check(self, _seconds: float) -> None:
        if self.platform.share == self.share and not self.since_s:
            self.since_s = self.platform.clock()
        self.platform.is_unreachable = self.since_s > 0 and self.platform.clock() - self.since_s < self.seconds


def test_a_short_silence_of_the_server_is_waited_out(ledger: Ledger) -> None:
    platform = SimulatedPlatform(SimulatedClock())
    Silence(platform, share=0.2, seconds=5)
    assert run(platform, ledger).state == "promoted"


def test_a_silence_beyond_the_lease_ends_with_the_servers_reason(ledger: Ledger) -> None:
    platform = SimulatedPlatform(SimulatedClock())
    Silence(platform, share=0.2, seconds=30)
    outcome = run(platform, ledger)
    assert (outcome.state, outcome.reason) == ("rolled_back", "the lease ran out and nobody renewed it")
    assert outcome.is_dropped


def test_a_long_silence_ends_the_rollout_and_says_that_the_drop_is_not_confirmed(ledger: Ledger) -> None:
    platform = SimulatedPlatform(SimulatedClock())
    Silence(platform, share=0.2, seconds=1e9)
    outcome = run(platform, ledger)
    assert outcome.state == "rolled_back"
    assert outcome.reason.startswith("the server was unreachable for 60 s >= 60 s (connection refused)")
    assert not outcome.is_dropped
    assert leads(ledger) == "1"


def test_a_server_that_falls_silent_at_the_promotion_is_asked_again_by_the_next_run(ledger: Ledger) -> None:
    platform = SimulatedPlatform(SimulatedClock())

    class LosesTheAnswer:
        clock = platform.clock

        def __getattr__(self, name: str) -> Any:
            return getattr(platform, name)

        async def promote(self, message: PromoteSlot) -> None:
            await platform.promote(message)
            platform.is_unreachable = True
            raise PlatformUnreachableError("read timeout")

    with pytest.raises(PlatformUnreachableError, match=r"run the rollout flights-v2-1 again"):
        run(LosesTheAnswer(), ledger)
    platform.is_unreachable = False
    assert run(platform, ledger).state == "promoted"
    assert (leads(ledger), platform.promotions) == ("2", ["2"])


def test_a_restarted_server_has_lost_the_challenger_and_ends_the_rollout(ledger: Ledger) -> None:
    platform = SimulatedPlatform(SimulatedClock())

    def restart(observation: Observation) -> None:
        if observation.share == 0.2:
            platform.restart()

    outcome = run(platform, ledger, on_look=restart)
    assert outcome.state == "rolled_back"
    assert "was restarted" in outcome.reason


def test_two_controllers_of_one_rollout_promote_once(ledger: Ledger) -> None:
    platform = SimulatedPlatform(SimulatedClock())

    async def both() -> list[Outcome]:
        async def sleep(seconds: float) -> None:
            platform.clock.pass_by(seconds)
            await asyncio.sleep(0)

        return await asyncio.gather(
            *(run_rollout(platform, ledger, PLAN, OFFER, clock=platform.clock, sleep=sleep) for _ in range(2))
        )

    outcomes = asyncio.run(both())
    assert outcomes[0] == outcomes[1]
    assert (outcomes[0].state, platform.promotions) == ("promoted", ["2"])
    assert len(ledger.entries(kinds=["rollout.promoted"])) == 1


def test_a_rollout_that_has_begun_keeps_its_plan(ledger: Ledger) -> None:
    platform = SimulatedPlatform(SimulatedClock())
    with pytest.raises(CrashedError):
        run(Fuse(4).guard(platform, PLATFORM_CALLS), ledger)
    other = Plan(shadow=None, steps=(Step(share=1.0, minimum_requests=1, minimum_s=0),))
    assert [step.name for step in run(platform, ledger, other).steps] == ["shadow", "20 %", "100 %"]


def test_evidence_of_an_earlier_reign_does_not_promote_although_the_champion_is_the_same_again(ledger: Ledger) -> None:
    platform = SimulatedPlatform(SimulatedClock())

    def come_and_go(observation: Observation) -> None:
        if observation.share == 1 and len(ledger.reigns("flights")) == 1:
            ledger.swap_champion("flights", "1", "9", "b9", "another", "was first")
            ledger.swap_champion("flights", "9", "1", "b1", "rollback-by-hand", "numbers look odd")

    outcome = run(platform, ledger, on_look=come_and_go)
    assert outcome.state == "rolled_back"
    assert "an earlier reign of 1" in outcome.reason
    assert (leads(ledger), platform.promotions, platform.challenger) == ("1", [], None)


def test_an_abort_that_the_ledger_has_before_the_swap_is_final(ledger: Ledger) -> None:
    platform = SimulatedPlatform(SimulatedClock())
    with pytest.raises(CrashedError):
        run(platform, Fuse(0).guard(ledger, {"promote"}))
    body = {"command": "abort", "by": "ada", "reason": "freeze", "phase": None}
    ledger.append("flights", "rollout.command", OFFER.rollout, body)
    outcome = run(platform, ledger)
    assert outcome.state == "rolled_back"
    assert "abort by ada: freeze" in outcome.reason
    assert (leads(ledger), platform.promotions, platform.challenger) == ("1", [], None)


def test_a_controller_that_slept_while_another_ended_the_rollout_promotes_nobody(ledger: Ledger) -> None:
    platform = SimulatedPlatform(SimulatedClock())

    class Sleeps:
        """At its promotion everything else happens: the challenger trips, and another controller ends the rollout."""

        def __getattr__(self, name: str) -> Any:
            return getattr(ledger, name)

        def promote(self, *arguments: Any) -> str | None:
            if not ledger.entries(kinds=["rollout.rolled_back"]):
                platform.trip("hard_limit", "8 errors in the last 20 challenger requests")
                run(platform, ledger)
            return ledger.promote(*arguments)

    outcome = run(platform, Sleeps())
    assert (outcome.state, outcome.reason) == ("rolled_back", "8 errors in the last 20 challenger requests")
    assert (leads(ledger), platform.promotions, platform.challenger) == ("1", [], None)
    assert ledger.entries(kinds=["champion.swapped"])[-1].body["version"] == "1"
