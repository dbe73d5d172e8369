"""Airflow's four components on loopback with SQLite and the LocalExecutor, without `airflow standalone`.

`standalone` serves task logs on all interfaces and leaves its children running on SIGTERM; started one by one with
`--skip-serve-logs`, the components listen on loopback only and end when they are told to.
"""

import json
import os
import secrets
import sys
from collections.abc import Iterable
from pathlib import Path

from pipelines.demo.supervisor import Program
from pipelines.wiring import REPOSITORY

USER = PASSWORD = "admin"  # the development log-in of a server that only this machine reaches
_AIRFLOW = (sys.executable, "-m", "airflow")


def environment(folder: Path, port: int) -> dict[str, str]:
    """The settings of every Airflow process; writes the log-in and the signing secret below `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    passwords = folder / "passwords.json"
    passwords.write_text(json.dumps({USER: PASSWORD}))
    url = f"http://127.0.0.1:{port}"
    return {
        "AIRFLOW_HOME": str(folder),
        "AIRFLOW__CORE__DAGS_FOLDER": str(REPOSITORY / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPOSITORY / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__CORE__FERNET_KEY": "",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{folder / 'airflow.db'}",
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API__SECRET_KEY": _secret(folder / "api.secret"),
        "AIRFLOW__API_AUTH__JWT_SECRET": _secret(folder / "jwt.secret"),
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
        # how late a task's supervisor may notice that it was deferred: an answer of a person that resumes the task
        # before that takes it for one that has failed, and asks again
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "60",
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "60",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(folder / "logs"),
        "PACELINE_SCHEDULES": "off",
        "PACELINE_ALERT_TOKEN_FILE": str(alert_secret(folder)),
        # forked task processes of numerical libraries: one thread each, two trials side by side
        "OMP_NUM_THREADS": "1",
    }


def alert_secret(folder: Path) -> Path:
    """The file with the secret that Alertmanager shows to the webhook, made at need."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "alert.secret"
    _secret(path)
    return path


def _secret(path: Path) -> str:
    if not path.exists():
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(32))
    return path.read_text()


def migrate_command() -> list[str]:
    return [*_AIRFLOW, "db", "migrate"]


def pool_command(name: str, slots: int, description: str) -> list[str]:
    return [*_AIRFLOW, "pools", "set", name, str(slots), description]


def programs(settings: dict[str, str]) -> Iterable[Program]:
    """The four components, in the order in which to start them."""
    port, base = settings["AIRFLOW__API__PORT"], settings["AIRFLOW__API__BASE_URL"]
    api = [*_AIRFLOW, "api-server", "--host", "127.0.0.1", "--port", port, "--workers", "1"]
    yield Program("airflow-api-server", api, settings, ready_url=f"{base}/api/v2/monitor/health", ready_s=180)
    yield Program("airflow-dag-processor", [*_AIRFLOW, "dag-processor"], settings)
    yield Program("airflow-scheduler", [*_AIRFLOW, "scheduler", "--skip-serve-logs"], settings)
    yield Program("airflow-triggerer", [*_AIRFLOW, "triggerer", "--skip-serve-logs"], settings)
