"""The rights of the rollout's account are exactly what its code asks the API for."""

import asyncio
import re
from collections import defaultdict
from pathlib import Path

import msgspec

from pipelines.rollout.platforms.cluster.api import Cluster
from pipelines.rollout.platforms.cluster.election import Election
from pipelines.rollout.platforms.cluster.watching import WatchedRoutes
from tests.fixtures.cluster_rollouts import PLAN, ClusterSite
from tests.fixtures.kubernetes_cluster import NAMESPACE
from tests.fixtures.manifests import find, overlay

_PATH = re.compile(r"/apis?/(?:([^/]+)/)?v[^/]+/namespaces/[^/]+/([^/]+)(?:/([^/]+))?$")
_VERBS = {"POST": {"create"}, "PUT": {"update"}, "DELETE": {"delete"}}


def _asked(site: ClusterSite) -> dict[str, set[str]]:
    """Records the verbs, by `group/resource`, that the site's API is asked for from now on."""
    found: dict[str, set[str]] = defaultdict(set)

    def record(method: str, path: str) -> None:
        matched = _PATH.match(path)
        assert matched is not None, path
        group, plural, name = matched.groups()
        verbs = _VERBS.get(method)
        if verbs is None:
            is_read = method == "GET"
            verbs = {"get" if name else "list"} if is_read else {"patch"}
        found[f"{group or ''}/{plural}"] |= verbs

    site.api.before = record
    return found


def _allowed() -> dict[str, set[str]]:
    rules = find(overlay("production"), "Role", "paceline-rollout")["rules"]
    found: dict[str, set[str]] = defaultdict(set)
    for rule in rules:
        for group in rule["apiGroups"]:
            for plural in rule["resources"]:
                found[f"{group}/{plural}"] |= set(rule["verbs"])
    return dict(found)


def test_the_account_may_do_what_rollouts_and_the_controller_do_and_nothing_else(tmp_path: Path) -> None:
    site = ClusterSite()
    asked = _asked(site)
    outcome = asyncio.run(site.roll_out(tmp_path / "good"))
    assert outcome.state == "promoted"
    broken = ClusterSite()
    broken.cluster.error_rates["2"] = 0.6
    also = _asked(broken)
    asyncio.run(broken.roll_out(tmp_path / "broken", msgspec.structs.replace(PLAN, shadow=None)))

    async def lead_and_watch() -> None:
        cluster = Cluster(NAMESPACE, site.api.connect, clock=site.clock, sleep=site.clock.sleep)
        await Election(cluster, "paceline-controller", "a").take(lambda: asyncio.sleep(0))
        watched = WatchedRoutes(cluster)
        await watched._list()
        await site.platform().observe()

    asyncio.run(lead_and_watch())
    found = {name: asked[name] | also[name] for name in asked.keys() | also.keys()}
    # what a double without sockets cannot show: server-side apply creates what is not there (rights of both kinds are
    # asked for by the API server), counters are read from the listed pods, and a list is followed by a watch
    found["apps/deployments"].add("create")
    found["gateway.networking.k8s.io/httproutes"].add("watch")
    found.setdefault("/pods", set()).add("list")
    assert _allowed() == found


def test_only_those_who_run_rollouts_have_the_rights_and_the_servers_none() -> None:
    binding = find(overlay("production"), "RoleBinding", "paceline-rollout")
    allowed = {(subject["namespace"], subject["name"]) for subject in binding["subjects"]}
    ours = {("paceline", "paceline-controller"), ("paceline", "paceline-pipelines")}
    assert allowed == ours | {("airflow", "airflow-worker"), ("airflow", "airflow-triggerer")}
    roles = {each["kind"] for each in overlay("production") if "Role" in each["kind"]}
    assert roles == {"Role", "RoleBinding"}, "nothing reaches beyond the namespace"
    assert find(overlay("production"), "ServiceAccount", "paceline-serving")["automountServiceAccountToken"] is False
