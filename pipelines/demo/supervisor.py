"""Processes that live and die together: each in a group of its own, with a log file, ended when the supervisor ends."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import httpx

_PR_SET_PDEATHSIG = 1
_STOP_S = 25.0
_POLL_S = 0.1


class ProcessFailedError(RuntimeError):
    """A process that ended, or was not ready in time; the message shows the end of its log."""


class BusyPortError(RuntimeError):
    """A port that something else listens on."""


@dataclass(frozen=True)
class Program:
    """What to start: `ready_url` answers 200 once it can be used; `ends` allows it to end by itself with code 0."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    ready_url: str | None = None
    ready_s: float = 90.0
    ends: bool = False


@dataclass
class _Running:
    program: Program
    process: subprocess.Popen[bytes]
    log: Path


def check_ports(ports: Mapping[str, int]) -> None:
    """Raises BusyPortError, which names each port that is taken and the option that chooses another."""
    busy = [(name, port) for name, port in ports.items() if not _is_free(port)]
    if busy:
        listed = ", ".join(f"{port} ({name}: choose another with --{name}-port)" for name, port in busy)
        raise BusyPortError(
            f"something already listens on 127.0.0.1:{listed}. Stop it (is another demo running?), or choose other "
            f'ports, for example: make demo ARGS="--{busy[0][0]}-port {busy[0][1] + 1000}"'
        )


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class Supervisor:
    """Starts programs, watches them, and stops them in reverse order; use it as a context."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self._running: list[_Running] = []

    def __enter__(self) -> "Supervisor":
        self.logs.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, program: Program) -> None:
        """Starts `program`; it is told to end when this process dies, however that happens."""
        log = self.logs / f"{program.name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                program.command,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **program.environment},
                start_new_session=True,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )
        self._running.append(_Running(program, process, log))

    def wait_ready(self, name: str, *, on_wait: Callable[[], None] | None = None) -> None:
        """Returns when `name` answers. Raises ProcessFailedError when it ended or took longer than it may."""
        running = self._find(name)
        url = running.program.ready_url
        deadline = time.monotonic() + running.program.ready_s
        while url is not None and not _answers(url):
            self.check()
            if time.monotonic() > deadline:
                raise ProcessFailedError(
                    f"{name} did not answer {url} within {running.program.ready_s:.0f} s:\n{_tail(running.log)}"
                )
            if on_wait is not None:
                on_wait()
            time.sleep(_POLL_S)

    def check(self) -> None:
        """Raises ProcessFailedError when one of the programs has ended."""
        for running in self._running:
            code = running.process.poll()
            if code is not None and not (code == 0 and running.program.ends):
                raise ProcessFailedError(
                    f"{running.program.name} ended with code {code}. The end of {running.log}:\n{_tail(running.log)}"
                )

    def process_id(self, name: str) -> int:
        return self._find(name).process.pid

    def kill(self, name: str) -> None:
        """SIGKILL for the whole group of `name`, and it is no longer watched: a crash on purpose."""
        running = self._find(name)
        self._running.remove(running)
        _signal_group(running.process, signal.SIGKILL)
        running.process.wait()

    def stop_one(self, name: str) -> int:
        """Ends `name` with SIGTERM and returns its exit code (or minus the signal that it took)."""
        running = self._find(name)
        self._running.remove(running)
        _end([running])
        return running.process.returncode

    def stop(self) -> None:
        """Ends all programs, the last started first: SIGTERM to each parent, and SIGKILL to the group of who stays."""
        remaining, self._running = self._running[::-1], []
        _end(remaining)

    def _find(self, name: str) -> _Running:
        for running in self._running:
            if running.program.name == name:
                return running
        raise KeyError(f"no program {name!r}; running: {[running.program.name for running in self._running]}")


def _end(programs: Sequence[_Running]) -> None:
    for running in programs:
        if running.process.poll() is None:
            running.process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + _STOP_S
    for running in programs:
        with suppress(subprocess.TimeoutExpired):  # what is left of the group is killed below, the parent included
            running.process.wait(max(0.1, deadline - time.monotonic()))
        _signal_group(running.process, signal.SIGKILL)
        running.process.wait()


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return  # the whole group is gone already


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def _tail(log: Path, lines: int = 25) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
