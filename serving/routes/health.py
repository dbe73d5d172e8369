"""Health, metrics, the model card, and the parts of the Open Inference Protocol that predict nothing."""

from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from contracts.prediction_row import API_VERSION
from serving.admission import RequestRefusedError
from serving.engine import Model
from serving.metrics import CONTENT_TYPE, Metrics
from serving.protocols.open_inference import metadata
from serving.routes.described import DescribedRoute, Endpoint, json_answer
from serving.slots import Slot, Slots

SERVER_NAME = "paceline"
_READY = "Is there a champion that answers?"


class _Ready:
    """The slots, as far as these routes ask; `reason` says why the server is not ready, or None when it is."""

    def __init__(self, slots: Slots, reason: Callable[[], str | None]) -> None:
        self._slots = slots
        self._reason = reason

    def champion(self) -> Slot:
        why = self._reason()
        if why is not None or self._slots.champion is None:
            raise RequestRefusedError(503, why or "there is no champion yet: load a bundle and promote it")
        return self._slots.champion

    def loaded(self, version: str) -> Slot:
        for slot in (self._slots.champion, self._slots.challenger):
            if slot is not None and slot.model.version == version:
                return slot
        found = ", ".join(self.versions()) or "none"
        raise RequestRefusedError(404, f"version {version!r} is not loaded; loaded: {found}")

    def versions(self) -> list[str]:
        slots = (self._slots.champion, self._slots.challenger)
        return [slot.model.version for slot in slots if slot is not None]


def health_routes(
    *, project: str, slots: Slots, metrics: Metrics, reason: Callable[[], str | None]
) -> list[DescribedRoute]:
    """`reason` says why the server is not ready, or None when it is."""
    ready = _Ready(slots, reason)

    async def livez(_: Request) -> Response:
        return json_answer({"live": True})

    async def readyz(_: Request) -> Response:
        model = ready.champion().model
        return json_answer({"ready": True, "model_version": model.version, "bundle": model.bundle.id})

    async def exposition(_: Request) -> Response:
        return Response(metrics.render(), media_type=CONTENT_TYPE)

    async def model_card(_: Request) -> Response:
        return Response(ready.champion().model.bundle.card, media_type="text/plain; charset=utf-8")

    def get(path: str, endpoint: Endpoint, summary: str, tag: str = "health", **more: Any) -> DescribedRoute:
        return DescribedRoute("GET", path, endpoint, tag=tag, summary=summary, **more)

    card = "The champion's model card, as Markdown"
    return [
        get("/livez", livez, "Is the process alive?"),
        get("/readyz", readyz, _READY),
        get("/metrics", exposition, "Prometheus metrics", answer_type="text/plain"),
        get("/model-card", model_card, card, tag="model", answer_type="text/plain"),
        *_open_inference_routes(project, ready),
    ]


def _parameters(model: Model) -> dict[str, Any]:
    """On what the graph really runs: for each execution provider how many of its operators, the first has most."""
    return {
        "execution_provider": next(iter(model.providers)),
        "operators": model.providers,
        "maximum_batch_rows": model.maximum_rows,
    }


def _open_inference_routes(project: str, slots: _Ready) -> list[DescribedRoute]:
    def require_project(request: Request) -> str:
        if (name := request.path_params["name"]) != project:
            raise RequestRefusedError(404, f"there is no model {name!r}; this server has {project!r}")
        return project

    async def server_metadata(_: Request) -> Response:
        return json_answer({"name": SERVER_NAME, "version": API_VERSION, "extensions": ["binary_tensor_data"]})

    async def live(_: Request) -> Response:
        return json_answer({"live": True})

    async def ready(_: Request) -> Response:
        slots.champion()
        return json_answer({"ready": True})

    async def model_metadata(request: Request) -> Response:
        require_project(request)
        model = slots.champion().model
        return json_answer(metadata(project, slots.versions(), model.schema, _parameters(model)))

    async def model_ready(request: Request) -> Response:
        name = require_project(request)
        slots.champion()
        return json_answer({"name": name, "ready": True})

    async def version_metadata(request: Request) -> Response:
        require_project(request)
        model = slots.loaded(request.path_params["version"]).model
        return json_answer(metadata(project, [model.version], model.schema, _parameters(model)))

    async def version_ready(request: Request) -> Response:
        name = require_project(request)
        slots.loaded(request.path_params["version"])
        return json_answer({"name": name, "ready": True})

    def get(path: str, endpoint: Endpoint, summary: str) -> DescribedRoute:
        return DescribedRoute("GET", f"/v2{path}", endpoint, tag="open inference", summary=summary)

    return [
        get("", server_metadata, "Server metadata"),
        get("/health/live", live, "Is the process alive?"),
        get("/health/ready", ready, _READY),
        get("/models/{name}", model_metadata, "Model metadata"),
        get("/models/{name}/ready", model_ready, "Is the model ready?"),
        get("/models/{name}/versions/{version}", version_metadata, "Metadata of a version"),
        get("/models/{name}/versions/{version}/ready", version_ready, "Is a version ready?"),
    ]
