"""Prometheus, Alertmanager and the pipelines' endpoint beside the demo, on loopback, for who has the programs."""

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from pipelines.demo.airflow_stack import alert_secret
from pipelines.demo.supervisor import Program
from pipelines.observability.local import Addresses, write
from pipelines.wiring import REPOSITORY, home

_PROMETHEUS, _ALERTMANAGER = ("prometheus",), ("prometheus-alertmanager", "alertmanager")
_HOW = "on Debian: apt-get install prometheus prometheus-alertmanager; elsewhere https://prometheus.io/download"


class MissingProgramError(RuntimeError):
    """Prometheus or Alertmanager is not on this machine; everything else works without them."""


@dataclass(frozen=True)
class ObservabilityPorts:
    prometheus: int = 9090
    alertmanager: int = 9093
    metrics: int = 9109


def programs(
    project: str, server_port: int, airflow_port: int, ports: ObservabilityPorts, quickened_by: float
) -> Iterator[Program]:
    """The three programs in the order in which to start them; their configurations are written below home.

    Raises:
        MissingProgramError: one of the two is not installed.
    """
    prometheus, alertmanager = _found("Prometheus", _PROMETHEUS), _found("Alertmanager", _ALERTMANAGER)
    folder = home().root / "observability"
    addresses = Addresses(
        servers={project: f"127.0.0.1:{server_port}"},
        pipelines=f"127.0.0.1:{ports.metrics}",
        prometheus=f"127.0.0.1:{ports.prometheus}",
        alertmanager=f"127.0.0.1:{ports.alertmanager}",
        airflow=f"127.0.0.1:{airflow_port}",
        secret=alert_secret(home().root / "airflow"),
    )
    source = REPOSITORY / "deploy" / "observability"
    prometheus_file, alertmanager_file = write(source, folder, addresses, quickened_by)
    metrics = [sys.executable, "-m", "pipelines", "metrics", "--port", str(ports.metrics)]
    yield Program("metrics", metrics, ready_url=f"http://{addresses.pipelines}/metrics", ready_s=60)
    yield Program(
        "alertmanager",
        [
            alertmanager,
            f"--config.file={alertmanager_file}",
            f"--storage.path={folder / 'alertmanager'}",
            f"--web.listen-address={addresses.alertmanager}",
            "--cluster.listen-address=",  # no peers: nothing listens beside loopback
        ],
        ready_url=f"http://{addresses.alertmanager}/-/ready",
    )
    yield Program(
        "prometheus",
        [
            prometheus,
            f"--config.file={prometheus_file}",
            f"--storage.tsdb.path={folder / 'prometheus'}",
            f"--web.listen-address={addresses.prometheus}",
        ],
        ready_url=f"http://{addresses.prometheus}/-/ready",
    )


def _found(title: str, names: tuple[str, ...]) -> str:
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        raise MissingProgramError(f"{title} is not on this machine's PATH ({' or '.join(names)}): {_HOW}")
    return found
