"""How long the model server takes from the start of its process to its first right answer, and what it keeps in memory.

    .venv/bin/python benchmarks/serving/startup.py [--starts 5] [--json FILE]

The champion is remembered in the state folder, as after a restart. A client asks until it gets an answer, whose score
must be the one that ONNX Runtime gives here. Memory is read from the kernel's account of the process: once after that
answer, and once after a few thousand requests, a scrape of the metrics and the log's first segments.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from hot_path import free_port

from contracts.encoder import Encoder
from pipelines.inference import score
from serving.champion_file import Remembered, write_champion

TIMEOUT_S = 30.0
_ASK_AGAIN_S = 0.002
_SEGMENTS_S = 2.5  # two flushes of the prediction log
_PARTS = {"Rss": "rss_mb", "Pss": "pss_mb", "Private_Dirty": "private_dirty_mb", "Private_Clean": "private_clean_mb"}


def memory_of(process: int) -> dict[str, float]:
    """Resident memory of `process` in MB (10⁶ bytes) and its parts: shared libraries count in part in `pss_mb`."""
    found = {}
    for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, rest = line.partition(":")
        if name in _PARTS:
            found[_PARTS[name]] = round(int(rest.split()[0]) * 1024 / 1e6, 1)
    return found


def start_once(folder: Path, body: bytes, expected: float, requests: int) -> dict[str, Any]:
    """One life of a server: seconds to the first right answer, CPU seconds until then, and memory."""
    port = free_port()
    environment = {
        **os.environ,
        "PACELINE_SERVING_PROJECT": "benchmark",
        "PACELINE_SERVING_PORT": str(port),
        "PACELINE_SERVING_STATE": str(folder / "state"),
        "PACELINE_SERVING_PREDICTIONS": str(folder / "predictions"),
    }
    with tempfile.TemporaryFile() as log, httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        started = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-m", "serving"], env=environment, stdout=log, stderr=log)
        try:
            while True:
                try:
                    answer = client.post("/v1/predict", content=body)
                    break
                except httpx.TransportError:
                    if process.poll() is not None or time.perf_counter() - started > TIMEOUT_S:
                        log.seek(0)
                        raise RuntimeError(f"the server did not start: {log.read().decode()[-2000:]}") from None
                    time.sleep(_ASK_AGAIN_S)
            seconds = time.perf_counter() - started
            found = answer.raise_for_status().json()["predictions"][0]["score"]
            if abs(found - expected) > 1e-6:
                raise RuntimeError(f"the first answer is {found}, expected {expected}")
            times = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            ticks = os.sysconf("SC_CLK_TCK")
            result = {
                "seconds": seconds,
                "cpu_seconds": (int(times[11]) + int(times[12])) / ticks,
                "at_first_answer": memory_of(process.pid),
            }
            for _ in range(requests):
                client.post("/v1/predict", content=body).raise_for_status()
            client.get("/metrics").raise_for_status()
            time.sleep(_SEGMENTS_S)
            result["after_requests"] = memory_of(process.pid)
            return result
        finally:
            process.terminate()
            process.wait(20)


def main() -> None:
    """Builds the model, starts the server several times, and prints medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--json", type=Path, help="write the results to this file")
    options = parser.parse_args()
    import model

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle, records = model.build(folder)
        write_champion(folder / "state", Remembered(version="1", bundle=bundle.id, path=str(bundle.path)))
        features = Encoder(bundle.schema).encode(records[0])
        expected = float(np.ravel(score(bundle.model_path, features))[0])
        body = json.dumps({"records": records[:1]}).encode()
        start_once(folder, body, expected, 0)  # the first one reads the libraries from disk
        results = [start_once(folder, body, expected, options.requests) for _ in range(options.starts)]
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores; medians of {options.starts} starts")  # noqa: T201
    for part in ("seconds", "cpu_seconds"):
        print(f"{part} to the first right answer: {statistics.median(each[part] for each in results):.2f}")  # noqa: T201
    for when in ("at_first_answer", "after_requests"):
        medians = {key: statistics.median(each[when][key] for each in results) for key in _PARTS.values()}
        print(f"{when}: " + ", ".join(f"{key} {value:.1f}" for key, value in medians.items()))  # noqa: T201


if __name__ == "__main__":
    main()
