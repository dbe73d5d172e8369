"""One run: real processes, open-loop clients, one fault, and what could be seen from outside."""

import asyncio
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import msgspec
import numpy as np

from benchmarks.chaos.case import Case
from benchmarks.chaos.installation import BROKEN, PROJECT, SHARES, SOUND, Installation, records
from benchmarks.chaos.processes import (
    Controller,
    Served,
    empty_disk,
    fill_disk,
    free_port,
    lead,
    model_server,
    registry_server,
)
from pipelines.benchmarking.bodies import classify_of, requests_of
from pipelines.benchmarking.connections import target_of
from pipelines.benchmarking.load import Load
from pipelines.ledger import Entry, Ledger, LedgerUnavailableError

RATE, ENTITIES, CLIENT_TIMEOUT_S = 60, 3000, 15.0
RUN_S_MAX = 600.0
RESTART_S, RESTARTS_MAX = 0.5, 40  # of a controller that ended by itself
LOOK_S, READ_S, ASK_S = 0.08, 0.15, 0.02
OPENED, ENDED = "release.opened", "release.ended"


class Answer(NamedTuple):
    """What one client saw; times are of the wall clock."""

    due_at: float
    ended_at: float
    status: int
    slot: str
    version: str
    error: str


@dataclass
class Seen:
    """What a run showed. `entries` is every ledger entry that could be read at some moment, as it was first read."""

    case: Case
    started_at: float
    timeline: list[tuple[float, str]] = field(default_factory=list)
    entries: dict[int, Entry] = field(default_factory=dict)
    answers: list[Answer] = field(default_factory=list)
    downs: list[tuple[float, float]] = field(default_factory=list)
    lives: list[tuple[float, float | None]] = field(default_factory=list)
    struck_at: float | None = None
    bad_since: float | None = None  # when a fault was planted into the challenger
    final_entries: list[Entry] = field(default_factory=list)
    final: dict[str, Any] = field(default_factory=dict)
    ledger_is_sound: str = ""
    gave_up: str = ""

    def tell(self, text: str) -> None:
        """A line of the timeline."""
        self.timeline.append((time.time(), text))


class Run:
    """One run of `case` on `place`."""

    def __init__(self, case: Case, place: Installation) -> None:
        self.case, self.place = case, place
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        mlflow_port = free_port() if case.fault == "MLflow killed" else None
        self.server = model_server(place, port, place.root / "server.log")
        self.registry = None if mlflow_port is None else registry_server(place, mlflow_port, place.root / "mlflow.log")
        version = BROKEN if case.challenger == "broken" else SOUND
        log = place.root / "controller.log"
        self.controller = Controller(place.environment(port, mlflow_port), version, log)
        self.seen = Seen(case, time.time())
        self.observed: dict[str, Any] = {}
        self._held_down = asyncio.Event()  # the supervisor waits while the fault lasts
        self._held_down.set()
        self._stop = asyncio.Event()
        self._ledger: Ledger | None = None

    async def run(self) -> Seen:
        """Everything, from the first process to the last look."""
        seen = self.seen
        try:
            async with self._processes(), asyncio.timeout(RUN_S_MAX):
                await self._watched()
                await self._finish()
        except TimeoutError:
            seen.gave_up = f"the run has not ended after {RUN_S_MAX:g} s"
        seen.downs, seen.lives = self.server.downs, self.controller.lives
        return seen

    async def _watched(self) -> None:
        load = self._load()
        self._ledger = await asyncio.to_thread(Ledger.open, f"sqlite:///{self.place.ledger}")
        watchers = [
            asyncio.create_task(work) for work in (self._look(), self._read(), self._supervise(), self._strike(load))
        ]
        ended = asyncio.create_task(self._ended())
        clients = asyncio.create_task(self._ask(load))
        try:
            done, _ = await asyncio.wait([ended, *watchers], return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
        finally:
            self._stop.set()
            for task in (ended, *watchers):
                task.cancel()
            await asyncio.gather(ended, *watchers, return_exceptions=True)
            await clients
            self.seen.answers = _answers(load)

    async def _ask(self, load: Load) -> None:
        """Clients from the moment when the release is opened; before, they would only keep the machine busy."""
        while not any(entry.kind == OPENED for entry in self.seen.entries.values()):
            if self._stop.is_set():
                return
            await asyncio.sleep(ASK_S)
        await load.open_loop(np.arange(int(RATE * RUN_S_MAX)) / RATE)

    async def _ended(self) -> None:
        """Returns some requests after both the rollout and the fault are over."""
        while not (self._has_ended() and self._held_down.is_set() and self.seen.struck_at is not None):
            await asyncio.sleep(READ_S)
        self.seen.tell("the release has ended")
        await asyncio.sleep(0.5)
        self._stop.set()

    def _has_ended(self) -> bool:
        return any(entry.kind == ENDED for entry in self.seen.entries.values())

    # -- watching --------------------------------------------------------------------------------------------------

    async def _look(self) -> None:
        """What the server shows, and a fault in the challenger once it has a share."""
        before: Any = None
        async with httpx.AsyncClient(base_url=self.url, trust_env=False, timeout=5) as client:
            while not self._stop.is_set():
                with suppress(httpx.TransportError):
                    answer = await client.get("/control/observation")
                    self.observed = found = answer.json() if answer.is_success else {}
                    shown = _shown(found)
                    if shown != before:
                        self.seen.tell(f"the server shows {shown}")
                        before = shown
                    if self.case.challenger == "turns bad" and self.seen.bad_since is None and found.get("share"):
                        planted = await client.post("/control/fault", json={"error_share": 0.6})
                        if planted.is_success:
                            self.seen.bad_since = time.time()
                            self.seen.tell("a fault in the challenger: 60 % of its requests fail")
                await asyncio.sleep(LOOK_S)

    async def _read(self) -> None:
        assert self._ledger is not None
        while not self._stop.is_set():
            last = max(self.seen.entries, default=0)
            with suppress(LedgerUnavailableError):
                for entry in await asyncio.to_thread(self._ledger.entries, after=last):
                    self.seen.entries[entry.id] = entry
                    if entry.kind != "rollout.event":
                        self.seen.tell(f"ledger {entry.id}: {entry.kind} {_brief(entry.body)}")
            await asyncio.sleep(READ_S)

    async def _supervise(self) -> None:
        """Starts a controller that has ended before its release has, as long as no fault holds it down."""
        for _ in range(RESTARTS_MAX):
            await self._held_down.wait()
            if self._has_ended() or self._stop.is_set():
                return
            self.controller.start()
            self.seen.tell(f"a controller starts (process {self.controller.pid})")
            while self.controller.is_running:
                await asyncio.sleep(ASK_S)
            self.controller.note_end()
            self.seen.tell(f"the controller has ended with {self.controller.exit_code}")
            await asyncio.sleep(RESTART_S if self._held_down.is_set() else 0)
        raise RuntimeError(f"the controller has ended {RESTARTS_MAX} times: see {self.place.root / 'controller.log'}")

    # -- the fault -------------------------------------------------------------------------------------------------

    async def _strike(self, load: Load) -> None:
        case = self.case
        while not load.started_s or not (self._is_at_anchor() or self._has_ended()):
            await asyncio.sleep(ASK_S)
        await asyncio.sleep(case.after_s)
        self._held_down.clear()
        self.seen.struck_at = time.time()
        self.seen.tell(
            f"FAULT: {case.fault}, for {case.lasts_s:.2f} s{' (after the end)' if self._has_ended() else ''}"
        )
        await self._carry_out()
        self.seen.tell("the fault is over")
        self._held_down.set()

    def _is_at_anchor(self) -> bool:
        if self.case.anchor == "begun":
            return self.observed.get("rollout") is not None
        return self.observed.get("share") == SHARES[-1]

    async def _carry_out(self) -> None:
        case = self.case
        match case.fault:
            case "server killed":
                await self._down(self.server)
            case "controller killed":
                self.controller.kill()
                await asyncio.sleep(case.lasts_s)
            case "controller killed twice":
                self.controller.kill()
                await asyncio.sleep(case.lasts_s)
                self._held_down.set()
                await asyncio.sleep(case.again_after_s)
                self._held_down.clear()
                self.seen.tell("the second kill")
                self.controller.kill()
                await asyncio.sleep(case.lasts_s)
            case "server and controller killed":
                self.controller.kill()
                await self._down(self.server)
            case "MLflow killed":
                assert self.registry is not None
                await self._down(self.registry)
            case "ledger gone":
                gone = self.place.ledger_folder.with_name("gone")
                self.place.ledger_folder.rename(gone)
                await asyncio.sleep(case.lasts_s)
                gone.rename(self.place.ledger_folder)
            case "ledger locked":
                await self._lock()
            case "disk full for the controller":
                await self._fill([self.controller.pid])
            case "disk full for the server":
                await self._fill([self.server.pid])
            case "disk full for both":
                await self._fill([self.server.pid, self.controller.pid])

    async def _down(self, process: Served) -> None:
        process.kill()
        await asyncio.sleep(self.case.lasts_s)
        process.start()
        await process.wait_ready()

    async def _lock(self) -> None:
        connection = sqlite3.connect(self.place.ledger, timeout=10, isolation_level=None, check_same_thread=False)
        try:
            await asyncio.to_thread(_begin, connection)
            await asyncio.sleep(self.case.lasts_s)
            connection.execute("ROLLBACK")
        finally:
            connection.close()

    async def _fill(self, pids: list[int | None]) -> None:
        full = [pid for pid in pids if pid is not None]
        for pid in full:
            with suppress(ProcessLookupError):  # it has ended already
                fill_disk(pid)
        await asyncio.sleep(self.case.lasts_s)
        for pid in full:
            empty_disk(pid)

    # -- the processes ---------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _processes(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for process in (self.server, self.registry):
                if process is not None:
                    stack.callback(process.kill)
                    process.start()
            stack.callback(self.controller.kill)
            for process in (self.server, self.registry):
                if process is not None:
                    await process.wait_ready()
            await lead(self.place, self.url)
            yield

    def _load(self) -> Load:
        target = target_of(self.url)
        requests = requests_of(
            records(ENTITIES, self.case.seed), target=target, protocol="records", rows=1, project=PROJECT, datatypes={}
        )
        return Load(target, requests, timeout_s=CLIENT_TIMEOUT_S, classify=classify_of("records"), stop=self._stop)

    async def _finish(self) -> None:
        """The last look at each place that says who leads."""
        async with httpx.AsyncClient(base_url=self.url, trust_env=False, timeout=10) as client:
            shown = (await client.get("/control/observation")).raise_for_status().json()
        self.seen.final = await asyncio.to_thread(_last_look, self.place, shown)
        assert self._ledger is not None
        self.seen.final_entries = await asyncio.to_thread(self._ledger.entries)
        with sqlite3.connect(self.place.ledger) as connection:
            self.seen.ledger_is_sound = str(connection.execute("PRAGMA integrity_check").fetchone()[0])


def run_case(case: Case, template: Installation) -> Seen:
    """Runs `case` on a copy of `template`, and leaves nothing behind."""
    with tempfile.TemporaryDirectory(prefix=f"paceline-chaos-{case.seed}-") as folder:
        place = template.copy(Path(folder) / "run")
        if not case.has_shadow:
            place.use_plan({"shadow": None})
        return asyncio.run(Run(case, place).run())


def _last_look(place: Installation, shown: dict[str, Any]) -> dict[str, Any]:
    from pipelines.registry.mlflow_registry import MlflowRegistry

    registry = MlflowRegistry(f"sqlite:///{place.registry}")
    aliases = {}
    for alias in ("champion", "previous", "challenger"):
        version = registry.version(PROJECT, alias)
        aliases[alias] = None if version is None else version.version
    with Ledger.open(f"sqlite:///{place.ledger}", creates=False) as ledger:
        champion, reigns = ledger.champion(PROJECT), ledger.reigns(PROJECT)
    remembered = msgspec.json.decode((place.state / "state.json").read_bytes())
    return {
        "ledger": None if champion is None else champion.version,
        "reigns": reigns,
        "server": shown["champion"]["version"],
        "remembered": remembered["champion"]["version"],
        "aliases": aliases,
        "share": shown["share"],
        "held": shown["rollout"],
    }


def _begin(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN EXCLUSIVE")


def _answers(load: Load) -> list[Answer]:
    found = load.recording
    started_at = time.time() - time.monotonic() + load.started_s
    return [
        Answer(started_at + due_s, started_at + due_s + latency_s, label.status, label.slot, label.version, label.error)
        for due_s, latency_s, label in zip(
            found.due_s.tolist(), found.latency_s.tolist(), (found.labels[code] for code in found.label), strict=True
        )
    ]


def _shown(found: dict[str, Any]) -> str:
    if not found:
        return "nothing"
    tripped = found.get("tripped")
    champion = (found.get("champion") or {}).get("version")
    mode = "shadow" if found["shadow"] else f"share {found['share']:g}"
    return f"champion {champion}, rollout {found['rollout']}, {mode}" + (
        f", tripped: {tripped['reason']}" if tripped else ""
    )


def _brief(body: dict[str, Any]) -> str:
    kept = {
        name: body[name] for name in ("name", "share", "version", "phase", "state", "verdict", "reason") if name in body
    }
    return str(kept)[:300]
