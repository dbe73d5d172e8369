"""The values of Airflow's chart: known to it, true about the code, and complete with what they name."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from tests.fixtures.airflow_chart import Values, merged
from tests.fixtures.custom_resources import check_custom, is_custom
from tests.fixtures.manifests import DEPLOY, flat, overlay, render
from tests.fixtures.scripts import ROOT

FOLDER = ROOT / "deploy" / "airflow"
ENVIRONMENTS = ("staging", "production")


def _read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text())
    return found


def _values(environment: str) -> dict[str, Any]:
    return merged(_read("values.yaml"), _read(f"{environment}.yaml"))


def _checked(values: dict[str, Any]) -> Values:
    return msgspec.convert(values, Values)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_the_chart_knows_every_value(environment: str) -> None:
    assert _checked(_values(environment)).airflow_version == _locked("apache-airflow")
    assert _checked(merged(_values(environment), _read("from-git.yaml")))


def test_a_value_that_the_chart_does_not_know_is_found() -> None:
    broken = _values("staging")
    broken["workers"]["celery"]["replica"] = 3
    with pytest.raises(msgspec.ValidationError, match="replica"):
        _checked(broken)


def _locked(name: str) -> str:
    lock = (ROOT / "docker" / "requirements-pipelines.txt").read_text()
    (version,) = re.findall(rf"^{name}==(\S+)$", lock, re.MULTILINE)
    return str(version)


def test_what_the_executors_and_the_bundles_need_is_in_the_image() -> None:
    for provider in ("celery", "cncf-kubernetes", "amazon", "git"):
        assert _locked(f"apache-airflow-providers-{provider}")


def test_airflow_has_the_options_that_are_set() -> None:
    (package,) = importlib.util.find_spec("airflow").submodule_search_locations  # type: ignore[union-attr, misc]
    told = yaml.load((Path(package) / "config_templates" / "config.yml").read_text(), Loader=yaml.CSafeLoader)
    for section, options in _values("production")["config"].items():
        if section.startswith("celery") or section == "kubernetes_executor":
            continue  # of a provider that no laptop has
        assert set(options) <= set(told[section]["options"]), section


def test_every_secret_and_every_claim_that_is_named_is_made() -> None:
    made = render(FOLDER / "cluster" / "production")
    for each in filter(is_custom, made):
        check_custom(each)
    keys = {
        (each["metadata"]["name"], datum["secretKey"])
        for each in made
        if each["kind"] == "ExternalSecret"
        for datum in each["spec"]["data"]
    }
    values = _checked(_values("production"))
    assert {(each.secret_name, each.secret_key) for each in values.secret} <= keys
    named = {*msgspec.structs.astuple(values.data), values.fernet_key_secret_name, values.api_secret_key_secret_name}
    named |= {values.jwt_secret_name, *(each["secret"]["secretName"] for each in values.api_server.extra_volumes)}
    assert named <= {name for name, _ in keys}
    claims = {each["metadata"]["name"] for each in made if each["kind"] == "PersistentVolumeClaim"}
    assert {each["persistentVolumeClaim"]["claimName"] for each in values.volumes if "emptyDir" not in each} == claims
    assert {each["name"] for each in values.volume_mounts} == {each["name"] for each in values.volumes}


def test_nothing_secret_is_in_the_values() -> None:
    for file in FOLDER.rglob("*.yaml"):
        assert not re.search(r"://[^\s/]+:[^\s@]+@|[Pp]assword: *[^\s{]", file.read_text()), file


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_the_variables_are_read_by_somebody_and_the_namespace_is_the_servers_own(environment: str) -> None:
    code = "".join(path.read_text() for folder in ("pipelines", "plugins") for path in (ROOT / folder).rglob("*.py"))
    values = _checked(_values(environment))
    extra = {each["name"]: each["value"] for each in yaml.safe_load(values.extra_env)}
    names = {each.name for each in values.env} | {each.env_name for each in values.secret} | set(extra)
    names |= {each.name for each in values.api_server.env}
    assert [name for name in names if name.startswith("PACELINE_") and f'"{name}"' not in code] == []
    (namespace,) = [each for each in overlay(environment) if each["kind"] == "Namespace"]
    assert extra == {"PACELINE_NAMESPACE": namespace["metadata"]["name"]}


def test_airflow_runs_the_image_that_the_controller_runs() -> None:
    images = _checked(_values("production")).images
    assert images.airflow == images.pod_template
    told = yaml.safe_load((DEPLOY / "overlays" / "production" / "kustomization.yaml").read_text())["images"]
    (own,) = [each for each in told if each["name"] == "paceline-pipelines"]
    assert (images.airflow.repository, images.airflow.tag) == (own["newName"], own["newTag"])


def test_pods_are_not_root_and_write_to_volumes_alone() -> None:
    contexts = _checked(_values("production")).security_contexts
    assert contexts.pod["runAsNonRoot"] is True
    assert f"USER {contexts.pod['runAsUser']}:" in (ROOT / "docker" / "pipelines.Dockerfile").read_text()
    assert contexts.containers == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_staging_and_production_differ_only_where_the_table_says_so() -> None:
    staging, production = (flat(_values(environment)) for environment in ENVIRONMENTS)
    differing = {path for path in staging.keys() | production.keys() if staging.get(path) != production.get(path)}
    page = (ROOT / "docs" / "airflow_on_kubernetes.md").read_text()
    rows = dict(re.findall(r"^\| `([^`|]+)` \| (`[^`|]+` \| `[^`|]+`) \|$", page, re.MULTILINE))
    assert differing == rows.keys()
    for path in differing - {"extraEnv"}:
        assert rows[path] == f"`{staging[path]}` | `{production[path]}`", path
