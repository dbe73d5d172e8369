"""A release of three versions at once, from the front door: registry, ledger, a real server and its clients agree."""

import asyncio
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml  # type: ignore[import-untyped]

from contracts.bundle import Bundle
from contracts.slots import Observation
from pipelines.rollout.experiment import CHOSEN
from pipelines.tasks import commanding, releasing
from pipelines.views.rollouts import rollouts, rollouts_text
from pipelines.wiring import REPOSITORY, home, open_ledger, open_registry
from tests.fixtures.bundles import tiny_bundle, tiny_record
from tests.fixtures.model_servers import ModelServerProcess

PROJECT = "flight_delay"
STEP = {"minimum_requests": 15, "minimum_s": 0.2, "maximum_s": 60}
ROLLOUT = {
    "shadow": {"minimum_pairs": 10, "minimum_s": 0.2, "maximum_s": 60, "maximum_flip_share": 1.0, "maximum_shift": 0.9},
    "steps": [{"share": share, **STEP} for share in (0.4, 1.0)],
    "error_rate_margin": None,
    "latency_floor_ms": 1000,  # two busy cores say nothing about latency
    "lease_s": 5,
    "look_every_s": 0.1,
    "preflight": "off",
}


@pytest.fixture
def server(
    model_servers: Callable[..., ModelServerProcess], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> ModelServerProcess:
    """An installation in which version 1 leads, and 2 (equal), 3 (better) and 4 (which will break) are registered."""
    folder = tmp_path / "projects" / PROJECT
    shutil.copytree(REPOSITORY / "projects" / PROJECT, folder)
    configuration = yaml.safe_load((folder / "project.yaml").read_text())
    (folder / "project.yaml").write_text(yaml.safe_dump({**configuration, "rollout": ROLLOUT}, sort_keys=False))
    monkeypatch.setenv("PACELINE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PACELINE_PROJECTS", str(tmp_path / "projects"))
    started = model_servers(predictions=str(home().predictions(PROJECT)), allow_faults="yes")
    monkeypatch.setenv("PACELINE_SERVER_URL", started.url)
    bundles = [register(bias) for bias in (0.0, 0.001, 0.01, 0.02)]
    ledger = open_ledger()
    ledger.swap_champion(PROJECT, None, "1", bundles[0].id, "bootstrap", "the first")
    started.install(bundles[0], "1")
    for bundle, gain in zip(bundles[1:], (0.0, 0.02, 0.01), strict=True):
        difference = {"estimate": -gain, "low": -gain - 0.01, "high": 0.01 - gain}
        ledger.append(
            PROJECT, "gates", bundle.id, {"champion": "1", "comparison": {"differences": {"log_loss": difference}}}
        )
    return started


def register(bias: float) -> Bundle:
    bundle = tiny_bundle(home().bundles, bias=bias)
    tags = {"as_of": "2013-06-01", "commit": "1" * 40, "configuration": "c" * 64}
    open_registry().register(PROJECT, bundle, metrics={"auc": 0.7}, parameters={}, tags=tags)
    return bundle


class Clients:
    """They ask about one plane after the other without pause; `wrong` is what was no answer."""

    def __init__(self, server: ModelServerProcess) -> None:
        self.server, self.wrong = server, list[str]()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def _ask(self) -> None:
        number = 0
        with httpx.Client(base_url=self.server.url, timeout=30, trust_env=False) as client:
            while not self._over.wait(0.002):
                number += 1
                records = [tiny_record(each, tailnum=f"N{number}-{each}") for each in range(3)]
                answer = client.post("/v1/predict", json={"records": records})
                if answer.status_code != 200:
                    self.wrong.append(answer.text)

    def __enter__(self) -> "Clients":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(60)


def roll_out(offer: dict[str, Any], look: Callable[[Observation], None] | None = None) -> dict[str, Any]:
    return asyncio.run(asyncio.wait_for(releasing.roll_out(PROJECT, offer, look), 150))


def test_a_good_an_equal_and_a_broken_challenger(server: ModelServerProcess) -> None:
    opened = releasing.open_experiment(PROJECT, ["2", "3", "4"])
    assert opened.offer is not None, opened.reason
    assert releasing.open_experiment(PROJECT, ["2", "3", "4"]) == opened, "a run after a crash goes on with it"
    assert "does not queue" in releasing.open_experiment(PROJECT, ["2", "3"]).reason
    broken: list[str] = []

    def look(observation: Observation) -> None:
        together = observation.share > 0 and len(observation.beside) == 2
        if observation.rollout == f"{PROJECT}-v4-1" and together and not broken:
            broken.append(observation.rollout)
            fault = {"rollout": observation.rollout, "error_share": 1.0}
            httpx.post(f"{server.url}/control/fault", json=fault, trust_env=False).raise_for_status()
            found = rollouts(PROJECT)
            assert len(found["all_running"]) == 3
            assert [each["version"] for each in found["experiment"]["challengers"]] == ["2", "3", "4"]
            with pytest.raises(commanding.CommandError, match="3 rollouts run, name the one that is to pause"):
                commanding.command(PROJECT, "pause", by="a test", reason="which one?")

    with Clients(server) as clients:
        outcome = roll_out(opened.offer, look)
    assert clients.wrong == [], "no client saw what broke"
    states = {each["version"]: each["state"] for each in outcome["challengers"]}
    assert states == {"2": "not_chosen", "3": "promoted", "4": "rolled_back"}
    settled = releasing.settle(PROJECT, outcome)
    assert (settled["state"], settled["version"], settled["aliases"]["champion"]) == ("promoted", "3", "3")
    ledger, seen = open_ledger(), server.observe()
    assert (seen["champion"]["version"], seen["challenger"], seen["beside"]) == ("3", None, [])
    assert ledger.reigns(PROJECT) == ["1", "3"]
    champion = open_registry().version(PROJECT, "champion")
    assert champion is not None
    assert champion.version == "3"
    (chosen,) = ledger.entries(PROJECT, (CHOSEN,))
    assert [each["version"] for each in chosen.body["order"]] == ["3", "2"]
    told = rollouts_text(rollouts(PROJECT, f"{PROJECT}-v2-1"))
    assert "3 challengers" in told
    assert "not chosen" in told
    assert "was rolled back" in releasing.open_rollout(PROJECT, "4").reason.replace("rolled_back", "rolled back")
    again = releasing.open_rollout(PROJECT, "2")
    assert again.offer is not None, f"nothing was found against version 2: {again.reason}"


def test_all_are_told_at_once_to_end(server: ModelServerProcess) -> None:
    opened = releasing.open_experiment(PROJECT, ["2", "3"])
    assert opened.offer is not None, opened.reason
    told: list[dict[str, Any]] = []

    def look(observation: Observation) -> None:
        if observation.share > 0 and observation.beside and not told:
            told.extend(commanding.command_all(PROJECT, "abort", by="a test", reason="a freeze"))

    with Clients(server):
        outcome = roll_out(opened.offer, look)
    assert [each["command"] for each in told] == ["abort", "abort"]
    assert {each["state"] for each in outcome["challengers"]} == {"rolled_back"}
    assert all("aborted by a test: a freeze" in each["reason"] for each in outcome["challengers"])
    settled = releasing.settle(PROJECT, outcome)
    assert (settled["state"], server.observe()["champion"]["version"]) == ("rolled_back", "1")


@pytest.mark.parametrize(
    ("versions", "reason"),
    [
        (["2"], "2 to 8 different versions, found 2"),
        (["2", "2"], "2 to 8 different versions"),
        (["1", "2"], "version 1 is the champion already"),
        (["2", "9"], "there is no version 9"),
    ],
)
def test_what_is_no_experiment_is_refused(server: ModelServerProcess, versions: list[str], reason: str) -> None:
    opened = releasing.open_experiment(PROJECT, versions)
    assert opened.offer is None
    assert reason in opened.reason
