"""The images of the working tree, built once for all tests of this folder, and the bundles that they serve."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from contracts.bundle import Bundle
from tests.fixtures import containers as engine
from tests.fixtures.containers import Containers


@dataclass(frozen=True)
class Built:
    """One image: its name with the exact tag, and what docker/build.py knew of its source."""

    name: str
    source: Any


@pytest.fixture(scope="session")
def containers() -> Iterator[Containers]:
    with engine.opened() as opened:
        yield opened


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return engine.copied_tree(tmp_path_factory.mktemp("tree") / "paceline")


@pytest.fixture(scope="session")
def bundle(tree: Path, bundles: ModuleType) -> Bundle:
    """Lies where builders see it."""
    found: Bundle = bundles.tiny_bundle(tree / "var" / "bundles")
    return found


def _built(
    containers: Containers, tree: Path, *arguments: str, bundle: Path | None = None, may_lack: bool = False
) -> Iterator[Built]:
    source = engine.source_of(tree, bundle)
    containers.build(tree, *arguments, may_lack=may_lack)
    names = [f"localhost/paceline-{arguments[0]}:{tag}" for tag in source.tags]
    assert all(containers.has(name) for name in names)
    yield Built(names[-1], source)
    containers.call("podman", "rmi", "--force", *names)


@pytest.fixture(scope="session")
def serving(containers: Containers, tree: Path) -> Iterator[Built]:
    """The model server's image; bundles are mounted."""
    yield from _built(containers, tree, "serving")


@pytest.fixture(scope="session")
def bundled(containers: Containers, tree: Path, bundle: Bundle, serving: Built) -> Iterator[Built]:
    """The same with a bundle inside."""
    del serving  # its layers are these ones' as well
    yield from _built(containers, tree, "serving", "--bundle", str(bundle.path), bundle=bundle.path)


@pytest.fixture(scope="session")
def others(containers: Containers, tree: Path, request: pytest.FixtureRequest) -> Iterator[Built]:
    """The image that the test names."""
    yield from _built(containers, tree, request.param, may_lack=True)
