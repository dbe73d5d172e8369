"""The libraries that a model is made and checked with are those that it will be served with.

One lock pins both sides: training runs with what is installed, the model server installs from the lock. Where the two
differ, parity was proven for a runtime that will not serve; so a difference stops the training, by name.
"""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

# What the graph's numbers depend on; ONNX Runtime comes in several distributions, and has one version in all.
FRAMEWORKS: Mapping[str, tuple[str, ...]] = {
    "numpy": ("numpy",),
    "scipy": ("scipy",),
    "scikit-learn": ("scikit-learn",),
    "torch": ("torch",),
    "onnx": ("onnx",),
    "protobuf": ("protobuf",),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
}


class FrameworkMismatchError(RuntimeError):
    """What is installed here is not what the lock says, hence not what serves."""


class Mismatch(NamedTuple):
    """A library that is installed in another version than it is locked; None where it is absent."""

    library: str
    installed: str | None
    locked: str | None

    def __str__(self) -> str:
        return f"{self.library}: installed {self.installed or 'not at all'}, locked {self.locked or 'not at all'}"


def mismatches(installed: Mapping[str, str], locked: Mapping[str, str]) -> tuple[Mismatch, ...]:
    """The libraries that differ, by name. A build's own suffix (`2.13.0+cu130`) is no difference."""
    names = sorted(installed.keys() | locked.keys())
    return tuple(
        Mismatch(name, installed.get(name), locked.get(name))
        for name in names
        if _public(installed.get(name)) != _public(locked.get(name))
    )


def refuse_mismatches(lock: Path) -> None:
    """Compares the frameworks that are installed with those that `lock` pins.

    Raises:
        FrameworkMismatchError: they differ; the message names each, both versions, and how to mend it.
    """
    found = mismatches(installed_frameworks(), locked_frameworks(lock.read_text()))
    if found:
        raise FrameworkMismatchError(
            f"training would check its graph with other libraries than those that serve it. "
            f"{'; '.join(map(str, found))}. Install the lock (pip install -r {lock}), or, if what is installed is "
            "meant, pin it there: the model server installs from it"
        )


def installed_frameworks() -> dict[str, str]:
    """The version of each framework in this process; two distributions of one library with two versions show both."""
    found: dict[str, str] = {}
    for library, distributions in FRAMEWORKS.items():
        versions = sorted({text for text in map(_version, distributions) if text is not None})
        if versions:
            found[library] = " and ".join(versions)
    return found


def locked_frameworks(lock: str) -> dict[str, str]:
    """The version of each framework that a lock (the text of a requirements file) pins on this platform.

    Raises:
        FrameworkMismatchError: a framework is named without one exact version.
    """
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name

    library_of = {name: library for library, names in FRAMEWORKS.items() for name in names}
    found: dict[str, str] = {}
    for line in lock.splitlines():
        text = line.partition("#")[0].strip()
        if not text or text.startswith("-"):
            continue
        try:
            requirement = Requirement(text)
        except InvalidRequirement as error:
            raise FrameworkMismatchError(f"the lock has the line {text!r}, which is no requirement: {error}") from error
        library = library_of.get(canonicalize_name(requirement.name))
        if library is None or (requirement.marker is not None and not requirement.marker.evaluate()):
            continue
        pins = [pin.version for pin in requirement.specifier if pin.operator == "=="]
        if len(pins) != 1 or "*" in pins[0]:
            raise FrameworkMismatchError(f"the lock has {text!r}, expected {library}==<one version>")
        found[library] = pins[0]
    return found


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _public(text: str | None) -> str | None:
    return None if text is None else text.partition("+")[0]
