"""The Kubernetes API over HTTP, with what a real server does and doubles tend not to.

Where KUBECONFIG names a cluster, `make test-kubernetes` runs the tests of the API's own behaviour against it, in a
namespace of their own: those that inject faults need the double, and say so.
"""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import kmock
import pytest

from pipelines.rollout.platforms.cluster import names
from pipelines.rollout.platforms.cluster.api import FIELD_MANAGER, Cluster, open_client
from pipelines.rollout.platforms.cluster.election import Election, micro_time
from pipelines.rollout.platforms.cluster.http_route import Route, operations, split_of
from pipelines.rollout.platforms.cluster.watching import WatchedRoutes
from pipelines.rollout.platforms.port import PlatformUnreachableError, SlotRefusedError
from pipelines.rollout.platforms.separate.platform import StaleWriteError
from pipelines.rollout.platforms.separate.split import Named, Split
from pipelines.rollout.platforms.turns import TurnLostError
from tests.fixtures.kubernetes_cluster import ApiDouble, http_route, stable_deployment
from tests.fixtures.kubernetes_objects import Objects, Refused

PROJECT = "flight_delay"
NAMED = {"version": "1", "bundle": "b1", "path": "/bundles/b1"}
SPLIT = Split(
    champion=Named(version="1", bundle="b1", path="/bundles/b1"),
    rollout="r1",
    challenger=Named(version="2", bundle="b2", path="/bundles/b2"),
    share=0.1,
    lease_s=15,
    lease_ends_s=1_800_000_000.25,
)
REAL = bool(os.environ.get("KUBECONFIG")) and os.environ.get("PACELINE_TEST_KUBERNETES") == "1"
needs_double = pytest.mark.skipif(REAL, reason="a real API server cannot be told to fail: the double is")


class Api:
    """An API server, and a namespace of it that is ours."""

    def __init__(self, connect: Callable[[], Awaitable[Any]], namespace: str, double: ApiDouble | None) -> None:
        self.connect, self.namespace, self._double = connect, namespace, double
        self.opened: list[Cluster] = []

    @property
    def double(self) -> ApiDouble:
        assert self._double is not None
        return self._double

    def cluster(self, **more: Any) -> Cluster:
        found = Cluster(self.namespace, self.connect, **more)
        self.opened.append(found)
        return found

    async def put(self, cluster: Cluster, group: str, plural: str, body: Any) -> Any:
        return await cluster.create(cluster.path(group, plural), body)


@asynccontextmanager
async def api() -> AsyncIterator[Api]:
    """The double, or the cluster that KUBECONFIG names."""
    if REAL:
        namespace = f"paceline-test-{secrets.token_hex(4)}"
        client = await open_client()
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
        options: Any = {"header_params": {"Content-Type": "application/json"}, "auth_settings": ["BearerToken"]}
        await client.call_api("/api/v1/namespaces", "POST", body=body, **options)
        try:
            yield (found := Api(open_client, namespace, None))
        finally:
            await asyncio.gather(*(cluster.aclose() for cluster in found.opened))
            await client.call_api(f"/api/v1/namespaces/{namespace}", "DELETE", **options)
            await client.close()
        return
    from kubernetes.aio.client import ApiClient, Configuration

    double = ApiDouble()
    double.objects_kept = Objects()
    async with double, kmock.Server(double) as server:

        async def connect() -> Any:
            configuration = Configuration()
            configuration.host = str(server.url).rstrip("/")
            return ApiClient(configuration)

        found = Api(connect, "models", double)
        yield found
        await asyncio.gather(*(cluster.aclose() for cluster in found.opened))


def run(scenario: Callable[[Api], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with api() as found:
            await asyncio.wait_for(scenario(found), 60)

    asyncio.run(whole())


async def put_route(found: Api, cluster: Cluster) -> str:
    await found.put(cluster, names.ROUTES, "httproutes", http_route(PROJECT))
    return cluster.path(names.ROUTES, "httproutes", "flight-delay")


def test_a_route_changes_by_one_json_patch_of_its_own_field_manager() -> None:
    async def scenario(found: Api) -> None:
        cluster = found.cluster()
        path = await put_route(found, cluster)
        route = Route(cluster, PROJECT)
        before, stamp = await route.read()
        assert before == Split()
        await route.write(SPLIT, stamp)
        body = await cluster.get(path)
        assert body is not None
        assert split_of(body) == SPLIT
        assert [each["weight"] for each in body["spec"]["rules"][0]["backendRefs"]] == [9000, 1000]
        assert body["metadata"]["annotations"][names.LEASE_UNTIL] == "2027-01-15T08:00:00.250000Z"
        if not REAL:
            patches = [each for each in found.double._requests if each.method == kmock.method.PATCH]
            assert [each.headers["Content-Type"] for each in patches] == ["application/json-patch+json"]
            assert patches[0].params["fieldManager"] == FIELD_MANAGER

    run(scenario)


def test_a_stale_resource_version_is_a_conflict_and_changes_nothing() -> None:
    async def scenario(found: Api) -> None:
        cluster = found.cluster()
        path = await put_route(found, cluster)
        mine, other = Route(cluster, PROJECT), Route(cluster, PROJECT)
        _, stamp = await mine.read()
        await other.write(SPLIT, (await other.read())[1])
        with pytest.raises(StaleWriteError):
            await mine.write(Split(), stamp)
        body = await cluster.get(path)
        assert body is not None
        assert split_of(body) == SPLIT

    run(scenario)


def test_a_field_of_another_manager_is_a_conflict_unless_it_is_taken_over() -> None:
    async def scenario(found: Api) -> None:
        cluster = found.cluster()
        other = Cluster(found.namespace, found.connect, field_manager="kubectl")
        found.opened.append(other)
        path = cluster.path(names.DEPLOYMENTS, "deployments", names.stable(PROJECT))
        await other.apply(path, stable_deployment(PROJECT, NAMED))
        mine = {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": names.stable(PROJECT)},
            "spec": {"replicas": 3},
        }
        with pytest.raises(SlotRefusedError, match="kubectl") as refused:
            await cluster.apply(path, mine)
        assert refused.value.status == 409
        await cluster.apply(path, mine, force=True)
        body = await cluster.get(path)
        assert body is not None
        assert body["spec"]["replicas"] == 3

    run(scenario)


def test_what_the_gateway_apis_rules_forbid_is_refused_with_the_apis_words() -> None:
    async def scenario(found: Api) -> None:
        cluster = found.cluster()
        path = await put_route(found, cluster)
        route = await cluster.get(path)
        assert route is not None
        patch = operations(route, SPLIT, names.stable(PROJECT), names.challenger(PROJECT))
        redirect = {"type": "RequestRedirect", "requestRedirect": {"hostname": "example.com"}}
        patch[-1]["value"][0]["filters"] = [redirect]
        with pytest.raises(SlotRefusedError, match="backendRefs") as refused:
            await cluster.patch(path, patch)
        assert refused.value.status == 422
        negative = [{"op": "replace", "path": "/spec/rules/0/backendRefs/1/weight", "value": -1}]
        with pytest.raises(SlotRefusedError, match="weight") as refused:
            await cluster.patch(path, negative)
        assert refused.value.status == 422

    run(scenario)


def test_a_gpu_request_that_is_not_its_limit_is_refused() -> None:
    async def scenario(found: Api) -> None:
        cluster = found.cluster()
        body = stable_deployment(PROJECT, NAMED)
        body["spec"]["template"]["spec"]["containers"][0]["resources"] = {
            "requests": {"nvidia.com/gpu": "1"}, "limits": {"nvidia.com/gpu": "2"},
        }  # fmt: skip
        with pytest.raises(SlotRefusedError, match=r"nvidia.com/gpu limit") as refused:
            await found.put(cluster, names.DEPLOYMENTS, "deployments", body)
        assert refused.value.status == 422

    run(scenario)


def test_a_custom_resource_takes_no_strategic_merge_patch() -> None:
    async def scenario(found: Api) -> None:
        cluster = found.cluster()
        path = await put_route(found, cluster)
        with pytest.raises(SlotRefusedError) as refused:
            await cluster._call("PATCH", path, {"spec": {}}, content_type="application/strategic-merge-patch+json")
        assert refused.value.status == 415

    run(scenario)


def test_a_lease_time_has_six_digits_that_are_never_all_zero() -> None:
    assert micro_time(1_800_000_000.0) == "2027-01-15T08:00:00.000001Z"
    assert micro_time(1_800_000_000.5) == "2027-01-15T08:00:00.500000Z"

    async def scenario(found: Api) -> None:
        cluster = found.cluster()
        spec = {"holderIdentity": "a", "leaseDurationSeconds": 15, "renewTime": "2027-01-15T08:00:00Z"}
        lease = {"apiVersion": names.LEASES, "kind": "Lease", "metadata": {"name": "x"}, "spec": spec}
        if not REAL:  # what the library's own datetime becomes when its microseconds are 0
            with pytest.raises(SlotRefusedError, match="MicroTime"):
                await found.put(cluster, names.LEASES, "leases", lease)
        lease["spec"] = {**spec, "renewTime": micro_time(1_800_000_000.0)}
        await found.put(cluster, names.LEASES, "leases", lease)

    run(scenario)


def test_of_two_candidates_one_leads_and_hands_over_cleanly() -> None:
    async def scenario(found: Api) -> None:
        first, second = (
            Election(found.cluster(), "paceline-controller", name, duration_s=4, renew_s=0.2) for name in ("a", "b")
        )
        led: list[str] = []
        is_over = asyncio.Event()

        async def lead(name: str) -> None:
            led.append(name)
            await is_over.wait()

        one = asyncio.create_task(first.take(lambda: lead("a")))
        while not first.is_leading:
            await asyncio.sleep(0.01)
        two = asyncio.create_task(second.take(lambda: lead("b")))
        await asyncio.sleep(0.5)
        assert led == ["a"], "while the Lease is renewed, nobody else leads"
        one.cancel()
        loop = asyncio.get_running_loop()
        given_back_s = loop.time()
        while "b" not in led:
            await asyncio.sleep(0.01)
        assert loop.time() - given_back_s < 2, "it was given back: nobody waits for its end"
        is_over.set()
        await two

    run(scenario)


@needs_double
def test_a_leader_that_cannot_renew_stops_before_another_may_lead() -> None:
    async def scenario(found: Api) -> None:
        leader = Election(
            found.cluster(patience_s=0.1, timeout_s=0.1), "paceline-controller", "a", duration_s=1.2, renew_s=0.2
        )
        other = Election(found.cluster(), "paceline-controller", "b", duration_s=1.2, renew_s=0.2)
        is_cut = False
        stopped_s = led_s = 0.0
        loop = asyncio.get_running_loop()

        async def connect() -> Any:
            if is_cut:
                raise ConnectionRefusedError
            return await found.connect()

        leader._cluster._connect = connect

        async def forever() -> None:
            nonlocal stopped_s
            try:
                await asyncio.Event().wait()
            finally:
                stopped_s = loop.time()

        async def noted() -> None:
            nonlocal led_s
            led_s = loop.time()

        one = asyncio.create_task(leader.take(forever))
        while not leader.is_leading:
            await asyncio.sleep(0.01)
        is_cut = True
        await leader._cluster.aclose()
        await other.take(noted)
        with pytest.raises(TurnLostError, match="could not be renewed"):
            await one
        assert stopped_s < led_s

    run(scenario)


@needs_double
@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_api_is_waited_for_as_long_as_it_says(status: int) -> None:
    async def scenario(found: Api) -> None:
        slept: list[float] = []

        async def sleep(seconds: float) -> None:
            slept.append(seconds)

        cluster = found.cluster(sleep=sleep)
        path = await put_route(found, cluster)
        answers = iter([status, status, 0])

        async def fault(method: str, asked: str) -> None:
            if (code := next(answers, 0)) != 0:
                raise Refused(code, "busy", headers={"Retry-After": "1"})

        found.double.fault = fault
        assert await cluster.get(path) is not None
        assert [pause >= 1 for pause in slept] == [True, True]

    run(scenario)


@needs_double
def test_an_api_that_stays_away_is_given_up_within_bounds() -> None:
    async def scenario(found: Api) -> None:
        cluster = found.cluster(patience_s=0.5, timeout_s=0.1)
        path = await put_route(found, cluster)

        async def hang(method: str, asked: str) -> None:
            await asyncio.sleep(5)

        found.double.fault = hang
        started_s = asyncio.get_running_loop().time()
        with pytest.raises(PlatformUnreachableError, match="Timeout"):
            await cluster.get(path)
        assert asyncio.get_running_loop().time() - started_s < 3

        async def cut(method: str, asked: str) -> None:
            raise ConnectionResetError

        found.double.fault = cut
        with pytest.raises(PlatformUnreachableError, match=r"Disconnected|Reset"):
            await cluster.get(path)

    run(scenario)


@needs_double
def test_an_eviction_that_a_budget_forbids_is_waited_for_and_then_said() -> None:
    async def scenario(found: Api) -> None:
        found.double.objects_kept.disrupted_allowed = False
        cluster = found.cluster(patience_s=0.3)
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {}}
        await found.put(cluster, "v1", "pods", pod)
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}}
        with pytest.raises(PlatformUnreachableError, match="disruption budget"):
            await cluster.create(cluster.path("v1", "pods", "p") + "/eviction", eviction)
        found.double.objects_kept.disrupted_allowed = True
        await cluster.create(cluster.path("v1", "pods", "p") + "/eviction", eviction)

    run(scenario)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


@needs_double
def test_a_watch_goes_on_after_a_lost_connection_and_lists_again_after_410() -> None:
    async def scenario(found: Api) -> None:
        cluster = found.cluster()
        await put_route(found, cluster)
        watched = WatchedRoutes(found.cluster(), sleep=lambda seconds: asyncio.sleep(seconds / 20))
        following = asyncio.create_task(watched.follow())
        await until(lambda: watched.is_synced)
        objects = found.double.objects_kept

        def weight() -> int:
            return int(watched.routes["flight-delay"]["spec"]["rules"][0]["backendRefs"][1]["weight"])

        async def share(value: float) -> None:
            route = Route(cluster, PROJECT)
            _, stamp = await route.read()
            await route.write(Split(share=value, rollout="r"), stamp)

        await share(0.1)
        await until(lambda: weight() == 1000)
        is_cut = True

        async def cut(method: str, asked: str) -> None:
            if method == "WATCH" and is_cut:
                raise ConnectionResetError

        found.double.fault = cut
        await until(lambda: watched.restarts > 0)
        await share(0.2)
        is_cut = False
        await until(lambda: weight() == 2000)
        assert watched.lists == 1, "it went on from where it was"
        is_cut = True
        await share(0.3)
        objects.forget()
        is_cut = False
        await until(lambda: weight() == 3000)
        assert watched.lists == 2
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)

    run(scenario)
