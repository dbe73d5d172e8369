"""A server under measurement: started, asked until its first right answer, and ended with all that it started."""

import contextlib
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import numpy as np
import psutil
from contenders import Contender, Form, Workload, environment_of

from pipelines.benchmarking.bodies import request
from pipelines.benchmarking.connections import Target
from pipelines.benchmarking.server_process import ServerProcesses

START_TIMEOUT_S = 60.0
ASK_AGAIN_S = 0.005
STOP_TIMEOUT_S = 15.0
TOLERANCE = 1e-4  # scores of encoded rows that were rounded to six digits for JSON
REFUSED_STATUS = 2


class NotOfferedError(Exception):
    """The server refuses a setting that this variant needs; the text is the server's own."""


class Running:
    """A server that has given its first right answer."""

    def __init__(self, contender: Contender, work: Workload, port: int, pid: int, api_key: str | None) -> None:
        self.contender = contender
        self.work = work
        self.target = Target("127.0.0.1", port)
        self.processes = ServerProcesses(pid)
        self.first_answer_s = 0.0
        self.start_cpu_s = 0.0
        self.start_memory_mb = 0.0
        self._api_key = api_key if contender.takes_key else None
        self._client = httpx.Client(base_url=self.target.url, trust_env=False, verify=False, timeout=10)

    def close(self) -> None:
        """Closes its own connection."""
        self._client.close()

    def one_row(self) -> list[bytes]:
        """A request for each record, in the server's own form."""
        return self._requests(self.contender.own, [slice(row, row + 1) for row in range(len(self.work.records))])

    def batches(self, form: Form) -> list[bytes]:
        """Requests of `BATCH_ROWS`. Raises RuntimeError: the first answer is wrong."""
        rows = self.work.batches()
        self._check(self._post(form, rows[0]).raise_for_status().content, form, rows[0])
        return self._requests(form, rows)

    def shadow(self) -> None:
        """A challenger with the same bundle, which shadows every request."""
        bundle = self.work.bundle
        slot = {"version": "2", "bundle": bundle.id, "path": str(bundle.path), "rollout": "benchmark"}
        self._client.put("/control/challenger", json=slot).raise_for_status()
        share = {"rollout": "benchmark", "share": 0.0, "shadow": True, "lease_s": 3600.0}
        self._client.put("/control/share", json=share).raise_for_status()

    def wait_until_right(self, process: subprocess.Popen[bytes], log: Any) -> None:
        """Asks until the first right answer. Raises RuntimeError or NotOfferedError."""
        started = time.perf_counter()
        rows = slice(0, 1)
        while True:
            status = process.poll()
            if status is not None or time.perf_counter() - started > START_TIMEOUT_S:
                log.seek(0)
                told = log.read().decode("utf-8", "replace")[-1500:].strip()
                if status == REFUSED_STATUS and self.contender.group == "variant":
                    raise NotOfferedError(told.splitlines()[-1].partition(";")[0] if told else "it refused to start")
                raise RuntimeError(f"{self.contender.name} gave no answer: {told}")
            with contextlib.suppress(httpx.TransportError):
                answer = self._post(self.contender.own, rows)
                if answer.status_code == 200:
                    break
            time.sleep(ASK_AGAIN_S)
        self.first_answer_s = time.perf_counter() - started
        self.start_cpu_s = self.processes.cpu_s()
        self._check(answer.content, self.contender.own, rows)
        self.start_memory_mb = self.processes.resident_mb()

    def _post(self, form: Form, rows: slice) -> httpx.Response:
        body, head_length = form.body(self.work, rows)
        headers = {"content-type": "application/json"}
        if head_length is not None:
            headers = {"content-type": "application/octet-stream", "inference-header-content-length": str(head_length)}
        if self._api_key is not None:
            headers["x-api-key"] = self._api_key
        return self._client.post(form.route, content=body, headers=headers)

    def _check(self, content: bytes, form: Form, rows: slice) -> None:
        if form.scores is None:
            return
        found, expected = np.array(form.scores(content), dtype=np.float64), self.work.scores[rows]
        if found.shape != expected.shape or np.abs(found - expected).max() > TOLERANCE:
            raise RuntimeError(f"{self.contender.name} answered {found[:3]}, expected {expected[:3].tolist()}")

    def _requests(self, form: Form, rows: Sequence[slice]) -> list[bytes]:
        bodies = [form.body(self.work, each) for each in rows]
        return [
            request(self.target, form.route, body, api_key=self._api_key, head_length=head_length)
            for body, head_length in bodies
        ]


@contextlib.contextmanager
def running(contender: Contender, work: Workload, api_key: str) -> Iterator[Running]:
    """Starts the server and yields it after its first right answer; at the end nothing of it is left.

    Raises:
        NotOfferedError: this version of the server has not the setting.
        RuntimeError: it does not start, or answers wrongly.
    """
    option = contender.needs_option
    if option is not None and option not in _help(contender):
        raise NotOfferedError(f"`python -m serving --help` does not tell of {option}")
    port = _free_port()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            list(contender.command(port)),
            env=environment_of(contender, port, work),
            cwd=contender.folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # a Ctrl-C is for the benchmark, which then ends the server
        )
        server = Running(contender, work, port, process.pid, api_key)
        try:
            server.wait_until_right(process, log)
            yield server
        finally:
            server.close()
            _end(process, server.processes.family())


def _end(process: subprocess.Popen[bytes], family: list[psutil.Process]) -> None:
    """Asks the first process to stop, then ends what is left: some servers put their workers into other groups."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_TIMEOUT_S)
    _, alive = psutil.wait_procs(family, timeout=1.0)
    for member in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait(STOP_TIMEOUT_S)


def _help(contender: Contender) -> str:
    words = [*list(contender.command(0))[:3], "--help"]
    ended = subprocess.run(words, cwd=contender.folder, capture_output=True, text=True, timeout=30, check=False)
    return ended.stdout


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
