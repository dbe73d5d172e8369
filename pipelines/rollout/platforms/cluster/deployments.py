"""The two Deployments of a project as groups of servers.

The challenger's Deployment is made from the stable one, so that both differ in nothing but the bundle; where somebody
else's manifests have one already, it is scaled, and scaled to nothing afterwards.
"""

import copy
import logging
from collections.abc import Mapping
from typing import Any

import msgspec

from pipelines.rollout.platforms.cluster import names
from pipelines.rollout.platforms.cluster.api import Cluster, Object
from pipelines.rollout.platforms.port import PlatformUnreachableError, SlotRefusedError
from pipelines.rollout.platforms.separate.split import Named

HTTP_PORT = "http"
UNKNOWN = "(unknown)"  # the rollout of a challenger that says of none
logger = logging.getLogger(__name__)


class Deployments:
    """`Fleet` of one project."""

    def __init__(self, cluster: Cluster, project: str, bundles_at: str | None = None) -> None:
        """`bundles_at` is the folder in which the pods have the bundles, by their id; None: where we have them."""
        self._cluster = cluster
        self._bundles_at = bundles_at
        self._project = project
        self._stable = names.stable(project)
        self._challenger = names.challenger(project)

    async def champion(self) -> Named | None:
        """What the stable Deployment's servers come up with."""
        return champion_of(await self._find_stable())

    async def place(self, named: Named, rollout: str) -> None:
        """Applies the challenger's Deployment."""
        stable = await self._find_stable()
        found = await self._get(self._challenger)
        named = self._at(named)
        if found is None or is_ours(found):
            await self._apply(challenger_from(stable, self._challenger, named, rollout))
            return
        spec = {"replicas": stable["spec"].get("replicas", 1), "template": _template(named)}
        await self._apply(_deployment(self._challenger, {"annotations": {names.ROLLOUT: rollout}}, spec))

    async def waiting_for(self, named: Named) -> str | None:
        """Why the challenger's pods are not all ready with `named`."""
        return _lacking(await self._get(self._challenger), self._challenger, named)

    async def why_gone(self, named: Named) -> str | None:
        """Why no pod of the challenger can answer, or None."""
        found = await self._get(self._challenger)
        if found is None:
            return f"the Deployment {self._challenger} is gone"
        if not named.is_same(champion_of(found)):
            return f"the Deployment {self._challenger} was changed to serve something else"
        ready = (found.get("status") or {}).get("readyReplicas", 0)
        return None if ready else f"no pod of {self._challenger} is ready"

    async def lead(self, named: Named) -> None:
        """A rolling change of the stable Deployment; nothing happens where it serves `named` already."""
        if not named.is_same(champion_of(await self._find_stable())):
            await self._apply(_deployment(self._stable, {}, {"template": _template(self._at(named))}))

    async def leading(self, named: Named) -> str | None:
        """Why the stable pods do not all serve `named`."""
        return _lacking(await self._get(self._stable), self._stable, named)

    async def placed(self) -> str | None:
        """The rollout that the challenger's pods belong to, None where there are none."""
        found = await self._get(self._challenger)
        if found is None or (not is_ours(found) and not found["spec"].get("replicas", 1)):
            return None
        return _rollout_of(found)

    async def remove(self, rollout: str) -> None:
        """Deletes the challenger's Deployment of `rollout`, or scales it to nothing where it is not made here."""
        found = await self._get(self._challenger)
        if found is None or _rollout_of(found) != rollout:
            return
        if is_ours(found):
            await self._cluster.delete(self._path(self._challenger))
        elif found["spec"].get("replicas", 1):
            await self._apply(_deployment(self._challenger, {}, {"replicas": 0}))

    async def servers(self) -> Mapping[str, str]:
        """The pods that have an address."""
        selector = ",".join(
            f"{key}={value}" for key, value in (names.PART_OF, (names.PROJECT, names.resource_name(self._project)))
        )
        pods = await self._cluster.list_of(self._cluster.path("v1", "pods"), selector)
        return {pod["metadata"]["name"]: url for pod in pods["items"] if (url := _url(pod)) is not None}

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._cluster.aclose()

    def _at(self, named: Named) -> Named:
        if self._bundles_at is None:
            return named
        return msgspec.structs.replace(named, path=f"{self._bundles_at.rstrip('/')}/{named.bundle}")

    async def _find_stable(self) -> Object:
        found = await self._get(self._stable)
        if found is None:
            raise PlatformUnreachableError(
                f"there is no Deployment {self._stable} in {self._cluster.namespace}: apply deploy/kubernetes first"
            )
        return found

    async def _get(self, name: str) -> Object | None:
        return await self._cluster.get(self._path(name))

    def _path(self, name: str) -> str:
        return self._cluster.path(names.DEPLOYMENTS, "deployments", name)

    async def _apply(self, body: Object) -> None:
        """Fields that somebody else holds are taken over, and that is said: a rollout decides about these few."""
        path = self._path(body["metadata"]["name"])
        try:
            await self._cluster.apply(path, body)
        except SlotRefusedError as error:
            if error.status != 409:
                raise
            logger.warning("taken over: %s", error.detail)
            await self._cluster.apply(path, body, force=True)


def champion_of(deployment: Object) -> Named | None:
    """What its servers come up with; None where nothing says so. A bundle's folder has its id as its name."""
    template = deployment["spec"]["template"]
    told: dict[str, str] = {}
    for container in template["spec"]["containers"]:
        if container["name"] == names.CONTAINER:
            told = {each["name"]: each.get("value", "") for each in container.get("env") or ()}
    path = told.get(names.BUNDLE_VARIABLE, "").rstrip("/")
    if not path:
        return None
    annotations = template["metadata"].get("annotations") or {}
    bundle = annotations.get(names.BUNDLE) or path.rpartition("/")[2]
    version = told.get(names.VERSION_VARIABLE) or bundle[: names.SHORT_DIGITS]
    return Named(version=version, bundle=bundle, path=path)


def challenger_from(stable: Object, name: str, named: Named, rollout: str) -> Object:
    """The challenger's Deployment: the stable one's, with another name, track and bundle.

    Raises:
        SlotRefusedError: the stable Deployment's selector would take the challenger's pods for its own.
    """
    spec = copy.deepcopy(stable["spec"])
    selected = spec["selector"].get("matchLabels") or {}
    if selected.get(names.TRACK) != "stable":
        raise SlotRefusedError(
            422,
            f"the selector of Deployment {stable['metadata']['name']} has no label {names.TRACK}: stable, so it would "
            "take the challenger's pods for its own: apply deploy/kubernetes of this version",
        )
    template = spec["template"]
    labels = {**(template["metadata"].get("labels") or {}), names.TRACK: "challenger"}
    annotations = {**(template["metadata"].get("annotations") or {}), **_annotations(named)}
    for container in template["spec"]["containers"]:
        if container["name"] == names.CONTAINER:
            told = _variables(named)
            others = [each for each in container.get("env") or () if each["name"] not in {one["name"] for one in told}]
            container["env"] = [*others, *told]
    return _deployment(
        name,
        {
            "labels": {
                **(stable["metadata"].get("labels") or {}),
                names.TRACK: "challenger",
                **dict([names.MANAGED_BY]),
            },
            "annotations": {names.ROLLOUT: rollout},
        },
        {
            **{key: value for key, value in spec.items() if key in _COPIED},
            "selector": {"matchLabels": {**selected, names.TRACK: "challenger"}},
            "template": {"metadata": {"labels": labels, "annotations": annotations}, "spec": template["spec"]},
        },
    )


_COPIED = ("replicas", "strategy", "minReadySeconds", "progressDeadlineSeconds", "revisionHistoryLimit")


def _deployment(name: str, metadata: dict[str, Any], spec: dict[str, Any]) -> Object:
    return {"apiVersion": names.DEPLOYMENTS, "kind": "Deployment", "metadata": {"name": name, **metadata}, "spec": spec}


def _template(named: Named) -> Object:
    return {
        "metadata": {"annotations": _annotations(named)},
        "spec": {"containers": [{"name": names.CONTAINER, "env": _variables(named)}]},
    }


def _annotations(named: Named) -> dict[str, str]:
    return {names.VERSION: named.version, names.BUNDLE: named.bundle}


def _variables(named: Named) -> list[Object]:
    values = {names.BUNDLE_VARIABLE: named.path, names.VERSION_VARIABLE: named.version}
    return [{"name": name, "value": value} for name, value in values.items()]


def is_ours(deployment: Object) -> bool:
    """Whether the rollout itself has made it."""
    return names.MANAGED_BY in (deployment["metadata"].get("labels") or {}).items()


def _rollout_of(deployment: Object) -> str:
    found: str = (deployment["metadata"].get("annotations") or {}).get(names.ROLLOUT) or UNKNOWN
    return found


def _lacking(deployment: Object | None, name: str, named: Named) -> str | None:
    """What a Deployment lacks to be rolled out (as `kubectl rollout status` sees it). Raises SlotRefusedError."""
    if deployment is None:
        return f"there is no Deployment {name}"
    if not named.is_same(champion_of(deployment)):
        return f"the Deployment {name} does not serve version {named.version} yet"
    status = deployment.get("status") or {}
    if status.get("observedGeneration", 0) < deployment["metadata"].get("generation", 0):
        return f"the change of {name} is not seen yet"
    for condition in status.get("conditions") or ():
        if condition["type"] == "Progressing" and condition.get("reason") == "ProgressDeadlineExceeded":
            raise SlotRefusedError(409, f"{name} does not roll out: {condition.get('message', 'deadline exceeded')}")
    wanted = deployment["spec"].get("replicas", 1)
    updated, ready, all_of_it = (status.get(key, 0) for key in ("updatedReplicas", "availableReplicas", "replicas"))
    if updated < wanted or ready < updated or all_of_it > updated or wanted == 0:
        return f"{name}: {updated} of {wanted} pods updated, {ready} available, {max(0, all_of_it - updated)} old"
    return None


def _url(pod: Object) -> str | None:
    address = (pod.get("status") or {}).get("podIP")
    if not address:
        return None
    for container in pod["spec"]["containers"]:
        for port in container.get("ports") or () if container["name"] == names.CONTAINER else ():
            if port.get("name", HTTP_PORT) == HTTP_PORT:
                host = f"[{address}]" if ":" in address else address
                return f"http://{host}:{port['containerPort']}"
    return None
