"""The composed system: valid, prepared without anybody, kept to its rules, and true about the code."""

import copy
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from contracts.access import decode_keys
from pipelines.rollout.platforms.envoy.routes_file import RoutesFile
from tests.fixtures.compose import PROJECT, SOURCE, Composed, compose, findings
from tests.fixtures.envoys import EnvoyProcess, require_envoy
from tests.fixtures.scripts import ROOT, linter, script, tool

HOME = "/var/lib/paceline"


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Composed:
    return compose(tmp_path_factory.mktemp("composed"))


@pytest.fixture
def services(composed: Composed) -> dict[str, Any]:
    return dict(composed.read()["services"])


def _config(file: Path) -> subprocess.CompletedProcess[str]:
    command = [linter("docker-compose"), "-f", str(file), "config", "--format", "json"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_docker_compose_takes_the_file_and_sees_what_the_tests_see(
    composed: Composed, services: dict[str, Any]
) -> None:
    done = _config(composed.file)
    assert (done.returncode, done.stderr) == (0, "")
    rendered = json.loads(done.stdout)["services"]
    assert rendered.keys() == services.keys()
    for name, service in rendered.items():
        assert service["image"] == services[name]["image"]
        assert service.get("environment", {}) == composed.environment(services[name])


def test_docker_compose_refuses_what_is_no_key(composed: Composed) -> None:
    broken = composed.folder / "broken.yaml"
    broken.write_text(
        composed.file.read_text().replace("    healthcheck: {test: [CMD, pg", "    helthcheck: {test: [CMD, pg")
    )
    # it complains and goes on with what it knows
    assert "additional properties 'helthcheck' not allowed" in _config(broken).stderr


def test_every_service_keeps_to_the_rules(services: dict[str, Any]) -> None:
    assert findings(services) == []


@pytest.mark.parametrize(
    ("breaks", "rule"),
    [
        (lambda service: service.update(user="root"), "runs as root"),
        (lambda service: service.update(user="0:0"), "runs as root"),
        (lambda service: service.pop("read_only"), "writes to its root"),
        (lambda service: service.update(cap_add=["NET_ADMIN"]), "keeps capabilities"),
        (lambda service: service.pop("security_opt"), "may get more rights"),
        (lambda service: service["deploy"]["resources"]["limits"].pop("memory"), "has no limit of memory"),
        (lambda service: service.update(image="redis:7"), "which nothing pins"),
        (lambda service: service.update(image="paceline-serving:latest"), "which nothing pins"),
        (lambda service: service.pop("healthcheck"), "has no health check"),
        (lambda service: service.pop("logging"), "fills the disk"),
        (lambda service: service.update(ports=["8500:8500"]), "is reached from elsewhere"),
        (lambda service: service.update(network_mode="host"), "has network_mode"),
        (lambda service: service["volumes"].append("/var/run/docker.sock:/s"), "has the socket of Docker"),
        (lambda service: service["environment"].update(X_TOKEN="0123456789abcdefgh"), "has X_TOKEN in clear"),
        (lambda service: service["environment"].update(A_URL="redis://u:p@redis:6379/0"), "has A_URL in clear"),
    ],
)
def test_each_rule_finds_what_breaks_it(services: dict[str, Any], breaks: Callable[[Any], Any], rule: str) -> None:
    broken = copy.deepcopy(services["stable"])
    assert findings({"stable": broken}) == []
    breaks(broken)
    assert any(rule in found for found in findings({"stable": broken})), findings({"stable": broken})


def test_nothing_waits_for_what_never_comes(services: dict[str, Any]) -> None:
    for name, service in services.items():
        for other, told in service.get("depends_on", {}).items():
            ends = services[other].get("restart") == "no"
            wanted = "service_completed_successfully" if ends else "service_healthy"
            assert told["condition"] == wanted, f"{name} waits for {other}"


def test_whatever_is_mounted_is_there(composed: Composed) -> None:
    file = composed.read()
    for name, service in file["services"].items():
        for volume in service.get("volumes", []):
            source = volume["source"] if isinstance(volume, dict) else volume.split(":")[0]
            there = (composed.folder / source).exists() if source.startswith(".") else source in file["volumes"]
            assert there, f"{name} mounts {source}"
    assert all((composed.folder / secret["file"]).is_file() for secret in file["secrets"].values())


def test_each_secret_has_a_user_and_databases_are_on_no_network_that_leads_out(composed: Composed) -> None:
    file = composed.read()
    used = {secret for service in file["services"].values() for secret in service.get("secrets", [])}
    assert used == file["secrets"].keys()
    assert file["networks"]["data"] == {"internal": True}
    assert {name for name in ("postgres", "redis") if file["services"][name]["networks"] != ["data"]} == set()


# --- what is prepared


def test_secrets_are_made_once_and_are_their_owners_alone(tmp_path: Path) -> None:
    prepare = script("deploy/compose/prepare.py")
    prepare.main(PROJECT, tmp_path / "prepared")
    first = {path: path.read_text() for path in (tmp_path / "prepared").rglob("*") if path.is_file()}
    prepare.main(PROJECT, tmp_path / "prepared")
    assert {path: path.read_text() for path in first} == first
    assert (tmp_path / "prepared").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "prepared").glob("*.env")} == {0o600}
    prepare.main(PROJECT, tmp_path / "other")
    values = [(tmp_path / folder / "secrets" / name).read_text() for folder in ("prepared", "other") for name in
              (*prepare.PASSWORDS, *prepare.TOKENS)]  # fmt: skip
    assert len(set(values)) == len(values), "two secrets are alike"


def test_no_secret_is_in_a_file_of_the_repository(composed: Composed) -> None:
    texts = "".join(path.read_text() for path in SOURCE.rglob("*") if path.is_file() and "prepared" not in path.parts)
    assert not re.search(r"pk_[0-9a-f]|://\w+:\w+@|PASSWORD: (?!/run)", texts)
    assert "deploy/compose/prepared/" in (ROOT / ".gitignore").read_text().splitlines()


def test_another_project_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="no project 'flights'"):
        script("deploy/compose/prepare.py").main("flights", tmp_path / "prepared")
    assert not (tmp_path / "prepared").exists()


# --- what is said about the code


def test_the_variables_of_a_model_server_are_settings_that_it_takes(
    composed: Composed, services: dict[str, Any]
) -> None:
    from serving.settings import read_settings

    image = dict(re.findall(r"(PACELINE_SERVING_\w+)=(\S+)", (ROOT / "docker" / "serving.Dockerfile").read_text()))
    for name in ("stable", "challenger"):
        settings = read_settings({**image, **composed.environment(services[name])})
        assert (settings.project, settings.port) == (PROJECT, 8500)
        assert settings.redis_url is not None
        assert settings.redis_url.endswith("@redis:6379/1")
        targets = {volume["target"] for volume in services[name]["volumes"]}
        assert {str(settings.state), str(settings.keys.parent), f"{HOME}/bundles"} <= targets  # type: ignore[union-attr]
        assert str(settings.predictions) == f"{HOME}/predictions/{PROJECT}", "where the pipelines look for the log"


def test_every_variable_that_the_pipelines_are_told_is_read_by_somebody(
    composed: Composed, services: dict[str, Any]
) -> None:
    code = "".join(path.read_text() for folder in ("pipelines", "plugins") for path in (ROOT / folder).rglob("*.py"))
    known = _airflow_options()
    for name, service in services.items():
        if "pipelines" not in service["image"]:
            continue
        told = composed.environment(service)
        assert [each for each in told if each.startswith("PACELINE_") and f'"{each}"' not in code] == [], name
        options = {tuple(each.lower().split("__")[1:]) for each in told if each.startswith("AIRFLOW__")}
        unknown = {(section, option) for section, option in options if not section.startswith("celery")} - known
        assert unknown == set(), f"Airflow has no such options: {name}"


def _airflow_options() -> set[tuple[str, str]]:
    """Airflow's own options, from its package, without loading it."""
    (folder,) = importlib.util.find_spec("airflow").submodule_search_locations  # type: ignore[union-attr, misc]
    told = yaml.load((Path(folder) / "config_templates" / "config.yml").read_text(), Loader=yaml.CSafeLoader)
    return {(section, option) for section, found in told.items() for option in found["options"]}


def test_all_components_of_airflow_run_and_tasks_run_on_several_workers(services: dict[str, Any]) -> None:
    commands = {name: " ".join(service["command"]) for name, service in services.items() if name.startswith("airflow")}
    assert [name for name in ("api-server", "scheduler", "dag-processor", "triggerer", "celery worker") if not any(
        f"airflow {name}" in command for command in commands.values())] == []  # fmt: skip
    assert services["airflow-worker"]["deploy"]["replicas"] > 1
    assert services["airflow-scheduler"]["environment"]["AIRFLOW__CORE__EXECUTOR"] == "CeleryExecutor"
    locked = (ROOT / "docker" / "requirements-pipelines.txt").read_text()
    assert "apache-airflow-providers-celery==" in locked


def test_the_first_start_makes_every_part_of_the_volume_that_a_service_mounts(
    composed: Composed, services: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PACELINE_HOME", str(tmp_path / "home"))
    group = tmp_path / "envoy.yaml"
    told = (composed.prepared / "servers" / "envoy.yaml").read_text()
    group.write_text(told.replace(HOME, str(tmp_path / "home")))
    keys = composed.prepared / "secrets" / "api_keys"
    for _ in range(2):  # safe to repeat
        script("deploy/compose/first_start.py").folders(PROJECT, group, keys)
    parts = {
        volume["volume"]["subpath"]
        for service in services.values()
        for volume in service.get("volumes", [])
        if isinstance(volume, dict)
    }
    assert len(parts) == 6
    assert [part for part in parts if not (tmp_path / "home" / part).is_dir()] == []
    assert (tmp_path / "home" / "routes" / f"{PROJECT}.json").exists()
    (key,) = decode_keys((tmp_path / "home" / "access" / "keys.json").read_bytes()).keys
    assert key.scopes == ("metrics",)


def test_the_first_start_lays_out_the_context_of_expectations_and_leaves_one_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PACELINE_EXPECTATIONS", str(tmp_path / "context"))
    first_start = script("deploy/compose/first_start.py")
    first_start.expectations()
    (tmp_path / "context" / "uncommitted" / "kept").mkdir(parents=True)
    first_start.expectations()
    assert (tmp_path / "context" / "great_expectations.yml").is_file()
    assert (tmp_path / "context" / "uncommitted" / "kept").is_dir()
    dockerfile, ignored = ((ROOT / path).read_text() for path in ("docker/pipelines.Dockerfile", ".dockerignore"))
    assert "COPY great_expectations great_expectations\n" in dockerfile
    assert "!great_expectations\n" in ignored


def test_what_prometheus_scrapes_is_a_service(composed: Composed, services: dict[str, Any]) -> None:
    file = composed.prepared / "observability" / "prometheus.yml"
    jobs = {job["job_name"]: job for job in yaml.safe_load(file.read_text())["scrape_configs"]}
    hosts = {
        target.split(":")[0] for job in jobs.values() for each in job["static_configs"] for target in each["targets"]
    }
    assert hosts == {"stable", "challenger", "paceline-metrics", "alertmanager", "prometheus"} & services.keys()
    assert hosts <= {name for name, service in services.items() if "system" in service["networks"]}
    assert jobs["model-server"]["authorization"] == {"credentials_file": "/run/secrets/metrics_key"}
    assert "metrics_key" in services["prometheus"]["secrets"]
    promtool = tool("promtool", "on Debian: apt-get install prometheus")
    checked = subprocess.run([promtool, "check", "config", "--syntax-only", str(file)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


def test_alertmanager_reaches_the_webhook_of_the_api_server_with_its_secret(
    composed: Composed, services: dict[str, Any]
) -> None:
    told = yaml.safe_load((composed.prepared / "observability" / "alertmanager.yml").read_text())
    (hook,) = next(each["webhook_configs"] for each in told["receivers"] if "webhook_configs" in each)
    url = urlsplit(hook["url"])
    assert (url.hostname, url.port, url.path) == ("airflow-api-server", 8080, "/paceline/hooks/alertmanager")
    secret = hook["http_config"]["authorization"]["credentials_file"]
    assert secret == services["airflow-api-server"]["environment"]["PACELINE_ALERT_TOKEN_FILE"]
    for name in ("alertmanager", "airflow-api-server"):
        assert secret.rpartition("/")[2] in services[name]["secrets"]
    assert set(services["alertmanager"]["networks"]) & set(services["airflow-api-server"]["networks"])


def test_envoy_takes_its_configuration_and_its_servers_are_services(
    composed: Composed, services: dict[str, Any], tmp_path: Path
) -> None:
    require_envoy()
    text = (composed.prepared / "servers" / "envoy.json").read_text()
    assert set(re.findall(r'"address": "([a-z]+)"', text)) == {"stable", "challenger"} & services.keys()
    file = tmp_path / "envoy.json"
    routes = tmp_path / "routes.json"
    routes.write_text(json.dumps({"version_info": "1", "resources": []}))
    file.write_text(text.replace(f"{HOME}/routes/{PROJECT}.json", str(routes)))
    command = [sys.executable, "-m", "envoy._main", "-c", str(file), "--mode", "validate"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_a_real_envoy_answers_what_its_health_check_asks(services: dict[str, Any], tmp_path: Path) -> None:
    require_envoy()
    routes = tmp_path / "routes.json"
    RoutesFile(routes).begin()
    _, *command = services["envoy"]["healthcheck"]["test"]
    with EnvoyProcess(tmp_path, routes, ("http://127.0.0.1:1",), ("http://127.0.0.1:2",)) as envoy:
        asked = [each.replace("9901", str(envoy.admin_port)) for each in command]
        assert subprocess.run(asked, timeout=10).returncode == 0
    assert subprocess.run(asked, capture_output=True, timeout=10).returncode != 0


def test_grafana_finds_its_source_and_the_boards(services: dict[str, Any]) -> None:
    (provider,) = yaml.safe_load((SOURCE / "grafana" / "boards.yaml").read_text())["providers"]
    (source,) = yaml.safe_load((SOURCE / "grafana" / "sources.yaml").read_text())["datasources"]
    mounted = dict(volume.split(":")[:2][::-1] for volume in services["grafana"]["volumes"])
    assert mounted[provider["options"]["path"]] == "../observability/dashboards"
    assert {path for path in mounted if path.startswith("/etc/grafana/provisioning")} == {
        "/etc/grafana/provisioning/datasources/paceline.yaml",
        "/etc/grafana/provisioning/dashboards/paceline.yaml",
    }
    assert urlsplit(source["url"]).hostname in services
    asked = [json.loads(path.read_text()) for path in (ROOT / "deploy/observability/dashboards").glob("*.json")]
    kinds = {each["query"] for board in asked for each in board["templating"]["list"] if each["type"] == "datasource"}
    assert kinds == {source["type"]}


@pytest.mark.parametrize(
    ("component", "asked"),
    [
        ("airflow-scheduler", "SchedulerJob"),
        ("airflow-dag-processor", "DagProcessorJob"),
        ("airflow-triggerer", "TriggererJob"),
        ("airflow-worker", "inspect ping"),
        ("airflow-api-server", "8080/api/v2/monitor/health"),
        ("mlflow", "5000/health"),
        ("paceline-metrics", "9109/metrics"),
    ],
)
def test_the_health_of_each_component_is_asked_of_itself(services: dict[str, Any], component: str, asked: str) -> None:
    """`run healthy` chooses by the command of process 1: the first pattern that fits is the component's own."""
    cases = re.findall(r"^(\*.+?)\)\s*(.+(?:\n  .+)?)", (ROOT / "docker" / "run").read_text(), re.MULTILINE)
    command = " ".join(services[component]["command"])
    for patterns, action in cases:
        if any(pattern.strip(" *").replace("\\ ", " ") in command for pattern in patterns.split("|")):
            assert asked in action, f"{command}: {patterns}"
            return
    raise AssertionError(f"nothing asks {component}")
