"""The API double in a process of its own: `python -m benchmarks.kubernetes.cluster FOLDER` until its input ends."""

import sys
from pathlib import Path

from tests.fixtures.running_cluster import RunningCluster

PROJECT = "flight_delay"
CHAMPION = {"version": "1", "bundle": "b1", "path": "/bundles/b1"}


def main() -> None:
    """Prints where the kubeconfig is, once the API answers."""
    with RunningCluster(Path(sys.argv[1]), PROJECT, CHAMPION) as cluster:
        print(cluster.kubeconfig, flush=True)  # noqa: T201  who started this waits for it
        sys.stdin.read()


if __name__ == "__main__":
    main()
