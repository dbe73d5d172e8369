"""What clients of the other protocols ask before they send work: `GET /v1/models…` and SageMaker's `GET /ping`."""

from collections.abc import Callable

import msgspec
from fastapi import APIRouter, Response

from serving.admission import JSON_TYPE, RequestRefusedError
from serving.protocols import instances
from serving.slots import Slots


def model_status_router(*, project: str, slots: Slots, reason: Callable[[], str | None]) -> APIRouter:
    """`reason` says why the server is not ready, or None when it is."""
    router = APIRouter()

    def versions(name: str) -> list[str]:
        if name != project:
            raise RequestRefusedError(404, f"there is no model {name!r}; this server has {project!r}")
        require_ready()
        return [slot.model.version for slot in (slots.champion, slots.challenger) if slot is not None]

    def require_ready() -> None:
        why = reason()
        if why is not None:
            raise RequestRefusedError(503, why)

    @router.get("/v1/models", tags=["tensorflow serving"], summary="The models of this server")
    async def models() -> Response:
        return _json({"models": [project]})

    @router.get("/v1/models/{name}", tags=["tensorflow serving"], summary="Is the model ready, in which versions?")
    async def model(name: str) -> Response:
        return _json(instances.status(name, versions(name)))

    @router.get("/v1/models/{name}/versions/{version}", tags=["tensorflow serving"], summary="Is a version ready?")
    async def model_version(name: str, version: str) -> Response:
        loaded = versions(name)
        if version not in loaded:
            raise RequestRefusedError(404, f"version {version!r} is not loaded; loaded: {', '.join(loaded)}")
        return _json(instances.status(name, [version]))

    @router.get("/ping", tags=["sagemaker"], summary="Is there a champion that answers?")
    async def ping() -> Response:
        require_ready()
        return Response(status_code=200)

    return router


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type=JSON_TYPE)
