"""The controller against a real model server with live traffic."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from contracts.slots import Observation, PromoteSlot
from pipelines.ledger import Ledger
from pipelines.rollout.controller import Offer, Outcome, run_rollout
from pipelines.rollout.plan import Plan, ShadowStep, Step
from pipelines.rollout.platforms.local import LocalPlatform
from tests.fixtures.bundles import tiny_bundle, tiny_record
from tests.fixtures.model_servers import ModelServerProcess
from tests.fixtures.platforms import CrashedError

PLAN = Plan(
    shadow=ShadowStep(minimum_pairs=20, minimum_s=0.2, maximum_s=30, maximum_flip_share=1),
    steps=(
        Step(share=0.3, minimum_requests=20, minimum_s=0.2, maximum_s=30),
        Step(share=1.0, minimum_requests=20, minimum_s=0.2, maximum_s=30),
    ),
    lease_s=1,
    look_every_s=0.1,
    latency_floor_ms=1000,  # two busy cores say nothing about latency
)


class Traffic:
    """A client that asks without pause, and keeps the status of each answer."""

    def __init__(self, server: ModelServerProcess) -> None:
        self.server = server
        self.statuses: list[int] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def _ask(self) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            self.statuses.append(self.server.predict(tiny_record(number)).status_code)

    def __enter__(self) -> "Traffic":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)


@pytest.fixture
def server(model_servers: Callable[..., ModelServerProcess], tmp_path: Path) -> ModelServerProcess:
    started = model_servers(allow_faults="yes")
    started.install(tiny_bundle(tmp_path / "bundles"), "1")
    return started


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(f"sqlite:///{tmp_path}/ledger.db") as opened:
        opened.swap_champion("flight_delay", None, "1", "b1", "bootstrap", "the first")
        yield opened


@pytest.fixture
def offer(tmp_path: Path) -> Offer:
    bundle = tiny_bundle(tmp_path / "bundles", bias=0.1)
    return Offer(
        rollout="flights-v2-1",
        project="flight_delay",
        version="2",
        bundle=bundle.id,
        path=str(bundle.path),
        expected_champion="1",
    )


def run(
    server: ModelServerProcess,
    ledger: Ledger,
    offer: Offer,
    on_look: Callable[[Observation], None] | None = None,
    platform_class: type[LocalPlatform] = LocalPlatform,
    plan: Plan = PLAN,
) -> Outcome:
    async def roll_out() -> Outcome:
        async with platform_class(server.url) as platform:
            return await run_rollout(platform, ledger, plan, offer, on_look=on_look)

    return asyncio.run(asyncio.wait_for(roll_out(), 90))


def test_a_sound_challenger_is_promoted_under_live_traffic(
    server: ModelServerProcess, ledger: Ledger, offer: Offer
) -> None:
    with Traffic(server) as traffic:
        outcome = run(server, ledger, offer)
    assert (outcome.state, [step.name for step in outcome.steps]) == ("promoted", ["shadow", "30 %", "100 %"])
    seen = server.observe()
    assert (seen["champion"]["version"], seen["challenger"], seen["share"]) == ("2", None, 0)
    assert ledger.reigns("flight_delay") == ["1", "2"]
    assert set(traffic.statuses) == {200}


def test_a_challenger_that_breaks_is_rolled_back_and_no_client_sees_it(
    server: ModelServerProcess, ledger: Ledger, offer: Offer
) -> None:
    broken = threading.Event()

    def break_once(observation: Observation) -> None:
        if observation.share > 0 and not broken.is_set():
            broken.set()
            server.client.post("/control/fault", json={"error_share": 0.5}).raise_for_status()

    with Traffic(server) as traffic:
        outcome = run(server, ledger, offer, break_once)
    assert outcome.state == "rolled_back"
    assert outcome.tripped is not None
    assert (outcome.tripped.cause, outcome.reason) == ("hard_limit", outcome.tripped.reason)
    assert (outcome.tripped.challenger_requests_since_first_error or 0) < 200
    seen = server.observe()
    assert (seen["champion"]["version"], seen["challenger"], seen["rollout"]) == ("1", None, None)
    assert ledger.reigns("flight_delay") == ["1"]
    assert set(traffic.statuses) == {200}


def test_a_person_holds_a_smaller_share_and_whoever_saw_the_challenger_then_sees_it_at_the_plans(
    server: ModelServerProcess, ledger: Ledger, offer: Offer
) -> None:
    sides: list[tuple[float, set[int]]] = []
    wishes = iter(("share", "resume", "abort"))

    def steer(observation: Observation) -> None:
        if observation.share == 0 or (sides and sides[-1][0] == observation.share):
            return
        answers = server.predict(*map(tiny_record, range(200))).json()["predictions"]
        new = {number for number, answer in enumerate(answers) if answer["model_version"] == "2"}
        sides.append((observation.share, new))
        wish = next(wishes)
        body = {"command": wish, "by": "ada", "reason": "few servers", "phase": None}
        body |= {"share": 0.1} if wish == "share" else {}
        ledger.append("flight_delay", "rollout.command", offer.rollout, body)

    slow = msgspec.structs.replace(PLAN.steps[0], minimum_requests=10**6)
    with Traffic(server) as traffic:
        outcome = run(server, ledger, offer, steer, plan=msgspec.structs.replace(PLAN, steps=(slow, PLAN.steps[1])))
    assert outcome.reason == "aborted by ada: few servers"
    assert [share for share, _ in sides] == [0.3, 0.1, 0.3]
    assert set() < sides[1][1] < sides[0][1] == sides[2][1]
    assert set(traffic.statuses) == {200}


def crash_at(share: float) -> Callable[[Observation], None]:
    def crash(observation: Observation) -> None:
        if observation.share == share:
            raise CrashedError("the host is gone")

    return crash


def wait_for_the_lease(server: ModelServerProcess) -> None:
    deadline = time.monotonic() + 20
    while not server.observe()["tripped"]:
        assert time.monotonic() < deadline, "the lease did not run out"
        time.sleep(0.02)


def test_a_dead_controller_costs_the_share_and_the_next_run_rolls_back(
    server: ModelServerProcess, ledger: Ledger, offer: Offer
) -> None:
    with Traffic(server) as traffic:
        with pytest.raises(CrashedError):
            run(server, ledger, offer, crash_at(0.3))
        assert server.observe()["share"] == 0.3
        wait_for_the_lease(server)
        assert server.observe()["share"] == 0
        outcome = run(server, ledger, offer)
    assert outcome.state == "rolled_back"
    assert "the lease ran out" in outcome.reason
    assert server.observe()["challenger"] is None
    assert set(traffic.statuses) == {200}


def test_a_run_that_follows_a_dead_controller_within_its_lease_goes_on_where_that_one_was(
    server: ModelServerProcess, ledger: Ledger, offer: Offer
) -> None:
    patient = msgspec.structs.replace(PLAN, lease_s=60, unreachable_s=60)
    with Traffic(server) as traffic:
        with pytest.raises(CrashedError):
            run(server, ledger, offer, crash_at(0.3), plan=patient)
        seen: list[Observation] = []
        outcome = run(server, ledger, offer, seen.append)
    assert outcome.state == "promoted"
    assert not any(each.shadow for each in seen), "the shadow was over"
    assert (seen[0].share, seen[0].tripped) == (0.3, None), "its share has outlived it"
    (resumed,) = ledger.entries("flight_delay", ("rollout.resumed",))
    assert resumed.body == {"phase": "30 %"}
    assert set(traffic.statuses) == {200}


class DiesAtPromotion(LocalPlatform):
    """A controller's host that is gone between the two swaps."""

    async def promote(self, message: PromoteSlot) -> None:
        raise CrashedError("the host is gone")


@pytest.mark.parametrize("lease_is_out", [False, True])
def test_a_crash_between_the_two_swaps_is_finished_by_the_next_run(
    server: ModelServerProcess, ledger: Ledger, offer: Offer, lease_is_out: bool
) -> None:
    with Traffic(server) as traffic:
        with pytest.raises(CrashedError):
            run(server, ledger, offer, platform_class=DiesAtPromotion)
        assert (ledger.reigns("flight_delay"), server.observe()["champion"]["version"]) == (["1", "2"], "1")
        if lease_is_out:
            wait_for_the_lease(server)
        outcome = run(server, ledger, offer)
    assert outcome.state == "promoted"
    assert (ledger.reigns("flight_delay"), server.observe()["champion"]["version"]) == (["1", "2"], "2")
    assert set(traffic.statuses) == {200}
