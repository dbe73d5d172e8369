"""What clients of the other protocols ask before they send work: `GET /v1/models…` and SageMaker's `GET /ping`."""

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response

from serving.admission import RequestRefusedError
from serving.protocols import instances
from serving.routes.described import DescribedRoute, Endpoint, json_answer
from serving.slots import Slots


def model_status_routes(*, project: str, slots: Slots, reason: Callable[[], str | None]) -> list[DescribedRoute]:
    """`reason` says why the server is not ready, or None when it is."""

    def versions(name: str) -> list[str]:
        if name != project:
            raise RequestRefusedError(404, f"there is no model {name!r}; this server has {project!r}")
        require_ready()
        return [slot.model.version for slot in (slots.champion, slots.challenger) if slot is not None]

    def require_ready() -> None:
        why = reason()
        if why is not None:
            raise RequestRefusedError(503, why)

    async def models(_: Request) -> Response:
        return json_answer({"models": [project]})

    async def model(request: Request) -> Response:
        name = request.path_params["name"]
        return json_answer(instances.status(name, versions(name)))

    async def model_version(request: Request) -> Response:
        name, version = request.path_params["name"], request.path_params["version"]
        loaded = versions(name)
        if version not in loaded:
            raise RequestRefusedError(404, f"version {version!r} is not loaded; loaded: {', '.join(loaded)}")
        return json_answer(instances.status(name, [version]))

    async def ping(_: Request) -> Response:
        require_ready()
        return Response(status_code=200)

    def of_models(path: str, endpoint: Endpoint, summary: str) -> DescribedRoute:
        return DescribedRoute("GET", f"/v1/models{path}", endpoint, tag="tensorflow serving", summary=summary)

    return [
        of_models("", models, "The models of this server"),
        of_models("/{name}", model, "Is the model ready, in which versions?"),
        of_models("/{name}/versions/{version}", model_version, "Is a version ready?"),
        DescribedRoute(
            "GET", "/ping", ping, tag="sagemaker", summary="Is there a champion that answers?", answer_type=None
        ),
    ]
