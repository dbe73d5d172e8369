"""Which provider runs a graph, and what is said where it is not the one that was wanted; no GPU is needed here."""

import logging
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import onnxruntime
import pytest

from contracts.bundle import ServingProfile
from contracts.providers import CPU, CUDA, TENSORRT, Cuda, TensorRT
from serving import providers
from serving.execution import Execution, read_execution
from serving.gpu_memory import GpuMemory, gpu_memory
from serving.providers import ProviderError, open_session

NO_CUDA = pytest.mark.skipif(
    CUDA not in onnxruntime.get_available_providers() or providers.missing_library(CUDA) is None,
    reason="needs ONNX Runtime's GPU package on a machine without CUDA",
)


@pytest.fixture
def graph(bundles: ModuleType, tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(bundles.tiny_graph(3))
    return path


class FakeSession:
    """What ONNX Runtime would give on a machine with `present`, for a graph of which `on` says what runs where."""

    present: ClassVar[tuple[str, ...]]
    on: ClassVar[dict[str, int]]
    made: ClassVar[list["FakeSession"]]

    def __init__(self, path: Path, options: Any, providers: list[tuple[str, dict[str, str]]]) -> None:
        self.asked = providers
        self.may_fall_back = True
        FakeSession.made.append(self)

    def disable_fallback(self) -> None:
        self.may_fall_back = False

    def get_providers(self) -> list[str]:
        return [name for name, _ in self.asked if name in self.present]

    def get_provider_options(self) -> dict[str, dict[str, str]]:
        return {name: options for name, options in self.asked if name in self.present}

    def get_provider_graph_assignment_info(self) -> list[Any]:
        return [
            SimpleNamespace(ep_name=name, get_nodes=lambda count=count: [SimpleNamespace(op_type="Gemm")] * count)
            for name, count in self.on.items()
        ]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets what the machine has: the providers that start, and on what the operators of the graph run."""

    def has(*present: str, on: dict[str, int]) -> type[FakeSession]:
        monkeypatch.setattr(FakeSession, "present", present, raising=False)
        monkeypatch.setattr(FakeSession, "on", on, raising=False)
        monkeypatch.setattr(FakeSession, "made", [], raising=False)
        monkeypatch.setattr(onnxruntime, "InferenceSession", FakeSession)
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
        return FakeSession

    return has


def test_the_usual_profile_runs_on_the_cpu_and_says_nothing(graph: Path, caplog: pytest.LogCaptureFixture) -> None:
    opened = open_session(graph, ServingProfile(), Execution())
    assert list(opened.nodes) == [CPU]
    assert (opened.has_device, opened.gpu) == (False, None)
    assert caplog.records == []


@NO_CUDA
def test_a_wish_for_cuda_without_it_runs_on_the_cpu_and_says_which_library_is_missing(
    graph: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        opened = open_session(graph, ServingProfile(providers=("cuda", "cpu")), Execution())
    assert list(opened.nodes) == [CPU]
    assert len(caplog.records) == 1
    said = caplog.records[0].getMessage()
    assert f"runs on {CPU} and not on {CUDA}: lib" in said
    assert ".so" in said
    assert "needs CUDA 13" in said


@NO_CUDA
@pytest.mark.parametrize("name", ["cuda", "tensorrt", CUDA])
def test_what_is_required_and_cannot_start_is_refused_with_the_missing_library(graph: Path, name: str) -> None:
    with pytest.raises(ProviderError, match=rf"requires \w+, in use would be {CPU}: lib\w+\.so[.\d]*: cannot open"):
        open_session(graph, ServingProfile(providers=(name, "cpu"), require=name), Execution())


def test_a_requirement_that_is_not_even_tried_is_refused_with_what_is(graph: Path) -> None:
    with pytest.raises(ProviderError, match=f"requires {CUDA}.* it is not among the providers {CPU}"):
        open_session(graph, ServingProfile(require="cuda"), Execution())


def test_a_provider_that_this_build_lacks_is_named_with_those_that_it_has(
    graph: Path, caplog: pytest.LogCaptureFixture
) -> None:
    open_session(graph, ServingProfile(providers=("NoSuchExecutionProvider", "cpu")), Execution())
    assert f"not on NoSuchExecutionProvider: this ONNX Runtime {onnxruntime.__version__} has" in caplog.text


def test_with_a_gpu_the_options_go_along_and_the_cpu_comes_last(graph: Path, machine: Any) -> None:
    fake = machine(TENSORRT, CUDA, CPU, on={CUDA: 3, CPU: 1, TENSORRT: 9})
    wanted = (TensorRT(device_id=2, trt_fp16_enable=True), Cuda(device_id=2, gpu_mem_limit=1 << 30))
    opened = open_session(graph, ServingProfile(providers=wanted, require="tensorrt"), Execution())
    session = fake.made[0]
    assert [name for name, _ in session.asked] == [TENSORRT, CUDA, CPU]
    assert session.asked[0][1]["trt_fp16_enable"] == "1"
    assert session.asked[1][1]["gpu_mem_limit"] == str(1 << 30)
    assert list(opened.nodes.items()) == [(TENSORRT, 9), (CUDA, 3), (CPU, 1)]
    assert (opened.has_device, opened.gpu) == (True, 2)
    assert not session.may_fall_back, "a device that fails later must not move the model to the CPU in silence"


def test_a_gpu_on_which_no_operator_of_the_graph_runs_is_not_in_use(
    graph: Path, machine: Any, caplog: pytest.LogCaptureFixture
) -> None:
    machine(CUDA, CPU, on={CPU: 4})
    opened = open_session(graph, ServingProfile(providers=("cuda",)), Execution())
    assert list(opened.nodes) == [CPU]
    assert (opened.has_device, opened.gpu) == (False, None)
    assert f"not on {CUDA}: it is there, and none of the graph's operators (Gemm) runs on it" in caplog.text
    with pytest.raises(ProviderError, match=r"none of the graph's operators \(Gemm\) runs on it"):
        open_session(graph, ServingProfile(providers=("cuda",), require="cuda"), Execution())


def test_the_servers_providers_replace_the_bundles_and_its_requirement_stays(graph: Path, machine: Any) -> None:
    fake = machine(CUDA, CPU, on={CUDA: 4})
    bundled = ServingProfile(providers=(Cuda(device_id=0),), require="cuda")
    opened = open_session(graph, bundled, read_execution('[{"name": "cuda", "device_id": 1}]', ""))
    assert (fake.made[0].asked[0][1]["device_id"], opened.gpu) == ("1", 1)
    machine(CUDA, CPU, on={CPU: 4})
    with pytest.raises(ProviderError, match=f"requires {CUDA}"):
        open_session(graph, bundled, read_execution("cpu", ""))
    assert list(open_session(graph, bundled, read_execution("cpu", "none")).nodes) == [CPU]
    with pytest.raises(ProviderError, match=f"requires {CUDA}"):
        open_session(graph, ServingProfile(), read_execution("cuda,cpu", "cuda"))


def test_a_requirement_that_would_not_be_tried_is_refused_in_the_settings() -> None:
    with pytest.raises(ValueError, match=f"tensorrt is required, and is not among the providers {CUDA}"):
        read_execution("cuda", "tensorrt")
    with pytest.raises(ValueError, match="did you mean cuda"):
        read_execution("", "cudaa")


class FakeRuntime:
    def __init__(self, status: int) -> None:
        self.status = status

    def cudaSetDevice(self, device: int) -> int:  # noqa: N802
        return 0 if device == 1 else 101

    def cudaMemGetInfo(self, free: Any, total: Any) -> int:  # noqa: N802
        free._obj.value, total._obj.value = 3 << 30, 8 << 30
        return self.status


def test_the_memory_of_a_gpu_is_what_the_runtime_says_or_nothing() -> None:
    def missing(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    assert gpu_memory(1, lambda name: FakeRuntime(0)) == GpuMemory(used=5 << 30, total=8 << 30)
    assert gpu_memory(0, lambda name: FakeRuntime(0)) is None, "there is no such device"
    assert gpu_memory(1, lambda name: FakeRuntime(46)) is None, "the runtime refuses"
    assert gpu_memory(1, missing) is None
