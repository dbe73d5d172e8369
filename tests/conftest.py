"""Fixtures for all tests: small real bundles, and a real model server process."""

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.fixtures import bundles as bundle_builders
from tests.fixtures.model_servers import ModelServerProcess


@pytest.fixture(scope="session")
def bundles() -> ModuleType:
    """The module `tests/fixtures/bundles.py`: `tiny_bundle`, `tiny_record`, `TINY_SCHEMA`."""
    return bundle_builders


@pytest.fixture
def model_servers(tmp_path: Path) -> Iterator[Callable[..., ModelServerProcess]]:
    """Starts real model servers below the test's folder, and ends what is left of them after the test."""
    started: list[ModelServerProcess] = []

    def start(*, tls: ssl.SSLContext | None = None, **settings: str) -> ModelServerProcess:
        server = ModelServerProcess(tmp_path, tls=tls, **settings)
        started.append(server)
        server.wait_until_live()
        return server

    yield start
    for server in started:
        server.end()
