import asyncio
from pathlib import Path

import msgspec
import pytest

from contracts.slots import LoadSlot, PromoteSlot, RenewLease, SetShare
from pipelines.rollout.plan import Plan
from pipelines.rollout.platforms.cluster import names
from pipelines.rollout.platforms.cluster.api import Cluster
from pipelines.rollout.platforms.cluster.deployments import champion_of
from pipelines.rollout.platforms.cluster.guarding import Guard
from pipelines.rollout.platforms.cluster.watching import WatchedRoutes
from pipelines.rollout.platforms.port import PlatformUnreachableError, SlotRefusedError
from pipelines.wiring import find_project
from tests.fixtures.cluster_rollouts import OFFER, PLAN, PROJECT, ClusterSite
from tests.fixtures.kubernetes_cluster import DEPLOYMENTS, stable_deployment

LOAD = LoadSlot(version="2", bundle="b2", path="/here/b2", rollout=OFFER.rollout)


def annotations(site: ClusterSite) -> dict[str, str]:
    found: dict[str, str] = site.cluster.route["metadata"].get("annotations") or {}
    return found


async def shared(site: ClusterSite, share: float = 0.1, lease_s: float = 15.0) -> None:
    platform = site.platform()
    await platform.load(LOAD)
    await platform.set_share(SetShare(rollout=OFFER.rollout, share=share, lease_s=lease_s))


def test_a_good_challenger_goes_from_shadow_to_promotion(tmp_path: Path) -> None:
    site = ClusterSite()
    outcome = asyncio.run(site.roll_out(tmp_path))
    assert (outcome.state, outcome.is_dropped) == ("promoted", True), outcome.reason
    assert [step.name for step in outcome.steps] == ["shadow", "10 %", "50 %", "100 %"]
    stable = site.cluster.objects.get("deployments", names.stable(PROJECT))
    assert stable is not None
    served = champion_of(stable)
    assert served is not None
    assert (served.version, served.path) == ("2", "/bundles/b2"), "where the pods have it"
    assert (site.cluster.weight, site.cluster.is_mirrored, site.cluster.challenger) == (0, False, None)
    assert names.ROLLOUT not in annotations(site)
    assert "failed" not in site.cluster.answered or site.cluster.answered["failed"] == 0
    assert "lost" not in site.cluster.answered


def test_a_broken_challenger_is_rolled_back_and_leaves_nothing_behind(tmp_path: Path) -> None:
    site = ClusterSite()
    site.cluster.error_rates["2"] = 0.6
    outcome = asyncio.run(site.roll_out(tmp_path, msgspec.structs.replace(PLAN, shadow=None)))
    assert (outcome.state, outcome.is_dropped) == ("rolled_back", True)
    assert outcome.tripped is not None
    assert "errors in" in outcome.tripped.reason
    assert (site.cluster.weight, site.cluster.challenger) == (0, None)
    assert max(site.weights) == 1000, "the 10 % step was the last that it saw"


def test_a_challenger_that_fails_a_little_is_rolled_back_by_the_judge(tmp_path: Path) -> None:
    site = ClusterSite(requests_per_s=1000)
    site.cluster.error_rates |= {"1": 0.002, "2": 0.06}
    plan = msgspec.structs.replace(PLAN, shadow=None)
    outcome = asyncio.run(site.roll_out(tmp_path, plan))
    assert outcome.state == "rolled_back"
    assert outcome.reason.startswith("errors for"), outcome.reason


def test_a_challenger_that_fails_in_the_shadow_never_answers_anybody(tmp_path: Path) -> None:
    site = ClusterSite()
    site.cluster.error_rates["2"] = 0.3
    outcome = asyncio.run(site.roll_out(tmp_path))
    assert outcome.state == "rolled_back"
    assert "errors of one version alone" in outcome.reason
    assert max(site.weights) == 0


def test_the_first_version_of_a_project_is_promoted_without_traffic(tmp_path: Path) -> None:
    site = ClusterSite(champion=None)
    offer = msgspec.structs.replace(OFFER, version="1", bundle="b1", rollout="first", expected_champion=None)
    outcome = asyncio.run(site.roll_out(tmp_path, offer=offer))
    assert outcome.state == "promoted", outcome.reason
    stable = site.cluster.objects.get("deployments", names.stable(PROJECT))
    assert stable is not None
    served = champion_of(stable)
    assert served is not None
    assert served.version == "1"


def test_a_plan_that_asks_for_pairs_or_a_holdout_is_refused_before_anything_is_started(tmp_path: Path) -> None:
    site = ClusterSite()
    outcome = asyncio.run(site.roll_out(tmp_path, Plan()))
    assert outcome.state == "refused"
    assert "shadow.maximum_flip_share needs the feature 'pairs of answers'" in outcome.reason
    assert site.cluster.challenger is None


@pytest.mark.parametrize("project", ["flight_delay", "credit_risk"])
def test_the_projects_here_are_rolled_out_by_the_plan_of_their_own_files(project: str, tmp_path: Path) -> None:
    site = ClusterSite()
    plan = find_project(project).plan_on("kubernetes")
    outcome = asyncio.run(site.roll_out(tmp_path, plan))
    assert outcome.state == "promoted", outcome.reason
    assert [step.name for step in outcome.steps] == ["shadow", *(f"{step.share * 100:g} %" for step in plan.steps)]


def test_no_share_is_given_before_all_pods_of_the_challenger_are_ready(tmp_path: Path) -> None:
    site = ClusterSite()

    async def scenario() -> None:
        await shared(site)
        site.cluster.objects.change(
            "deployments", names.challenger(PROJECT), status={"observedGeneration": 1, "updatedReplicas": 2,
            "availableReplicas": 1, "readyReplicas": 1, "replicas": 2},
        )  # fmt: skip
        with pytest.raises(PlatformUnreachableError, match="1 available"):
            await site.platform().set_share(SetShare(rollout=OFFER.rollout, share=0.5))

    asyncio.run(scenario())
    assert site.cluster.weight == 1000


def test_pods_that_never_become_ready_refuse_the_challenger() -> None:
    site = ClusterSite()
    site.cluster.broken.add("2")
    with pytest.raises(SlotRefusedError, match="timed out progressing"):
        asyncio.run(site.platform().load(LOAD))
    asyncio.run(site.platform().drop(OFFER.rollout))
    assert site.cluster.challenger is None


def test_a_challenger_without_a_ready_pod_loses_its_share_at_the_next_look() -> None:
    site = ClusterSite()

    async def scenario() -> None:
        platform = site.platform()
        await shared(site)
        for pod in site.cluster.objects.all_of("pods"):
            if pod["metadata"]["annotations"]["serves"] == "2":
                site.cluster.objects.handle(
                    "DELETE", f"/api/v1/namespaces/models/pods/{pod['metadata']['name']}", {}, "", None
                )
        site.cluster.broken.add("2")
        site.cluster.step()
        seen = await platform.observe()
        assert seen.tripped is not None
        assert "no pod of flight-delay-challenger is ready" in seen.tripped.reason
        with pytest.raises(SlotRefusedError, match="has tripped"):
            await platform.set_share(SetShare(rollout=OFFER.rollout, share=0.1))

    asyncio.run(scenario())
    assert site.cluster.weight == 0


def test_a_lease_that_nobody_renews_is_zeroed_by_whoever_watches() -> None:
    site = ClusterSite()
    asyncio.run(shared(site))
    assert annotations(site)[names.LEASE_UNTIL].endswith("Z")
    watcher = site.platform()
    site.clock.pass_by(14)
    assert asyncio.run(watcher.expire()) is None
    assert site.cluster.weight == 1000
    site.clock.pass_by(1)
    reason = asyncio.run(watcher.expire())
    assert reason is not None
    assert "ran out" in reason
    assert (site.cluster.weight, names.LEASE_UNTIL in annotations(site)) == (0, False)


def test_a_renewed_lease_keeps_the_share_and_does_not_write_at_every_look() -> None:
    site = ClusterSite()

    async def scenario() -> int:
        await shared(site)
        platform = site.platform()
        writes = len(site.cluster.objects.writes)
        for _ in range(60):
            site.clock.pass_by(1)
            await platform.renew_lease(RenewLease(rollout=OFFER.rollout, lease_s=15))
        return len([each for each in site.cluster.objects.writes[writes:] if "httproutes" in each[1]])

    written = asyncio.run(scenario())
    assert site.cluster.weight == 1000
    assert 5 <= written <= 12


def test_a_promotion_whose_pods_do_not_come_up_goes_back_to_the_champion() -> None:
    site = ClusterSite()

    async def scenario() -> None:
        await shared(site, share=1.0)
        site.cluster.broken.add("2")
        await site.platform().promote(PromoteSlot(version="2", expected="1"))

    with pytest.raises(SlotRefusedError, match="does not roll out"):
        asyncio.run(scenario())
    stable = site.cluster.objects.get("deployments", names.stable(PROJECT))
    assert stable is not None
    served = champion_of(stable)
    assert served is not None
    assert served.version == "1"


def test_a_promotion_is_compare_and_swap() -> None:
    site = ClusterSite()
    asyncio.run(shared(site))
    with pytest.raises(SlotRefusedError, match="the champion is 1, expected was 7"):
        asyncio.run(site.platform().promote(PromoteSlot(version="2", expected="7")))


def test_a_former_share_or_champion_does_not_come_back_by_who_has_slept() -> None:
    site = ClusterSite()

    async def scenario() -> tuple[int | None, int]:
        await shared(site)
        rollout = OFFER.rollout
        await site.platform().set_share(SetShare(rollout=rollout, share=0.5, fence=12))
        with pytest.raises(SlotRefusedError, match="goes by entry 12 of the ledger, this was asked by entry 11"):
            await site.platform().set_share(SetShare(rollout=rollout, share=0.1, fence=11))
        with pytest.raises(SlotRefusedError, match="read it again"):
            await site.platform().renew_lease(RenewLease(rollout=rollout, fence=11))
        weight = site.cluster.weight
        await site.platform().promote(PromoteSlot(version="2", expected="1", fence=30))
        with pytest.raises(SlotRefusedError, match="goes by entry 30"):
            await site.platform().promote(PromoteSlot(version="1", expected="2", fence=20))
        return (await site.platform().observe()).fence, weight

    assert asyncio.run(scenario()) == (30, 5000)


def test_the_route_changes_only_after_all_stable_pods_serve_the_new_version() -> None:
    site = ClusterSite(replicas=4)
    seen: list[tuple[int, set[str]]] = []

    def look(seconds: float) -> None:
        pods = [
            pod for pod in site.cluster.objects.all_of("pods") if pod["metadata"]["labels"][names.TRACK] == "stable"
        ]
        seen.append((site.cluster.weight, {pod["metadata"]["annotations"]["serves"] for pod in pods}))

    async def scenario() -> None:
        await shared(site, share=1.0)
        site.clock.listeners.append(look)
        await site.platform().promote(PromoteSlot(version="2", expected="1"))

    asyncio.run(scenario())
    assert len(seen) > 4
    assert all(weight == 10_000 for weight, _ in seen), "while pods of the old version are replaced"
    assert site.cluster.weight == 0
    assert {pod["metadata"]["annotations"]["serves"] for pod in site.cluster.objects.all_of("pods")} == {"2"}


def test_samples_of_any_other_version_are_refused() -> None:
    site = ClusterSite()

    async def scenario() -> tuple[int, int]:
        platform = site.platform()
        await shared(site)
        await platform.observe()
        site.clock.pass_by(5)
        key = next(key for key, value in site.cluster.counted.items() if key[1] == "1" and not isinstance(value, int))
        strange = msgspec.structs.replace(site.cluster.counted[key], version="9", requests=10**6)
        site.cluster.counted[key[0], "9"] = strange
        seen = await platform.observe()
        assert seen.champion is not None
        counting = platform._counting
        assert counting is not None
        return seen.champion.requests, counting.refused

    requests, refused = asyncio.run(scenario())
    assert requests < 10_000
    assert refused == 1


def test_a_stable_deployment_that_would_take_the_challengers_pods_is_refused() -> None:
    site = ClusterSite()
    stable = site.cluster.objects.get("deployments", names.stable(PROJECT))
    assert stable is not None
    del stable["spec"]["selector"]["matchLabels"][names.TRACK]
    with pytest.raises(SlotRefusedError, match=r"has no label paceline.dev/track"):
        asyncio.run(site.platform().load(LOAD))


def test_a_challenger_that_manifests_have_is_scaled_from_nothing_and_back(tmp_path: Path) -> None:
    site = ClusterSite()
    theirs = stable_deployment(PROJECT, None)
    theirs["metadata"]["name"] = names.challenger(PROJECT)
    theirs["spec"]["replicas"] = 0
    theirs["spec"]["selector"]["matchLabels"][names.TRACK] = "challenger"
    theirs["spec"]["template"]["metadata"]["labels"][names.TRACK] = "challenger"
    site.cluster.objects.put(DEPLOYMENTS, theirs)
    outcome = asyncio.run(site.roll_out(tmp_path))
    assert outcome.state == "promoted", outcome.reason
    left = site.cluster.challenger
    assert left is not None
    assert left["spec"]["replicas"] == 0
    assert names.ROLLOUT not in (left["metadata"].get("annotations") or {})


def test_a_clock_that_is_ahead_keeps_no_share_alive() -> None:
    site = ClusterSite()

    async def scenario() -> None:
        ahead = site.platform()
        ahead._clock = lambda: site.clock() + 3600
        await ahead.load(LOAD)
        await ahead.set_share(SetShare(rollout=OFFER.rollout, share=0.1, lease_s=15))
        watched = WatchedRoutes(Cluster("models", site.api.connect))
        watched.routes["flight-delay"] = site.cluster.route
        guard = Guard(watched, lambda name: site.platform(), clock=site.clock, monotonic=site.clock)
        await guard.check()
        site.clock.pass_by(14)
        await guard.check()
        assert (site.cluster.weight, guard.expired) == (1000, 0)
        site.clock.pass_by(2)
        await guard.check()
        assert (site.cluster.weight, guard.expired) == (0, 1)

    asyncio.run(scenario())
