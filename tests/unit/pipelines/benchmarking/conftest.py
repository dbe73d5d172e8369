from collections.abc import Iterator

import pytest

from tests.fixtures.tiny_http_servers import TinyServer, tiny_server


@pytest.fixture
def server() -> Iterator[TinyServer]:
    with tiny_server() as started:
        yield started
