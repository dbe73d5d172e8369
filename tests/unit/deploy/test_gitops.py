"""The manifests of Argo CD: staging follows main, production a pinned release, and neither fights a rollout."""

import asyncio
import copy
import json
import re
import tomllib
from typing import Any

import msgspec
import pytest

from tests.fixtures import airflow_chart
from tests.fixtures.airflow_chart import checked_values
from tests.fixtures.cluster_rollouts import CHAMPION, ClusterSite
from tests.fixtures.gitops import Application, AppProject, Ignored, compared, parse
from tests.fixtures.kubernetes_cluster import DEPLOYMENTS, ROUTES
from tests.fixtures.manifests import Object, find, flat, overlay, render
from tests.fixtures.scripts import ROOT

GITOPS = ROOT / "deploy" / "gitops"
OVERLAYS = {"paceline-staging": "staging", "paceline-production": "production"}
AIRFLOWS = {"airflow-staging": "staging", "airflow-production": "production"}
COLLECTIONS = {"HTTPRoute": ROUTES, "Deployment": DEPLOYMENTS}


@pytest.fixture(scope="module")
def objects() -> list[Object]:
    return render(GITOPS)


@pytest.fixture(scope="module")
def applications(objects: list[Object]) -> dict[str, Application]:
    parsed = [parse(each) for each in objects]
    return {name: spec for name, spec in parsed if isinstance(spec, Application)}


@pytest.fixture(scope="module")
def projects(objects: list[Object]) -> dict[str, AppProject]:
    return {name: spec for name, spec in map(parse, objects) if isinstance(spec, AppProject)}


@pytest.fixture(scope="module")
def project(projects: dict[str, AppProject]) -> AppProject:
    return projects["paceline"]


@pytest.fixture(scope="module")
def rolled_out(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Object, Object]]:
    """Production's objects in git, each beside a state of it in a rollout, from its shadow to its promotion."""
    git = {
        f"{kind} {name}": find(overlay("production"), kind, name)
        for kind, name in (
            ("HTTPRoute", "flight-delay"),
            ("Deployment", "flight-delay-stable"),
            ("Deployment", "flight-delay-challenger"),
        )
    }
    site = ClusterSite()
    kept = site.cluster.objects
    for each in git.values():
        collection, name = COLLECTIONS[each["kind"]], each["metadata"]["name"]
        if kept.get(collection.rpartition("/")[2], name) is not None:
            kept.handle("DELETE", f"{collection}/{name}", {}, "", None)
        kept.put(collection, _as_it_starts(each), manager="argocd-controller")
    for _ in range(10):
        site.cluster.step()
    states: dict[str, tuple[Object, Object]] = {}

    def note(*_: str) -> None:
        for key, each in git.items():
            live = kept.get(COLLECTIONS[each["kind"]].rpartition("/")[2], each["metadata"]["name"])
            assert live is not None, f"{key} is gone"
            told = json.dumps([key, live["spec"], live["metadata"].get("annotations")], sort_keys=True)
            states.setdefault(told, (each, copy.deepcopy(live)))

    site.api.after = note
    outcome = asyncio.run(site.roll_out(tmp_path_factory.mktemp("rollout")))
    assert outcome.state == "promoted", outcome
    assert len(states) > 10
    return list(states.values())


@pytest.mark.parametrize(
    "breaks",
    [
        lambda spec: spec["syncPolicy"].update(automatd={}),
        lambda spec: spec["source"].pop("targetRevision"),
        lambda spec: spec["ignoreDifferences"][0].update(jqPathExpressions=[]),
        lambda spec: spec["syncPolicy"]["syncOptions"].append("ServerSideApply"),
        lambda spec: spec["source"].pop("path"),
        lambda spec: spec.update(sources=[spec["source"]]),
    ],
)
def test_a_wrong_application_is_found(objects: list[Object], breaks: Any) -> None:
    broken = copy.deepcopy(find(objects, "Application", "paceline-production"))
    breaks(broken["spec"])
    with pytest.raises(msgspec.ValidationError):
        parse(broken)


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_application_applies_the_overlay_of_its_environment(
    applications: dict[str, Application], project: AppProject, name: str
) -> None:
    found = applications[name]
    assert ROOT / str(found.folder.path) == ROOT / "deploy/kubernetes/overlays" / OVERLAYS[name]
    (namespace,) = [each for each in overlay(OVERLAYS[name]) if each["kind"] == "Namespace"]
    assert found.destination.namespace == namespace["metadata"]["name"]
    assert found.destination in project.destinations
    assert found.folder.repo_url in project.source_repos
    assert "ServerSideApply=true" in found.sync_policy.sync_options
    assert "RespectIgnoreDifferences=true" in found.sync_policy.sync_options


def test_the_project_may_make_what_the_overlays_have_and_nothing_else(project: AppProject) -> None:
    made = {
        (each["apiVersion"].rpartition("/")[0], each["kind"]) for name in OVERLAYS.values() for each in overlay(name)
    }
    cluster = {(each.group, each.kind) for each in project.cluster_resource_whitelist}
    assert cluster == {("", "Namespace")}
    assert {(each.group, each.kind) for each in project.namespace_resource_whitelist} == made - cluster


@pytest.mark.parametrize("name", AIRFLOWS)
def test_airflow_comes_of_its_pinned_chart_with_our_values_and_what_these_name(
    applications: dict[str, Application], projects: dict[str, AppProject], name: str
) -> None:
    found, environment = applications[name], AIRFLOWS[name]
    (chart,) = found.charts
    assert (chart.repo_url, chart.chart) == ("https://airflow.apache.org", "airflow")
    assert re.fullmatch(r"\d+\.\d+\.\d+", chart.target_revision), "a range is no pin"
    assert f"--version {chart.target_revision} " in (ROOT / "docs" / "airflow_on_kubernetes.md").read_text()
    assert chart.helm is not None
    values = [ROOT / file.removeprefix(f"${found.folder.ref}/") for file in chart.helm.value_files]
    assert values == [ROOT / "deploy/airflow" / file for file in ("values.yaml", f"{environment}.yaml")]
    assert checked_values(*values, more=chart.helm.values_object).migrate_database_job.job_annotations
    assert ROOT / str(found.folder.path) == ROOT / "deploy/airflow/cluster" / environment
    assert {found.folder.repo_url, chart.repo_url} == set(projects[found.project].source_repos)


@pytest.mark.parametrize("name", AIRFLOWS)
def test_airflow_is_in_the_namespace_that_the_servers_expect_it_in(
    applications: dict[str, Application], projects: dict[str, AppProject], name: str
) -> None:
    found, environment = applications[name], AIRFLOWS[name]
    assert found.destination in projects[found.project].destinations
    (namespace,) = [each for each in render(ROOT / str(found.folder.path)) if each["kind"] == "Namespace"]
    assert found.destination.namespace == namespace["metadata"]["name"]
    servers = overlay(environment)
    accounts = {
        each["namespace"]
        for each in find(servers, "RoleBinding", "paceline-rollout")["subjects"]
        if each["name"].startswith("airflow-")
    }
    assert accounts == {found.destination.namespace}
    admitted = json.dumps(find(servers, "NetworkPolicy", "serving"))
    assert f'"kubernetes.io/metadata.name": "{found.destination.namespace}"' in admitted
    variables = (ROOT / "deploy/terraform" / f"{environment}.tfvars").read_text()
    assert f'airflow_namespace = "{found.destination.namespace}"' in variables


def test_the_two_airflows_share_neither_a_volume_nor_a_secret() -> None:
    staging, production = (render(ROOT / "deploy/airflow/cluster" / environment) for environment in AIRFLOWS.values())
    for path in (r"^spec\.volumeName$", r"^spec\.secretStoreRef\.name$"):
        used = [
            {text for each in objects for name, text in flat(each).items() if re.search(path, name)}
            for objects in (staging, production)
        ]
        assert all(used)
        assert used[0] & used[1] == set(), path


def test_airflows_project_may_make_what_its_chart_and_its_folder_have_and_nothing_else(
    projects: dict[str, AppProject],
) -> None:
    own = {
        (each["apiVersion"].rpartition("/")[0], each["kind"])
        for environment in AIRFLOWS.values()
        for each in render(ROOT / "deploy/airflow/cluster" / environment)
    }
    cluster = {(each.group, each.kind) for each in projects["airflow"].cluster_resource_whitelist}
    namespaced = {(each.group, each.kind) for each in projects["airflow"].namespace_resource_whitelist}
    assert cluster == {("", "Namespace")}
    assert namespaced == (own - cluster) | airflow_chart.KINDS


@pytest.mark.parametrize("name", ["paceline-staging", "airflow-staging"])
def test_staging_follows_main_by_itself(applications: dict[str, Application], name: str) -> None:
    staging = applications[name]
    assert staging.folder.target_revision == "main"
    automated = staging.sync_policy.automated
    assert automated is not None
    assert (automated.prune, automated.self_heal, automated.allow_empty) == (True, True, False)


@pytest.mark.parametrize("name", ["paceline-production", "airflow-production"])
def test_production_is_a_release_that_a_person_promotes_by_day(
    applications: dict[str, Application], projects: dict[str, AppProject], name: str
) -> None:
    production = applications[name]
    assert re.fullmatch(r"v\d+\.\d+\.\d+|[0-9a-f]{40}", production.folder.target_revision)
    assert production.sync_policy.automated is None
    (window,) = projects[production.project].sync_windows
    assert (window.kind, window.manual_sync, window.applications) == ("allow", False, (name,))


def test_the_pinned_release_is_the_same_for_both_and_not_newer_than_the_code(
    applications: dict[str, Application],
) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    names = ("paceline-production", "airflow-production")
    (revision,) = {applications[name].folder.target_revision.removeprefix("v") for name in names}
    assert tuple(map(int, revision.split("."))) <= tuple(map(int, version.split(".")))


def test_a_rollout_changes_nothing_that_git_would_put_back(
    applications: dict[str, Application], rolled_out: list[tuple[Object, Object]]
) -> None:
    assert _put_back(rolled_out, applications["paceline-production"].ignore_differences) == []


def test_every_ignored_path_is_one_that_a_rollout_writes(
    applications: dict[str, Application], rolled_out: list[tuple[Object, Object]]
) -> None:
    ignored = applications["paceline-production"].ignore_differences
    for rule in ignored:
        for path in rule.jq_path_expressions:
            paths = tuple(each for each in rule.jq_path_expressions if each != path)
            others = [each for each in ignored if each is not rule]
            without = (*others, Ignored(group=rule.group, kind=rule.kind, jq_path_expressions=paths))
            assert _put_back(rolled_out, without), f"{rule.kind}: no rollout writes {path}"


def _put_back(pairs: list[tuple[Object, Object]], ignored: tuple[Ignored, ...]) -> list[tuple[Object, Object]]:
    """What is in git and what is live, where Argo CD sees a difference."""
    git = compared([pair[0] for pair in pairs], ignored)
    live = compared([pair[1] for pair in pairs], ignored)
    return [(wanted, found) for wanted, found in zip(git, live, strict=True) if wanted != found]


def _as_it_starts(document: Object) -> Object:
    """As git has it, in the double's namespace, with the first champion as `kubectl set env` puts it there."""
    found = copy.deepcopy(document)
    found["metadata"].pop("namespace", None)
    if found["kind"] == "Deployment" and found["metadata"]["name"].endswith("-stable"):
        found["spec"]["replicas"] = 2
        environment = found["spec"]["template"]["spec"]["containers"][0]["env"]
        environment += [
            {"name": "PACELINE_SERVING_BUNDLE", "value": CHAMPION["path"]},
            {"name": "PACELINE_SERVING_VERSION", "value": CHAMPION["version"]},
        ]
    return found
