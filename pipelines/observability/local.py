"""The configurations of `deploy/observability` for processes on one machine: other addresses, nobody who is paged.

`quickened` makes time run faster: windows, waits and delays of all rules are divided by one number, limits stay. So a
demonstration and a test use the rules that production has.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

RECEIVER = "emergency-retrain"
SERVERS, CHALLENGER = "model-server", "challenger"
# between rollouts a challenger apart serves nothing, which is no alarm
_AT_REST = {"source_labels": ["track", "__name__"], "regex": f"{CHALLENGER};paceline_ready", "action": "drop"}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(\d+)([smhd])")
_IN_EXPRESSION = re.compile(r"(?P<before>\[|offset )(?P<duration>\d+[smhd])\b")
_LEAST_S = 1


@dataclass(frozen=True)
class Addresses:
    """Where everything listens: `host:port`; `secret` is the file with the webhook's.

    `servers` are by their projects, and `challengers` those that are servers apart. `metrics_key` is the file with the
    API key that their /metrics asks for.
    """

    servers: Mapping[str, str]
    pipelines: str
    prometheus: str
    alertmanager: str
    airflow: str
    secret: Path
    challengers: Mapping[str, str] = field(default_factory=dict)
    metrics_key: Path | None = None


def write(source: Path, target: Path, addresses: Addresses, quickened_by: float = 1) -> tuple[Path, Path]:
    """Writes rules and both configurations from `source` to `target`; the files for Prometheus and for Alertmanager."""
    target.mkdir(parents=True, exist_ok=True)
    configured = yaml.safe_load((source / "prometheus.yml").read_text())
    for name in configured["rule_files"]:
        rules = yaml.safe_load((source / name).read_text())
        _dump(target / name, quickened(rules, quickened_by))
    prometheus, alertmanager = target / "prometheus.yml", target / "alertmanager.yml"
    _dump(prometheus, _prometheus(configured, addresses, quickened_by))
    _dump(alertmanager, _alertmanager(yaml.safe_load((source / "alertmanager.yml").read_text()), addresses))
    return prometheus, alertmanager


def quickened(rules: Mapping[str, Any], by: float) -> dict[str, Any]:
    """The rules of a file with all their durations divided by `by`, none below a second.

    >>> quickened({"groups": [{"rules": [{"alert": "A", "expr": "rate(x[5m]) > 5", "for": "2m"}]}]}, 15)
    {'groups': [{'rules': [{'alert': 'A', 'expr': 'rate(x[20s]) > 5', 'for': '8s'}]}]}
    """
    return {"groups": [{**g, "rules": [_quickened(rule, by) for rule in g["rules"]]} for g in rules["groups"]]}


def _quickened(rule: Mapping[str, Any], by: float) -> dict[str, Any]:
    found = dict(rule)
    found["expr"] = _IN_EXPRESSION.sub(lambda m: f"{m['before']}{_shorter(m['duration'], by)}", rule["expr"])
    if "for" in rule:
        found["for"] = _shorter(rule["for"], by)
    return found


def _shorter(duration: str, by: float) -> str:
    matched = _DURATION.fullmatch(duration)
    if matched is None:
        raise ValueError(f"duration: found {duration!r}, expected a number and one of {', '.join(_SECONDS)}")
    if by == 1:
        return duration
    return f"{max(_LEAST_S, round(int(matched[1]) * _SECONDS[matched[2]] / by))}s"


def _prometheus(configured: dict[str, Any], addresses: Addresses, by: float) -> dict[str, Any]:
    interval = _shorter(configured["global"]["scrape_interval"], by)
    challengers = [_target(at, project=name, track=CHALLENGER) for name, at in addresses.challengers.items()]
    targets = {
        SERVERS: [*(_target(at, project=name) for name, at in addresses.servers.items()), *challengers],
        "paceline-pipelines": [{"targets": [addresses.pipelines]}],
        "alertmanager": [{"targets": [addresses.alertmanager]}],
        "prometheus": [{"targets": [addresses.prometheus]}],
    }
    key = addresses.metrics_key
    own: dict[str, Any] = {} if key is None else {"authorization": {"credentials_file": str(key)}}
    if challengers:
        own["metric_relabel_configs"] = [_AT_REST]
    jobs = [{**job, "static_configs": targets[job["job_name"]]} for job in configured["scrape_configs"]]
    return {
        **configured,
        "global": {"scrape_interval": interval, "evaluation_interval": interval},
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [addresses.alertmanager]}]}]},
        "scrape_configs": [{**job, **own} if job["job_name"] == SERVERS else job for job in jobs],
    }


def _target(at: str, **labels: str) -> dict[str, Any]:
    return {"targets": [at], "labels": labels}


def _alertmanager(configured: dict[str, Any], addresses: Addresses) -> dict[str, Any]:
    """Its routes as they are; of the receivers only Airflow's webhook: nobody is paged by a laptop."""
    receivers: list[dict[str, Any]] = []
    for receiver in configured["receivers"]:
        if receiver["name"] != RECEIVER:
            receivers.append({"name": receiver["name"]})
            continue
        (hook,) = receiver["webhook_configs"]
        authorization = {"type": "Bearer", "credentials_file": str(addresses.secret)}
        path = "/" + hook["url"].split("/", 3)[3]
        told = {**hook, "url": f"http://{addresses.airflow}{path}", "http_config": {"authorization": authorization}}
        receivers.append({"name": RECEIVER, "webhook_configs": [told]})
    return {**configured, "global": {"resolve_timeout": "5m"}, "receivers": receivers}


def _dump(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(yaml.safe_dump(dict(content), sort_keys=False, width=1000))
