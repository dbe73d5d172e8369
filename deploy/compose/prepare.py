"""Makes what `compose.yaml` reads from `prepared/`: secrets, once, and the configurations that name its services.

`python deploy/compose/prepare.py [PROJECT]`. A secret that is there stays; delete its file (and the database that knows
it) for a new one. The folder is its owner's alone; in it, files may be read by whatever user a container has.
"""

import base64
import json
import os
import secrets
import sys
from pathlib import Path

import yaml

from pipelines.observability.local import Addresses, write
from pipelines.rollout.platforms.envoy.configuration import bootstrap
from pipelines.tasks.keys import create
from pipelines.wiring import REPOSITORY, find_project

FOLDER = Path(__file__).parent / "prepared"
STABLE, CHALLENGER = "stable:8500", "challenger:8500"
HOME = "/var/lib/paceline"
PASSWORDS = ("postgres_password", "airflow_password", "mlflow_password", "ledger_password", "grafana_password")
TOKENS = ("alert_token", "redis_airflow", "redis_serving", "control_token", "mask_key", "api_secret", "jwt_secret")


def main(project: str, folder: Path = FOLDER) -> None:
    """Writes everything for `project`. Raises LookupError where there is no such project."""
    find_project(project)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    known = Secrets(folder / "secrets")
    for name, text in environments(known).items():
        _write(folder / f"{name}.env", text, mode=0o600)
    group = {project: {"routes": _routes(project), **_urls()}}
    _write(folder / "servers" / "envoy.yaml", yaml.safe_dump(group))
    _write(folder / "servers" / "envoy.json", json.dumps(envoy(project), indent=1))
    write(REPOSITORY / "deploy" / "observability", folder / "observability", addresses(project))


class Secrets:
    """Values in files of one folder, made at need and kept."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for name in (*PASSWORDS, *TOKENS):
            self._keep(name, secrets.token_urlsafe(32))
        self._keep("fernet_key", base64.urlsafe_b64encode(os.urandom(32)).decode())
        self._keep("airflow_users", json.dumps({"admin": secrets.token_urlsafe(18)}))
        # Celery's worker talks to others by channels, and asks who is there; neither may configure or empty the server
        users = [f"user {name} on >{self[f'redis_{name}']} ~* &* +@all -@admin -@dangerous +info" for name in REDIS]
        self._keep("redis_users", "\n".join(["user default off", *users]) + "\n")
        if not (folder / "metrics_key").exists():
            (folder / "api_keys").unlink(missing_ok=True)
            self._keep("metrics_key", create(folder / "api_keys", "prometheus", scopes=["metrics"], days=0)["key"])
            (folder / "api_keys").chmod(0o644)

    def __getitem__(self, name: str) -> str:
        return (self._folder / name).read_text().strip()

    def _keep(self, name: str, value: str) -> None:
        if not (self._folder / name).exists():
            _write(self._folder / name, value)


REDIS = ("airflow", "serving")


def environments(known: Secrets) -> dict[str, str]:
    """The environment files by their names: secrets that a program reads from nowhere else."""
    airflow = f"airflow:{known['airflow_password']}@postgres:5432/airflow"
    pipelines = {
        "PACELINE_LEDGER_URL": f"postgresql://ledger:{known['ledger_password']}@postgres:5432/ledger",
        "PACELINE_CONTROL_TOKEN": known["control_token"],
        "PACELINE_METRICS_KEY": known["metrics_key"],
        "PACELINE_SERVING_MASK_KEY": known["mask_key"],
    }
    return {
        "airflow": _lines(
            {
                "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg2://{airflow}",
                "AIRFLOW__CELERY__BROKER_URL": f"redis://airflow:{known['redis_airflow']}@redis:6379/0",
                "AIRFLOW__CELERY__RESULT_BACKEND": f"db+postgresql://{airflow}",
                "AIRFLOW__CORE__FERNET_KEY": known["fernet_key"],
                "AIRFLOW__API__SECRET_KEY": known["api_secret"],
                "AIRFLOW__API_AUTH__JWT_SECRET": known["jwt_secret"],
            }
        ),
        "pipelines": _lines(pipelines),
        "serving": _lines(
            {
                "PACELINE_SERVING_CONTROL_TOKEN": known["control_token"],
                "PACELINE_SERVING_MASK_KEY": known["mask_key"],
                "PACELINE_SERVING_REDIS_URL": f"redis://serving:{known['redis_serving']}@redis:6379/1",
            }
        ),
        "mlflow": _lines(
            {"MLFLOW_BACKEND_STORE_URI": f"postgresql://mlflow:{known['mlflow_password']}@postgres:5432/mlflow"}
        ),
    }


def envoy(project: str) -> dict[str, object]:
    """What Envoy is started with."""
    urls = _urls()
    ports = {"port": 8500, "admin_port": 9901}
    return bootstrap(_routes(project), tuple(urls["stable"]), tuple(urls["challenger"]), host="0.0.0.0", **ports)


def addresses(project: str) -> Addresses:
    """Where Prometheus and Alertmanager find the others."""
    return Addresses(
        servers={project: STABLE},
        challengers={project: CHALLENGER},
        pipelines="paceline-metrics:9109",
        prometheus="prometheus:9090",
        alertmanager="alertmanager:9093",
        airflow="airflow-api-server:8080",
        secret=Path("/run/secrets/alert_token"),
        metrics_key=Path("/run/secrets/metrics_key"),
    )


def _routes(project: str) -> str:
    return f"{HOME}/routes/{project}.json"


def _urls() -> dict[str, list[str]]:
    return {"stable": [f"http://{STABLE}"], "challenger": [f"http://{CHALLENGER}"]}


def _lines(values: dict[str, str]) -> str:
    return "".join(f"{name}={value}\n" for name, value in values.items())


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(mode=0o755, exist_ok=True)
    path.touch(mode=mode)
    path.write_text(text)


if __name__ == "__main__":
    main(*(sys.argv[1:] or [os.environ.get("PACELINE_PROJECT") or "flight_delay"]))
