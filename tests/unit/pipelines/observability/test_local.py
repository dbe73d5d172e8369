from dataclasses import replace
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from pipelines.observability.local import Addresses, quickened, write
from pipelines.wiring import REPOSITORY

SOURCE = REPOSITORY / "deploy" / "observability"


@pytest.fixture
def addresses(tmp_path: Path) -> Addresses:
    return Addresses(
        servers={"p": "127.0.0.1:1"},
        pipelines="127.0.0.1:2",
        prometheus="127.0.0.1:3",
        alertmanager="127.0.0.1:4",
        airflow="127.0.0.1:5",
        secret=tmp_path / "secret",
    )


def test_durations_are_shorter_and_limits_are_as_they_were() -> None:
    rule = {"alert": "A", "expr": "rate(x[6h]) > 0.5 and y offset 1h > 2 * 86400", "for": "2m"}
    quick = quickened({"groups": [{"name": "g", "rules": [rule]}]}, 60)["groups"][0]["rules"][0]
    assert quick == {"alert": "A", "expr": "rate(x[360s]) > 0.5 and y offset 60s > 2 * 86400", "for": "2s"}


def test_nothing_is_shorter_than_a_second_and_at_the_usual_speed_nothing_changes() -> None:
    rules = {"groups": [{"name": "g", "rules": [{"record": "r", "expr": "rate(x[5m])"}]}]}
    assert quickened(rules, 10_000)["groups"][0]["rules"][0]["expr"] == "rate(x[1s])"
    assert quickened(rules, 1) == rules


def test_a_laptop_pages_nobody_and_calls_its_own_airflow(addresses: Addresses, tmp_path: Path) -> None:
    _, alertmanager = write(SOURCE, tmp_path / "out", addresses)
    written, own = yaml.safe_load(alertmanager.read_text()), yaml.safe_load((SOURCE / "alertmanager.yml").read_text())
    assert written["route"] == own["route"]
    assert written["inhibit_rules"] == own["inhibit_rules"]
    by_name = {receiver.pop("name"): receiver for receiver in written["receivers"]}
    (hook,) = by_name.pop("emergency-retrain")["webhook_configs"]
    assert hook["url"] == "http://127.0.0.1:5/paceline/hooks/alertmanager"
    assert hook["http_config"]["authorization"]["credentials_file"] == str(addresses.secret)
    assert set(by_name) == {"pages", "pages-of-models", "pages-of-data", "tickets", "dead-mans-switch"}
    assert not any(by_name.values())


def test_prometheus_scrapes_what_runs_here_and_reads_every_rule(addresses: Addresses, tmp_path: Path) -> None:
    prometheus, _ = write(SOURCE, tmp_path / "out", addresses, 15)
    written = yaml.safe_load(prometheus.read_text())
    assert written["global"] == {"scrape_interval": "1s", "evaluation_interval": "1s"}
    jobs = {job["job_name"]: job["static_configs"] for job in written["scrape_configs"]}
    assert jobs["model-server"] == [{"targets": ["127.0.0.1:1"], "labels": {"project": "p"}}]
    assert jobs["paceline-pipelines"] == [{"targets": ["127.0.0.1:2"]}]
    assert all((tmp_path / "out" / name).exists() for name in written["rule_files"])
    assert {file.name for file in SOURCE.glob("*.rules.yml")} == set(written["rule_files"])


def test_a_challenger_apart_is_scraped_and_at_rest_it_is_no_alarm(addresses: Addresses, tmp_path: Path) -> None:
    apart = replace(addresses, challengers={"p": "127.0.0.1:6"}, metrics_key=tmp_path / "key")
    prometheus, _ = write(SOURCE, tmp_path / "out", apart)
    job = next(
        job for job in yaml.safe_load(prometheus.read_text())["scrape_configs"] if "metric_relabel_configs" in job
    )
    assert job["job_name"] == "model-server"
    assert {each["targets"][0]: each["labels"] for each in job["static_configs"]} == {
        "127.0.0.1:1": {"project": "p"},
        "127.0.0.1:6": {"project": "p", "track": "challenger"},
    }
    assert job["authorization"] == {"credentials_file": str(tmp_path / "key")}
    (dropped,) = job["metric_relabel_configs"]
    assert (dropped["action"], dropped["regex"]) == ("drop", "challenger;paceline_ready")
    rules = yaml.safe_load((SOURCE / "model-server.rules.yml").read_text())
    asked = next(
        rule["expr"] for group in rules["groups"] for rule in group["rules"] if rule["alert"] == "PacelineNotReady"
    )
    assert asked == "paceline_ready == 0"
