"""Health, metrics, and the model card."""

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from serving.metrics import CONTENT_TYPE, Metrics
from serving.routes.described import DescribedRoute, Endpoint, json_answer
from serving.routes.open_inference import READY, open_inference_routes
from serving.routes.ready import ReadySlots
from serving.slots import Slots


def health_routes(
    *,
    project: str,
    slots: Slots,
    metrics: Metrics,
    exposition: Callable[[], Awaitable[bytes]],
    reason: Callable[[], str | None],
) -> list[Route]:
    """`exposition` gives all workers' metrics as text; `reason` why the server is not ready, or None when it is."""
    ready = ReadySlots(project, slots, reason)

    async def livez(_: Request) -> Response:
        return json_answer({"live": True})

    async def readyz(_: Request) -> Response:
        model = ready.champion().model
        return json_answer({"ready": True, "model_version": model.version, "bundle": model.bundle.id})

    async def all_metrics(_: Request) -> Response:
        return Response(await exposition(), media_type=CONTENT_TYPE)

    async def model_card(request: Request) -> Response:
        bundle = ready.champion().model.bundle
        page = bundle.card_page if "text/html" in request.headers.get("accept", "") else None
        if page is None:
            return Response(bundle.card, media_type="text/plain; charset=utf-8", headers={"vary": "accept"})
        nothing_else = "default-src 'none'; style-src 'unsafe-inline'"
        headers = {"vary": "accept", "content-security-policy": nothing_else}
        return Response(page, media_type="text/html; charset=utf-8", headers=headers)

    def get(path: str, endpoint: Endpoint, summary: str, tag: str = "health", **more: Any) -> DescribedRoute:
        return DescribedRoute("GET", path, endpoint, tag=tag, summary=summary, **more)

    card = "The champion's model card: Markdown, or a page with plots for who accepts text/html"
    return [
        get("/livez", livez, "Is the process alive?"),
        get("/readyz", readyz, READY),
        get("/metrics", all_metrics, "Prometheus metrics", answer_type="text/plain"),
        get("/model-card", model_card, card, tag="model", answer_type="text/plain"),
        *open_inference_routes(ready, metrics),
    ]
