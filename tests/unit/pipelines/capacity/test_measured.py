import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.capacity.measured import MeasuredServer, read_measured, written
from tests.fixtures.capacity import measured_server, ramp_step


def test_a_measurement_comes_back_from_its_file(measured: MeasuredServer, tmp_path: Path) -> None:
    file = tmp_path / "measured.json"
    file.write_text(written(measured))
    assert read_measured(file) == measured


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"saturation_per_s": 0}, "saturation_per_s: found 0"),
        ({"resident_mb": -1}, "resident_mb: found -1"),
        ({"p50_ms": 15}, "p50_ms: found 15, expected at most p99_ms, 12"),
        ({"p99_ms": 25}, "p99_ms: found 25 at saturation_per_s, expected at most objective_ms, 20"),
        ({"start_s": 1e6}, "start_s: found 1e\\+06, expected 0 to 3600"),
        ({"format": 9}, "format: found 9"),
        ({"cores": 2}, "unknown field `cores`"),
        ({"saturation_per_s": "many"}, "saturation_per_s"),
    ],
)
def test_a_file_that_no_server_can_have_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    file = tmp_path / "measured.json"
    file.write_text(json.dumps(json.loads(written(measured_server())) | changes))
    with pytest.raises(ValueError, match=message) as caught:
        read_measured(file)
    assert str(file) in str(caught.value)


def test_the_queue_is_read_between_the_steps_that_met_the_objective(measured: MeasuredServer) -> None:
    assert measured.queue_rows_at(500) == 0.2
    assert measured.queue_rows_at(750) == pytest.approx(1.1)
    assert measured.queue_rows_at(1500) is None
    assert measured_server(steps=(ramp_step(1000),)).queue_rows_at(650) is None
