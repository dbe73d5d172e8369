"""Feature flags on real servers: in every worker from the next request on, over a restart, and in the ledger."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from typer.testing import CliRunner

from contracts.flags import Flags, FlagsInForce
from pipelines.cli import app
from pipelines.rollout.platforms.port import PlatformUnreachableError
from pipelines.tasks import flags, keys
from pipelines.wiring import open_ledger
from serving.flags import read_flags
from tests.fixtures.bundles import tiny_bundle, tiny_record
from tests.fixtures.model_servers import ModelServerProcess
from tests.fixtures.prediction_log import logged_rows
from tests.integration.serving.test_workers import each_worker, wait_until

Start = Callable[..., ModelServerProcess]


@pytest.fixture
def client_keys(tmp_path: Path) -> dict[str, str]:
    """The header values of three clients by their names."""
    file, scopes = tmp_path / "keys.json", ("predict", "metrics")
    made = {name: keys.create(file, name, scopes=scopes) for name in ("acme", "bank", "tester")}
    return {name: str(key["key"]) for name, key in made.items()}


@pytest.fixture
def start(model_servers: Start, tmp_path: Path, client_keys: dict[str, str]) -> Start:
    assert client_keys

    def started(**settings: str) -> ModelServerProcess:
        return model_servers(keys=str(tmp_path / "keys.json"), control_token="of-control", **settings)

    return started


def control(server: ModelServerProcess) -> ModelServerProcess:
    server.client.headers["authorization"] = "Bearer of-control"
    return server


def challenge(server: ModelServerProcess, share: float) -> None:
    server.load(tiny_bundle(server.root / "bundles", bias=0.5), "2", "r1").raise_for_status()
    server.share("r1", share).raise_for_status()


def metrics_text(server: ModelServerProcess, key: str) -> str:
    return httpx.get(f"{server.url}/metrics", headers={"x-api-key": key}, trust_env=False).raise_for_status().text


def slot_of(client: Any, key: str) -> str:
    answer = client.post("/v1/predict", json={"records": [tiny_record()]}, headers={"x-api-key": key})
    return str(answer.raise_for_status().json()["predictions"][0]["slot"])


def put(server: ModelServerProcess, by: str = "ann", **message: Any) -> Any:
    return server.client.put("/control/flags", json={"by": by, "reason": "a test", **message})


@pytest.mark.parametrize("workers", ["1", "2"])
def test_flags_hold_in_every_worker_at_once_and_after_a_restart(
    start: Start, client_keys: dict[str, str], workers: str
) -> None:
    server = control(start(workers=workers))
    server.install(tiny_bundle(server.root / "bundles"), "1")
    challenge(server, 1.0)
    if workers == "2":
        wait_until(lambda: "paceline_workers 2.0" in metrics_text(server, client_keys["acme"]))
    given = {"deny": ["acme"], "pins": {"bank": "champion"}}
    answer = put(server, flags=given).raise_for_status().json()
    assert (answer["revision"], answer["by"], answer["flags"]["deny"]) == (1, "ann", ["acme"])
    if workers == "2":
        with each_worker(server) as clients:
            for client in clients.values():
                found = {name: slot_of(client, key) for name, key in client_keys.items()}
                assert found == {"acme": "champion", "bank": "champion", "tester": "challenger"}
    else:
        found = {name: slot_of(server.client, key) for name, key in client_keys.items()}
        assert found == {"acme": "champion", "bank": "champion", "tester": "challenger"}
    observed = server.observe()
    assert observed["champion"]["requests"] == 0, "the denied and the pinned are not counted"
    assert "flags: revision 1 by 'ann', since 'a test'" in server.log.read_text()
    server.stop()
    assert {row["uncounted"] for row in logged_rows(server.predictions)} == {None, "denied", "pinned"}
    again = control(start(workers=workers))
    assert again.client.get("/control/flags").json() == answer
    challenge(again, 1.0)
    assert slot_of(again.client, client_keys["acme"]) == "champion"


def test_a_worker_that_starts_again_goes_by_the_flags(start: Start, client_keys: dict[str, str]) -> None:
    server = control(start(workers="2"))
    server.install(tiny_bundle(server.root / "bundles"), "1")
    challenge(server, 1.0)
    put(server, flags={"allow": ["bank"]}).raise_for_status()
    with each_worker(server) as clients:
        first = next(iter(clients))
        psutil.Process(first).kill()
    wait_until(lambda: "paceline_worker_restarts_total 1.0" in metrics_text(server, client_keys["acme"]))
    wait_until(lambda: "paceline_workers 2.0" in metrics_text(server, client_keys["acme"]))
    with each_worker(server) as clients:
        for client in clients.values():
            assert slot_of(client, client_keys["acme"]) == "champion"
            assert slot_of(client, client_keys["bank"]) == "challenger"


def test_flags_need_the_control_token_a_name_a_reason_and_a_field_that_exists(start: Start) -> None:
    server = start()
    for method, body in (("GET", None), ("PUT", {"flags": {}, "by": "ann", "reason": "why"})):
        assert server.client.request(method, "/control/flags", json=body).status_code == 401
    control(server).install(tiny_bundle(server.root / "bundles"), "1")
    assert put(server, by="", flags={}).status_code == 422
    refused = put(server, flags={"sticky_by": "field:carier"})
    assert refused.status_code == 422
    assert "have only the fields" in refused.json()["detail"]
    assert put(server, flags={}, expected=4).status_code == 409
    assert server.client.get("/control/flags").json()["revision"] == 0


@pytest.fixture
def project(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelServerProcess:
    """`flight_delay` with this server, and a ledger of its own."""
    server = control(start())
    monkeypatch.setenv("PACELINE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PACELINE_SERVER_URL", server.url)
    monkeypatch.setenv("PACELINE_CONTROL_TOKEN", "of-control")
    return server


def test_a_change_by_the_task_keeps_what_is_not_given_and_is_in_the_ledger(project: ModelServerProcess) -> None:
    flags.change("flight_delay", by="ann", reason="not ready for it", deny=["acme"])
    flags.change("flight_delay", by="bob", reason="tries it", pins=flags.pins_of(["tester=challenger"]))
    shown = flags.show("flight_delay")
    assert (shown["flags"]["deny"], shown["flags"]["pins"]) == (["acme"], {"tester": "challenger"})
    entries = open_ledger().entries("flight_delay", [flags.CHANGED])
    assert [(entry.body["by"], entry.body["reason"], entry.body["revision"]) for entry in entries] == [
        ("ann", "not ready for it", 1),
        ("bob", "tries it", 2),
    ]
    assert entries[1].body["before"]["pins"] == {}
    assert read_flags(project.root / "state") == FlagsInForce(
        flags=Flags(deny=("acme",), pins={"tester": "challenger"}), revision=2, by="bob", reason="tries it"
    )
    with pytest.raises(ValueError, match="is denied"):
        flags.change("flight_delay", by="bob", reason="oops", allow=["acme"])
    with pytest.raises(ValueError, match="expected CLIENT=champion"):
        flags.pins_of(["acme=leader"])
    assert len(open_ledger().entries("flight_delay", [flags.CHANGED])) == 2


def test_a_change_by_the_servers_own_route_is_found_and_written_down_once(project: ModelServerProcess) -> None:
    ledger = open_ledger()
    assert flags.audit("flight_delay") is None, "nobody has set any"
    flags.change("flight_delay", by="ann", reason="not ready for it", deny=["acme"])
    for reason, denied in (("a call", ["bank"]), ("another call", ["acme", "bank"])):
        message = {"flags": {"deny": denied}, "by": "curl of bob", "reason": reason}
        project.client.put("/control/flags", json=message).raise_for_status()
    found = flags.audit("flight_delay")
    assert found is not None
    assert (found["by"], found["reason"], found["revision"]) == ("curl of bob", "another call", 3)
    assert (found["before"]["deny"], found["after"]["deny"]) == (["acme"], ["acme", "bank"])
    assert (found["found_by"], found["unseen"]) == ("audit", 1)
    assert flags.audit("flight_delay") is None
    flags.change("flight_delay", by="ann", reason="as it was", deny=["acme"])
    assert flags.audit("flight_delay") is None
    entries = ledger.entries("flight_delay", [flags.CHANGED])
    assert [(entry.body["by"], entry.body["found_by"]) for entry in entries] == [
        ("ann", None),
        ("curl of bob", "audit"),
        ("ann", None),
    ]
    project.end()
    assert flags.audit("flight_delay") is None, "a server that is away ends nothing"


def test_the_command_shows_and_sets_them_and_says_in_a_line_when_the_server_is_away(
    project: ModelServerProcess,
) -> None:
    def paceline(*words: str) -> Any:
        done = CliRunner().invoke(app, ["flags", *words, "--json"], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    given = ("--deny", "acme, bank", "--pin", "tester=challenger", "--sticky-by", "client", "--by", "ann")
    paceline("set", "flight_delay", *given, "--reason", "a try")
    shown = paceline("show", "flight_delay")
    assert (shown["flags"]["deny"], shown["flags"]["pins"], shown["by"]) == (
        ["acme", "bank"],
        {"tester": "challenger"},
        "ann",
    )
    cleared = paceline("set", "flight_delay", "--deny", "", "--reason", "enough")["flags"]
    assert (cleared["deny"], cleared["sticky_by"]) == ([], "client"), "what is not given stays"
    project.stop()
    with pytest.raises(PlatformUnreachableError, match="/control/flags: ConnectError") as away:
        flags.show("flight_delay")
    assert isinstance(away.value, RuntimeError), "what `paceline` tells in one line"
