"""The controller beside the servers: `paceline controller`, two replicas of which one leads.

It ends shares whose lease is over, for which it needs nobody but the gateway; and it runs the rollouts that the ledger
has open, for which it needs the ledger. Airflow is needed for neither.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import uvicorn
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from pipelines.ledger import LedgerUnavailableError
from pipelines.rollout.platforms.port import PlatformError
from pipelines.rollout.platforms.turns import TurnLostError
from pipelines.tasks.offering import read_book
from pipelines.tasks.releasing import roll_out
from pipelines.wiring import all_projects, namespace, open_ledger, open_separate, platform_name, process_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipelines.rollout.platforms.cluster.election import Election
    from pipelines.rollout.platforms.cluster.guarding import Guard
    from pipelines.rollout.platforms.cluster.watching import WatchedRoutes

ELECTION = "paceline-controller"
LOOK_FOR_ROLLOUTS_S = 2.0
AGAIN_S = 5.0
logger = logging.getLogger("paceline")


class Controller(Collector):
    """One replica. `rollouts` are those that it runs now, by project."""

    def __init__(self, election: "Election", watched: "WatchedRoutes", guard: "Guard") -> None:
        self._election, self._watched, self._guard = election, watched, guard
        self.rollouts: dict[str, asyncio.Task[Any]] = {}
        self.elected = 0
        self._ended: set[str] = set()  # until whoever opened them settles them

    async def run(self, stop: asyncio.Event) -> None:
        """Leads whenever it may, until `stop` is set; then the Lease is given back, and the other one leads at once."""
        leading = asyncio.create_task(self._lead_again_and_again())
        watching = asyncio.create_task(self._watched.follow())  # also while another leads: ready to take over
        try:
            await stop.wait()
        finally:
            for task in (leading, watching):
                task.cancel()
            await asyncio.gather(leading, watching, return_exceptions=True)
            await self._watched.aclose()

    async def _lead_again_and_again(self) -> None:
        while True:
            try:
                await self._election.take(self._lead)
            except TurnLostError as error:
                logger.warning("this controller leads no more: %s", error)

    async def _lead(self) -> None:
        self.elected += 1
        logger.info("this controller leads")
        guarding = asyncio.create_task(self._guard.follow())
        try:
            await asyncio.gather(guarding, self._run_rollouts())
        finally:
            tasks = [guarding, *self.rollouts.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.rollouts.clear()

    async def _run_rollouts(self) -> None:
        """Whatever the ledger has open is run; without a ledger nothing is, and the leases fall."""
        while True:
            try:
                for project, offer in (await asyncio.to_thread(open_offers)).items():
                    if project not in self.rollouts and offer["rollout"] not in self._ended:
                        self.rollouts[project] = asyncio.create_task(self._run(project, offer))
            except Exception as error:  # noqa: BLE001  a project's file or the ledger; the guard beside must go on
                logger.warning("no rollout can be looked for: %s: %s", type(error).__name__, error)
            await asyncio.sleep(LOOK_FOR_ROLLOUTS_S)

    async def _run(self, project: str, offer: dict[str, Any]) -> None:
        try:
            outcome = await roll_out(project, offer)
            self._ended.add(offer["rollout"])
            logger.info("%s: the rollout %s was %s: %s", project, offer["rollout"], outcome["state"], outcome["reason"])
        except (PlatformError, LedgerUnavailableError, LookupError, OSError) as error:
            logger.warning("%s: the rollout %s goes on later: %s", project, offer["rollout"], error)
            await asyncio.sleep(AGAIN_S)
        finally:
            self.rollouts.pop(project, None)

    def collect(self) -> "Iterator[Metric]":
        """The metric families at this instant."""
        guard, watched = self._guard, self._watched
        leading = float(self._election.is_leading)
        yield GaugeMetricFamily("paceline_controller_leading", "1 while this replica leads", value=leading)
        yield CounterMetricFamily("paceline_controller_elected", "How often it came to lead", value=self.elected)
        running = len(self.rollouts)
        yield GaugeMetricFamily("paceline_controller_rollouts", "Rollouts that it runs", value=running)
        routes = len(watched.routes)
        yield GaugeMetricFamily("paceline_controller_routes", "Routes that it watches", value=routes)
        yield CounterMetricFamily("paceline_controller_watch_restarts", "Watches that broke", value=watched.restarts)
        text = "Shares that it took since their lease was over"
        yield CounterMetricFamily("paceline_controller_leases_expired", text, value=guard.expired)
        yield CounterMetricFamily("paceline_controller_guard_failures", "Attempts in vain", value=guard.failures)

    def pages(self) -> Starlette:
        """`/livez`, `/readyz` (the routes are known) and `/metrics`."""
        registry = CollectorRegistry()
        registry.register(self)

        async def live(_: Request) -> Response:
            return PlainTextResponse("ok\n")

        async def ready(_: Request) -> Response:
            if not self._watched.is_synced:
                return PlainTextResponse("the routes are not known yet\n", status_code=503)
            return PlainTextResponse(f"{'leads' if self._election.is_leading else 'stands by'}\n")

        async def metrics(_: Request) -> Response:
            return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

        return Starlette(routes=[Route("/livez", live), Route("/readyz", ready), Route("/metrics", metrics)])


def open_offers() -> dict[str, dict[str, Any]]:
    """The rollouts that were opened and have not ended, by project. Raises LedgerUnavailableError."""
    found: dict[str, dict[str, Any]] = {}
    ledger = open_ledger(creates=False)
    with ledger:
        for project in all_projects():
            running = read_book(ledger, project).running
            if running is not None:
                found[project] = running.body
    return found


def open_controller(*, lease_s: float, renew_s: float) -> Controller:
    """The controller of this process' namespace. Raises ValueError where the platform has none."""
    if platform_name() not in ("kubernetes", "kserve"):
        raise ValueError(
            f"the platform {platform_name()} needs no controller: set PACELINE_PLATFORM to kubernetes or kserve"
        )
    from pipelines.rollout.platforms.cluster.api import Cluster
    from pipelines.rollout.platforms.cluster.election import Election
    from pipelines.rollout.platforms.cluster.guarding import Guard
    from pipelines.rollout.platforms.cluster.kserve import INFERENCE_SERVICES
    from pipelines.rollout.platforms.cluster.watching import HTTP_ROUTES, WatchedRoutes

    kind = HTTP_ROUTES if platform_name() == "kubernetes" else INFERENCE_SERVICES
    watched = WatchedRoutes(Cluster(namespace()), kind)
    election = Election(Cluster(namespace()), ELECTION, process_name(), duration_s=lease_s, renew_s=renew_s)
    return Controller(election, watched, Guard(watched, open_separate))


async def serve(controller: Controller, stop: asyncio.Event, host: str, port: int, say: Callable[[str], None]) -> None:
    """Runs `controller` with its pages at `host` and `port` (0: a free one, which `say` is told)."""
    config = uvicorn.Config(controller.pages(), host=host, port=port, log_config=None, access_log=False, lifespan="off")
    server = _Pages(config)
    serving = asyncio.create_task(server.serve())
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    if serving.done():
        raise OSError(f"{host}:{port} cannot be listened on: choose another with --port")
    address = server.servers[0].sockets[0].getsockname()
    say(f"http://{address[0]}:{address[1]}")
    try:
        await controller.run(stop)
    finally:
        server.should_exit = True
        await serving


class _Pages(uvicorn.Server):
    """Leaves the signals to the command."""

    def install_signal_handlers(self) -> None:
        """None."""

    def capture_signals(self) -> Any:
        """None either, in newer versions."""
        from contextlib import nullcontext

        return nullcontext()
