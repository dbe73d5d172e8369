"""Several challengers through the real machine, controller, ledger and slots: one leads in the end, or none."""

import asyncio
import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from contracts.slots import Observation
from pipelines.ledger import Ledger
from pipelines.rollout.controller import Outcome
from pipelines.rollout.experiment import CHOSEN
from pipelines.rollout.machine import fold
from pipelines.rollout.plan import Approvals, Plan, Step
from pipelines.rollout.story import EVENT, lengthen
from tests.fixtures.lanes import EXPERIMENT, PLAN, PROJECT, LaneServer, Power, offers_of, run_experiment
from tests.fixtures.platforms import CrashedError

OFFERS = offers_of(["2", "3", "4"])
GAINS = {"2": 0.001, "3": 0.02, "4": 0.01}
ENDS = ["rollout.promoted", "rollout.rolled_back", "rollout.refused", "rollout.not_chosen"]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ledger") / "ledger.db"
    with Ledger.open(f"sqlite:///{path}") as ledger:
        ledger.swap_champion(PROJECT, None, "1", "b1", "bootstrap", "the first")
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


def run(server: LaneServer, ledger: Ledger, **options: Any) -> list[Outcome]:
    return asyncio.run(run_experiment(server, ledger, OFFERS, **{"gains": GAINS, **options}))


def leads(ledger: Ledger) -> str | None:
    champion = ledger.champion(PROJECT)
    return None if champion is None else champion.version


def test_of_three_sound_challengers_the_best_by_the_gates_goes_on_alone_and_leads(ledger: Ledger) -> None:
    server = LaneServer()
    outcomes = run(server, ledger)
    assert [each.state for each in outcomes] == ["not_chosen", "promoted", "not_chosen"]
    assert [step.name for step in outcomes[1].steps] == ["shadow", "20 %", "50 %", "50 % alone", "100 %"]
    assert [step.name for step in outcomes[0].steps] == ["shadow", "20 %", "50 %"]
    assert (leads(ledger), server.champion, server.slots.challengers) == ("3", "3", ())
    (chosen,) = ledger.entries(PROJECT, (CHOSEN,), EXPERIMENT)
    assert [each["version"] for each in chosen.body["order"]] == ["3", "4", "2"]
    assert "3 +0.0200, 4 +0.0100, 2 +0.0010" in chosen.body["reason"]
    assert "version 3 goes on" in outcomes[0].reason
    assert ledger.reigns(PROJECT) == ["1", "3"]


def test_the_broken_one_is_rolled_back_and_the_others_go_on(ledger: Ledger) -> None:
    server = LaneServer({"3": 0.7})
    outcomes = run(server, ledger)
    assert [each.state for each in outcomes] == ["not_chosen", "rolled_back", "promoted"]
    assert outcomes[1].challenger_requests < 60
    assert (leads(ledger), server.champion) == ("4", "4")


def test_one_that_fails_more_often_than_another_is_behind_it_whatever_the_gates_say(ledger: Ledger) -> None:
    server = LaneServer({"3": 0.3}, per_s=300)
    lenient = msgspec.structs.replace(
        PLAN, error_odds_margin=50.0, hard_limits=msgspec.structs.replace(PLAN.hard_limits, errors=20, window=20)
    )
    outcomes = run(server, ledger, plan=lenient)
    assert [each.state for each in outcomes] == ["not_chosen", "not_chosen", "promoted"]
    (chosen,) = ledger.entries(PROJECT, (CHOSEN,), EXPERIMENT)
    assert [each["version"] for each in chosen.body["order"]] == ["4", "2", "3"]
    assert "shown to be more often than" in chosen.body["reason"]


def test_the_last_one_that_is_left_goes_on_and_where_none_is_the_champion_stays(new_ledger: Any) -> None:
    ledger, server = new_ledger(), LaneServer({"2": 0.6, "3": 0.6})
    assert [each.state for each in run(server, ledger)] == ["rolled_back", "rolled_back", "promoted"]
    assert ledger.entries(PROJECT, (CHOSEN,))[0].body["reason"] == "version 4 is the only one left"
    ledger, server = new_ledger(), LaneServer({"2": 0.6, "3": 0.6, "4": 0.6})
    assert {each.state for each in run(server, ledger)} == {"rolled_back"}
    assert (leads(ledger), server.champion, ledger.entries(PROJECT, (CHOSEN,))) == ("1", "1", [])


def test_an_entity_sees_one_challenger_and_all_together_have_no_more_than_the_step(ledger: Ledger) -> None:
    server = LaneServer({"2": 0.4})
    shares: list[float] = []

    def look(_: Observation) -> None:
        alone = any(each.lane is None and each.share > 0 for each in server.slots.challengers)
        if not alone:
            shares.append(server.share)

    run(server, ledger, on_look=look)
    assert max(shares) <= 0.5 + 1e-9
    by_two = {entity for entity, versions in server.seen.items() if len(versions) > 1}
    others = {frozenset(server.seen[entity]) for entity in by_two}
    assert all("4" in pair or "3" in pair for pair in others), "after the choice the chosen one has all entities"


def test_alpha_is_shared_out_and_a_plan_for_one_is_refused() -> None:
    plan = Plan().among(4)
    assert (plan.alpha, plan.challengers, plan.steps) == (0.0025, 4, Plan().steps)
    with pytest.raises(ValueError, match="need a step below share"):
        Plan(steps=(Step(share=1.0),)).among(2)
    with pytest.raises(ValueError, match="before_first_step asks about one challenger"):
        Plan(approvals=Approvals(before_first_step=True)).among(2)
    with pytest.raises(ValueError, match="challengers are 1 to 8, found 9"):
        Plan().among(9)


def test_a_lane_without_a_plan_for_several_is_refused(ledger: Ledger) -> None:
    server = LaneServer()
    plan = msgspec.structs.replace(PLAN, alpha=0.01)

    async def one() -> list[Outcome]:
        return await run_experiment(server, ledger, [msgspec.structs.replace(OFFERS[0])], plan=plan)

    (outcome,) = asyncio.run(one())
    assert (outcome.state, outcome.reason) == ("refused", "the plan is for 1 challengers, the lane is one of 3")


def test_a_controller_that_dies_at_any_call_is_followed_by_one_that_goes_on_or_by_the_champion(
    new_ledger: Callable[[], Ledger],
) -> None:
    whole = Power()
    run(LaneServer(), new_ledger(), power=whole)
    assert whole.calls > 100
    states = set()
    for at in range(0, whole.calls, 29):
        for downtime_s in (0.0, 60.0):
            server, ledger = LaneServer(seed=at), new_ledger()
            with contextlib.suppress(CrashedError):
                run(server, ledger, power=Power(at))
                continue  # this one was over sooner
            decided = leads(ledger)
            server.clock.pass_by(downtime_s)
            if downtime_s:
                assert server.share == 0, f"at {at}: nobody renews, and the champion has everything"
            outcomes = run(server, ledger)
            promoted = [each.state for each in outcomes].count("promoted")
            assert promoted <= 1, at
            assert server.promotions == [leads(ledger)] * promoted, at
            assert (server.champion, server.share, server.slots.challengers) == (leads(ledger), 0, ()), at
            assert len(ledger.entries(PROJECT, ("champion.swapped",))) == 1 + promoted, at
            assert len(ledger.entries(PROJECT, ENDS)) == 3, at
            assert len(ledger.entries(PROJECT, (CHOSEN,))) <= 1, at
            assert promoted == 1 or decided == "1", f"at {at}: a promotion that the ledger has is finished"
            if downtime_s == 0:
                assert promoted == 1, at
            states.add((promoted, downtime_s))
            ledger.close()
    assert states >= {(1, 0.0), (0, 60.0)}


@pytest.mark.parametrize("seed", range(6))
def test_two_controllers_at_once_promote_one(new_ledger: Callable[[], Ledger], seed: int) -> None:
    """The second has another order of the gates in its head: what was written first holds."""
    ledger, server = new_ledger(), LaneServer({"2": 0.5} if seed % 2 else {}, seed=seed)

    async def both() -> list[list[Outcome]]:
        first = run_experiment(server, ledger, OFFERS, gains=GAINS)
        second = run_experiment(server, ledger, OFFERS, gains={"4": 1.0, "3": 0.0})
        return list(await asyncio.gather(first, second))

    one, other = asyncio.run(both())
    assert one == other, "both tell the same end"
    assert [each.state for each in one].count("promoted") == 1
    assert server.promotions == [server.champion] == [leads(ledger)]
    assert len(ledger.entries(PROJECT, (CHOSEN,))) == 1
    for offer in OFFERS:
        events = [lengthen(entry.body) for entry in ledger.entries(PROJECT, (EVENT,), offer.rollout)]
        assert fold(events)[0].is_final


def test_somebody_else_who_swaps_the_champion_ends_all_of_them(ledger: Ledger) -> None:
    server = LaneServer()

    def look(observation: Observation) -> None:
        if observation.share == 0.5 and leads(ledger) == "1":
            assert ledger.swap_champion(PROJECT, "1", "9", "b9", "by-hand", "somebody was faster")
            server.restart("9")

    outcomes = run(server, ledger, on_look=look)
    assert {each.state for each in outcomes} == {"rolled_back"}
    assert (leads(ledger), server.champion, server.promotions) == ("9", "9", [])


def test_a_server_that_starts_anew_ends_the_experiment_on_its_champion(ledger: Ledger) -> None:
    server = LaneServer()
    restarted: list[int] = []

    def look(observation: Observation) -> None:
        together = len(observation.beside) == 2 and all(each.share > 0 for each in observation.beside)
        if observation.share > 0 and together and not restarted:
            restarted.append(1)
            server.restart("1")

    outcomes = run(server, ledger, on_look=look)
    assert {each.state for each in outcomes} == {"rolled_back"}
    assert all("restarted" in each.reason for each in outcomes)
    assert (leads(ledger), server.champion) == ("1", "1")


def command(ledger: Ledger, rollout: str, name: str) -> None:
    body = {"command": name, "by": "the test", "reason": "to see it", "phase": None}
    ledger.append(PROJECT, "rollout.command", rollout, body)


def test_one_is_aborted_by_its_rollout_and_the_others_go_on(ledger: Ledger) -> None:
    told: list[int] = []

    def look(observation: Observation) -> None:
        if observation.share > 0 and not told:
            told.append(1)
            command(ledger, OFFERS[1].rollout, "abort")

    outcomes = run(LaneServer(), ledger, on_look=look)
    assert [each.state for each in outcomes] == ["not_chosen", "rolled_back", "promoted"]
    assert outcomes[1].reason == "aborted by the test: to see it"


def phase_of(ledger: Ledger, place: int) -> str | None:
    steps = ledger.entries(PROJECT, ("rollout.step",), OFFERS[place].rollout)
    return steps[-1].body["name"] if steps else None


def test_while_one_is_paused_nobody_is_chosen_and_nobody_advances_by_hand(ledger: Ledger) -> None:
    done: list[str] = []
    waited: list[str] = []

    def once(what: str, rollout: str, name: str) -> None:
        if what not in done:
            done.append(what)
            command(ledger, rollout, name)

    def look(observation: Observation) -> None:
        once("pause", OFFERS[2].rollout, "pause")
        if not all(phase_of(ledger, place) == "ranking" for place in (0, 1)):
            return
        once("advance", OFFERS[0].rollout, "advance")
        waited.append(observation.rollout or "")
        if ledger.entries(PROJECT, ("rollout.command.refused",), OFFERS[0].rollout) and len(waited) > 10:
            if "resume" not in done:
                assert ledger.entries(PROJECT, (CHOSEN,)) == []
            once("resume", OFFERS[2].rollout, "resume")

    outcomes = run(LaneServer(), ledger, on_look=look)
    assert [each.state for each in outcomes] == ["not_chosen", "promoted", "not_chosen"]
    (refused,) = ledger.entries(PROJECT, ("rollout.command.refused",), OFFERS[0].rollout)
    assert "waits until the other challengers have come as far" in refused.body["reason"]
    assert {OFFERS[0].rollout, OFFERS[1].rollout} <= set(waited), "who waits is looked at all the time"
