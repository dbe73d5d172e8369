"""How long a model server takes from the start of its process until it is ready."""

import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import httpx

START_S_MAX = 120.0
_STOP_S_MAX = 20.0
_POLL_S = 0.01
_ADDRESS = re.compile(r"listens on (https?://\S+),")


def measure_start(environment: Mapping[str, str], folder: Path) -> float:
    """Starts `python -m serving` in `environment`, waits until it is ready, and ends it; returns seconds.

    `folder` is for its log. Its port must be 0, or one that is free.

    Raises:
        RuntimeError: it ended, or was not ready in `START_S_MAX`; with the end of its log.
    """
    log = folder / "start.log"
    with log.open("wb") as output:
        began_s = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "serving"], env=dict(environment), stdout=output, stderr=output
        )
    try:
        with httpx.Client(trust_env=False, verify=False, timeout=5.0) as client:
            while time.monotonic() - began_s < START_S_MAX:
                if process.poll() is not None:
                    raise RuntimeError(f"the server ended with {process.returncode}: {_end(log)}")
                if (found := _ADDRESS.search(log.read_text(errors="replace"))) and _is_ready(client, found[1]):
                    return time.monotonic() - began_s
                time.sleep(_POLL_S)
        raise RuntimeError(f"the server was not ready after {START_S_MAX:g} s: {_end(log)}")
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _is_ready(client: httpx.Client, url: str) -> bool:
    try:
        return client.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def _end(log: Path) -> str:
    return log.read_text(errors="replace")[-1500:]
