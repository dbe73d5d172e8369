"""The locks of the images come from the one lock, and name what the code imports."""

import ast
import sys
from importlib.metadata import packages_distributions, requires

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.fixtures.scripts import ROOT, script

lock = script("docker/lock.py")
MAIN = lock.pinned((ROOT / "requirements.txt").read_text())
RUNTIMES = {"onnxruntime", "onnxruntime-gpu"}


def _of(name: str) -> dict[str, str]:
    pins: dict[str, str] = lock.pinned((ROOT / "docker" / name).read_text())
    return pins


def test_the_locks_of_the_images_are_what_the_one_lock_gives() -> None:
    stale = [path.name for path, text in lock.locks().items() if path.read_text() != text]
    assert stale == [], "python docker/lock.py writes them again"


def test_every_version_of_an_image_is_that_of_the_one_lock_or_of_a_list_beside_it() -> None:
    more = _of("gpu-libraries.txt") | _of("cluster-libraries.txt") | {"onnxruntime": MAIN["onnxruntime-gpu"]}
    for name in ("requirements-serving.txt", "requirements-serving-gpu.txt", "requirements-pipelines.txt"):
        assert {pin: version for pin, version in _of(name).items() if (MAIN | more).get(pin) != version} == {}


def test_the_model_server_installs_all_that_it_imports_and_nothing_of_the_training_stack() -> None:
    imported = set()
    for path in [*ROOT.glob("serving/**/*.py"), *ROOT.glob("contracts/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.partition(".")[0])
    others = imported - sys.stdlib_module_names - {"contracts", "serving"}
    distributions = packages_distributions()
    for image, runtime in (
        ("requirements-serving.txt", "onnxruntime"),
        ("requirements-serving-gpu.txt", "onnxruntime-gpu"),
    ):
        pins = _of(image)
        assert runtime in pins
        for name in others - {"onnxruntime"}:
            assert {canonicalize_name(found) for found in distributions[name]} & pins.keys(), f"{image}: {name}"
        assert pins.keys() & {"torch", "apache-airflow", "mlflow", "mlflow-skinny", "pandas", "scikit-learn"} == set()


def test_the_libraries_of_the_gpu_are_those_that_the_locked_runtime_was_built_for() -> None:
    pins = _of("gpu-libraries.txt")
    needed = [Requirement(text) for text in requires("onnxruntime-gpu") or []]
    asked = [each for each in needed if each.marker is not None and each.marker.evaluate({"extra": "cuda"})]
    asked += [each for each in needed if each.marker is not None and each.marker.evaluate({"extra": "cudnn"})]
    assert len(asked) >= 5
    assert [str(each) for each in asked if not each.specifier.contains(pins[canonicalize_name(each.name)])] == []
    assert pins["nvidia-cuda-runtime"].startswith("13.0.")
    assert pins["tensorrt-cu13-libs"].startswith("10."), "libonnxruntime_providers_tensorrt.so wants libnvinfer.so.10"


def test_what_the_one_lock_does_not_pin_stops_the_derivation() -> None:
    assert lock.closure(["msgspec"], {"msgspec": "1"}) == {"msgspec": "1"}
    with pytest.raises(lock.LockError, match=r"starlette needs [a-z-]+, which requirements\.txt does not pin"):
        lock.closure(["starlette"], {"starlette": "1.10.0"})
    with pytest.raises(lock.LockError, match="not-a-distribution is not installed"):
        lock.closure(["not-a-distribution"], {"not-a-distribution": "1"})
