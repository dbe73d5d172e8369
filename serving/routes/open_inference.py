"""The parts of the Open Inference Protocol that predict nothing: health, metadata, and what Triton's clients ask."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from contracts.prediction_row import API_VERSION
from serving.admission import RequestRefusedError
from serving.challenger import Slot
from serving.engine import Model
from serving.metrics import Metrics
from serving.protocols import open_inference
from serving.routes.described import DescribedRoute, Endpoint, json_answer
from serving.routes.ready import ReadySlots

SERVER_NAME = "paceline"
READY = "Is there a champion that answers?"
_EXTENSIONS = ["binary_tensor_data", "model_configuration", "statistics"]
_ABSENT = {
    "/v2/repository/models/{name}/{action}": "models are loaded and promoted by /control, or by a release",
    "/v2/systemsharedmemory/{rest:path}": "there is no shared memory: send the tensors in the body",
    "/v2/cudasharedmemory/{rest:path}": "there is no shared memory: send the tensors in the body",
    "/v2/trace/setting": "there are no trace settings",
    "/v2/logging": "there are no log settings",
}


def open_inference_routes(slots: ReadySlots, metrics: Metrics) -> list[Route]:
    """`GET /v2…`, the repository's index, and a 501 for what Triton's clients ask that there is not."""
    project = slots.project

    async def server_metadata(_: Request) -> Response:
        return json_answer({"name": SERVER_NAME, "version": API_VERSION, "extensions": _EXTENSIONS})

    async def live(_: Request) -> Response:
        return json_answer({"live": True})

    async def ready(_: Request) -> Response:
        slots.champion()
        return json_answer({"ready": True})

    async def model_metadata(request: Request) -> Response:
        slot, version = _asked(request, slots)
        versions = slots.versions() if version is None else [version]
        return json_answer(open_inference.metadata(project, versions, slot.model.schema, _parameters(slot.model)))

    async def model_ready(request: Request) -> Response:
        _asked(request, slots)
        return json_answer({"name": project, "ready": True})

    async def model_config(request: Request) -> Response:
        slot, version = _asked(request, slots)
        return json_answer(open_inference.configuration(project, slot.model.schema, version))

    async def statistics(request: Request) -> Response:
        _, version = _asked(request, slots)
        return json_answer({"model_stats": _statistics(project, metrics, version)})

    async def index(_: Request) -> Response:
        return json_answer([{"name": project, "version": each, "state": "READY"} for each in slots.versions()])

    def get(path: str, endpoint: Endpoint, summary: str) -> DescribedRoute:
        return DescribedRoute("GET", f"/v2{path}", endpoint, tag="open inference", summary=summary)

    model, version = "/models/{name}", "/models/{name}/versions/{version}"
    return [
        get("", server_metadata, "Server metadata"),
        get("/health/live", live, "Is the process alive?"),
        get("/health/ready", ready, READY),
        get("/models/stats", statistics, "What each version has answered"),
        get(model, model_metadata, "Model metadata"),
        get(f"{model}/ready", model_ready, "Is the model ready?"),
        get(f"{model}/config", model_config, "The model's configuration, as Triton tells it"),
        get(f"{model}/stats", statistics, "What each version has answered"),
        get(version, model_metadata, "Metadata of a version"),
        get(f"{version}/ready", model_ready, "Is a version ready?"),
        get(f"{version}/config", model_config, "The configuration of a version"),
        get(f"{version}/stats", statistics, "What a version has answered"),
        DescribedRoute(
            "POST", "/v2/repository/index", index, tag="open inference", summary="The versions that are loaded"
        ),
        *(Route(path, _absent(reason), methods=["GET", "POST"]) for path, reason in _ABSENT.items()),
    ]


def _parameters(model: Model) -> dict[str, Any]:
    """On what the graph really runs: for each execution provider how many of its operators, the first has most."""
    return {
        "execution_provider": next(iter(model.providers)),
        "operators": model.providers,
        "maximum_batch_rows": model.maximum_rows,
    }


def _asked(request: Request, slots: ReadySlots) -> tuple[Slot, str | None]:
    """The slot that the path is about, the champion where it names no version, and that version."""
    parameters = request.path_params
    slots.require_project(parameters.get("name", slots.project))
    version = parameters.get("version")
    return (slots.champion(), None) if version is None else (slots.loaded(version), version)


def _statistics(project: str, metrics: Metrics, only: str | None) -> list[dict[str, Any]]:
    """By version, of all its slots, since the process began; durations from the encoding to the score."""
    found: dict[str, dict[str, Any]] = {}
    for (version, _), totals in metrics.totals.items():
        if only is not None and version != only:
            continue
        each = found.setdefault(
            version,
            {
                "name": project,
                "version": version,
                "inference_count": 0,
                "inference_stats": {"success": {"count": 0, "ns": 0}, "fail": {"count": 0, "ns": 0}},
            },
        )
        answered = totals.counts.requests - totals.counts.errors
        each["inference_count"] += answered
        each["inference_stats"]["success"]["count"] += answered
        each["inference_stats"]["success"]["ns"] += int(totals.latency_sum_s * 1e9)
        each["inference_stats"]["fail"]["count"] += totals.counts.errors
    return list(found.values())


def _absent(reason: str) -> Endpoint:
    async def refuse(request: Request) -> Response:
        raise RequestRefusedError(501, f"{request.method} {request.url.path}: {reason}")

    return refuse
