"""How long a model server takes from the start of its process until it is ready, in this environment and in its image.

    python -m benchmarks.serving.start FOLDER_OF_A_BUNDLE [--image NAME] [--starts 10]

`--image` is one that `make test-images` or `docker/build.py` left in the store of the tests (`PACELINE_IMAGES`). Its
starts are counted from the container's process on, and from `podman run` on, which sets the container up.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import psutil

from contracts.bundle import Bundle, read_bundle
from pipelines.benchmarking.start_up import measure_start

GOAL_S = 2.0


def main() -> int:
    """Exit code 1 when the median is beyond the goal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--image", help="measure this image as well")
    parser.add_argument("--starts", type=int, default=10)
    options = parser.parse_args()
    bundle = read_bundle(options.bundle)
    found = {"`python -m serving`": [_process(bundle) for _ in range(options.starts + 1)]}
    if options.image:
        both = _containers(bundle, options.image, options.starts + 1)
        found["`podman run`"] = [each.from_run_s for each in both]
        found["the container's process"] = [each.from_process_s for each in both]
    for name, seconds in found.items():
        print(_line(name, seconds[1:]))  # noqa: T201  without the first, which warms the page cache
    if options.image:
        spent_s = statistics.median(each.processor_s for each in both[1:])
        print(f"the container's process had used {spent_s:.2f} s of processor time")  # noqa: T201
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    print(f"{load:.1f} processes waited for each processor meanwhile (load average)")  # noqa: T201
    return 0 if all(statistics.median(seconds[1:]) <= GOAL_S for seconds in found.values()) else 1


def _line(name: str, seconds: Sequence[float]) -> str:
    return f"from {name} to ready: {statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"


def _process(bundle: Bundle) -> float:
    with tempfile.TemporaryDirectory() as name:
        told = {
            "PROJECT": bundle.manifest.project,
            "PORT": "0",
            "STATE": f"{name}/state",
            "PREDICTIONS": f"{name}/predictions",
            "BUNDLE": str(bundle.path),
        }
        environment = {f"PACELINE_SERVING_{key}": value for key, value in told.items()}
        return measure_start({**os.environ, **environment}, Path(name))


@dataclass(frozen=True)
class ContainerStart:
    """Seconds until it was ready, from two instants on; and what it had used of a processor by then."""

    from_run_s: float
    from_process_s: float
    processor_s: float


def _containers(bundle: Bundle, image: str, starts: int) -> list[ContainerStart]:
    from tests.fixtures.containers import opened
    from tests.fixtures.small_installation import free_port

    found = []
    with opened() as containers:
        for _ in range(starts):
            port = free_port()
            told = {"HOST": "127.0.0.1", "PORT": str(port), "PROJECT": bundle.manifest.project, "BUNDLE": "/bundle"}
            options = ["--network=host", "--read-only", "--tmpfs=/tmp", "--volume=/var/lib/paceline"]
            options += [f"--volume={bundle.path}:/bundle:ro"]
            options += [f"--env=PACELINE_SERVING_{key}={value}" for key, value in told.items()]
            began_s = time.time()
            with containers.running(image, *options) as container:
                containers.wait_until_ready(container, f"http://127.0.0.1:{port}")
                ready_s = time.time()
                state = containers.inspect("container", container)["State"]
                used = psutil.Process(state["Pid"]).cpu_times()
            # podman's clock has nanoseconds, Python's microseconds
            process_s = datetime.fromisoformat(f"{state['StartedAt'][:26]}+00:00").timestamp()
            found.append(ContainerStart(ready_s - began_s, ready_s - process_s, used.user + used.system))
    return found


if __name__ == "__main__":
    sys.exit(main())
