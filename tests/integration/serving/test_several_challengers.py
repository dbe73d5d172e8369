"""Several challengers at once in a real server, of one process and of two: each with its own lease, limits and lane."""

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from contracts.assignment import lane_of, position
from tests.fixtures.bundles import tiny_bundle, tiny_record
from tests.fixtures.model_servers import ModelServerProcess
from tests.fixtures.prediction_log import logged_rows

EXPERIMENT = "flight_delay-x1"
ENTITIES = [f"N{number}" for number in range(180)]
_TIMEOUT_S = 20.0


@pytest.fixture(params=["1", "2"], ids=["one process", "two workers"])
def server(request: pytest.FixtureRequest, model_servers: Callable[..., ModelServerProcess], tmp_path: Path) -> Any:
    """Version 1 leads; 2, 3 and 4 are challengers, loaded beside each other."""
    started = model_servers(workers=request.param, allow_faults="yes")
    started.install(tiny_bundle(tmp_path / "bundles"), "1")
    for place in range(3):
        bundle = tiny_bundle(tmp_path / "bundles", bias=0.1 * (place + 1))
        limits = {"hard_limits": {"errors": 3, "window": 10}}
        started.load(bundle, str(place + 2), name(place), lane=lane(place), **limits).raise_for_status()
    return started


def name(place: int) -> str:
    return f"flight_delay-v{place + 2}-1"


def lane(place: int) -> dict[str, Any]:
    return {"experiment": EXPERIMENT, "place": place, "of": 3}


def give(server: ModelServerProcess, place: int, share: float, lease_s: float = 60.0, **more: Any) -> httpx.Response:
    message = {"rollout": name(place), "share": share, "lease_s": lease_s, "lane": lane(place), **more}
    return server.client.put("/control/share", json=message)


def observe(server: ModelServerProcess, place: int) -> dict[str, Any]:
    answer = server.client.get("/control/observation", params={"rollout": name(place)})
    found: dict[str, Any] = answer.raise_for_status().json()
    return found


def record(number: int, entity: str) -> dict[str, Any]:
    return {**tiny_record(number), "tailnum": entity}


def versions(server: ModelServerProcess, *, at_once: int = 1) -> dict[str, str]:
    """The version that answers each entity, asked for `at_once` in a request, on connections of their own."""
    found = {}
    for start in range(0, len(ENTITIES), at_once):
        mine = ENTITIES[start : start + at_once]
        with httpx.Client(base_url=server.url, trust_env=False, timeout=30, verify=False) as client:
            body = {"records": [record(number, entity) for number, entity in enumerate(mine)]}
            answer = client.post("/v1/predict", json=body).raise_for_status().json()
        found.update(zip(mine, (each["model_version"] for each in answer["predictions"]), strict=True))
    return found


def expected(share: float, *, without: tuple[int, ...] = ()) -> dict[str, str]:
    found = {}
    for entity in ENTITIES:
        place = lane_of(EXPERIMENT, entity, 3)
        is_asked = place not in without and position(name(place), entity) < share
        found[entity] = str(place + 2) if is_asked else "1"
    return found


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _TIMEOUT_S
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def test_three_challengers_answer_their_own_entities_and_one_lease_takes_one_share(server: ModelServerProcess) -> None:
    give(server, 0, 0.6, lease_s=2.0).raise_for_status()
    began = time.monotonic()
    for place in (1, 2):
        give(server, place, 0.6).raise_for_status()
    found = versions(server, at_once=10)  # rows of all lanes in each request
    if time.monotonic() - began < 2.0:
        assert found == expected(0.6)
    wait_until(lambda: observe(server, 0)["tripped"] is not None)
    assert observe(server, 0)["tripped"]["cause"] == "lease"
    assert versions(server, at_once=10) == expected(0.6, without=(0,))
    seen = observe(server, 1)
    assert (seen["rollout"], seen["share"], seen["tripped"]) == (name(1), 0.6, None)
    assert {each["rollout"]: each["tripped"] is not None for each in seen["beside"]} == {name(0): True, name(2): False}
    again = server.client.put("/control/lease", json={"rollout": name(0), "lease_s": 10})
    assert (again.status_code, "does not come back" in again.text) == (409, True)
    families = text_string_to_metric_families(server.client.get("/metrics").text)
    samples = {sample.name: sample.value for family in families for sample in family.samples}
    assert samples["paceline_challenger_share"] == pytest.approx(0.4), "of all entities: twice 0.6 of a third"
    assert samples["paceline_trips_total"] >= 0


def test_the_one_that_breaks_goes_and_counts_of_the_others_are_theirs(server: ModelServerProcess) -> None:
    for place in range(3):
        give(server, place, 0.6).raise_for_status()
    fault = {"rollout": name(2), "error_share": 1.0}
    server.client.post("/control/fault", json=fault).raise_for_status()
    versions(server)  # no client sees an error: `raise_for_status`
    broken = observe(server, 2)
    assert broken["tripped"]["cause"] == "hard_limit"
    assert versions(server) == expected(0.6, without=(2,))
    right = Counter(expected(0.6).values())
    for place in (0, 1):
        seen = observe(server, place)
        assert (seen["tripped"], seen["challenger"]["version"]) == (None, str(place + 2))
        assert (seen["challenger"]["requests"], seen["challenger"]["errors"]) == (2 * right[str(place + 2)], 0)
    time.sleep(1.1)  # until the second that the judge's counts are of is over
    strata = observe(server, 0)["strata"]
    mine = [entity for entity in ENTITIES if lane_of(EXPERIMENT, entity, 3) == 0]
    asked = sum(version == "2" for version in expected(0.6).values())
    new = [sum(each[arm].get("new", 0) for each in strata) for arm in ("champion", "challenger")]
    assert new == [len(mine) - asked, asked], "compared is within the lane alone"


def test_the_last_one_goes_on_to_all_entities_and_leads(server: ModelServerProcess) -> None:
    for place in range(3):
        give(server, place, 0.5).raise_for_status()
    before = versions(server, at_once=10)
    alone = {"rollout": name(1), "share": 0.5, "lease_s": 60}
    refused = server.client.put("/control/share", json=alone)
    assert (refused.status_code, "other challengers" in refused.text) == (409, True)
    for place in (0, 2):
        server.client.delete("/control/challenger", params={"rollout": name(place)}).raise_for_status()
    seen = server.client.put("/control/share", json=alone).raise_for_status().json()
    assert (seen["lane"], seen["beside"], seen["share"]) == (None, [], 0.5)
    after = versions(server, at_once=10)
    assert after == {entity: "3" if position(name(1), entity) < 0.5 else "1" for entity in ENTITIES}
    assert {entity for entity, version in before.items() if version == "3"} < {
        entity for entity, version in after.items() if version == "3"
    }
    server.promote("3", "1").raise_for_status()
    assert set(versions(server, at_once=10).values()) == {"3"}
    assert server.stop() == 0
    rows = logged_rows(server.predictions)
    told = [row for row in rows if row["rollout"] is not None and row["share"] == 0.5]
    by_rollout = {
        name(place): Counter(row["version"] for row in told if row["rollout"] == name(place)) for place in (0, 2)
    }
    assert by_rollout == {
        name(place): Counter(v for entity, v in expected(0.5).items() if lane_of(EXPERIMENT, entity, 3) == place)
        for place in (0, 2)
    }, "each row is logged with the rollout of its lane, the champion's as well"
