"""What a model server's own counters say, also of one on another machine."""

from typing import NamedTuple

import httpx
from prometheus_client.parser import text_string_to_metric_families

from pipelines.benchmarking.connections import Target, trusted

_TIMEOUT_S = 5.0
_NAMES = ("paceline_queue_seconds_sum", "process_cpu_seconds_total", "process_resident_memory_bytes")


class ServerMetrics(NamedTuple):
    """Seconds that rows have waited for their run so far, seconds of CPU time so far, resident bytes."""

    waited_s: float
    cpu_s: float
    resident_bytes: float


def read_metrics(target: Target, api_key: str | None) -> ServerMetrics | None:
    """None where they cannot be read: no scope `metrics`, or no server of ours."""
    url = f"{'https' if target.tls else 'http'}://{target.authority}/metrics"
    headers = {} if api_key is None else {"x-api-key": api_key}
    try:
        with httpx.Client(timeout=_TIMEOUT_S, trust_env=False, verify=trusted(target)) as client:
            answer = client.get(url, headers=headers)
        if answer.status_code != 200:
            return None
        found = {
            sample.name: sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
            if sample.name in _NAMES
        }
        return ServerMetrics(*(found[name] for name in _NAMES))
    except (httpx.TransportError, ValueError, KeyError):
        return None
