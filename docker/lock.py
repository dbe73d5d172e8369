"""Writes the locks of the images: the part of `requirements.txt` that each image needs, and nothing else.

`python docker/lock.py` writes them, with `--check` it only says which are out of date. What an image asks for is in
`pyproject.toml`: the extra `serving`, and the project's own dependencies for `pipelines`. What those bring is read from
the installed distributions; every version is that of the one lock. The CPU's ONNX Runtime has another name and the same
version. Two lists beside this file have pins that no laptop needs: the libraries of a GPU, and what Airflow has on a
cluster.
"""

import sys
import tomllib
from collections.abc import Iterable, Mapping
from importlib.metadata import requires
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
FOLDER = Path(__file__).parent
LOCK = ROOT / "requirements.txt"
GPU_LIBRARIES, CLUSTER_LIBRARIES = FOLDER / "gpu-libraries.txt", FOLDER / "cluster-libraries.txt"
OF_THE_BASE = frozenset({"pip", "setuptools"})  # come with the image's Python
CPU_RUNTIME, GPU_RUNTIME = "onnxruntime", "onnxruntime-gpu"
# images run on Linux and x86-64, wherever their locks are written
_PLATFORM = {"sys_platform": "linux", "platform_machine": "x86_64", "platform_system": "Linux", "os_name": "posix"}


class LockError(ValueError):
    """A lock cannot be derived: which distribution, and what to do."""


def main(arguments: list[str]) -> int:
    """Writes the locks, or compares them; returns the exit status."""
    stale = []
    for path, text in locks().items():
        if not path.exists() or path.read_text() != text:
            stale.append(path.relative_to(ROOT))
            if "--check" not in arguments:
                path.write_text(text)
    for path in stale:
        print(f"{path} {'is out of date: python docker/lock.py' if '--check' in arguments else 'written'}")  # noqa: T201
    return 1 if stale and "--check" in arguments else 0


def locks() -> dict[Path, str]:
    """The text of each image's lock, by its path.

    Raises:
        LockError: something that an image needs is not pinned, or not installed here.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = pinned(LOCK.read_text())
    serving = closure(project["optional-dependencies"]["serving"], pins)
    pipelines = closure(project["dependencies"], pins)
    return {
        FOLDER / "requirements-serving.txt": _written("the model server on a CPU", _with_runtime(serving, CPU_RUNTIME)),
        FOLDER / "requirements-serving-gpu.txt": _written(
            "the model server on a GPU", _together(_with_runtime(serving, GPU_RUNTIME), GPU_LIBRARIES)
        ),
        FOLDER / "requirements-pipelines.txt": _written(
            "pipelines and Airflow", _together(pipelines, CLUSTER_LIBRARIES)
        ),
    }


def pinned(lock: str) -> dict[str, str]:
    """The version of each distribution that `lock`, the text of a requirements file, pins for the images' platform."""
    found = {}
    for line in lock.splitlines():
        text = line.partition("#")[0].strip()
        if not text:
            continue
        requirement = Requirement(text)
        if _applies(requirement, ()):
            (pin,) = requirement.specifier
            found[canonicalize_name(requirement.name)] = pin.version
    return found


def closure(asked: Iterable[str], pins: Mapping[str, str]) -> dict[str, str]:
    """The pins of what is asked for and of all that it brings.

    Raises:
        LockError: one of them is not pinned, or not installed here, so that nobody can say what it brings.
    """
    found: dict[str, str] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [(Requirement(text), "pyproject.toml") for text in asked]
    while waiting:
        requirement, by = waiting.pop()
        name = canonicalize_name(requirement.name)
        extras = frozenset(requirement.extras)
        if name in OF_THE_BASE or (name, extras) in seen or not _applies(requirement, ()):
            continue
        seen.add((name, extras))
        if name not in pins:
            raise LockError(f"{by} needs {name}, which requirements.txt does not pin: add it there")
        found[name] = pins[name]
        try:
            brought = [Requirement(text) for text in requires(name) or ()]
        except ModuleNotFoundError as error:
            raise LockError(f"{name} is not installed, so what it brings is not known: install the lock") from error
        waiting += [(more, name) for more in brought if _applies(more, extras)]
    return found


def _applies(requirement: Requirement, extras: Iterable[str]) -> bool:
    if requirement.marker is None:
        return True
    environment = {**default_environment(), **_PLATFORM}
    return any(requirement.marker.evaluate({**environment, "extra": extra}) for extra in (*extras, ""))


def _with_runtime(pins: Mapping[str, str], runtime: str) -> dict[str, str]:
    versions = {pins[name] for name in (CPU_RUNTIME, GPU_RUNTIME) if name in pins}
    (version,) = versions
    others = {name: pin for name, pin in pins.items() if name not in (CPU_RUNTIME, GPU_RUNTIME)}
    return {**others, runtime: version}


def _together(pins: Mapping[str, str], path: Path) -> dict[str, str]:
    """`pins` and those of a list beside this file; LockError where they disagree."""
    more = pinned(path.read_text())
    for name in sorted(pins.keys() & more.keys()):
        if pins[name] != more[name]:
            raise LockError(f"{path.name} has {name}=={more[name]}, requirements.txt has {pins[name]}: make them one")
    return {**pins, **more}


def _written(purpose: str, pins: Mapping[str, str]) -> str:
    lines = [f"# What {purpose} installs; written by docker/lock.py from requirements.txt"]
    return "\n".join([*lines, *(f"{name}=={pins[name]}" for name in sorted(pins))]) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
