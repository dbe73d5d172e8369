"""Staging first, with a real model server as staging: a challenger that fails there gets no traffic."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from contracts.bundle import Bundle
from contracts.encoder import Encoder
from pipelines.ledger import Ledger
from pipelines.registry.port import Version
from pipelines.rollout.staging import Staging
from pipelines.tasks.offering import OPENED, REFUSED, open_rollout
from pipelines.tasks.sites import Site
from pipelines.tasks.staging import STAGED
from tests.fixtures.bundles import TINY_SCHEMA, tiny_bundle, tiny_graph
from tests.fixtures.model_servers import ModelServerProcess
from tests.fixtures.platforms import SimulatedClock, SimulatedPlatform
from tests.fixtures.sites import PROJECT, MemoryRegistry, make_site


class BundleRegistry(MemoryRegistry):
    """Whose version 2 is a real bundle."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__({"1": "2013-01-07", "2": "2013-01-14"})
        self.bundle = bundle

    def version(self, project: str, version_or_alias: str) -> Version | None:
        found = super().version(project, version_or_alias)
        if found is None or found.version != "2":
            return found
        return msgspec.structs.replace(found, bundle=self.bundle.id)


@pytest.fixture
def server(model_servers: Callable[..., ModelServerProcess]) -> ModelServerProcess:
    return model_servers()


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(f"sqlite:///{tmp_path}/ledger.db") as opened:
        opened.swap_champion(PROJECT, None, "1", "b1", "bootstrap", "the first")
        yield opened


def site_of(ledger: Ledger, bundle: Bundle, server: ModelServerProcess | str, **policy: Any) -> Site:
    url = server if isinstance(server, str) else server.url
    wanted = {"url": url, "peak_per_s": 40, "times": 2.5, "seconds": 1, "objective_p99_ms": 200}
    made = make_site(ledger, SimulatedPlatform(SimulatedClock()), BundleRegistry(bundle))
    return dataclasses.replace(
        made, path=lambda _: str(bundle.path), staging=msgspec.convert({**wanted, **policy}, Staging)
    )


def staged(ledger: Ledger) -> list[dict[str, Any]]:
    return [dict(entry.body) for entry in ledger.entries(PROJECT, (STAGED,))]


def slow_bundle(root: Path) -> Bundle:
    """The tiny model, which multiplies large matrices besides: its scores are right, and late."""
    width, size, times = Encoder(TINY_SCHEMA).width, 1024, 120
    model = onnx.load_from_string(tiny_graph(width, distance_column=TINY_SCHEMA.columns.index("distance")))
    graph = model.graph
    random = np.random.default_rng(1)
    for name, rows in (("wide", width), ("square", size)):
        values = (random.random((rows, size), dtype=np.float32) - 0.5) / size
        graph.initializer.append(helper.make_tensor(name, TensorProto.FLOAT, [rows, size], values.tobytes(), raw=True))
    graph.initializer.append(helper.make_tensor("none", TensorProto.FLOAT, [], [0.0]))
    last = graph.node.pop()
    graph.node.append(helper.make_node("MatMul", ["filled", "wide"], ["w0"]))
    for number in range(times):
        graph.node.append(helper.make_node("MatMul", [f"w{number}", "square"], [f"w{number + 1}"]))
    graph.node.append(helper.make_node("ReduceSum", [f"w{times}", "axis"], ["busy"], keepdims=0))
    graph.node.append(helper.make_node("Mul", ["busy", "none"], ["nothing"]))
    graph.node.append(helper.make_node("Add", [last.input[0], "nothing"], ["logit2"]))
    graph.node.append(helper.make_node("Sigmoid", ["logit2"], ["score"]))
    return tiny_bundle(root, graph=bytes(model.SerializeToString()))


def test_a_good_challenger_passes_staging_and_its_rollout_opens(
    server: ModelServerProcess, ledger: Ledger, tmp_path: Path
) -> None:
    site = site_of(ledger, tiny_bundle(tmp_path / "bundles"), server, memory_mb_max=2000)
    opened = open_rollout(site, "2")
    assert opened.offer is not None, opened.reason
    (told,) = staged(ledger)
    assert [gate["name"] for gate in told["gates"]] == ["deploy", "golden rows", "latency", "failures", "memory"]
    assert told["refused"] is None
    assert told["found"]["asked_per_s"] == 100
    assert told["found"]["memory_mb"] > 20
    assert told["found"]["cores"] > 0
    assert server.observe()["champion"]["version"] == "2", "it leads on staging"


def test_a_run_that_is_repeated_does_not_load_the_server_again(
    server: ModelServerProcess, ledger: Ledger, tmp_path: Path
) -> None:
    from pipelines.tasks import staging

    bundle = tiny_bundle(tmp_path / "bundles")
    site = site_of(ledger, bundle, server)
    assert staging.refusal(site, "r-1", "2", bundle.id) is None
    server.end()
    assert staging.refusal(site, "r-1", "2", bundle.id) is None
    assert len(staged(ledger)) == 1


@pytest.mark.parametrize("kind", ["slow", "wrong golden row", "nobody there"])
def test_a_broken_challenger_is_refused_before_any_traffic(
    kind: str, server: ModelServerProcess, ledger: Ledger, tmp_path: Path
) -> None:
    root = tmp_path / "bundles"
    bundle = slow_bundle(root) if kind == "slow" else tiny_bundle(root, golden_shift=0.1 if "golden" in kind else 0.0)
    place = "http://127.0.0.1:9" if kind == "nobody there" else server
    opened = open_rollout(site_of(ledger, bundle, place, objective_p99_ms=15), "2")
    assert opened.offer is None
    gate = {"slow": "latency: p99", "wrong golden row": "deploy: ", "nobody there": "deploy: "}[kind]
    assert opened.reason.startswith(f"staging failed: {gate}")
    assert ledger.entries(PROJECT, (OPENED,)) == []
    assert ledger.entries(PROJECT, (REFUSED,))[0].body["reason"] == opened.reason
    (told,) = staged(ledger)
    assert told["refused"] == opened.reason


def test_answers_that_differ_from_the_golden_rows_are_not_loaded(
    server: ModelServerProcess, ledger: Ledger, tmp_path: Path
) -> None:
    """A server that serves something else under this version's number: the deployment went wrong."""
    server.install(tiny_bundle(tmp_path / "other", bias=1.0), "2")
    opened = open_rollout(site_of(ledger, tiny_bundle(tmp_path / "bundles"), server), "2")
    assert opened.reason.startswith("staging failed: golden rows: 30 golden rows, largest difference 0.2")
    assert staged(ledger)[0]["found"]["asked_per_s"] is None


def test_without_staging_nothing_is_asked(ledger: Ledger, tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundles")
    site = dataclasses.replace(site_of(ledger, bundle, "http://127.0.0.1:9"), staging=None)
    assert open_rollout(site, "2").offer is not None
    assert staged(ledger) == []
