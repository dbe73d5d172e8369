"""Fixtures for all tests: small real bundles, a real model server process, and a real browser."""

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.fixtures import browsers
from tests.fixtures import bundles as bundle_builders
from tests.fixtures.browsers import PageBrowser
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


@pytest.fixture(scope="session")
def browser() -> Iterator[PageBrowser]:
    """The system's Chromium; without one a test is skipped, or fails where `PACELINE_REQUIRE_BROWSER` is set."""
    executable = browsers.chromium()
    if executable is None:
        said = "no Chromium on this machine's PATH; on Debian: apt-get install chromium"
        pytest.fail(said) if browsers.is_required() else pytest.skip(said)
    opened = PageBrowser(executable)
    yield opened
    opened.end()
