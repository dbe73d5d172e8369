"""Nothing is told to the vendor of ONNX Runtime."""

import os
import subprocess
import sys

import pytest

_SAYS = "import os, {module}; print(os.environ['ORT_DISABLE_TELEMETRY'])"


@pytest.mark.parametrize("module", ["serving", "pipelines"])
@pytest.mark.parametrize(("own", "expected"), [(None, "1"), ("0", "0")])
def test_onnx_runtime_sends_no_usage_data_unless_somebody_wants_it(module: str, own: str | None, expected: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    if own is not None:
        environment["ORT_DISABLE_TELEMETRY"] = own
    found = subprocess.run(
        [sys.executable, "-c", _SAYS.format(module=module)], env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == expected


def test_the_variable_is_the_one_that_the_locked_runtime_reads() -> None:
    from pathlib import Path

    import onnxruntime

    (library,) = (Path(onnxruntime.__file__).parent / "capi").glob("onnxruntime_pybind11_state*")
    assert b"ORT_DISABLE_TELEMETRY" in library.read_bytes()
