"""The processes of a run, each killed and started again as a supervisor would do it."""

import asyncio
import ctypes
import multiprocessing
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import httpx

from benchmarks.chaos.installation import CHAMPION, PROJECT, Installation

START_S_MAX = 300.0
ASK_EVERY_S = 0.02
PRELOADED = [
    *("pipelines.tasks.releasing", "pipelines.tasks.investigating", "pipelines.registry.mlflow_registry"),
    *("mlflow", "mlflow.store.tracking.sqlalchemy_store", "mlflow.store.model_registry.sqlalchemy_store"),
    *("alembic.command", "httpcore", "matplotlib.figure", "sqlalchemy.dialects.sqlite"),
]


class DidNotStartError(RuntimeError):
    """A process that does not answer in time, or has ended; with the end of its log."""


class Served:
    """A process that answers at a URL, of the model server or of the registry. `downs` are its outages, wall clock."""

    def __init__(self, name: str, command: Sequence[str], environment: dict[str, str], ready: str, log: Path) -> None:
        self.name = name
        self._command, self._environment, self._log = list(command), environment, log
        self._ready = ready
        self._process: subprocess.Popen[bytes] | None = None
        self.downs: list[tuple[float, float]] = []
        self._killed_at: float | None = None

    @property
    def pid(self) -> int:
        """Of the process that runs."""
        if self._process is None:
            raise RuntimeError(f"{self.name} does not run: start it first")
        return self._process.pid

    def start(self) -> None:
        """Starts it; `wait_ready` says when it answers."""
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                env={**os.environ, **self._environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )

    async def wait_ready(self) -> None:
        """Returns when it answers. Raises DidNotStartError."""
        deadline_s = time.monotonic() + START_S_MAX
        async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
            while True:
                with suppress(httpx.TransportError):
                    if (await client.get(self._ready)).is_success:
                        break
                is_over = self._process is None or self._process.poll() is not None
                if is_over or time.monotonic() > deadline_s:
                    told = self._log.read_text(errors="replace")[-2000:]
                    raise DidNotStartError(f"{self.name} is not there after {START_S_MAX:g} s: {told}")
                await asyncio.sleep(ASK_EVERY_S)
        if self._killed_at is not None:
            self.downs.append((self._killed_at, time.time()))
            self._killed_at = None

    def kill(self) -> None:
        """SIGKILL to it and to all that it started."""
        if self._process is not None and self._process.poll() is None:
            self._killed_at = time.time()
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, 9)
            self._process.wait()


class Controller:
    """`paceline release` as a process of its own, forked from a server that has imported all of it.

    So a start takes milliseconds, and a hundred runs are not a hundred imports of the registry's client.
    """

    def __init__(self, environment: dict[str, str], version: str, log: Path) -> None:
        self._arguments = (environment, version, str(log))
        self._process: BaseProcess | None = None
        self.lives: list[tuple[float, float | None]] = []  # from, until (None: it runs), wall clock

    @property
    def is_running(self) -> bool:
        """Whether there is a process, and it has not ended."""
        return self._process is not None and self._process.is_alive()

    @property
    def exit_code(self) -> int | None:
        """Of the last process; None while it runs."""
        return None if self._process is None else self._process.exitcode

    @property
    def pid(self) -> int | None:
        """Of the last process."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Starts a process that opens the rollout, or goes on with it."""
        self._process = forks().Process(target=control, args=self._arguments, daemon=True)
        self.lives.append((time.time(), None))
        self._process.start()

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None and self._process.is_alive():
            self._process.kill()
            self._process.join()
        self.note_end()

    def note_end(self) -> None:
        """Keeps when the present life ended."""
        if self.lives and self.lives[-1][1] is None:
            self.lives[-1] = (self.lives[-1][0], time.time())


def forks() -> multiprocessing.context.ForkServerContext:
    """Where controllers come from."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def control(environment: dict[str, str], version: str, log: str) -> None:
    """The controller's process: what `paceline release` does. Ends with code 1 where that fails."""
    import logging

    os.environ.update(environment)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    from pipelines.tasks import releasing

    opened = releasing.open_rollout(PROJECT, version)
    if opened.offer is None:
        logging.getLogger(__name__).error("nothing to roll out: %s", opened.reason)
        sys.exit(2)
    outcome = asyncio.run(releasing.roll_out(PROJECT, opened.offer))
    releasing.settle(PROJECT, outcome)


def model_server(place: Installation, port: int, log: Path) -> Served:
    """`python -m serving`, which lets faults be planted."""
    prefix = "PACELINE_SERVING_"
    settings = {
        "PROJECT": PROJECT,
        "PORT": str(port),
        "STATE": str(place.state),
        "PREDICTIONS": str(place.root / "home" / "predictions" / PROJECT),
        "ALLOW_FAULTS": "yes",
    }
    environment = {f"{prefix}{name}": value for name, value in settings.items()}
    command = [sys.executable, "-m", "serving"]
    return Served("the model server", command, environment, f"http://127.0.0.1:{port}/livez", log)


def registry_server(place: Installation, port: int, log: Path) -> Served:
    """`mlflow server` on the installation's registry."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{place.registry}", "--no-serve-artifacts"]
    command += ["--default-artifact-root", str(place.registry.parent / "artifacts")]
    environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    return Served("MLflow", command, environment, f"http://127.0.0.1:{port}/health", log)


async def lead(place: Installation, url: str) -> None:
    """Makes the first version the champion of the server at `url`."""
    bundle = place.bundle(CHAMPION)
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as client:
        slot = {"version": CHAMPION, "bundle": bundle.id, "path": str(bundle.path)}
        (await client.put("/control/challenger", json=slot)).raise_for_status()
        (await client.post("/control/promote", json={"version": CHAMPION, "expected": None})).raise_for_status()


def hold(url: str, ledger: str, offer: dict[str, Any], plan: dict[str, Any]) -> None:
    """A controller's process for one rollout by itself: the loop of a release, without its opening and its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    import msgspec

    from pipelines.ledger import Ledger
    from pipelines.rollout.controller import Offer, run_rollout
    from pipelines.rollout.plan import Plan
    from pipelines.rollout.platforms.local import LocalPlatform

    async def roll_out() -> None:
        async with LocalPlatform(url) as platform:
            await run_rollout(platform, Ledger.open(ledger), msgspec.convert(plan, Plan), msgspec.convert(offer, Offer))

    asyncio.run(roll_out())


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def fill_disk(pid: int) -> None:
    """From now on no file takes a byte from this process, as on a full disk; `empty_disk` ends it."""
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))


def empty_disk(pid: int) -> None:
    """Files take what the process writes again."""
    with suppress(ProcessLookupError):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def free_port() -> int:
    """A port that nothing listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
