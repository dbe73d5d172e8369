"""Health, metrics, the model card, and the parts of the Open Inference Protocol that predict nothing."""

from collections.abc import Callable

import msgspec
from fastapi import APIRouter, Response

from contracts.prediction_row import API_VERSION
from serving.admission import JSON_TYPE, RequestRefusedError
from serving.metrics import CONTENT_TYPE, Metrics
from serving.protocols.open_inference import metadata
from serving.slots import Slot, Slots

SERVER_NAME = "paceline"


def health_router(*, project: str, slots: Slots, metrics: Metrics, reason: Callable[[], str | None]) -> APIRouter:
    """`reason` says why the server is not ready, or None when it is."""
    router = APIRouter()

    def require_ready() -> Slot:
        why = reason()
        if why is not None or slots.champion is None:
            raise RequestRefusedError(503, why or "there is no champion yet: load a bundle and promote it")
        return slots.champion

    def loaded(version: str) -> Slot:
        for slot in (slots.champion, slots.challenger):
            if slot is not None and slot.model.version == version:
                return slot
        raise RequestRefusedError(404, f"version {version!r} is not loaded; loaded: {', '.join(versions()) or 'none'}")

    def versions() -> list[str]:
        return [slot.model.version for slot in (slots.champion, slots.challenger) if slot is not None]

    def require_project(name: str) -> None:
        if name != project:
            raise RequestRefusedError(404, f"there is no model {name!r}; this server has {project!r}")

    @router.get("/livez", tags=["health"], summary="Is the process alive?")
    async def livez() -> Response:
        return _json({"live": True})

    @router.get("/readyz", tags=["health"], summary="Is there a champion that answers?")
    async def readyz() -> Response:
        champion = require_ready()
        return _json({"ready": True, "model_version": champion.model.version, "bundle": champion.model.bundle.id})

    @router.get("/metrics", tags=["health"], summary="Prometheus metrics")
    async def exposition() -> Response:
        return Response(metrics.render(), media_type=CONTENT_TYPE)

    @router.get("/model-card", tags=["model"], summary="The champion's model card, as Markdown")
    async def model_card() -> Response:
        return Response(require_ready().model.bundle.card, media_type="text/plain; charset=utf-8")

    @router.get("/v2", tags=["open inference"], summary="Server metadata")
    async def server_metadata() -> Response:
        return _json({"name": SERVER_NAME, "version": API_VERSION, "extensions": ["binary_tensor_data"]})

    @router.get("/v2/health/live", tags=["open inference"], summary="Is the process alive?")
    async def live() -> Response:
        return _json({"live": True})

    @router.get("/v2/health/ready", tags=["open inference"], summary="Is there a champion that answers?")
    async def ready() -> Response:
        require_ready()
        return _json({"ready": True})

    @router.get("/v2/models/{name}", tags=["open inference"], summary="Model metadata")
    async def model_metadata(name: str) -> Response:
        require_project(name)
        return _json(metadata(project, versions(), require_ready().model.schema))

    @router.get("/v2/models/{name}/ready", tags=["open inference"], summary="Is the model ready?")
    async def model_ready(name: str) -> Response:
        require_project(name)
        require_ready()
        return _json({"name": name, "ready": True})

    @router.get("/v2/models/{name}/versions/{version}", tags=["open inference"], summary="Metadata of a version")
    async def version_metadata(name: str, version: str) -> Response:
        require_project(name)
        return _json(metadata(project, [version], loaded(version).model.schema))

    @router.get("/v2/models/{name}/versions/{version}/ready", tags=["open inference"], summary="Is a version ready?")
    async def version_ready(name: str, version: str) -> Response:
        require_project(name)
        loaded(version)
        return _json({"name": name, "ready": True})

    return router


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type=JSON_TYPE)
