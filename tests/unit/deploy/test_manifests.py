"""The manifests: what a real API server checks, the project's own rules, and what they say about the code."""

import copy
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from pipelines.rollout.platforms.cluster import names
from tests.fixtures.custom_resources import check_custom, is_custom
from tests.fixtures.manifests import DEPLOY, Object, find, findings, flat, overlay, pod_of, render, with_component
from tests.fixtures.scripts import ROOT, linter

COMPONENTS = ("keda", "gpu", "mtls")
KUBERNETES = "1.34.0"


@pytest.fixture(params=["staging", "production", *COMPONENTS])
def rendered(request: pytest.FixtureRequest, tmp_path: Path) -> list[Object]:
    if request.param in COMPONENTS:
        return with_component(tmp_path / "with-component", request.param)
    return list(overlay(request.param))


def _validate(objects: list[Object], folder: Path) -> subprocess.CompletedProcess[str]:
    path = folder / "rendered.yaml"
    path.write_text(yaml.safe_dump_all(objects))
    command = [linter("kubernetes-validate"), "--strict", "-k", KUBERNETES, str(path)]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_built_in_kinds_are_valid_by_the_real_schemas(rendered: list[Object], tmp_path: Path) -> None:
    built_in = [each for each in rendered if not is_custom(each)]
    done = _validate(built_in, tmp_path)
    assert (done.returncode, "WARN" in done.stderr + done.stdout) == (0, False), done.stdout + done.stderr


def test_the_custom_kinds_are_valid_by_models_of_their_definitions(rendered: list[Object]) -> None:
    for each in filter(is_custom, rendered):
        check_custom(each)


def test_an_unknown_field_of_a_built_in_kind_is_found(tmp_path: Path) -> None:
    broken = copy.deepcopy(find(overlay("production"), "Deployment", "flight-delay-stable"))
    pod_of(broken)["containers"][0]["redinessProbe"] = {}
    done = _validate([broken], tmp_path)
    assert done.returncode != 0
    assert "redinessProbe" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("kind", "name", "breaks"),
    [
        ("HTTPRoute", "flight-delay", lambda spec: spec["rules"][0]["backendRefs"][0].update(weight=-1)),
        ("HTTPRoute", "flight-delay", lambda spec: spec["rules"][0].update(backendRef=[])),
        (
            "HTTPRoute",
            "flight-delay",
            lambda spec: spec["rules"][0].update(filters=[{"type": "RequestMirror", "requestMirror": {}}]),
        ),
        ("Gateway", "public", lambda spec: spec["listeners"][0].pop("tls")),
        ("Certificate", "public", lambda spec: spec.update(duration="90 days")),
        ("ExternalSecret", "paceline-ledger", lambda spec: spec["secretStoreRef"].update(kind="Vault")),
    ],
)
def test_a_wrong_custom_resource_is_found(kind: str, name: str, breaks: Callable[[Any], Any]) -> None:
    broken = copy.deepcopy(find(overlay("production"), kind, name))
    breaks(broken["spec"])
    with pytest.raises(msgspec.ValidationError):
        check_custom(broken)


def test_every_workload_keeps_to_the_rules(rendered: list[Object]) -> None:
    assert findings(rendered) == []
    assert len([each for each in rendered if each["kind"] == "Deployment"]) == 3


def _container(pod: Any) -> Any:
    return pod["containers"][0]


@pytest.mark.parametrize(
    ("breaks", "rule"),
    [
        (lambda pod: pod["securityContext"].update(runAsUser=0), "runs as root"),
        (lambda pod: pod["securityContext"].pop("runAsNonRoot"), "runs as root"),
        (lambda pod: pod["securityContext"].pop("seccompProfile"), "has no seccomp profile"),
        (lambda pod: pod.pop("automountServiceAccountToken"), "does not say whether it needs a token"),
        (lambda pod: pod.pop("topologySpreadConstraints"), "is not spread"),
        (lambda pod: pod.update(hostNetwork=True), "has hostNetwork"),
        (lambda pod: pod["volumes"].append({"name": "x", "hostPath": {"path": "/"}}), "mounts a folder of its node"),
        (lambda pod: _container(pod).update(image="paceline-serving"), "without a fixed tag"),
        (lambda pod: _container(pod).update(image="paceline-serving:latest"), "without a fixed tag"),
        (lambda pod: _container(pod)["securityContext"].update(privileged=True), "may get more rights"),
        (lambda pod: _container(pod)["securityContext"].pop("readOnlyRootFilesystem"), "writes to its root"),
        (lambda pod: _container(pod)["securityContext"].pop("capabilities"), "keeps capabilities"),
        (lambda pod: _container(pod)["resources"].pop("limits"), "has no limits.memory"),
        (lambda pod: _container(pod)["resources"]["limits"].update({"nvidia.com/gpu": "1"}), "another number of GPUs"),
        (lambda pod: _container(pod).pop("readinessProbe"), "has no readinessProbe"),
        (lambda pod: _container(pod).pop("startupProbe"), "has no startupProbe"),
        (
            lambda pod: _container(pod)["env"].append({"name": "PACELINE_SERVING_CONTROL_TOKEN", "value": "t"}),
            "has PACELINE_SERVING_CONTROL_TOKEN in clear",
        ),
    ],
)
def test_each_rule_finds_what_breaks_it(breaks: Callable[[Any], Any], rule: str) -> None:
    broken = copy.deepcopy(find(overlay("production"), "Deployment", "flight-delay-stable"))
    assert findings([broken]) == []
    breaks(pod_of(broken))
    assert any(rule in found for found in findings([broken])), findings([broken])


def _values(name: str) -> dict[str, str]:
    found = {}
    for each in overlay(name):
        own = copy.deepcopy(each)
        metadata = own["metadata"]
        metadata.pop("namespace", None)
        title = "Namespace" if each["kind"] == "Namespace" else f"{each['kind']}/{metadata['name']}"
        found |= {f"{title} {path}": value for path, value in flat(own).items()}
    return {
        path: value
        for path, value in found.items()
        # a subject repeats the namespace that all objects are in
        if not re.fullmatch(r"RoleBinding/\S+ subjects\[\d\]\.namespace", path)
    }


def _documented() -> set[tuple[str, str, str]]:
    page = (ROOT / "docs" / "deployment.md").read_text()
    rows = re.findall(r"^\| `([^`|]+)` \| `([^`|]+)` \| `([^`|]+)` \|", page, re.MULTILINE)
    return {(path, staging, production) for path, staging, production in rows}


def test_staging_and_production_differ_only_where_the_table_says_so() -> None:
    staging, production = _values("staging"), _values("production")
    differences = {
        (path, staging.get(path, "–"), production.get(path, "–"))
        for path in staging.keys() | production.keys()
        if staging.get(path) != production.get(path)
    }
    assert differences == _documented()
    assert len(differences) > 5


def test_the_challenger_differs_from_the_champion_in_nothing_but_its_track() -> None:
    stable, challenger = (find(overlay("production"), "Deployment", f"flight-delay-{track}") for track in _TRACKS)
    assert challenger["spec"].pop("replicas") == 0, "a rollout scales it"
    assert "replicas" not in stable["spec"], "that is the autoscaler's"
    assert yaml.safe_dump(challenger).replace("challenger", "stable") == yaml.safe_dump(stable)


_TRACKS = ("stable", "challenger")


def test_names_and_labels_are_those_that_the_rollout_looks_for() -> None:
    project = "flight_delay"
    for kind in ("Deployment", "Service"):
        for name, track in ((names.stable(project), "stable"), (names.challenger(project), "challenger")):
            found = find(overlay("production"), kind, name)
            selector = found["spec"]["selector"]
            selected = selector["matchLabels"] if kind == "Deployment" else selector
            wanted = dict([names.PART_OF]) | {names.PROJECT: names.resource_name(project), names.TRACK: track}
            assert selected == wanted
    route = find(overlay("production"), "HTTPRoute", names.resource_name(project))
    assert names.PART_OF in route["metadata"]["labels"].items()
    (rule,) = route["spec"]["rules"]
    assert [backend["name"] for backend in rule["backendRefs"]] == [names.stable(project), names.challenger(project)]
    assert [container["name"] for container in pod_of(_stable())["containers"]] == [names.CONTAINER]


def _stable() -> Object:
    return find(overlay("production"), "Deployment", "flight-delay-stable")


@pytest.mark.parametrize("component", [None, "gpu", "mtls"])
def test_the_variables_of_a_server_are_settings_that_it_takes(tmp_path: Path, component: str | None) -> None:
    from serving.settings import read_settings

    objects = overlay("production") if component is None else with_component(tmp_path / "with-component", component)
    container = pod_of(find(objects, "Deployment", "flight-delay-stable"))["containers"][0]
    told = {variable["name"]: variable.get("value", "from a secret") for variable in container["env"]}
    from_image = dict(re.findall(r"(PACELINE_SERVING_\w+)=(\S+)", (ROOT / "docker/serving.Dockerfile").read_text()))
    settings = read_settings({**from_image, **told, names.BUNDLE_VARIABLE: "/bundles/b", names.VERSION_VARIABLE: "7"})
    assert settings.project == "flight_delay"
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {str(settings.state), str(settings.predictions), str(settings.keys.parent)} <= mounted  # type: ignore[union-attr]
    assert settings.port == container["ports"][0]["containerPort"]


def test_the_grace_of_a_pod_is_longer_than_a_server_takes_to_stop() -> None:
    from serving.workers.supervisor import STOP_S

    pod = pod_of(_stable())
    drained_s = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] >= drained_s + STOP_S


def test_nobody_reaches_anything_that_no_policy_names() -> None:
    deny = find(overlay("production"), "NetworkPolicy", "default-deny")["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for each in overlay("production"):
        if each["kind"] == "NetworkPolicy":
            for rule in each["spec"].get("ingress", []):
                assert rule.get("from"), f"{each['metadata']['name']} lets everybody in"


def test_every_workload_has_a_budget_for_disruptions_and_every_secret_somebody_who_makes_it() -> None:
    objects = overlay("production")
    made = {each["spec"]["target"]["name"] for each in objects if each["kind"] == "ExternalSecret"}
    for workload in (each for each in objects if each["kind"] == "Deployment"):
        find(objects, "PodDisruptionBudget", workload["metadata"]["name"])
        named = re.findall(r"secretKeyRef:\n +key: .*\n +name: (\S+)|secretName: (\S+)", yaml.safe_dump(workload))
        assert {one or other for one, other in named} <= made


def test_another_project_is_the_same_folder_with_another_name(tmp_path: Path) -> None:
    for path in (DEPLOY / "flight-delay").iterdir():
        text = path.read_text().replace("flight-delay", "credit-risk").replace("flight_delay", "credit_risk")
        (tmp_path / path.name).write_text(text)
    objects = render(tmp_path)
    assert find(objects, "Deployment", names.stable("credit_risk"))
    assert not any("flight" in each["metadata"]["name"] for each in objects)


def test_keda_takes_the_place_of_the_autoscaler(tmp_path: Path) -> None:
    objects = with_component(tmp_path / "with-component", "keda")
    scalers = [each["metadata"]["name"] for each in objects if each["kind"] == "HorizontalPodAutoscaler"]
    assert scalers == ["flight-delay-challenger"], "two scalers of one Deployment would work against each other"
    scaled = find(objects, "ScaledObject", "flight-delay-stable")["spec"]
    own = find(overlay("production"), "HorizontalPodAutoscaler", "flight-delay-stable")["spec"]
    assert scaled["advanced"]["horizontalPodAutoscalerConfig"]["behavior"] == own["behavior"]
    assert {trigger["type"] for trigger in scaled["triggers"]} == {"prometheus", "cpu", "cron"}


def test_a_server_with_a_gpu_is_ready_on_it_or_not_at_all(tmp_path: Path) -> None:
    objects = with_component(tmp_path / "with-component", "gpu")
    for track in _TRACKS:
        pod = pod_of(find(objects, "Deployment", f"flight-delay-{track}"))
        container = pod["containers"][0]
        assert (
            container["resources"]["requests"]["nvidia.com/gpu"] == container["resources"]["limits"]["nvidia.com/gpu"]
        )
        assert {"name": "PACELINE_SERVING_REQUIRE_PROVIDER", "value": "cuda"} in container["env"]
        assert "/paceline-serving-gpu:" in container["image"]
        assert [each["key"] for each in pod["tolerations"]] == ["nvidia.com/gpu"]
