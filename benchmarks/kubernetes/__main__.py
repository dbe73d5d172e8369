"""What one look of a rollout costs on Kubernetes, by the number of pods: `python -m benchmarks.kubernetes`.

A look is `observe()` of the platform: the route and the Deployments from the API, the counters of all pods from
Prometheus. Both are doubles in processes of their own, so this process' time is the look's alone; the wall's time has
what they take as well, and whatever else the machine does. `--readme` writes the table into this folder's README.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Console

from benchmarks.kubernetes.cluster import PROJECT
from contracts.slots import LoadSlot, SetShare
from pipelines.rollout.platforms.kubernetes import kubernetes_platform

ROOT = Path(__file__).parents[2]
README = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- results -->", "<!-- end of results -->"
PODS = (10, 100, 1_000)
LOOKS = 20
LOOK_S_MAX = 0.2
ROLLOUT, LEASE_S = "r1", 600.0
console = Console(stderr=True)


@dataclass(frozen=True)
class Looks:
    """What looks at `pods` took: this process' time, the wall's and the doubles' (medians), Python's peak memory."""

    pods: int
    cpu_s: float
    wall_s: float
    wall_s_max: float
    doubles_s: float
    peak_mb: float

    @property
    def row(self) -> str:
        """A line of the table."""
        milliseconds = (1000 * each for each in (self.cpu_s, self.wall_s, self.wall_s_max, self.doubles_s))
        return f"| {self.pods:,} | {' | '.join(f'{each:.0f}' for each in milliseconds)} | {self.peak_mb:.1f} |"


def main() -> int:
    """Exit code 1 when a look at the most pods takes longer than the goal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readme", action="store_true", help="write the table into the README")
    options = parser.parse_args()
    found = []
    for pods in PODS:
        with console.status(f"{LOOKS} looks at {pods} pods"), tempfile.TemporaryDirectory() as name:
            found.append(measure(pods, Path(name)))
    table = "\n".join(
        [
            "| pods | its own processor ms | wall ms | wall ms, slowest | doubles' processor ms | peak memory MB |",
            "| ---: | ---: | ---: | ---: | ---: | ---: |",
            *(each.row for each in found),
        ]
    )
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    text = f"{table}\n\n{LOOKS} looks each; {load:.1f} processes waited for each processor meanwhile (load average)."
    print(text)  # noqa: T201
    if options.readme:
        before, rest = README.read_text().split(BEGIN)
        README.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}")
    return 0 if found[-1].wall_s <= LOOK_S_MAX else 1


def measure(pods: int, folder: Path) -> Looks:
    """Starts the doubles, gives a challenger a tenth of the requests, and looks."""
    prometheus = [sys.executable, str(ROOT / "tests" / "fixtures" / "prometheus_double.py"), str(pods)]
    cluster = [sys.executable, "-m", "benchmarks.kubernetes.cluster", str(folder)]
    with _started(prometheus) as (prometheus_id, url), _started(cluster) as (cluster_id, kubeconfig):
        os.environ["KUBECONFIG"] = kubeconfig
        doubles = [psutil.Process(prometheus_id), psutil.Process(cluster_id)]
        return asyncio.run(_measured(pods, url, doubles))


async def _measured(pods: int, url: str, doubles: list[psutil.Process]) -> Looks:
    async with kubernetes_platform(PROJECT, "models", prometheus=url, bundles_at="/bundles") as platform:
        await platform.load(LoadSlot(version="2", bundle="b2", path="/bundles/b2", rollout=ROLLOUT))
        await platform.set_share(SetShare(rollout=ROLLOUT, share=0.1, lease_s=LEASE_S))
        await platform.observe()  # opens the connections
        walls, own, others = [], [], []
        for _ in range(LOOKS):
            wall_s, own_s, others_s = time.perf_counter(), time.process_time(), _processor_s(doubles)
            seen = await platform.observe()
            walls.append(time.perf_counter() - wall_s)
            own.append(time.process_time() - own_s)
            others.append(_processor_s(doubles) - others_s)
        assert seen.challenger is not None
        assert seen.challenger.requests > 0, "the counters were read"
        tracemalloc.start()  # after the measured looks: it slows them
        await platform.observe()
        peak_mb = tracemalloc.get_traced_memory()[1] / 1e6
        tracemalloc.stop()
    return Looks(
        pods=pods,
        cpu_s=statistics.median(own),
        wall_s=statistics.median(walls),
        wall_s_max=max(walls),
        doubles_s=statistics.mean(others),
        peak_mb=peak_mb,
    )


def _processor_s(processes: list[psutil.Process]) -> float:
    return sum(sum(each.cpu_times()[:2]) for each in processes)


@contextmanager
def _started(command: list[str]) -> Iterator[tuple[int, str]]:
    """A process that says in its first line how it is reached."""
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        yield process.pid, process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.terminate()
        process.wait(30)
        process.stdout.close()


if __name__ == "__main__":
    sys.exit(main())
