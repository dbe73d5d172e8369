"""Coverage from the server's own prediction log: mornings alone do not bring a challenger to all traffic."""

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path

from contracts.slots import Observation
from pipelines.ledger import Ledger
from pipelines.rollout.controller import Offer, Outcome, run_rollout
from pipelines.rollout.following import Follower
from pipelines.rollout.plan import Coverage, Plan, Step
from pipelines.rollout.platforms.local import LocalPlatform
from pipelines.tasks.covering import coverage_reader
from tests.fixtures.bundles import tiny_bundle, tiny_record
from tests.fixtures.model_servers import ModelServerProcess
from tests.fixtures.prediction_log import tiny_group, write_segment

STEP = {"minimum_requests": 10, "minimum_s": 0.2, "maximum_s": 120}
PLAN = Plan(
    shadow=None,
    steps=(Step(share=0.5, **STEP, coverage=0.9), Step(share=1.0, **STEP)),  # type: ignore[arg-type]
    coverage=Coverage(by="event", minimum_days=2, minimum_per_cell=3, read_every_s=1),
    error_rate_margin=None,
    lease_s=5,
    look_every_s=0.1,
    latency_floor_ms=1000,
)
MORNING, EVENING = "2013-07-03T08:30:00", "2013-07-03T20:15:00"
LACKING = "covers 0.50 of the usual traffic, asked 0.90: missing 20–21 h (0.50)"


class Traffic:
    """A client that asks without pause once `begins` is set: in mornings, and when it is `evening` in evenings."""

    def __init__(self, server: ModelServerProcess) -> None:
        self.server, self._stop = server, threading.Event()
        self.begins, self.evening = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def _ask(self) -> None:
        number = 0
        self.begins.wait()
        while not self._stop.is_set():
            number += 1
            scheduled = EVENING if self.evening.is_set() else MORNING
            assert self.server.predict(tiny_record(number, scheduled=scheduled)).status_code == 200

    def __enter__(self) -> "Traffic":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self.begins.set()
        self._thread.join(30)


def usual_days(root: Path) -> None:
    """Two days with a morning and an evening, logged a day ago."""
    for day in ("2013-07-01", "2013-07-02"):
        for hour in ("08", "20"):
            group = tiny_group(
                10,
                served_at_s=time.time() - 86_400,
                record=lambda number, moment=f"{day}T{hour}:00:00": tiny_record(number, scheduled=moment),  # type: ignore[misc]
            )
            write_segment(root, group)


def test_a_step_waits_until_the_server_has_logged_the_challengers_evening(
    model_servers: Callable[..., ModelServerProcess], tmp_path: Path
) -> None:
    server = model_servers()
    server.install(tiny_bundle(tmp_path / "bundles"), "1")
    usual_days(server.predictions)
    bundle = tiny_bundle(tmp_path / "bundles", bias=0.1)
    offer = Offer(
        rollout="flights-v2-1",
        project="flight_delay",
        version="2",
        bundle=bundle.id,
        path=str(bundle.path),
        expected_champion="1",
    )
    with Ledger.open(f"sqlite:///{tmp_path}/ledger.db") as ledger, Traffic(server) as traffic:
        ledger.swap_champion("flight_delay", None, "1", "b1", "bootstrap", "the first")
        follower, told = Follower(ledger), []

        def follow(look: Observation) -> None:
            traffic.begins.set()  # not before: what was served before the rollout is part of the reference
            judgement = follower.follow("flight_delay", offer.rollout).judgement
            if judgement is not None and LACKING in judgement.reason and not traffic.evening.is_set():
                told.append(judgement)
                traffic.evening.set()

        async def roll_out() -> Outcome:
            async with LocalPlatform(server.url) as platform:
                reader = coverage_reader(server.predictions, ledger)
                return await run_rollout(platform, ledger, PLAN, offer, on_look=follow, coverage=reader)

        outcome = asyncio.run(asyncio.wait_for(roll_out(), 110))
    assert outcome.state == "promoted", outcome.reason
    assert [judgement.verdict for judgement in told] == ["wait"]
    assert "covers 1.00 of the usual traffic" in outcome.steps[0].reason
