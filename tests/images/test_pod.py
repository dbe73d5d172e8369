"""The serving Deployment as kustomize renders it, run by `podman play kube`: ready, answering, killed by its limit.

What one host does not have is replaced: the gateway's way to the pod (a port of the loopback), shared file systems and
secrets (podman's volumes, values made here), and the kubelet's probes (asked from here).
"""

import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import msgspec
import pytest
import yaml

from contracts.bundle import Bundle
from contracts.faults import LeakingMemory
from pipelines.tasks.keys import create
from tests.fixtures.containers import STOP_S_MAX, Containers
from tests.fixtures.manifests import Object, find, overlay, pod_of
from tests.fixtures.small_installation import free_port
from tests.images.conftest import Built

pytestmark = pytest.mark.images

KILLED = 137  # 128 and SIGKILL


@dataclass(frozen=True)
class Pod:
    """The pod that runs, and how it is reached."""

    container: str
    client: httpx.Client
    control: dict[str, str]
    challenger: Bundle
    manifest: Path

    def ready(self, containers: Containers) -> dict[str, Any]:
        """What the readiness probe's route says, once it says yes."""
        url = str(self.client.base_url).rstrip("/")
        found: dict[str, Any] = containers.wait_until_ready(self.container, url).json()
        return found


def _played(deployment: Object, image: str, bundle: Bundle, port: int, token: str) -> Object:
    pod = pod_of(deployment)
    (container,) = pod["containers"]
    container["image"] = image
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        del container[probe]
    container["ports"] = [{**container["ports"][0], "hostPort": port, "hostIP": "127.0.0.1"}]
    made = {"control-token": token, "mask-key": secrets.token_hex(32)}
    for variable in container["env"]:
        if "valueFrom" in variable:
            variable["value"] = made[variable.pop("valueFrom")["secretKeyRef"]["key"]]
    added = {"BUNDLE": f"/bundles/{bundle.id}", "VERSION": "1", "ALLOW_FAULTS": "yes"}
    container["env"] += [{"name": f"PACELINE_SERVING_{name}", "value": value} for name, value in added.items()]
    for volume in pod["volumes"]:
        if secret := volume.pop("secret", None):  # podman 4 does not decode what a secret's volume has
            volume["persistentVolumeClaim"] = {"claimName": secret["secretName"], "readOnly": True}
    return deployment


def _volume(containers: Containers, claim: str) -> Path:
    """Where the files of a new volume are; the pod's user may write there, as its group does in a cluster."""
    containers.call("podman", "volume", "create", claim)
    place = Path(containers.inspect("volume", claim)["Mountpoint"])
    place.chmod(0o777)
    return place


@pytest.fixture(scope="module")
def pod(
    containers: Containers,
    serving: Built,
    bundle: Bundle,
    bundles: ModuleType,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Pod]:
    folder = tmp_path_factory.mktemp("pod")
    challenger = bundles.tiny_bundle(folder, bias=0.5)
    key = create(folder / "keys.json", "tests")["key"]
    volumes = {name: _volume(containers, f"paceline-{name}") for name in ("bundles", "predictions", "access")}
    for each in (bundle, challenger):
        shutil.copytree(each.path, volumes["bundles"] / each.id)
    shutil.copy(folder / "keys.json", volumes["access"])
    (volumes["access"] / "keys.json").chmod(0o444)
    token, port = secrets.token_hex(16), free_port()
    deployment = find(overlay("production"), "Deployment", "flight-delay-stable")
    played = _played(msgspec.json.decode(msgspec.json.encode(deployment)), serving.name, bundle, port, token)
    manifest = folder / "pod.yaml"
    manifest.write_text(yaml.safe_dump(played))
    containers.call("podman", "play", "kube", str(manifest))
    (container,) = containers.call("podman", "ps", "--quiet", "--filter=name=serving").stdout.split()
    url = f"http://127.0.0.1:{port}"
    with httpx.Client(base_url=url, headers={"x-api-key": key}, trust_env=False, timeout=30) as client:
        yield Pod(container, client, {"Authorization": f"Bearer {token}"}, challenger, manifest)
    containers.remove_everything_but_images()


def test_the_pod_of_the_manifest_becomes_ready_and_answers_as_the_golden_rows_say(
    containers: Containers, pod: Pod, bundle: Bundle
) -> None:
    assert pod.ready(containers)["bundle"] == bundle.id
    answer = pod.client.post("/v1/predict", json={"records": bundle.golden.records})
    scores = [each["score"] for each in answer.raise_for_status().json()["predictions"]]
    assert scores == pytest.approx(bundle.golden.scores, abs=bundle.golden.tolerance)
    assert httpx.get(f"{pod.client.base_url}/metrics", trust_env=False).status_code == 401, "it asks for a key"


def test_the_pod_has_the_limits_that_its_manifest_asks_for(containers: Containers, pod: Pod) -> None:
    found = containers.inspect("container", pod.container)
    host = found["HostConfig"]
    assert (found["Config"]["User"], host["ReadonlyRootfs"], host["Memory"]) == ("10001:10001", True, 512 << 20)
    assert "no-new-privileges" in host["SecurityOpt"]
    inside = "grep -E 'CapEff|CapBnd' /proc/self/status | cut -f2 | sort -u; touch /bundles/written"
    done = containers.call("podman", "exec", pod.container, "sh", "-c", inside, check=False)
    assert (done.stdout.strip(), "Read-only" in done.stderr) == ("0" * 16, True), "no capability, no write to bundles"


def test_a_challenger_that_leaks_is_killed_at_the_limit_and_the_pod_comes_back_on_its_champion(
    containers: Containers, pod: Pod, bundle: Bundle
) -> None:
    pod.ready(containers)
    named = {"version": "2", "bundle": pod.challenger.id, "path": f"/bundles/{pod.challenger.id}", "rollout": "r1"}
    split = {"rollout": "r1", "share": 1.0, "shadow": False, "lease_s": 60.0}
    leak = LeakingMemory(mb_each_run=64.0, maximum_mb=1_024.0)
    for method, route, body in (
        ("PUT", "challenger", named),
        ("PUT", "share", split),
        ("POST", "fault", {"fault": msgspec.to_builtins(leak)}),
    ):
        pod.client.request(method, f"/control/{route}", json=body, headers=pod.control).raise_for_status()
    with pytest.raises(httpx.TransportError):  # noqa: PT012  one of the runs is the last
        for _ in range(40):
            pod.client.post("/v1/predict", json={"records": bundle.golden.records[:1]}).raise_for_status()
    died = containers.call(
        "podman", "events", "--stream=false", "--filter=event=died", "--format={{.ContainerExitCode}}"
    )
    assert str(KILLED) in died.stdout.split()
    back = pod.ready(containers)
    assert (back["bundle"], back["model_version"]) == (bundle.id, "1")
    seen = pod.client.get("/control/observation", headers=pod.control).json()
    assert (seen["champion"]["version"], seen["challenger"], seen["share"]) == ("1", None, 0.0)


def test_the_pod_goes_when_its_manifest_is_taken_away(containers: Containers, pod: Pod) -> None:
    pod.ready(containers)
    containers.call("podman", "pod", "stop", "--all", f"--time={STOP_S_MAX}")
    assert containers.inspect("container", pod.container)["State"]["ExitCode"] == 0, "SIGTERM ends it well"
    containers.call("podman", "play", "kube", "--down", str(pod.manifest))
    assert containers.call("podman", "ps", "--all", "--quiet").stdout == ""
