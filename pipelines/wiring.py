"""The one place where real adapters are chosen: folders, ledger, registry and platform, from the environment.

| variable | meaning | default |
| --- | --- | --- |
| `PACELINE_HOME` | where everything that a run writes lies | `var/` in the repository |
| `PACELINE_PROJECTS` | the folder of the project definitions | `projects/` in the repository |
| `PACELINE_EXPECTATIONS` | the Great Expectations context | `great_expectations/` in the repository |
| `PACELINE_LEDGER_URL` | the ledger's database: SQLite, or `postgresql://user@host/name` | SQLite in `PACELINE_HOME` |
| `PACELINE_MLFLOW_URI` | the registry | SQLite in `PACELINE_HOME` |
| `PACELINE_SERVER_URL` | the model server's control routes | `http://127.0.0.1:<the project's port>` |
| `PACELINE_SERVER_URL_<PROJECT>` | the same of one project, its name in capitals | `PACELINE_SERVER_URL` |
| `PACELINE_PLATFORM` | `local`, `kubernetes` or `kserve` (docs/kubernetes.md), `envoy` (docs/envoy.md) | `local` |
| `PACELINE_NAMESPACE` | the namespace of the servers on Kubernetes | the pod's own, or `default` |
| `PACELINE_PROMETHEUS_URL` | which Prometheus knows the servers' counters | none: the servers are asked |
| `PACELINE_METRICS_KEY` | an API key of the scope `metrics`, where servers apart have keys | none |
| `PACELINE_ENVOY` | the file that says which servers are behind Envoy (docs/envoy.md) | none |
| `PACELINE_BUNDLES_AT` | the folder in which the pods have the bundles | where they are here |
| `PACELINE_CONTROL_TOKEN` | the bearer token that they ask for, if any | none |
| `PACELINE_METRICS_KEY` | the key with the scope `metrics` that the servers' /metrics asks for, if any | none |
| `PACELINE_COMMIT` | the commit of the code, where it runs outside of its git clone (an image) | git's answer |
| `PACELINE_REPOSITORY` | the git clone that a reproduction takes the commit of a version from | the code's own |
| `PACELINE_SCHEDULES` | `off`: no workflow starts by itself, and no watch is ever late | on |
| `PACELINE_LOG_KEEP_DAYS` | for how many days the prediction log keeps every row; at least 30 | 30 |
| `PACELINE_PRICE_PER_GB_MONTH` | for the cost of the log, in the currency of your choice | none: no cost is shown |
| `PACELINE_SERVING_MASK_KEY` | the key of the log's masks, where the model server was given one | the server's own |
| `PACELINE_WATTS_PER_CORE` | for the energy of training, where the processor does not count it | 9 |
| `PACELINE_PRICE_PER_CPU_HOUR` | for the cost of training, in the currency of your choice | none: no cost is shown |
"""

import logging
import os
import platform
import socket
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from contracts.hashing import file_id

if TYPE_CHECKING:
    from contracts.masking import Mask
    from pipelines.ledger import Ledger
    from pipelines.projects import Project
    from pipelines.registry.port import Registry, Versions
    from pipelines.rollout.plan import Plan
    from pipelines.rollout.platforms.envoy.group import Group
    from pipelines.rollout.platforms.local import LocalPlatform
    from pipelines.rollout.platforms.separate.platform import SeparateServers
    from pipelines.rollout.platforms.turns import Turn

logger = logging.getLogger("paceline")
REPOSITORY = Path(__file__).resolve().parents[1]
LOCK = REPOSITORY / "requirements.txt"
MADE_OF = ("contracts", "pipelines", "projects", LOCK.name)  # what the bytes of a bundle depend on, below a clone
DIRTY = "-dirty"
PLATFORMS = ("local", "kubernetes", "envoy", "kserve")
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@dataclass(frozen=True)
class Home:
    """The folders below `PACELINE_HOME`."""

    root: Path

    @property
    def snapshots(self) -> Path:
        return self.root / "snapshots"

    @property
    def bundles(self) -> Path:
        return self.root / "bundles"

    @property
    def artifacts(self) -> Path:
        """Content-addressed files that tasks hand to each other."""
        return self.root / "artifacts"

    @property
    def searches(self) -> Path:
        """What searches for parameters have tried so far, one file each."""
        return self.root / "searches"

    @property
    def cache(self) -> Path:
        """What can be computed again."""
        return self.root / "cache"

    @property
    def archive(self) -> Path:
        """Snapshots and bundles that are not at hand any more, compressed."""
        return self.root / "archive"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def has_been_used(self) -> bool:
        """Whether anything was ingested, trained or served."""
        made = ("warehouse", "snapshots", "artifacts", "bundles", "archive", "predictions")
        return any((self.root / folder).exists() for folder in made)

    def warehouse(self, project: str) -> Path:
        return self.root / "warehouse" / project

    def predictions(self, project: str) -> Path:
        return self.root / "predictions" / project

    def outcomes(self, project: str) -> Path:
        """What was told of the predictions' outcomes."""
        return self.root / "outcomes" / project

    def reviews(self, project: str) -> Path:
        """Unusual predictions that wait for a person."""
        return self.root / "reviews" / project

    def reports(self, project: str) -> Path:
        return self.root / "reports" / project

    def scores(self, project: str) -> Path:
        """What the fast watch over scores remembers."""
        return self.root / "scores" / project

    def serving(self, project: str) -> Path:
        return self.root / "serving" / project


def home() -> Home:
    return Home(Path(os.environ.get("PACELINE_HOME") or REPOSITORY / "var").resolve())


def projects_folder() -> Path:
    return Path(os.environ.get("PACELINE_PROJECTS") or REPOSITORY / "projects").resolve()


def expectations_folder() -> Path:
    return Path(os.environ.get("PACELINE_EXPECTATIONS") or REPOSITORY / "great_expectations").resolve()


def all_projects() -> "dict[str, Project]":
    """The project definitions by name. Raises ProjectError for a wrong one."""
    from pipelines.projects import load_projects

    return load_projects(projects_folder())


def find_project(name: str) -> "Project":
    """Raises LookupError when there is no such project."""
    found = all_projects()
    if name not in found:
        raise LookupError(f"no project {name!r} in {projects_folder()}; there are: {', '.join(found) or 'none'}")
    return found[name]


def open_ledger(*, creates: bool = True) -> "Ledger":
    """The ledger; without `creates` only one that is there: for whoever reads, or goes on with what it has."""
    from pipelines.ledger import Ledger

    return Ledger.open(ledger_url(), creates=creates)


def read_ledger() -> "Ledger":
    """The ledger for whoever only reads: it is never made. Before anything has run an empty one, and the log says so.

    Raises:
        LedgerMissingError: it is gone: what runs have made is there, and it is not.
    """
    from pipelines.ledger import Ledger, LedgerMissingError

    try:
        return open_ledger(creates=False)
    except LedgerMissingError as missing:
        if home().has_been_used:
            raise
        _say_once(str(missing))
        return Ledger.empty()


@cache
def _say_once(text: str) -> None:
    logger.warning("%s", text)


def ledger_url() -> str:
    return os.environ.get("PACELINE_LEDGER_URL") or f"sqlite:///{home().root / 'ledger.db'}"


def outside_of_home() -> list[str]:
    """What is configured to lie elsewhere than below `PACELINE_HOME`, without passwords."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    found = []
    for name, url in (("ledger", ledger_url()), ("registry", registry_uri())):
        try:
            parsed = make_url(url)
        except ArgumentError:  # a folder, or a scheme that SQLAlchemy does not know
            found.append(f"{name}: {url}")
            continue
        file = Path(parsed.database or "")
        if parsed.get_backend_name() != "sqlite" or not file.resolve().is_relative_to(home().root):
            found.append(f"{name}: {parsed.render_as_string()}")
    return found


def registry_uri() -> str:
    uri = os.environ.get("PACELINE_MLFLOW_URI")
    if uri:
        return uri
    return f"sqlite:///{_registry_file()}"


def _registry_file() -> Path:
    return home().root / "mlflow" / "mlflow.db"


def open_registry() -> "Registry":
    from pipelines.registry.mlflow_registry import MlflowRegistry

    if registry_uri() == f"sqlite:///{_registry_file()}":
        _registry_file().parent.mkdir(parents=True, exist_ok=True)
    return MlflowRegistry(registry_uri(), artifact_root=home().root / "mlflow" / "artifacts")


def read_registry() -> "Versions":
    """The registry for whoever only reads: its file is never made."""
    from pipelines.registry.port import NoVersions

    if registry_uri() == f"sqlite:///{_registry_file()}" and not _registry_file().exists():
        return NoVersions()
    return open_registry()


def server_url(project: "Project") -> str:
    variables = (f"PACELINE_SERVER_URL_{project.name.upper()}", "PACELINE_SERVER_URL")
    named = next((url for variable in variables if (url := os.environ.get(variable))), None)
    return named or f"http://127.0.0.1:{project.serving_port}"


def open_server(project: "Project", rollout: str | None = None) -> "LocalPlatform":
    """The model server at the project's URL, by its control routes; of several challengers that of `rollout`."""
    from pipelines.rollout.platforms.local import LocalPlatform

    return LocalPlatform(server_url(project), token=os.environ.get("PACELINE_CONTROL_TOKEN"), rollout=rollout)


def platform_name() -> str:
    """Where the servers are. Raises ValueError where the setting is no platform."""
    found = os.environ.get("PACELINE_PLATFORM") or PLATFORMS[0]
    if found not in PLATFORMS:
        raise ValueError(f"PACELINE_PLATFORM is {found!r}, expected one of {', '.join(PLATFORMS)}")
    return found


def namespace() -> str:
    """The namespace of the servers on Kubernetes."""
    if named := os.environ.get("PACELINE_NAMESPACE"):
        return named
    try:
        return NAMESPACE_FILE.read_text().strip() or "default"
    except OSError:
        return "default"


def plan_of(project: "Project") -> "Plan":
    """The plan of the project's rollouts on the platform that is in use."""
    return project.plan_on(platform_name())


def open_platform(project: "Project", rollout: str | None = None) -> "LocalPlatform | SeparateServers":
    """The platform of the project's servers, by `PACELINE_PLATFORM`.

    Of several challengers that of `rollout` is observed, where the platform can have several.
    """
    return open_separate(project.name) if platform_name() != "local" else open_server(project, rollout)


def open_separate(project: str) -> "SeparateServers":
    """Champion and challenger of `project` as servers apart."""
    key = os.environ.get("PACELINE_METRICS_KEY") or None
    if platform_name() == "envoy":
        from pipelines.rollout.platforms.envoy.group import envoy_platform

        return envoy_platform(_envoy_group(project), os.environ.get("PACELINE_CONTROL_TOKEN"), metrics_key=key)
    from pipelines.rollout.platforms.kubernetes import kserve_platform, kubernetes_platform

    if platform_name() == "kserve":
        return kserve_platform(project, namespace(), metrics_key=key)
    return kubernetes_platform(
        project,
        namespace(),
        metrics_key=key,
        prometheus=os.environ.get("PACELINE_PROMETHEUS_URL") or None,
        bundles_at=os.environ.get("PACELINE_BUNDLES_AT") or None,
    )


def open_turn(project: "Project") -> "Turn":
    """Whose turn it is to judge a rollout of `project`."""
    from pipelines.rollout.platforms.turns import NoTurn

    if platform_name() == "local":
        return NoTurn()
    if platform_name() == "envoy":
        from pipelines.rollout.platforms.envoy.group import FileTurn

        return FileTurn(Path(_envoy_group(project.name).routes).with_suffix(".judge"))
    from pipelines.rollout.platforms.cluster.api import Cluster
    from pipelines.rollout.platforms.cluster.election import Election
    from pipelines.rollout.platforms.cluster.names import resource_name

    return Election(Cluster(namespace()), f"paceline-judge-{resource_name(project.name)}", process_name())


def _envoy_group(project: str) -> "Group":
    from pipelines.rollout.platforms.envoy.group import read_group

    if not (file := os.environ.get("PACELINE_ENVOY")):
        raise ValueError("PACELINE_ENVOY is not set: it names the file that says which servers are behind Envoy")
    return read_group(Path(file), project)


def process_name() -> str:
    """This process among all that could lead: a pod's name, or a host's, and a number."""
    return f"{socket.gethostname()}-{os.getpid()}"


def log_keep_days() -> int:
    """For how many days the prediction log keeps every row. Raises ValueError when the setting is no number."""
    found = os.environ.get("PACELINE_LOG_KEEP_DAYS") or "30"
    if not found.isascii() or not found.isdigit():
        raise ValueError(f"PACELINE_LOG_KEEP_DAYS is {found!r}, expected a number of days, at least 30")
    return int(found)


def schedules_are_on() -> bool:
    """Whether workflows start by themselves here; off where history is replayed: the calendar's date has no data."""
    return os.environ.get("PACELINE_SCHEDULES") != "off"


def find_mask(project: str) -> "Mask | None":
    """The mask of the project's model server, by the setting or by the key that it keeps; None while it has none."""
    from contracts.masking import MASK_KEY_FILE, Mask

    if key := os.environ.get("PACELINE_SERVING_MASK_KEY"):
        return Mask(key.encode())
    try:
        return Mask((home().serving(project) / MASK_KEY_FILE).read_bytes())
    except FileNotFoundError:
        return None


def clone() -> Path:
    """The git clone that has the commits of registered versions."""
    return Path(os.environ.get("PACELINE_REPOSITORY") or REPOSITORY).resolve()


@cache
def lock_id() -> str:
    """The content id of the dependency lock."""
    return file_id(LOCK)


@cache
def commit() -> str:
    """The commit that the code is at: `PACELINE_COMMIT`, or git's answer; "unknown" where the code is in no clone.

    With `-dirty` at its end where a file that a model is made of was changed, or never committed.
    """
    if named := os.environ.get("PACELINE_COMMIT"):
        return named
    found = git(REPOSITORY, "rev-parse", "--show-toplevel", "HEAD")
    # installed into an environment inside of somebody's clone, that commit says nothing about this code
    if found is None or Path(found.split("\n")[0]).resolve() != REPOSITORY:
        return "unknown"
    changed = git(REPOSITORY, "status", "--porcelain", "--", *MADE_OF)
    return found.split("\n")[1] + ("" if changed == "" else DIRTY)


def git(repository: Path, *arguments: str) -> str | None:
    """What git says about `repository`; None when it refuses, or is not there."""
    try:
        answered = subprocess.run(
            ["git", "-C", str(repository), *arguments], capture_output=True, text=True, check=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answered.stdout.strip()


@cache
def machine() -> str:
    """The kind of processor: numeric libraries choose their kernels, hence the last bits of sums, by it."""
    try:
        told = Path("/proc/cpuinfo").read_text()
    except OSError:
        told = ""
    values = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in told.splitlines())}
    flags = values.get("flags", "").split()
    vectors = next((level for level in ("avx512f", "avx2", "avx") if level in flags), "")
    parts = (platform.machine(), values.get("model name") or platform.processor(), vectors)
    return ", ".join(part for part in parts if part)
