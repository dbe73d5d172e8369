"""The InferenceService that is written, against strict models of the fields that KServe's v1beta1 has for it."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from contracts.slots import LoadSlot, PromoteSlot, SetShare
from pipelines.rollout.controller import run_rollout
from pipelines.rollout.platforms.cluster import names
from pipelines.rollout.platforms.cluster.api import Cluster
from pipelines.rollout.platforms.cluster.kserve import GROUP, InferenceService, inference_service, operations
from pipelines.rollout.platforms.port import PlatformUnreachableError
from pipelines.rollout.platforms.separate.platform import SeparateServers
from pipelines.rollout.platforms.separate.split import Named, Split
from tests.fixtures.cluster_rollouts import OFFER, PROJECT
from tests.fixtures.kubernetes_cluster import NAMESPACE, Counted, InProcess, SmallCluster
from tests.fixtures.platforms import SimulatedClock

FIRST = Named(version="1", bundle="b1", path="/bundles/b1")
SECOND = Named(version="2", bundle="b2", path="/bundles/b2")
PATH = f"/apis/{GROUP}/namespaces/{NAMESPACE}/inferenceservices"


class Variable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    value: str


class Port(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    containerPort: int  # noqa: N815  KServe's names
    protocol: str


class Container(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    image: str
    env: list[Variable]
    ports: list[Port]


class Predictor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    minReplicas: int  # noqa: N815
    containers: list[Container]
    canaryTrafficPercent: int | None = None  # noqa: N815

    def __post_init__(self) -> None:
        if self.canaryTrafficPercent is not None and not 0 <= self.canaryTrafficPercent <= 100:
            raise ValueError(f"canaryTrafficPercent is {self.canaryTrafficPercent}")


class Spec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    predictor: Predictor


class Metadata(msgspec.Struct, frozen=True):
    name: str
    annotations: dict[str, str] = {}


class Service(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    apiVersion: str  # noqa: N815
    kind: str
    metadata: Metadata
    spec: Spec
    status: Any = None


class Site:
    """The API double with one InferenceService, whose revisions become ready when the test says so."""

    def __init__(self) -> None:
        self.clock = SimulatedClock()
        self.cluster = SmallCluster(PROJECT, None)
        self.cluster.objects.put(PATH, inference_service(PROJECT, "registry.example/serving:1", FIRST))
        self.settle()
        self.percents: list[int | None] = []

    def settle(self) -> None:
        """The controller of KServe has made the latest revision ready."""
        found = self.cluster.objects.get("inferenceservices", "flight-delay")
        assert found is not None
        generation = found["metadata"]["generation"]
        name = f"flight-delay-predictor-{generation:05}"
        predictor = {"latestCreatedRevision": name, "latestReadyRevision": name}
        status = {"observedGeneration": generation, "components": {"predictor": predictor}}
        self.cluster.objects.change("inferenceservices", "flight-delay", status=status)

    async def sleep(self, seconds: float) -> None:
        self.clock.pass_by(seconds)
        self.settle()

    def platform(self) -> SeparateServers:
        client = InProcess(self.cluster.objects)
        service = InferenceService(Cluster(NAMESPACE, client.connect, clock=self.clock, sleep=self.sleep), PROJECT)
        counters = Counted(self.cluster)
        return SeparateServers(service, service, counters, has_shadow=False, clock=self.clock, sleep=self.sleep)

    @property
    def predictor(self) -> Predictor:
        return msgspec.convert(self.cluster.objects.get("inferenceservices", "flight-delay"), Service).spec.predictor

    def serves(self) -> str:
        return {each.name: each.value for each in self.predictor.containers[0].env}[names.VERSION_VARIABLE]


def test_what_is_written_has_only_fields_that_kserve_has() -> None:
    written = inference_service(PROJECT, "registry.example/serving:1", FIRST)
    assert msgspec.convert(written, Service).spec.predictor.canaryTrafficPercent is None
    with pytest.raises(msgspec.ValidationError, match="canaryPercent"):
        msgspec.convert(
            {**written, "spec": {"predictor": {**written["spec"]["predictor"], "canaryPercent": 1}}}, Service
        )


@pytest.mark.parametrize(("share", "percent"), [(0.05, 5), (0.1, 10), (0.29, 29), (0.005, 0), (0.999, 99), (1.0, 100)])
def test_a_share_is_a_whole_percentage_and_never_more(share: float, percent: int) -> None:
    service = {**inference_service(PROJECT, "i", FIRST)}
    service["metadata"] = {**service["metadata"], "resourceVersion": "7"}
    split = Split(champion=FIRST, rollout="r", challenger=SECOND, share=share)
    patch = operations(service, split)
    assert patch[0] == {"op": "replace", "path": "/metadata/resourceVersion", "value": "7"}
    assert patch[-1]["value"]["canaryTrafficPercent"] == percent


def test_a_challenger_comes_without_traffic_and_leads_when_the_percentage_is_taken_away() -> None:
    site = Site()

    async def scenario() -> None:
        platform = site.platform()
        await platform.load(LoadSlot(version="2", bundle="b2", path="/bundles/b2", rollout="r"))
        assert (site.serves(), site.predictor.canaryTrafficPercent) == ("2", 0)
        await platform.set_share(SetShare(rollout="r", share=0.25))
        assert site.predictor.canaryTrafficPercent == 25
        await platform.promote(PromoteSlot(version="2", expected="1"))
        assert (site.serves(), site.predictor.canaryTrafficPercent) == ("2", None)
        seen = await platform.observe()
        assert seen.champion is not None
        assert seen.champion.version == "2"

    asyncio.run(scenario())


def test_a_rollback_gives_the_revision_before_all_requests_and_the_next_challenger_replaces_it() -> None:
    site = Site()

    async def scenario() -> None:
        platform = site.platform()
        await platform.load(LoadSlot(version="2", bundle="b2", path="/bundles/b2", rollout="r"))
        await platform.set_share(SetShare(rollout="r", share=0.25))
        await platform.drop("r")
        assert site.predictor.canaryTrafficPercent == 0
        await platform.load(LoadSlot(version="3", bundle="b3", path="/bundles/b3", rollout="r3"))
        assert (site.serves(), site.predictor.canaryTrafficPercent) == ("3", 0)

    asyncio.run(scenario())


def test_no_share_before_the_revision_is_ready() -> None:
    site = Site()

    async def scenario() -> None:
        platform = site.platform()
        await platform.load(LoadSlot(version="2", bundle="b2", path="/bundles/b2", rollout="r"))
        found = site.cluster.objects.get("inferenceservices", "flight-delay")
        assert found is not None
        status = {
            **found["status"],
            "components": {"predictor": {"latestCreatedRevision": "x", "latestReadyRevision": "y"}},
        }
        site.cluster.objects.change("inferenceservices", "flight-delay", status=status)
        with pytest.raises(PlatformUnreachableError, match="revision x is not ready"):
            await platform.set_share(SetShare(rollout="r", share=0.25))

    asyncio.run(scenario())


def test_a_plan_with_a_shadow_is_refused(tmp_path: Path) -> None:
    from pipelines.ledger import Ledger
    from tests.fixtures.cluster_rollouts import PLAN

    site = Site()
    with Ledger.open(f"sqlite:///{tmp_path}/ledger.db") as ledger:
        ledger.swap_champion(PROJECT, None, "1", "b1", "bootstrap", "the first")
        outcome = asyncio.run(run_rollout(site.platform(), ledger, PLAN, OFFER, clock=site.clock, sleep=site.sleep))
    assert outcome.state == "refused"
    assert "shadow" in outcome.reason
    assert site.serves() == "1"
