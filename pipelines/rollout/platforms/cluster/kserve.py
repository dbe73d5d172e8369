"""The platform `kserve`: an InferenceService whose latest revision is the challenger, for teams that have KServe.

KServe keeps the revision that was rolled out last, and gives `canaryTrafficPercent` of the requests to the latest one
(serverless deployments). So a claim writes the challenger with 0, a share is a percentage, a promotion takes the field
away, and a rollback is 0 again: the challenger's revision stays, without traffic, until the next claim replaces it.
"""

import copy
from collections.abc import Mapping

import msgspec

from pipelines.rollout.platforms.cluster import names
from pipelines.rollout.platforms.cluster.api import Cluster, Object
from pipelines.rollout.platforms.cluster.http_route import lease_text, split_of
from pipelines.rollout.platforms.port import PlatformUnreachableError
from pipelines.rollout.platforms.separate.split import Named, Split

GROUP, CONTAINER, PORT = "serving.kserve.io/v1beta1", "kserve-container", 8080
INFERENCE_SERVICES = (GROUP, "inferenceservices")
_OF_SERVICE = "serving.kserve.io/inferenceservice"


def inference_service(project: str, image: str, named: Named, *, replicas: int = 2) -> Object:
    """The object that a project begins with: `named` in our serving image."""
    container = {
        "name": CONTAINER,
        "image": image,
        "env": [{"name": "PACELINE_SERVING_PROJECT", "value": project}, *_told(named)],
        "ports": [{"containerPort": PORT, "protocol": "TCP"}],
    }
    return {
        "apiVersion": GROUP,
        "kind": "InferenceService",
        "metadata": {"name": names.resource_name(project), "labels": dict([names.PART_OF])},
        "spec": {"predictor": {"minReplicas": replicas, "containers": [container]}},
    }


def predictor_for(predictor: Object, split: Split) -> Object:
    """`predictor` as `split` wants it."""
    found = copy.deepcopy(predictor)
    if split.challenger is not None:
        _tell(found, split.challenger)
        found["canaryTrafficPercent"] = int(split.share * 100 + 1e-9)  # whole percents; never above the share
    elif split.champion is not None and _serves(found) == split.champion.version:
        found.pop("canaryTrafficPercent", None)  # the latest revision leads
    else:
        found["canaryTrafficPercent"] = 0  # the latest revision is one that was rolled back
    return found


def operations(service: Object, split: Split) -> list[Object]:
    """The JSON patch from `service` to `split`, guarded by the resource version."""
    metadata = service["metadata"]
    annotations = {**(metadata.get("annotations") or {}), names.SPLIT: msgspec.json.encode(split).decode()}
    for name, value in ((names.ROLLOUT, split.rollout or ""), (names.LEASE_UNTIL, lease_text(split))):
        annotations[name] = value
        if not value:
            del annotations[name]
    patch: list[Object] = [
        {"op": "replace", "path": "/metadata/resourceVersion", "value": metadata["resourceVersion"]},
        {"op": "add", "path": "/metadata/annotations", "value": annotations},
    ]
    predictor = predictor_for(service["spec"]["predictor"], split)
    if predictor != service["spec"]["predictor"]:
        patch.append({"op": "replace", "path": "/spec/predictor", "value": predictor})
    return patch


class InferenceService:
    """`Gateway` and `Fleet` of one project: KServe is both."""

    def __init__(self, cluster: Cluster, project: str) -> None:
        self._cluster = cluster
        self._name = names.resource_name(project)
        self._path = cluster.path(GROUP, "inferenceservices", self._name)
        self._read: Object | None = None

    async def read(self) -> tuple[Split, str]:
        """The split on the object, and its resource version."""
        found = self._read = await self._find()
        return split_of(found), found["metadata"]["resourceVersion"]

    async def write(self, split: Split, stamp: str) -> None:
        """One patch."""
        if self._read is None or self._read["metadata"]["resourceVersion"] != stamp:
            raise ValueError("what is written was read before, by this object")
        await self._cluster.patch(self._path, operations(self._read, split))

    async def champion(self) -> Named | None:
        """What the object was written with, while no rollout has touched it."""
        version = _serves((await self._find())["spec"]["predictor"])
        return None if version is None else Named(version=version, bundle="", path="")

    async def place(self, named: Named, rollout: str) -> None:
        """The claim has written it."""

    async def waiting_for(self, named: Named) -> str | None:
        """Why the latest revision is not ready."""
        found = await self._find()
        if _serves(found["spec"]["predictor"]) != named.version:
            return f"the InferenceService {self._name} does not serve version {named.version} yet"
        status = found.get("status") or {}
        if status.get("observedGeneration", 0) < found["metadata"].get("generation", 0):
            return f"the change of {self._name} is not seen yet"
        predictor = (status.get("components") or {}).get("predictor") or {}
        created, ready = predictor.get("latestCreatedRevision"), predictor.get("latestReadyRevision")
        return None if created and created == ready else f"the revision {created} is not ready; {ready} is the last one"

    async def why_gone(self, named: Named) -> str | None:
        """Why the latest revision cannot answer."""
        return await self.waiting_for(named)

    async def lead(self, named: Named) -> None:
        """The promotion's patch does it."""

    async def leading(self, named: Named) -> str | None:
        """The revision is ready; the promotion's patch gives it all requests."""
        return await self.waiting_for(named)

    async def placed(self) -> str | None:
        """None: KServe removes revisions without traffic."""

    async def remove(self, rollout: str) -> None:
        """Nothing."""

    async def servers(self) -> Mapping[str, str]:
        """The pods that have an address."""
        pods = await self._cluster.list_of(self._cluster.path("v1", "pods"), f"{_OF_SERVICE}={self._name}")
        found = {pod["metadata"]["name"]: (pod.get("status") or {}).get("podIP") for pod in pods["items"]}
        return {name: f"http://{address}:{PORT}" for name, address in found.items() if address}

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._cluster.aclose()

    async def _find(self) -> Object:
        found = await self._cluster.get(self._path)
        if found is None:
            raise PlatformUnreachableError(f"there is no InferenceService {self._name} in {self._cluster.namespace}")
        return found


def _told(named: Named) -> list[Object]:
    values = {names.BUNDLE_VARIABLE: named.path, names.VERSION_VARIABLE: named.version}
    return [{"name": name, "value": value} for name, value in values.items()]


def _container(predictor: Object) -> Object:
    found: Object = next(each for each in predictor["containers"] if each["name"] == CONTAINER)
    return found


def _tell(predictor: Object, named: Named) -> None:
    container, told = _container(predictor), _told(named)
    kept = [each for each in container.get("env") or () if each["name"] not in {one["name"] for one in told}]
    container["env"] = [*kept, *told]


def _serves(predictor: Object) -> str | None:
    told = {each["name"]: each.get("value") for each in _container(predictor).get("env") or ()}
    return told.get(names.VERSION_VARIABLE)
