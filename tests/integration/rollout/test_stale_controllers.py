"""A controller that was stopped (SIGSTOP) beyond its lease wakes up: what it wanted then is refused.

Real processes: a model server, the controller that sleeps, and the one that has taken its rollout over.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pipelines.ledger import Ledger
from pipelines.rollout.controller import Offer
from pipelines.rollout.plan import Plan, Step
from pipelines.rollout.platforms.local import LocalPlatform
from pipelines.tasks.aligning import align_servers
from tests.fixtures.bundles import tiny_bundle, tiny_record
from tests.fixtures.model_servers import ModelServerProcess
from tests.fixtures.sites import MemoryRegistry, make_site
from tests.fixtures.sleeping_controllers import ControllerProcess, Job

PROJECT, ROLLOUT = "flight_delay", "flight_delay-v2-1"
LEASE_S = 2.0
QUICK = {"minimum_requests": 10, "minimum_s": 0.2, "maximum_s": 120}
PLAN = Plan(
    shadow=None,
    steps=(
        Step(share=0.3, **QUICK),
        Step(share=0.6, minimum_requests=10**6, minimum_s=0.2, maximum_s=600),
        Step(share=1.0, **QUICK),
    ),
    error_rate_margin=None,
    lease_s=LEASE_S,
    look_every_s=0.1,
    latency_floor_ms=1000,
)


class Watched:
    """Clients ask without pause; `shares` are the challenger's, each time that it has become another."""

    def __init__(self, server: ModelServerProcess) -> None:
        self.server, self.shares = server, list[float]()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def _ask(self) -> None:
        number = 0
        while not self._over.wait(0.002):
            number += 1
            self.server.predict(tiny_record(number)).raise_for_status()
            share = self.server.observe()["share"]
            if self.shares[-1:] != [share]:
                self.shares.append(share)

    def __enter__(self) -> "Watched":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(30)


@pytest.fixture
def server(model_servers: Callable[..., ModelServerProcess], tmp_path: Path) -> ModelServerProcess:
    started = model_servers()
    started.install(tiny_bundle(tmp_path / "bundles"), "1")
    return started


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(f"sqlite:///{tmp_path}/ledger.db") as opened:
        opened.swap_champion(PROJECT, None, "1", "b1", "bootstrap", "the first")
        yield opened


@pytest.fixture
def job(server: ModelServerProcess, ledger: Ledger, tmp_path: Path) -> Job:
    bundle = tiny_bundle(tmp_path / "bundles", bias=0.1)
    offer = Offer(
        rollout=ROLLOUT,
        project=PROJECT,
        version="2",
        bundle=bundle.id,
        path=str(bundle.path),
        expected_champion="1",
    )
    return Job(ledger=f"sqlite:///{tmp_path}/ledger.db", server=server.url, offer=offer, plan=PLAN)


def until(condition: Callable[[], bool], complaint: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, complaint
        time.sleep(0.02)


def refusals(controller: ControllerProcess, asked: str) -> list[dict[str, Any]]:
    return [each for each in controller.said if asked in each and each["refused"]]


def test_the_share_of_an_earlier_step_does_not_come_back(
    server: ModelServerProcess, ledger: Ledger, job: Job, tmp_path: Path
) -> None:
    sleepy = msgspec.structs.replace(job, sleeps_at=0.3)
    with Watched(server) as watched, ControllerProcess(sleepy, tmp_path) as sleeper:
        until(sleeper.is_asleep, "it did not fall asleep before its first share")
        slept_s = time.monotonic()
        with ControllerProcess(job, tmp_path) as successor:
            until(lambda: server.observe()["share"] == 0.6, "nobody took the rollout over")
            until(lambda: time.monotonic() - slept_s > LEASE_S, "time stands still")
            sleeper.wake()
            until(lambda: refusals(sleeper, "share") != [], "a share of long ago was obeyed")
            assert "goes by entry" in refusals(sleeper, "share")[0]["refused"]
            assert server.observe()["share"] == 0.6
            command = {"command": "abort", "by": "a test", "reason": "it has been seen", "phase": None}
            ledger.append(PROJECT, "rollout.command", ROLLOUT, command)
            ends = sleeper.outcome(), successor.outcome()
    assert ends[0] == ends[1] == {"state": "rolled_back", "reason": "aborted by a test: it has been seen"}
    assert watched.shares == [0.0, 0.3, 0.6, 0.0]


def test_no_share_comes_back_when_the_lease_has_run_out(server: ModelServerProcess, job: Job, tmp_path: Path) -> None:
    sleepy = msgspec.structs.replace(job, sleeps_at=0.6)
    with Watched(server) as watched, ControllerProcess(sleepy, tmp_path) as sleeper:
        until(sleeper.is_asleep, "it did not fall asleep before its second share")
        until(lambda: server.observe()["tripped"] is not None, "the lease did not run out")
        with ControllerProcess(job, tmp_path) as successor:
            end = successor.outcome()
        sleeper.wake()
        assert sleeper.outcome() == end
        assert len(refusals(sleeper, "share")) == 1
    assert end["state"] == "rolled_back"
    assert "lease" in end["reason"]
    assert watched.shares == [0.0, 0.3, 0.0]


def test_a_promotion_of_an_earlier_reign_is_refused_also_where_its_version_is_tried_again(
    server: ModelServerProcess, ledger: Ledger, job: Job, tmp_path: Path
) -> None:
    quick = msgspec.structs.replace(PLAN, steps=(Step(share=0.3, **QUICK), Step(share=1.0, **QUICK)))
    job = msgspec.structs.replace(job, plan=quick)
    with (
        Watched(server),
        ControllerProcess(msgspec.structs.replace(job, sleeps_at_promotion=True), tmp_path) as sleeper,
    ):
        until(sleeper.is_asleep, "it did not fall asleep before its promotion")
        with ControllerProcess(job, tmp_path) as successor:
            assert successor.outcome()["state"] == "promoted"
        put_back(server, ledger, tmp_path)
        bundle = tiny_bundle(tmp_path / "bundles", bias=0.1)
        server.load(bundle, "2", "flight_delay-v2-2").raise_for_status()
        server.share("flight_delay-v2-2", 0.05).raise_for_status()
        sleeper.wake()
        sleeper.outcome()
        assert "goes by entry" in refusals(sleeper, "promote")[0]["refused"]
    seen = server.observe()
    assert (seen["champion"]["version"], seen["rollout"], seen["share"]) == ("1", "flight_delay-v2-2", 0.05)
    assert ledger.reigns(PROJECT)[-1] == "1"


def put_back(server: ModelServerProcess, ledger: Ledger, folder: Path) -> None:
    """Version 1 leads again, in the ledger and on the server."""
    first = tiny_bundle(folder / "bundles")
    assert ledger.swap_champion(PROJECT, "2", "1", first.id, "a-rollback", "it was worse")

    async def align() -> str | None:
        async with LocalPlatform(server.url) as platform:
            registry = MemoryRegistry({"1": "2013-01-07", "2": "2013-01-14"})
            site = make_site(ledger, platform, registry, project=PROJECT)
            return await align_servers(replace(site, path=lambda bundle: str(folder / "bundles" / bundle)))

    assert asyncio.run(align()) is None
