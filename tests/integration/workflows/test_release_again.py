"""Runs of Airflow that come again: retried, cleared, backfilled, or started while another rollout has not ended."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from pipelines.tasks import releasing
from pipelines.wiring import home, open_ledger, open_registry
from tests.fixtures.bundles import tiny_bundle, tiny_record
from tests.fixtures.model_servers import ModelServerProcess
from tests.fixtures.small_installation import PROJECT, free_port, small_projects

STEP = {"share": 1.0, "minimum_requests": 5, "minimum_s": 0.2, "maximum_s": 120}
PLAN = {
    "shadow": None,
    "steps": [STEP],
    "score_odds_margin": 60.0,
    "score_margin": 1.0,
    "error_rate_margin": None,
    "latency_odds_margin": 100.0,
    "look_every_s": 0.2,
    "lease_s": 30,
    "unreachable_s": 60,
}
AS_OF = {"1": "2013-02-01", "2": "2013-03-01", "3": "2013-01-01", "4": "2013-04-01", "5": "2013-05-01"}
RELEASED, ROLLED_BACK, OLDER, NEXT = (datetime(2013, 6, day, tzinfo=UTC) for day in (1, 2, 3, 4))
Run = Callable[..., Any]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelServerProcess]:
    """Five registered versions, of which the first leads, and a model server with traffic."""
    folder = tmp_path_factory.mktemp("releases")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PACELINE_HOME", str(folder / "home"))
        patch.setenv("PACELINE_PROJECTS", str(small_projects(folder / "projects", free_port(), PLAN)))
        open_ledger().close()  # a registration makes it
        for number, (version, as_of) in enumerate(AS_OF.items()):
            bundle = tiny_bundle(home().bundles, bias=number / 1000)
            made = open_registry().register(PROJECT, bundle, metrics={}, parameters={}, tags={"as_of": as_of})
            assert made.version == version
        serving = ModelServerProcess(folder)
        over = threading.Event()
        clients = threading.Thread(target=_ask, args=(serving, over))
        try:
            serving.wait_until_live()
            patch.setenv("PACELINE_SERVER_URL", serving.url)
            _release("1")
            clients.start()
            yield serving
        finally:
            over.set()
            if clients.is_alive():
                clients.join(30)
            serving.end()


def _ask(server: ModelServerProcess, over: threading.Event) -> None:
    for number in count():
        server.predict(tiny_record(number % 997))
        if over.wait(0.01):
            return


def _release(version: str) -> None:
    opened = releasing.open_rollout(PROJECT, version)
    assert opened.offer is not None, opened.reason
    releasing.settle(PROJECT, asyncio.run(releasing.roll_out(PROJECT, opened.offer)))


@pytest.fixture(scope="module")
def run(airflow_database: Path, server: ModelServerProcess) -> Run:
    """Runs a workflow for a date; for a date that it has run for already, that very run is cleared and runs again."""
    from airflow.dag_processing.dagbag import DagBag

    from pipelines.wiring import REPOSITORY

    dags = DagBag(str(REPOSITORY / "dags")).dags

    def run_workflow(workflow: str, date: datetime, **conf: Any) -> dict[str, str]:
        dag_run = dags[f"{PROJECT}.{workflow}"].test(run_after=date, logical_date=date, run_conf=conf)
        return {instance.task_id: str(instance.state) for instance in dag_run.get_task_instances()}

    return run_workflow


def leads(server: ModelServerProcess) -> tuple[str, str, str]:
    """Who leads in the ledger, on the server and by the alias."""
    champion, alias = open_ledger().champion(PROJECT), open_registry().version(PROJECT, "champion")
    assert champion is not None
    assert alias is not None
    return champion.version, server.observe()["champion"]["version"], alias.version


def swaps() -> int:
    return len(open_ledger().entries(PROJECT, ("champion.swapped", "champion.restored")))


def test_a_version_that_was_rolled_back_does_not_come_back_by_runs_that_come_again(
    run: Run, server: ModelServerProcess
) -> None:
    released = run("release", RELEASED, version="2")
    assert (released["settle"], leads(server)) == ("success", ("2", "2", "2")), released
    opened = open_ledger().entries(PROJECT, ("release.opened",))[-1].body

    made = swaps()
    cleared = run("release", RELEASED, version="2")
    assert (cleared["open_rollout"], cleared["settle"], swaps()) == ("skipped", "skipped", made), cleared

    rolled_back = run("rollback", ROLLED_BACK, reason="numbers look odd")
    assert (rolled_back["put_back"], leads(server)) == ("success", ("1", "1", "1")), rolled_back
    assert open_registry().version(PROJECT, "previous").version == "2"  # type: ignore[union-attr]
    assert open_ledger().entries(PROJECT, ("rollback.begun",))[-1].body["by"] == "dag_test"  # Airflow's user here

    made = swaps()
    assert run("rollback", ROLLED_BACK, reason="numbers look odd")["put_back"] == "success"
    assert (leads(server), swaps()) == (("1", "1", "1"), made)  # the rolled-back version is not "the one before"

    again = run("release", RELEASED, version="2")
    assert (again["open_rollout"], leads(server), swaps()) == ("skipped", ("1", "1", "1"), made), again
    assert "rolled back by hand" in open_ledger().entries(PROJECT, ("release.refused",))[-1].body["reason"]

    outcome = asyncio.run(releasing.roll_out(PROJECT, opened))  # as a trigger with the offer of before
    releasing.settle(PROJECT, outcome)
    assert (leads(server), swaps()) == (("1", "1", "1"), made)


def test_a_backfill_does_not_replace_a_champion_of_newer_data(run: Run, server: ModelServerProcess) -> None:
    made = swaps()
    backfilled = run("release", OLDER, version="3")
    assert (backfilled["open_rollout"], leads(server)[0], swaps()) == ("skipped", leads(server)[1], made)
    assert (
        "older data does not replace newer" in open_ledger().entries(PROJECT, ("release.refused",))[-1].body["reason"]
    )


def test_a_release_that_finds_an_open_rollout_finishes_it_and_starts_the_run_of_its_own_version(
    run: Run, server: ModelServerProcess
) -> None:
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session

    assert releasing.open_rollout(PROJECT, "4").offer is not None  # and then its run died
    states = run("release", NEXT, version="5")
    assert {states[task] for task in ("settle", "is_promoted", "whose_turn", "release_next")} == {"success"}, states
    assert leads(server) == ("4", "4", "4")
    with create_session() as session:
        started = session.query(DagRun).filter(DagRun.dag_id == f"{PROJECT}.release").order_by(DagRun.id.desc()).first()
    assert started.conf == {"version": "5", "note": None}
    _release("5")
    assert leads(server) == ("5", "5", "5")
    assert releasing.next_offer(PROJECT) is None
