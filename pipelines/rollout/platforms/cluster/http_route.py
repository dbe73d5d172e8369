"""The split as a Gateway API HTTPRoute: weights, a request mirror, and the lease as an annotation. Pure but `Route`.

`rules` is an atomic list to server-side apply: whoever applies a weight would own matches and filters as well. So a
change is one JSON patch that replaces the rules which it read, guarded by the resource version; weights, mirror and
lease change together or not at all.
"""

import copy
from datetime import UTC, datetime
from typing import Any

import msgspec

from pipelines.rollout.platforms.cluster import names
from pipelines.rollout.platforms.cluster.api import Cluster, Object
from pipelines.rollout.platforms.port import PlatformUnreachableError, SlotRefusedError
from pipelines.rollout.platforms.separate.split import WEIGHTS, Split

MIRROR = "RequestMirror"


def split_of(route: Object) -> Split:
    """What the route's annotation says. Raises SlotRefusedError where it cannot be read."""
    text = (route["metadata"].get("annotations") or {}).get(names.SPLIT)
    if text is None:
        return Split()
    try:
        return msgspec.json.decode(text, type=Split)
    except msgspec.DecodeError as error:
        name = route["metadata"]["name"]
        raise SlotRefusedError(
            422,
            f"the annotation {names.SPLIT} of HTTPRoute {name} is no split ({error}): remove it, and look who wrote it",
        ) from error


def rules_for(rules: list[Object], split: Split, stable: str, challenger: str) -> list[Object]:
    """`rules` with the weights and the mirror of `split`; what is about neither of the two Services stays.

    Raises:
        SlotRefusedError: no rule names both.
    """
    found, changed = copy.deepcopy(rules), 0
    for rule in found:
        backends = {backend.get("name"): backend for backend in rule.get("backendRefs") or ()}
        if stable not in backends or challenger not in backends:
            continue
        changed += 1
        backends[stable]["weight"] = WEIGHTS - split.weight
        backends[challenger]["weight"] = split.weight
        filters = [each for each in rule.get("filters") or () if not _mirrors(each, challenger)]
        if split.shadow:
            filters.append(_mirror(backends[challenger], split.sample))
        rule["filters"] = filters
        if not filters:
            del rule["filters"]
    if not changed:
        raise SlotRefusedError(422, f"no rule of the HTTPRoute has backendRefs to both {stable} and {challenger}")
    return found


def lease_text(split: Split) -> str:
    """When the lease runs out, as RFC 3339 in UTC; empty where there is none."""
    if split.lease_ends_s is None:
        return ""
    return datetime.fromtimestamp(split.lease_ends_s, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def operations(route: Object, split: Split, stable: str, challenger: str) -> list[Object]:
    """The JSON patch from `route` to `split`."""
    metadata = route["metadata"]
    annotations = dict(metadata.get("annotations") or {})
    annotations[names.SPLIT] = msgspec.json.encode(split).decode()
    for name, value in ((names.ROLLOUT, split.rollout or ""), (names.LEASE_UNTIL, lease_text(split))):
        annotations[name] = value
        if not value:
            del annotations[name]
    rules = rules_for(route["spec"]["rules"], split, stable, challenger)
    # replacing the version by itself is a precondition: 409 where it is another by now
    patch: list[Object] = [
        {"op": "replace", "path": "/metadata/resourceVersion", "value": metadata["resourceVersion"]},
        {"op": "add", "path": "/metadata/annotations", "value": annotations},
    ]
    if rules != route["spec"]["rules"]:
        patch.append({"op": "replace", "path": "/spec/rules", "value": rules})
    return patch


class Route:
    """`Gateway` in an HTTPRoute."""

    def __init__(self, cluster: Cluster, project: str) -> None:
        self._cluster = cluster
        self._project = project
        self._path = cluster.path(names.ROUTES, "httproutes", names.resource_name(project))
        self._read: Object | None = None

    async def read(self) -> tuple[Split, str]:
        """The split on the route, and the route's resource version."""
        found = await self._cluster.get(self._path)
        if found is None:
            raise PlatformUnreachableError(
                f"there is no HTTPRoute {names.resource_name(self._project)} in {self._cluster.namespace}: apply "
                "deploy/kubernetes first"
            )
        self._read = found
        return split_of(found), found["metadata"]["resourceVersion"]

    async def write(self, split: Split, stamp: str) -> None:
        """One patch: weights, mirror, lease."""
        route = self._read
        if route is None or route["metadata"]["resourceVersion"] != stamp:
            raise ValueError("what is written was read before, by this object")
        stable, challenger = names.stable(self._project), names.challenger(self._project)
        await self._cluster.patch(self._path, operations(route, split, stable, challenger))


def _mirrors(each: Object, service: str) -> bool:
    return bool(each.get("type") == MIRROR and each["requestMirror"]["backendRef"]["name"] == service)


def _mirror(backend: Object, sample: float) -> Object:
    reference = {key: value for key, value in backend.items() if key in ("group", "kind", "name", "namespace", "port")}
    mirror: dict[str, Any] = {"backendRef": reference}
    if sample < 1:
        mirror["fraction"] = {"numerator": max(1, int(sample * WEIGHTS)), "denominator": WEIGHTS}
    return {"type": MIRROR, "requestMirror": mirror}
