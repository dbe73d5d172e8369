"""Challengers that are broken in every way that there is a fault for, each caught within a stated number of requests.

A real server, live clients, the real controller. The fault begins when the challenger is in its step, or in its shadow.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import msgspec
import pytest

from contracts.faults import (
    ConstantScore,
    CrashingProcess,
    Fault,
    LeakingMemory,
    NanScores,
    ShiftedScores,
    SlowRuns,
    SwappedScores,
    WrongFor,
    WrongShape,
)
from contracts.slots import HardLimits, InjectFault, Observation
from pipelines.ledger import Ledger
from pipelines.rollout.controller import Offer, Outcome, run_rollout
from pipelines.rollout.plan import Plan, ShadowStep, Step
from pipelines.rollout.platforms.local import LocalPlatform
from tests.fixtures.bundles import tiny_bundle, tiny_record
from tests.fixtures.model_servers import ModelServerProcess

PAUSE_S = 0.02  # of each client between two requests: what a version may answer until the next look hangs on the rate
BIAS = 2.0  # scores of 0.9, so that a wrong one is far from them
ENDLESS = Step(share=0.3, minimum_requests=100_000, minimum_s=600, maximum_s=600)
STEP_ONLY = Plan(
    shadow=None,
    steps=(ENDLESS, Step(share=1.0)),
    hard_limits=HardLimits(memory_mb=80),
    lease_s=5,
    look_every_s=0.2,
    latency_floor_ms=20,
)
SHADOW = ShadowStep(minimum_pairs=100_000, minimum_s=600, maximum_s=600, maximum_flip_share=0.9, slice_by="carrier")


@dataclass
class Case:
    """A fault, the most requests or pairs that the challenger may have by its end, and a word of the reason."""

    fault: Fault | None
    at_most: int
    reason: str
    is_in_shadow: bool = False
    workers: str = "1"
    error_share: float = 0.0


CASES = {
    "exceptions": Case(None, 30, "errors for 8 entities", error_share=1.0),
    "NaN": Case(NanScores(), 30, "errors for 8 entities"),
    "wrong shape": Case(WrongShape(), 30, "errors for 8 entities"),
    "constant output": Case(ConstantScore(score=0.97), 400, "scores"),
    "shifted scores": Case(ShiftedScores(by=-0.3), 400, "scores"),
    "swapped scores": Case(SwappedScores(), 400, "scores"),
    "slow from the start": Case(SlowRuns(ms=60), 600, "slower than"),
    "slower every minute": Case(SlowRuns(more_each_minute_ms=3000), 1000, "slower than"),
    "leaking memory": Case(LeakingMemory(mb_each_run=2, maximum_mb=400), 250, "MB since it loaded the challenger"),
    "crashing the process": Case(CrashingProcess(after_runs=5), 60, "has ended by SIGSEGV", workers="2"),
    "wrong for one carrier": Case(WrongFor(field="carrier", value="UA"), 600, "carrier UA", is_in_shadow=True),
}
QUICK = ("NaN", "leaking memory", "wrong for one carrier")


@dataclass
class Traffic:
    """Clients, 150 requests a second at most; what went wrong for them, and how many connections ended under them."""

    server: ModelServerProcess
    clients: int = 3
    wrong: list[str] = field(default_factory=list)
    lost: int = 0

    def __enter__(self) -> "Traffic":
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def _ask(self, number: int) -> None:
        with httpx.Client(base_url=self.server.url, timeout=30, trust_env=False) as client:
            while not self._stop.wait(PAUSE_S):
                number += self.clients
                record = tiny_record(number % 30, tailnum=f"N{number}")
                try:
                    answer = client.post("/v1/predict", json={"records": [record]})
                except httpx.TransportError:
                    self.lost += 1
                    continue
                if answer.status_code != 200:
                    self.wrong.append(answer.text)

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(f"sqlite:///{tmp_path}/ledger.db") as opened:
        opened.swap_champion("flight_delay", None, "1", "b1", "bootstrap", "the first")
        yield opened


class Caught:
    """The challenger's requests, or pairs, at the last look before the fault and at the last of all."""

    def __init__(self, server: ModelServerProcess, case: Case) -> None:
        self._server = server
        self._case = case
        self._is_broken = False
        self.before = self.last = 0

    def look(self, observation: Observation) -> None:
        """Plants the fault at the first look at which the challenger is asked."""
        seen = observation.shadowed.pairs if self._case.is_in_shadow and observation.shadowed else 0
        if not self._case.is_in_shadow and observation.challenger is not None:
            seen = observation.challenger.requests
        self.last = max(self.last, seen)
        if seen >= 5 and not self._is_broken:
            self._is_broken = True
            self.before = seen
            fault = InjectFault(fault=self._case.fault, error_share=self._case.error_share)
            answer = httpx.post(
                f"{self._server.url}/control/fault", json=msgspec.to_builtins(fault), trust_env=False, timeout=30
            )
            answer.raise_for_status()


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def test_a_broken_challenger_is_caught_within_a_stated_number_of_requests(
    model_servers: Callable[..., ModelServerProcess], tmp_path: Path, ledger: Ledger, name: str
) -> None:
    case = CASES[name]
    server = model_servers(allow_faults="yes", workers=case.workers)
    server.install(tiny_bundle(tmp_path / "bundles", bias=BIAS), "1")
    bundle = tiny_bundle(tmp_path / "bundles", bias=BIAS + 0.01)
    offer = Offer(
        rollout="broken-1",
        project="flight_delay",
        version="2",
        bundle=bundle.id,
        path=str(bundle.path),
        expected_champion="1",
    )
    plan = STEP_ONLY
    if case.is_in_shadow:
        plan = Plan(shadow=SHADOW, lease_s=5, look_every_s=0.2, latency_floor_ms=20)
    caught = Caught(server, case)

    async def roll_out() -> Outcome:
        async with LocalPlatform(server.url) as platform:
            return await run_rollout(platform, ledger, plan, offer, on_look=caught.look)

    with Traffic(server) as traffic:
        outcome = asyncio.run(asyncio.wait_for(roll_out(), 120))
    assert outcome.state == "rolled_back"
    assert case.reason in outcome.reason
    assert caught.before > 0
    assert caught.last - caught.before <= case.at_most
    assert traffic.wrong == []
    assert traffic.lost <= (2 * traffic.clients if case.workers == "2" else 0)
    assert ledger.reigns("flight_delay") == ["1"]
