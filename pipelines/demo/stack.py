"""The demo's processes: Airflow, the registry and the model server, on loopback, writing below home only."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from pipelines.demo import airflow_stack
from pipelines.demo.airflow_api import AirflowApi
from pipelines.demo.supervisor import ProcessFailedError, Program, Supervisor, check_ports
from pipelines.tasks.serving import server_environment
from pipelines.wiring import Home, all_projects, home, open_ledger

WORKFLOWS = ("ingest", "retrain", "release", "watch", "rollback")
AIRFLOW_PROGRAMS = ("airflow-triggerer", "airflow-scheduler", "airflow-dag-processor", "airflow-api-server")


@dataclass(frozen=True)
class Ports:
    airflow: int = 8080
    mlflow: int = 5000
    server: int = 8500


@dataclass
class Stack:
    """Everything that runs, and how to reach it."""

    project: str
    ports: Ports
    home: Home
    supervisor: Supervisor
    airflow: AirflowApi
    environment: dict[str, str]

    @property
    def airflow_url(self) -> str:
        return f"http://127.0.0.1:{self.ports.airflow}"

    @property
    def mlflow_url(self) -> str:
        return f"http://127.0.0.1:{self.ports.mlflow}"

    @property
    def server_url(self) -> str:
        return f"http://127.0.0.1:{self.ports.server}"

    def start_airflow(self) -> None:
        """Starts the four components, and returns when the API answers and knows the project's DAGs."""
        for program in airflow_stack.programs(self.environment):
            self.supervisor.start(program)
        self.supervisor.wait_ready("airflow-api-server")
        self._wait_for_dags()

    def _wait_for_dags(self) -> None:
        wanted = {f"{self.project}.{workflow}" for workflow in WORKFLOWS}
        deadline = time.monotonic() + 120
        while not wanted <= self.airflow.dags().keys():
            self.supervisor.check()
            if time.monotonic() > deadline:
                problems = self.airflow.import_errors() or ["see the log of airflow-dag-processor"]
                raise TimeoutError(f"Airflow does not know {wanted - self.airflow.dags().keys()}: {problems}")
            time.sleep(0.3)


def start(project: str, ports: Ports, supervisor: Supervisor) -> Stack:
    """Starts the whole system for `project`, and returns when all of it answers.

    Raises:
        BusyPortError: something else listens on one of the ports.
        ProcessFailedError: a process ended, or was not ready in time.
    """
    check_ports({"airflow": ports.airflow, "mlflow": ports.mlflow, "server": ports.server})
    place = home()
    environment = {
        "PACELINE_HOME": str(place.root),
        "PACELINE_MLFLOW_URI": f"http://127.0.0.1:{ports.mlflow}",
        f"PACELINE_SERVER_URL_{project.upper()}": f"http://127.0.0.1:{ports.server}",
        **airflow_stack.environment(place.root / "airflow", ports.airflow),
    }
    os.environ.update(environment)  # what this process does itself reaches the same registry and server
    open_ledger()  # creates it, before several processes want to
    api = AirflowApi(f"http://127.0.0.1:{ports.airflow}", airflow_stack.USER, airflow_stack.PASSWORD)
    stack = Stack(project, ports, place, supervisor, api, environment)
    supervisor.start(_mlflow(place, ports.mlflow))
    supervisor.start(_model_server(project, ports.server))
    _prepare_airflow(environment, place.logs / "airflow-prepare.log")
    stack.start_airflow()
    supervisor.wait_ready("mlflow")
    supervisor.wait_ready("model-server")
    return stack


def _mlflow(place: Home, port: int) -> Program:
    folder = place.root / "mlflow"
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    # plain paths, not the server's proxy: the command line reads the same registry when the server does not run
    command += ["--no-serve-artifacts", "--default-artifact-root", str(folder / "artifacts")]
    settings = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    return Program("mlflow", command, settings, ready_url=f"http://127.0.0.1:{port}/health", ready_s=120)


def _model_server(project: str, port: int) -> Program:
    settings = server_environment(project, port=port, allow_faults=True)
    command = [sys.executable, "-m", "serving"]
    return Program("model-server", command, settings, ready_url=f"http://127.0.0.1:{port}/livez", ready_s=60)


def _prepare_airflow(environment: dict[str, str], log: Path) -> None:
    commands = [airflow_stack.migrate_command()]
    commands += [
        airflow_stack.pool_command(f"{name}.retrain", 2, f"keeps two retrains of {name} apart")
        for name in all_projects()
    ]
    with log.open("wb") as output:
        for command in commands:
            code = subprocess.run(
                command, env={**os.environ, **environment}, stdout=output, stderr=subprocess.STDOUT, timeout=300
            ).returncode
            if code != 0:
                raise ProcessFailedError(f"{' '.join(command[2:])} ended with code {code}: see {log}")
