"""What a rollout needs, all of it real: a model of real flights, a model server, and the flights as requests."""

import asyncio
import itertools
import multiprocessing
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import httpx

PROJECT, AS_OF = "flight_delay", "2013-07-01"
RATE_PER_S = 200.0
START_S = 60.0


@dataclass(frozen=True)
class Served:
    """A bundle that serves as champion and, with a fault in its place, as challenger."""

    bundle: str
    path: str


def train(home: Path) -> Served:
    """Ingests, trains and registers one version below `home`, as a user does, unless there is one."""
    from pipelines.wiring import open_registry

    os.environ["PACELINE_HOME"] = str(home.absolute())
    registered = open_registry().versions(PROJECT)
    if not registered:
        paceline = Path(sys.executable).with_name("paceline")
        command = [paceline, "train", PROJECT, "--as-of", AS_OF, "--register", "--json"]
        subprocess.run(command, stdout=subprocess.PIPE, check=True)
        registered = open_registry().versions(PROJECT)
    bundle = registered[0].bundle
    return Served(bundle=bundle, path=str(home.absolute() / "bundles" / bundle))


class Server:
    """A model server process that is started again when it dies, as a supervisor does."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.deaths = 0
        self._folder = folder
        self._is_stopping = False
        self._process = self._start()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        self._wait()

    def install(self, served: Served) -> None:
        """Makes the bundle the champion."""
        with httpx.Client(base_url=self.url, timeout=120, trust_env=False) as client:
            load = {"version": "1", "bundle": served.bundle, "path": served.path}
            client.put("/control/challenger", json=load).raise_for_status()
            client.post("/control/promote", json={"version": "1", "expected": None}).raise_for_status()

    def stop(self) -> None:
        self._is_stopping = True
        self._process.terminate()
        self._thread.join()

    def _start(self) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            "PACELINE_SERVING_PROJECT": PROJECT,
            "PACELINE_SERVING_PORT": str(self.port),
            "PACELINE_SERVING_STATE": str(self._folder / "state"),
            "PACELINE_SERVING_PREDICTIONS": str(self._folder / "predictions"),
            "PACELINE_SERVING_ALLOW_FAULTS": "1",
        }
        with (self._folder / "server.log").open("ab") as log:
            return subprocess.Popen([sys.executable, "-m", "serving"], env=environment, stdout=log, stderr=log)

    def _watch(self) -> None:
        while True:
            self._process.wait()
            if self._is_stopping:
                return
            self.deaths += 1
            self._process = self._start()

    def _wait(self) -> None:
        deadline = time.monotonic() + START_S
        while True:
            try:
                httpx.get(f"{self.url}/livez", trust_env=False).raise_for_status()
                return
            except httpx.HTTPError as error:
                if time.monotonic() > deadline:
                    self.stop()
                    log = (self._folder / "server.log").read_text()
                    raise RuntimeError(f"the model server is not up after {START_S:g} s: {log}") from error
                time.sleep(0.05)


@contextmanager
def flights(url: str, records: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Real flights as requests, from a process of its own; afterwards the dictionary says what the clients saw."""
    context = multiprocessing.get_context("spawn")
    stop, said = context.Event(), context.Queue()
    client = context.Process(target=_send, args=(url, records, stop, said))
    client.start()
    seen: dict[str, Any] = {}
    try:
        yield seen
    finally:
        stop.set()
        seen.update(said.get(timeout=60))
        client.join()


def july() -> list[dict[str, Any]]:
    """The flights of July, in time order."""
    from pipelines.tasks.replaying import records

    return records(PROJECT, date(2013, 7, 1), date(2013, 8, 1))


def _send(url: str, records: list[dict[str, Any]], stop: Any, said: Any) -> None:
    from pipelines.backtest.replay import replay

    async def send() -> Any:
        stopped = asyncio.Event()
        waiting = asyncio.get_running_loop().run_in_executor(None, stop.wait)
        waiting.add_done_callback(lambda _: stopped.set())
        return await replay(url, itertools.cycle(records), entity="tailnum", rate=RATE_PER_S, stop=stopped)

    summary = asyncio.run(send())
    said.put({"requests": summary.requests, "failed": summary.failed, "first_error": summary.first_error})
