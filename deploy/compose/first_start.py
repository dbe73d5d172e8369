"""Before anything else starts: folders, databases and pools, each made where it is not there yet.

Runs in the image of the pipelines, as its user; what it makes belongs to it.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from pipelines.rollout.platforms.envoy.group import read_group
from pipelines.rollout.platforms.envoy.routes_file import RoutesFile
from pipelines.wiring import REPOSITORY, all_projects, expectations_folder, find_project, home, open_ledger

SERVERS = Path("/etc/paceline/servers/envoy.yaml")
KEYS = Path("/run/secrets/api_keys")


def main(project: str) -> None:
    """Makes what `project` and Airflow need; safe to repeat."""
    folders(project)
    expectations()
    open_ledger()
    _airflow("db", "migrate")
    for name in all_projects():
        _airflow("pools", "set", f"{name}.retrain", "2", f"keeps two retrains of {name} apart")


def folders(project: str, servers: Path = SERVERS, keys: Path = KEYS) -> None:
    """What the model servers and Envoy find in their parts of the volume."""
    found, place = find_project(project), home()
    for folder in ("access", "servers/stable", "servers/challenger", "routes", "airflow/logs", "mlflow/artifacts"):
        (place.root / folder).mkdir(parents=True, exist_ok=True)
    for folder in (place.bundles, place.predictions(found.name)):
        folder.mkdir(parents=True, exist_ok=True)
    group = read_group(servers, found.name)
    RoutesFile(Path(group.routes), entity_header=group.entity_header).begin()  # Envoy waits for one
    known = place.root / "access" / "keys.json"
    if not known.exists():
        shutil.copyfile(keys, known)
        known.chmod(0o600)


def expectations() -> None:
    """The context of Great Expectations, which validations write to, as the image has it."""
    if not expectations_folder().exists():
        shutil.copytree(REPOSITORY / "great_expectations", expectations_folder())


def _airflow(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "airflow", *arguments], check=True)


if __name__ == "__main__":
    main(sys.argv[1])
