"""Two hundred seeded rollouts on Kubernetes in which the API, the network, other writers and the controller fail."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from contracts.slots import SetShare
from pipelines.ledger import Ledger
from pipelines.rollout.controller import Outcome, run_rollout
from pipelines.rollout.plan import AlphaShares, Plan, ShadowStep, Step
from pipelines.rollout.platforms.cluster import names
from pipelines.rollout.platforms.cluster.api import Cluster
from pipelines.rollout.platforms.cluster.deployments import Deployments, champion_of
from pipelines.rollout.platforms.cluster.http_route import Route
from pipelines.rollout.platforms.port import PlatformUnreachableError
from pipelines.rollout.platforms.separate.platform import SeparateServers
from tests.fixtures.cluster_rollouts import OFFER, PROJECT, ClusterSite
from tests.fixtures.kubernetes_cluster import NAMESPACE, Counted, InProcess
from tests.fixtures.kubernetes_objects import Refused
from tests.fixtures.platforms import CrashedError

SEEDS, BLOCK, QUICK_BLOCKS = 200, 20, 2
QUICK: dict[str, Any] = {"minimum_requests": 50, "minimum_s": 2, "maximum_s": 90}
PLAN = Plan(
    shadow=ShadowStep(minimum_pairs=50, minimum_s=2, maximum_s=90),
    steps=tuple(Step(share=share, **QUICK) for share in (0.1, 0.5, 1.0)),
    alpha_shares=AlphaShares(flips=0, scores=0),
    error_rate_margin=None,
    lease_s=6,
    unreachable_s=30,
)
WATCHED_EVERY_S = 1.0
RUNS_MAX = 12


class Faults:
    """What goes wrong between one process and the API, drawn anew for each request."""

    def __init__(self, site: ClusterSite, seed: int) -> None:
        self.site = site
        self.random = np.random.default_rng(seed)
        self.rate = float(self.random.choice([0.02, 0.08, 0.2]))
        self.crash_rate = float(self.random.choice([0.0, 0.004, 0.02]))
        self.partition = (0.0, 0.0)
        self.is_over = False

    def connect(self) -> InProcess:
        client = InProcess(self.site.cluster.objects)
        client.before, client.after = self.before, self.after
        return client

    def before(self, method: str, path: str) -> None:
        if self.is_over:
            return
        self._cut()
        if self.random.random() < self.crash_rate:
            raise CrashedError(f"before {method} {path}")
        if self.random.random() >= self.rate:
            return
        kind = self.random.integers(5)
        if kind == 0:
            raise Refused(429, "too many requests", "TooManyRequests", {"Retry-After": "1"})
        if kind == 1:
            raise Refused(int(self.random.choice([500, 503, 504])), "etcdserver: leader changed", "InternalError")
        if kind == 2:
            raise ConnectionResetError("connection reset by peer")
        if kind == 3 and "httproutes" in path and method == "PATCH":
            route = self.site.cluster.route
            notes = {**(route["metadata"].get("annotations") or {}), "example.com/touched": str(self.random.random())}
            metadata = {**route["metadata"], "annotations": notes}
            self.site.cluster.objects.change("httproutes", names.resource_name(PROJECT), metadata=metadata)
        if kind == 4:
            start_s = self.site.clock()
            self.partition = (start_s, start_s + float(self.random.uniform(1, 20)))
            self._cut()

    def after(self, method: str, path: str) -> None:
        """The API has done it, and the answer is lost."""
        if self.is_over:
            return
        if self.random.random() < self.rate / 4:
            raise TimeoutError
        if method != "GET" and self.random.random() < self.crash_rate:
            raise CrashedError(f"after {method} {path}")

    def _cut(self) -> None:
        if self.partition[0] <= self.site.clock() < self.partition[1]:
            raise ConnectionRefusedError("no route to host")


class Storm:
    """One rollout under faults, its watcher, and what must hold while it runs."""

    def __init__(self, seed: int) -> None:
        self.site = ClusterSite(seed=seed)
        self.faults = Faults(self.site, seed)
        self.site.cluster.error_rates["2"] = float(self.faults.random.choice([0.0, 0.0, 0.3]))
        self.allowed = 0.0
        self.problems: list[str] = []
        self.watcher = self._platform(InProcess(self.site.cluster.objects), self.site.clock.sleep)
        self.watched_s = 0.0
        self.site.clock.listeners.append(self._check)

    def _platform(self, client: InProcess, sleep: Any) -> SeparateServers:
        cluster = Cluster(NAMESPACE, client.connect, clock=self.site.clock, sleep=sleep, patience_s=4)
        return SeparateServers(
            Route(cluster, PROJECT),
            Deployments(cluster, PROJECT, "/bundles"),
            Counted(self.site.cluster),
            clock=self.site.clock,
            sleep=sleep,
            load_timeout_s=60,
        )

    async def sleep(self, seconds: float) -> None:
        """Time passes, and the watcher goes on beside."""
        self.site.clock.pass_by(seconds)
        if self.site.clock() - self.watched_s >= WATCHED_EVERY_S:
            self.watched_s = self.site.clock()
            await self.watcher.expire()

    def _check(self, seconds: float) -> None:
        weight, now_s = self.site.cluster.weight, self.site.clock()
        if weight > int(self.allowed * 10_000):
            self.problems.append(f"weight {weight} where the plan allows {self.allowed}")
        lease = (self.site.cluster.route["metadata"].get("annotations") or {}).get(names.SPLIT)
        if weight and lease:
            ends_s = msgspec.json.decode(lease).get("lease_ends_s", 0.0)
            if now_s - ends_s > WATCHED_EVERY_S + seconds + 1:
                self.problems.append(f"weight {weight}, and the lease is over since {now_s - ends_s:.1f} s")

    async def run(self, folder: Path) -> Outcome:
        with Ledger.open(f"sqlite:///{folder}/ledger.db") as ledger:
            ledger.swap_champion(PROJECT, None, "1", "b1", "bootstrap", "the first")
            for _ in range(RUNS_MAX):
                try:
                    return await self._run_once(ledger)
                except (CrashedError, PlatformUnreachableError):
                    await self.sleep(float(self.faults.random.uniform(0.5, 12)))
                    self.faults.crash_rate *= 0.6  # so that it ends some time
            self.faults.is_over = True
            return await self._run_once(ledger)

    async def _run_once(self, ledger: Ledger) -> Outcome:
        platform = self._platform(self.faults.connect(), self.sleep)
        set_share = platform.set_share

        async def allowing(message: SetShare) -> None:
            self.allowed = max(self.allowed, message.share)
            await set_share(message)
            self.allowed = message.share

        platform.set_share = allowing  # type: ignore[method-assign]
        return await run_rollout(platform, ledger, PLAN, OFFER, clock=self.site.clock, sleep=self.sleep)

    async def calm(self) -> None:
        """After the rollout only the watcher is left."""
        self.faults.is_over = True
        for _ in range(int(PLAN.lease_s) + 3):
            await self.sleep(1)


async def storm(seed: int, folder: Path) -> str:
    weather = Storm(seed)
    outcome = await weather.run(folder)
    await weather.calm()
    cluster = weather.site.cluster
    assert weather.problems == [], f"seed {seed}: {weather.problems[:3]}"
    assert cluster.weight == 0, f"seed {seed}: {outcome.state}, weight {cluster.weight}"
    assert not cluster.is_mirrored, f"seed {seed}"
    assert cluster.challenger is None, f"seed {seed}: an orphan after {outcome.state}: {outcome.reason}"
    stable = cluster.objects.get("deployments", names.stable(PROJECT))
    assert stable is not None
    served = champion_of(stable)
    assert served is not None
    if outcome.is_dropped:
        wanted = "2" if outcome.state == "promoted" else "1"
        assert served.version == wanted, f"seed {seed}: {outcome.state}, stable serves {served.version}"
    return outcome.state


@pytest.mark.parametrize(
    "block",
    [
        *range(QUICK_BLOCKS),
        *(pytest.param(block, marks=pytest.mark.slow) for block in range(QUICK_BLOCKS, SEEDS // BLOCK)),
    ],
)
def test_whatever_fails_the_share_stays_within_the_plan_and_nothing_is_left(block: int, tmp_path: Path) -> None:
    for seed in range(block * BLOCK, (block + 1) * BLOCK):
        folder = tmp_path / str(seed)
        folder.mkdir()
        asyncio.run(storm(seed, folder))


def test_the_check_sees_a_share_that_nobody_asked_for(tmp_path: Path) -> None:
    weather = Storm(0)
    route = weather.site.cluster.route
    route["spec"]["rules"][0]["backendRefs"][1]["weight"] = 2000
    weather.site.clock.pass_by(1)
    assert weather.problems == ["weight 2000 where the plan allows 0.0"]
