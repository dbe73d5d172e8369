"""Several challengers on the console's page: the bar divides all entities, and the table says how each stands."""

import asyncio
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from contracts.slots import Observation
from pipelines.ledger import Ledger
from pipelines.views.rollout_console import live_parts
from pipelines.views.rollouts import RolloutWatch
from pipelines.wiring import open_ledger
from tests.fixtures import lanes
from tests.fixtures.lanes import LaneServer, contenders_of, offers_of, run_experiment
from tests.fixtures.platforms import CrashedError

PROJECT, EXPERIMENT = "flight_delay", "flight_delay-x1"
GAINS = {"2": 0.01, "3": 0.02, "4": 0.03}


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    """Versions 2 to 4 are opened beside each other, against version 1."""
    monkeypatch.setenv("PACELINE_HOME", str(tmp_path))
    monkeypatch.setattr(lanes, "PROJECT", PROJECT)
    monkeypatch.setattr(lanes, "EXPERIMENT", EXPERIMENT)
    opened = open_ledger()
    opened.swap_champion(PROJECT, None, "1", "b1", "bootstrap", "the first")
    offers = offers_of(["2", "3", "4"])
    contenders = msgspec.to_builtins(contenders_of(offers, GAINS))
    experiment = {"name": EXPERIMENT, "challengers": msgspec.to_builtins(offers), "contenders": contenders}
    for offer in offers:
        body = {**msgspec.to_builtins(offer), "note": None, "experiment": experiment}
        opened.append(PROJECT, "release.opened", offer.rollout, body, key=f"opened/{offer.rollout}")
    yield opened
    opened.close()


def roll_out(ledger: Ledger, until: Callable[[LaneServer], bool] = lambda _: False) -> None:
    """Version 4 fails always; whoever runs it dies when `until` says so of the server."""

    def look(_: Observation) -> None:
        if until(server):
            raise CrashedError

    server = LaneServer({"4": 1.0})
    try:
        asyncio.run(run_experiment(server, ledger, offers_of(["2", "3", "4"]), gains=GAINS, on_look=look))
    except CrashedError:
        return


def drawn(html: str) -> dict[str, float]:
    """Who has which share of the bar."""
    bar = html[html.index('<div class="traffic') : html.index('<ol class="sheet steps">')]
    found = re.findall(r'flex-grow: ([\d.e-]+)"[^>]*>(?:version )?(\d+) ·', bar)
    return {version: float(share) for share, version in found}


def test_the_bar_divides_all_entities_among_champion_and_challengers(ledger: Ledger) -> None:
    roll_out(ledger, until=lambda server: sum(each.share > 0 for each in server.slots.challengers) > 1)
    found = RolloutWatch().rollouts(PROJECT)
    experiment = found["experiment"]
    shares = {each["version"]: each["share"] for each in experiment["challengers"]}
    assert len([share for share in shares.values() if share > 0]) > 1, "several have a part"
    assert experiment["champion_share"] == pytest.approx(1 - sum(shares.values()))
    html = live_parts(found, 0.0)["top"]
    assert drawn(html) == pytest.approx({"1": experiment["champion_share"], **shares})
    assert f'<table class="words" aria-label="The challengers of {EXPERIMENT}">' in html


def test_each_challenger_is_told_with_how_it_ended_and_what_came_nearest_to_its_limit(ledger: Ledger) -> None:
    roll_out(ledger)
    found = RolloutWatch().rollouts(PROJECT)
    two, three, four = found["experiment"]["challengers"]
    assert [each["state"] for each in (two, three, four)] == ["not_chosen", "promoted", "rolled_back"]
    assert [each["share"] for each in (two, three, four)] == [0.0, 1.0, 0.0]
    assert four["worst"]["name"] in ("errors", "hard limit"), "whichever saw it first"
    assert four["worst"]["nearness"] >= 1 > three["worst"]["nearness"]
    assert two["reason"].startswith("version 3 goes on before 2; by failures they are alike; log loss gained")
    html = live_parts(found, 0.0)["top"]
    assert drawn(html)["3"] == 1.0
    assert '<span class="pill bad"' in html
