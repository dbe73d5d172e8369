"""What clients of the other protocols ask before they send work: `GET /v1/models…` and SageMaker's `GET /ping`."""

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response

from serving.protocols import instances
from serving.routes.described import DescribedRoute, Endpoint, json_answer
from serving.routes.ready import ReadySlots
from serving.slots import Slots


def model_status_routes(*, project: str, slots: Slots, reason: Callable[[], str | None]) -> list[DescribedRoute]:
    """`reason` says why the server is not ready, or None when it is."""
    ready = ReadySlots(project, slots, reason)

    async def models(_: Request) -> Response:
        return json_answer({"models": [project]})

    async def model(request: Request) -> Response:
        name = ready.require_project(request.path_params["name"])
        ready.champion()
        return json_answer(instances.status(name, ready.versions()))

    async def model_version(request: Request) -> Response:
        name = ready.require_project(request.path_params["name"])
        ready.champion()
        return json_answer(instances.status(name, [ready.loaded(request.path_params["version"]).model.version]))

    async def ping(_: Request) -> Response:
        ready.champion()
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
