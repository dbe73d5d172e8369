import pytest

from pipelines.capacity import MeasuredServer
from tests.fixtures.capacity import measured_server


@pytest.fixture
def measured() -> MeasuredServer:
    return measured_server()
