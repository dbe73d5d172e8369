"""What is really scraped: a model server that has answered, the pipelines' endpoint, Alertmanager."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipelines.monitoring.pipeline_metrics import METRICS
from tests.fixtures.bundles import tiny_bundle, tiny_record
from tests.fixtures.model_servers import ModelServerProcess
from tests.fixtures.prometheus import OBSERVABILITY, program
from tests.fixtures.small_installation import free_port

TARGET = {"job", "instance", "project"}  # what the scrape configuration adds to each sample


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Each series that Prometheus can have, by the name an expression uses → the labels that it can have."""
    folder = tmp_path_factory.mktemp("exported")
    found = {"up": TARGET}
    for text in (_of_server(folder), _of_pipelines(folder)):
        found |= _series(text)
    for metric in METRICS:  # the families of a ledger that has nothing yet have no samples to read labels from
        name = f"{metric.name}_total" if metric.kind == "counter" else metric.name
        assert name in found, f"{name} is not at the endpoint"
        found[name] = TARGET | set(metric.labels)
    found |= _series(_of_alertmanager(folder))
    return found


def _series(text: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        found.setdefault(f"{family.name}_total" if family.type == "counter" else family.name, set(TARGET))
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, set()) | TARGET | set(sample.labels)
    return found


def _of_server(folder: Path) -> str:
    """Two workers, a shadowing challenger, and a row unlike the training data."""
    server = ModelServerProcess(folder, workers="2")
    try:
        server.wait_until_live()
        bundle = tiny_bundle(folder / "bundles")
        server.install(bundle, "1")
        server.load(tiny_bundle(folder / "bundles", bias=0.1), "2", "r").raise_for_status()
        server.share("r", 0.5).raise_for_status()
        for number in range(40):
            server.predict({**tiny_record(number), "distance": 1e6}).raise_for_status()
        deadline = time.monotonic() + 30
        while True:
            text = server.client.get("/metrics").text
            if 'flag="outside_baseline:distance"' in text and 'slot="challenger"' in text:
                return text
            assert time.monotonic() < deadline, text
            time.sleep(0.1)
    finally:
        server.end()


def _of_pipelines(folder: Path) -> str:
    environment = {**os.environ, "PACELINE_HOME": str(folder / "home")}
    environment.pop("PACELINE_LEDGER_URL", None)
    command = [sys.executable, "-m", "pipelines", "metrics", "--port", "0", "--json"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        told = ""
        while not told.endswith("}\n"):
            told += process.stdout.readline()
            assert process.poll() is None, told
        url = json.loads(told)["url"]
        return httpx.get(url, trust_env=False, timeout=30).raise_for_status().text
    finally:
        process.terminate()
        process.wait(20)


def _of_alertmanager(folder: Path) -> str:
    binary, port = program("prometheus-alertmanager", "alertmanager"), free_port()
    options = [f"--config.file={OBSERVABILITY / 'alertmanager.yml'}", f"--storage.path={folder / 'alertmanager'}"]
    options += [f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address="]
    with (folder / "alertmanager.log").open("wb") as log:
        process = subprocess.Popen([binary, *options], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                return httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).raise_for_status().text
            except httpx.TransportError:
                assert time.monotonic() < deadline, (folder / "alertmanager.log").read_text()
                time.sleep(0.1)
    finally:
        process.terminate()
        process.wait(20)
