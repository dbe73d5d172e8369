"""How the model server of a project is started."""

import os

from pipelines.tasks.signing import refuse_missing_trust
from pipelines.wiring import find_project, home


def server_environment(
    project: str, host: str = "127.0.0.1", port: int | None = None, *, allow_faults: bool = False
) -> dict[str, str]:
    """The environment for `python -m serving`, which knows no project configuration and no registry.

    Raises:
        SigningKeyError: the project asks for signed bundles, and nothing says whose signature counts.
    """
    refuse_missing_trust(project)
    found = find_project(project)
    environment = {
        "PACELINE_SERVING_PROJECT": project,
        "PACELINE_SERVING_HOST": host,
        "PACELINE_SERVING_PORT": str(port or found.serving_port),
        "PACELINE_SERVING_STATE": str(home().serving(project)),
        "PACELINE_SERVING_PREDICTIONS": str(home().predictions(project)),
        "PACELINE_SERVING_ALLOW_FAULTS": "1" if allow_faults else "0",
    }
    if token := os.environ.get("PACELINE_CONTROL_TOKEN"):
        environment["PACELINE_SERVING_CONTROL_TOKEN"] = token
    return environment
