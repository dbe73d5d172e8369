"""The model server's image: built, looked into, and run as the manifests run it."""

import signal
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest

from contracts.bundle import Bundle
from tests.fixtures.containers import START_S_MAX, STOP_S_MAX, Containers, check_nothing_but_what_runs, installed_mb
from tests.fixtures.manifests import find, overlay, pod_of
from tests.fixtures.small_installation import free_port
from tests.images.conftest import Built

pytestmark = pytest.mark.images

LARGEST_MB = 500
USER = "10001:10001"


@pytest.fixture
def restricted(tmp_path: Path) -> Sequence[str]:
    """podman's options for what the manifest says: no rights, nothing to write to but volumes, a memory limit."""
    (container,) = pod_of(find(overlay("production"), "Deployment", "flight-delay-stable"))["containers"]
    memory = container["resources"]["limits"]["memory"].replace("Mi", "m")
    written = tmp_path / "paceline"
    written.mkdir()
    written.chmod(0o777)
    limits = [f"--memory={memory}", f"--memory-swap={memory}", "--read-only", "--tmpfs=/tmp:size=16m"]
    return [*limits, "--cap-drop=all", "--security-opt=no-new-privileges", f"--volume={written}:/var/lib/paceline"]


def _reached_by(port: int) -> Sequence[str]:
    """The host's loopback: without keys a server listens nowhere else."""
    told = {"HOST": "127.0.0.1", "PORT": str(port), "PROJECT": "flight_delay"}
    return ["--network=host", *(f"--env=PACELINE_SERVING_{name}={value}" for name, value in told.items())]


def _with(bundle: Bundle) -> Sequence[str]:
    told = {"BUNDLE": f"/bundles/{bundle.id}", "VERSION": "7"}
    mounted = f"--volume={bundle.path}:/bundles/{bundle.id}:ro"
    return [mounted, *(f"--env=PACELINE_SERVING_{name}={value}" for name, value in told.items())]


def _check_golden(url: str, bundle: Bundle) -> None:
    answer = httpx.post(f"{url}/v1/predict", json={"records": bundle.golden.records}, trust_env=False)
    scores = [each["score"] for each in answer.raise_for_status().json()["predictions"]]
    assert scores == pytest.approx(bundle.golden.scores, abs=bundle.golden.tolerance)


def test_the_image_says_what_it_was_made_of(containers: Containers, serving: Built, bundled: Built) -> None:
    found = containers.inspect("image", serving.name)
    labels = found["Labels"]
    assert labels["org.opencontainers.image.revision"] == serving.source.commit
    assert labels["org.opencontainers.image.version"] == serving.source.version
    assert labels["dev.paceline.lock"] == serving.source.lock
    assert labels["dev.paceline.bundle-format"] == str(serving.source.bundle_format)
    assert labels["dev.paceline.bundle"] == ""
    assert (found["User"], found["Config"]["StopSignal"]) == (USER, "SIGTERM")
    assert found["Healthcheck"]["Test"] == ["CMD", "serve", "healthy"]
    inside = containers.inspect("image", bundled.name)["Labels"]
    assert inside["dev.paceline.bundle"] == bundled.source.bundle
    assert bundled.name.endswith(f"-{bundled.source.bundle[:12]}")


def test_the_last_stage_has_no_compiler_no_cache_and_no_installer(containers: Containers, serving: Built) -> None:
    with containers.mounted(serving.name) as root:
        check_nothing_but_what_runs(root)
        size_mb = installed_mb(root)
        assert size_mb < LARGEST_MB
        assert list((root / "opt" / "bundle").glob("*.json")) == [], "no bundle unless one is asked for"
    print(f"{size_mb:.0f} MB in /opt/paceline")  # noqa: T201


def test_a_container_answers_as_the_golden_rows_say_and_ends_well(
    containers: Containers, serving: Built, bundle: Bundle, restricted: Sequence[str]
) -> None:
    url = f"http://127.0.0.1:{(port := free_port())}"
    began_s = time.monotonic()
    with containers.running(serving.name, *restricted, *_reached_by(port), *_with(bundle)) as container:
        ready = containers.wait_until_ready(container, url).json()
        took_s = time.monotonic() - began_s
        assert (ready["bundle"], ready["model_version"]) == (bundle.id, "7")
        _check_golden(url, bundle)
        containers.call("podman", "healthcheck", "run", container)
        inside = containers.call("podman", "exec", container, "sh", "-c", "id -u; touch /opt/written", check=False)
        assert (inside.stdout, "Read-only" in inside.stderr) == ("10001\n", True)
        containers.call("podman", "stop", f"--time={STOP_S_MAX}", container)
        assert containers.inspect("container", container)["State"]["ExitCode"] == 0
        log = containers.call("podman", "logs", container).stderr
    assert "Finished server process" in log
    print(f"ready {took_s:.2f} s after `podman run`")  # noqa: T201


def test_an_image_with_its_bundle_inside_needs_nothing_mounted(
    containers: Containers, bundled: Built, bundle: Bundle, restricted: Sequence[str]
) -> None:
    url = f"http://127.0.0.1:{(port := free_port())}"
    with containers.running(bundled.name, *restricted, *_reached_by(port)) as container:
        assert containers.wait_until_ready(container, url).json()["bundle"] == bundle.id
        _check_golden(url, bundle)


def test_a_container_that_is_stopped_while_it_starts_ends_at_once_and_well(
    containers: Containers, serving: Built, bundle: Bundle, restricted: Sequence[str]
) -> None:
    for _ in range(3):
        with containers.running(serving.name, *restricted, *_reached_by(free_port()), *_with(bundle)) as container:
            containers.call("podman", "kill", f"--signal={signal.SIGTERM.name}", container)
            # a signal that was lost would leave it serving for ever
            ended = containers.call("podman", "wait", container, timeout_s=START_S_MAX)
            assert ended.stdout.strip() == "0"


def test_a_container_without_a_model_is_alive_and_not_ready(
    containers: Containers, serving: Built, restricted: Sequence[str]
) -> None:
    url = f"http://127.0.0.1:{(port := free_port())}"
    with containers.running(serving.name, *restricted, *_reached_by(port)) as container:
        until_s = time.monotonic() + START_S_MAX
        while containers.call("podman", "healthcheck", "run", container, check=False).returncode != 0:
            assert time.monotonic() < until_s, "it never was alive"
        refused = httpx.get(f"{url}/readyz", trust_env=False)
        assert refused.status_code == 503
        assert "no champion yet" in refused.json()["detail"]
