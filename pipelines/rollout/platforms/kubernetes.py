"""The platform `kubernetes`: a project's HTTPRoute, its two Deployments, and their counters (docs/kubernetes.md)."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from pipelines.rollout.platforms.cluster import names
from pipelines.rollout.platforms.cluster.api import Cluster, open_client
from pipelines.rollout.platforms.cluster.deployments import Deployments
from pipelines.rollout.platforms.cluster.http_route import Route
from pipelines.rollout.platforms.cluster.kserve import InferenceService
from pipelines.rollout.platforms.separate.platform import POLL_S, SeparateServers
from pipelines.rollout.platforms.separate.reading import Prometheus, Scraped

if TYPE_CHECKING:
    from kubernetes.aio.client import ApiClient

SCRAPE_S = 15.0  # Prometheus' usual interval
SETTLE_S = 3.0  # from a patched route to a gateway that goes by it


def kubernetes_platform(
    project: str,
    namespace: str,
    *,
    prometheus: str | None = None,
    metrics_key: str | None = None,
    scrape_s: float = SCRAPE_S,
    bundles_at: str | None = None,
    settle_s: float = SETTLE_S,
    load_timeout_s: float = 600.0,
    poll_s: float = POLL_S,
    connect: Callable[[], Awaitable["ApiClient"]] = open_client,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> SeparateServers:
    """The platform of `project` in `namespace`.

    Counters are read from the pods, or from the `prometheus` at that URL, which scrapes every `scrape_s`: needed
    beyond 200 pods. `metrics_key` is an API key of the scope `metrics`, for pods that have
    keys. `bundles_at` is the folder in which the pods have the bundles, by their id.
    """
    cluster = Cluster(namespace, connect, sleep=sleep)
    counters: Scraped | Prometheus = Scraped(metrics_key)
    if prometheus is not None:
        pods = f"{names.stable(project)}-.+|{names.challenger(project)}-.+"
        counters = Prometheus(prometheus, f'namespace="{namespace}",pod=~"{pods}"', lag_s=2 * scrape_s)
    return SeparateServers(
        Route(cluster, project),
        Deployments(cluster, project, bundles_at),
        counters,
        settle_s=settle_s,
        load_timeout_s=load_timeout_s,
        poll_s=poll_s,
        clock=clock,
        sleep=sleep,
    )


def kserve_platform(
    project: str, namespace: str, *, metrics_key: str | None = None, settle_s: float = SETTLE_S
) -> SeparateServers:
    """The platform of `project` as an InferenceService; KServe copies no requests, so it has no shadow."""
    service = InferenceService(Cluster(namespace), project)
    return SeparateServers(service, service, Scraped(metrics_key), has_shadow=False, settle_s=settle_s)
