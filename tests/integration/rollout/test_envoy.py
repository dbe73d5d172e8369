"""Champion and challenger as servers apart behind a real Envoy: split, copies, lease, a killed rollout."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from contracts.bundle import Bundle
from contracts.slots import LoadSlot, PromoteSlot, SetShare
from pipelines.rollout.features import ENTITIES
from pipelines.rollout.platforms.envoy.group import Group, envoy_platform
from pipelines.rollout.platforms.envoy.routes_file import RoutesFile
from pipelines.rollout.platforms.separate.platform import SeparateServers
from pipelines.tasks import releasing
from pipelines.wiring import home, open_ledger
from tests.fixtures.bundles import tiny_bundle, tiny_record
from tests.fixtures.envoys import EnvoyProcess, require_envoy
from tests.fixtures.model_servers import ModelServerProcess
from tests.fixtures.rollbacks import PROJECT, point_at, two_versions
from tests.fixtures.small_installation import free_port, small_projects

ROLLOUT = "r1"


class Site:
    """Two model servers behind an Envoy; version 1 leads, and version 2's bundle is at hand."""

    def __init__(self, folder: Path, stable: ModelServerProcess, challenger: ModelServerProcess, new: Bundle) -> None:
        self.stable, self.challenger, self.new = stable, challenger, new
        self.routes = folder / "routes.json"
        self.group = Group(routes=str(self.routes), stable=(stable.url,), challenger=(challenger.url,))
        RoutesFile(self.routes).begin()
        self.envoy = EnvoyProcess(folder, self.routes, self.group.stable, self.group.challenger)

    def platform(self, group: Group | None = None) -> SeparateServers:
        return envoy_platform(group or self.group)

    async def share(self, platform: SeparateServers, share: float, **more: Any) -> None:
        load = LoadSlot(version="2", bundle=self.new.id, path=str(self.new.path), rollout=ROLLOUT)
        await platform.load(load)
        await platform.set_share(SetShare(rollout=ROLLOUT, share=share, **more))

    def ask(self, requests: int, entity: Callable[[int], str] = str) -> list[str]:
        """Which version answered each; every answer has to be good."""
        found = []
        with httpx.Client(base_url=self.envoy.url, trust_env=False, timeout=20) as client:
            for number in range(requests):
                body = {"records": [tiny_record(number)]}
                answer = client.post("/v1/predict", json=body, headers={"x-entity": entity(number)})
                assert answer.status_code == 200, answer.text
                found.append(answer.json()["predictions"][0]["model_version"])
        return found

    def counted(self, server: ModelServerProcess) -> int:
        found = 0.0
        for line in server.client.get("/metrics").text.splitlines():
            if line.startswith("paceline_predictions_total{"):
                found += float(line.rpartition(" ")[2])
        return int(found)


@pytest.fixture
def site(
    model_servers: Callable[..., ModelServerProcess], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Site]:
    require_envoy()
    point_at(tmp_path, monkeypatch)
    first, second = (tiny_bundle(home().bundles, bias=bias, threshold=at) for bias, at in ((0.0, 0.55), (0.4, 0.6)))
    servers = [
        model_servers(state=str(tmp_path / name), predictions=str(tmp_path / f"log-{name}"), allow_faults="yes")
        for name in ("stable", "challenger")
    ]
    servers[0].install(first, "1")
    found = Site(tmp_path, servers[0], servers[1], second)
    with found.envoy:
        yield found


def test_what_envoy_is_told_is_valid(site: Site) -> None:
    assert "OK" in site.envoy.validate()


def test_requests_are_divided_copied_and_fall_back_when_the_lease_is_over(site: Site) -> None:
    async def scenario() -> None:
        platform = site.platform()
        await site.share(platform, 0.2, lease_s=60)
        await asyncio.sleep(0.5)
        answered = await asyncio.to_thread(site.ask, 600)
        mine = answered.count("2")
        assert 70 <= mine <= 175, mine  # 120 are expected; a binomial is outside by chance once in a million
        # copies
        before = site.counted(site.challenger)
        await platform.set_share(SetShare(rollout=ROLLOUT, share=0.0, shadow=True, lease_s=60))
        await asyncio.sleep(0.5)
        assert set(await asyncio.to_thread(site.ask, 100)) == {"1"}
        await asyncio.sleep(0.5)
        assert site.counted(site.challenger) - before == 100
        # the lease, which nobody renews, is held by Envoy alone: nothing of ours runs
        await platform.set_share(SetShare(rollout=ROLLOUT, share=1.0, lease_s=1.5))
        await asyncio.sleep(0.5)
        assert set(await asyncio.to_thread(site.ask, 20)) == {"2"}
        await asyncio.sleep(1.5)
        assert set(await asyncio.to_thread(site.ask, 50)) == {"1"}
        seen = await platform.observe()
        assert seen.tripped is not None
        assert seen.tripped.cause == "lease"
        await platform.aclose()

    asyncio.run(scenario())


def test_a_challenger_that_is_killed_costs_no_client_an_answer(site: Site) -> None:
    async def scenario() -> None:
        platform = site.platform()
        await site.share(platform, 0.5, lease_s=60)
        await asyncio.sleep(0.5)
        site.challenger.process.kill()
        site.challenger.process.wait(10)
        assert set(await asyncio.to_thread(site.ask, 200)) == {"1"}
        seen = await platform.observe()
        assert seen.tripped is not None
        assert "no server of the challenger answers" in seen.tripped.reason
        await platform.aclose()

    asyncio.run(scenario())


def test_with_a_header_entities_stick_and_a_larger_share_keeps_them(site: Site) -> None:
    group = Group(
        routes=str(site.routes), stable=site.group.stable, challenger=site.group.challenger, entity_header="x-entity"
    )

    async def scenario() -> None:
        platform = site.platform(group)
        assert ENTITIES not in platform.supports(), "requests of one entity go together: they are no units"
        await site.share(platform, 0.3, lease_s=60)
        await asyncio.sleep(0.5)

        def entity(number: int) -> str:
            return f"plane-{number % 50}"

        first = await asyncio.to_thread(site.ask, 100, entity)
        assert first[:50] == first[50:], "the same entity, the same version"
        assert 3 <= first[:50].count("2") <= 30
        await platform.set_share(SetShare(rollout=ROLLOUT, share=0.6, lease_s=60))
        await asyncio.sleep(0.5)
        larger = await asyncio.to_thread(site.ask, 50, entity)
        assert all(new == "2" for old, new in zip(first, larger, strict=False) if old == "2")
        await platform.aclose()

    asyncio.run(scenario())


@pytest.mark.slow
def test_a_rollout_behind_envoy_that_is_killed_falls_back_within_its_lease(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = {"minimum_requests": 20, "minimum_s": 1.0, "maximum_s": 60}
    rollout: dict[str, Any] = {
        "shadow": {"minimum_pairs": 20, "minimum_s": 0.5, "maximum_s": 60},
        "steps": [{"share": 0.2, **step, "minimum_s": 8.0}, {"share": 1.0, **step}],
        "alpha_shares": {"flips": 0, "scores": 0},
        "error_rate_margin": None,
        "latency_odds_margin": 20.0,
        "latency_floor_ms": 1000.0,
        "look_every_s": 0.3,
        "lease_s": 2,
    }
    assert two_versions()[1].id == site.new.id, "the bundles of the registry are those that are served"
    monkeypatch.setenv("PACELINE_PROJECTS", str(small_projects(tmp_path / "projects", free_port(), rollout)))
    groups = tmp_path / "envoy.yaml"
    told = {"routes": str(site.routes), "stable": [site.stable.url], "challenger": [site.challenger.url]}
    groups.write_text(yaml.safe_dump({PROJECT: told}))
    monkeypatch.setenv("PACELINE_ENVOY", str(groups))
    monkeypatch.setenv("PACELINE_PLATFORM", "envoy")
    command = [sys.executable, "-m", "pipelines", "release", PROJECT, "--version", "2", "--json"]
    runner = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ))
    try:
        ends_s = time.monotonic() + 90
        while "2" not in site.ask(20):
            assert time.monotonic() < ends_s
            assert runner.poll() is None
    finally:
        runner.send_signal(signal.SIGKILL)
        runner.wait(30)
    killed_s = time.monotonic()
    time.sleep(max(0.0, killed_s + rollout["lease_s"] + 0.3 - time.monotonic()))  # the lease itself is a time
    assert set(site.ask(60)) == {"1"}
    asyncio.run(_asked_again(site))
    champion = open_ledger().champion(PROJECT)
    assert champion is not None
    assert champion.version == "1"


async def _asked_again(site: Site) -> None:
    """The same offer again finds a rollout whose lease is over, and ends it."""
    opened = await asyncio.to_thread(releasing.open_rollout, PROJECT, "2")
    assert opened.offer is not None
    outcome = await releasing.roll_out(PROJECT, opened.offer)
    assert outcome["state"] == "rolled_back"
    assert "lease" in outcome["reason"]
    assert set(await asyncio.to_thread(site.ask, 20)) == {"1"}


def test_a_promotion_behind_envoy_swaps_the_stable_servers_and_then_the_route(site: Site) -> None:
    async def scenario() -> None:
        platform = site.platform()
        await site.share(platform, 1.0, lease_s=60)
        await platform.promote(PromoteSlot(version="2", expected="1"))
        assert site.stable.observe()["champion"]["version"] == "2"
        assert set(await asyncio.to_thread(site.ask, 20)) == {"2"}
        seen = await platform.observe()
        assert (seen.rollout, seen.share) == (None, 0.0)
        site.challenger.process.kill()
        assert set(await asyncio.to_thread(site.ask, 20)) == {"2"}, "the stable server answers"
        await platform.aclose()

    asyncio.run(scenario())
