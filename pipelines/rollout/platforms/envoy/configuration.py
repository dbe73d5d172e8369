"""What Envoy is told: its bootstrap, and the routes file that carries out a split. Pure.

The lease is held by Envoy itself: the route says until when, and a few lines of Lua give a request to the champion
alone after that. So a share falls without anybody's help, whoever was killed. A challenger's error or lost connection
is asked again at the champion, by an aggregate cluster whose second priority are the stable servers.
"""

from typing import Any
from urllib.parse import urlsplit

import msgspec

from pipelines.rollout.platforms.port import SlotRefusedError
from pipelines.rollout.platforms.separate.split import WEIGHTS, Split

STABLE, CHALLENGER, CHALLENGER_FIRST = "stable", "challenger", "challenger_first"
STALE = "x-paceline-lease-over"
LUA, OURS = "envoy.filters.http.lua", "paceline"
ROUTES_NAME = "paceline"
LEASE_LUA = f"""
function envoy_on_request(request)
  request:headers():remove("{STALE}")
  local ends_ms = request:metadata():get("lease_ends_ms")
  if ends_ms ~= nil and request:timestamp() >= ends_ms then
    request:headers():add("{STALE}", "1")
    request:clearRouteCache()
  end
end
"""
_TYPE = "type.googleapis.com/envoy"
Config = dict[str, Any]


def routes(split: Split, version: str, *, entity_header: str | None = None, timeout_s: float = 10.0) -> Config:
    """The routes file. `entity_header` makes requests with the same value of it stick to a side."""
    weights = [(CHALLENGER_FIRST, split.weight), (STABLE, WEIGHTS - split.weight)]
    told: Config = {OURS: {"split": msgspec.json.encode(split).decode()}}
    if split.lease_ends_s is not None:
        told[LUA] = {"lease_ends_ms": round(split.lease_ends_s * 1000)}
    weighted: Config = {"clusters": [{"name": name, "weight": weight} for name, weight in weights]}
    action: Config = {"weighted_clusters": weighted, "timeout": f"{timeout_s:g}s", "retry_policy": _retry()}
    if entity_header is not None:
        action["hash_policy"] = [{"header": {"header_name": entity_header}}]
        weighted["use_hash_policy"] = True
    if split.shadow:
        part = {"numerator": max(1, int(split.sample * WEIGHTS)), "denominator": "TEN_THOUSAND"}
        action["request_mirror_policies"] = [{"cluster": CHALLENGER, "runtime_fraction": {"default_value": part}}]
    over = {
        "match": {"prefix": "/", "headers": [{"name": STALE, "string_match": {"exact": "1"}}]},
        "route": {"cluster": STABLE, "timeout": f"{timeout_s:g}s"},
    }
    by_weight = {"match": {"prefix": "/"}, "metadata": {"filter_metadata": told}, "route": action}
    resource = {
        "@type": f"{_TYPE}.config.route.v3.RouteConfiguration",
        "name": ROUTES_NAME,
        "virtual_hosts": [{"name": "models", "domains": ["*"], "routes": [over, by_weight]}],
    }
    return {"version_info": version, "resources": [resource]}


def split_of(found: Config) -> Split:
    """The split that a routes file carries out. Raises SlotRefusedError where it is none of ours."""
    try:
        by_weight = found["resources"][0]["virtual_hosts"][0]["routes"][-1]
        return msgspec.json.decode(by_weight["metadata"]["filter_metadata"][OURS]["split"], type=Split)
    except (KeyError, IndexError, TypeError, msgspec.DecodeError) as error:
        raise SlotRefusedError(422, f"the routes file carries no split of ours ({error}): move it away") from error


def bootstrap(
    routes_file: str, stable: tuple[str, ...], challenger: tuple[str, ...], *, host: str, port: int, admin_port: int
) -> Config:
    """Envoy's own configuration: one listener, and the servers by their URLs."""
    lua = {"@type": f"{_TYPE}.extensions.filters.http.lua.v3.Lua", "default_source_code": {"inline_string": LEASE_LUA}}
    router = {"@type": f"{_TYPE}.extensions.filters.http.router.v3.Router"}
    manager = {
        "@type": f"{_TYPE}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "models",
        "rds": {
            "route_config_name": ROUTES_NAME,
            "config_source": {"path_config_source": {"path": routes_file}, "resource_api_version": "V3"},
        },
        "http_filters": [
            {"name": LUA, "typed_config": lua},
            {"name": "envoy.filters.http.router", "typed_config": router},
        ],
    }
    listener = {
        "name": "models",
        "address": _address(host, port),
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }
    first = {
        "name": CHALLENGER_FIRST,
        "connect_timeout": "1s",
        "lb_policy": "CLUSTER_PROVIDED",
        "cluster_type": {
            "name": "envoy.clusters.aggregate",
            "typed_config": {
                "@type": f"{_TYPE}.extensions.clusters.aggregate.v3.ClusterConfig",
                "clusters": [CHALLENGER, STABLE],
            },
        },
    }
    return {
        "node": {"id": "paceline", "cluster": "models"},
        "admin": {"address": _address("127.0.0.1", admin_port)},
        "static_resources": {
            "listeners": [listener],
            "clusters": [_cluster(STABLE, stable), _cluster(CHALLENGER, challenger), first],
        },
    }


def _retry() -> Config:
    """Once, and not where it was: from the challenger that is the champion, from a server another one."""
    host = f"{_TYPE}.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
    previous = f"{_TYPE}.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig"
    return {
        "retry_on": "connect-failure,reset,retriable-status-codes",
        "retriable_status_codes": [500, 502, 503, 504],
        "num_retries": 1,
        "retry_priority": {
            "name": "envoy.retry_priorities.previous_priorities",
            "typed_config": {"@type": previous, "update_frequency": 1},
        },
        "retry_host_predicate": [
            {"name": "envoy.retry_host_predicates.previous_hosts", "typed_config": {"@type": host}}
        ],
        "host_selection_retry_max_attempts": 5,
    }


def _cluster(name: str, urls: tuple[str, ...]) -> Config:
    endpoints = []
    for url in urls:
        parts = urlsplit(url)
        if parts.hostname is None or parts.port is None:
            raise ValueError(f"a server of {name} is {url!r}, expected http://HOST:PORT")
        endpoints.append({"endpoint": {"address": _address(parts.hostname, parts.port)}})
    return {
        "name": name,
        "type": "STRICT_DNS",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
    }


def _address(host: str, port: int) -> Config:
    return {"socket_address": {"address": host, "port_value": port}}
