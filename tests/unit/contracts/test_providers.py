from pathlib import Path

import msgspec
import pytest

from contracts.bundle import (
    BASELINE,
    CARD,
    GOLDEN,
    MODEL,
    SCHEMA,
    BundleError,
    Manifest,
    ServingProfile,
    read_bundle,
    write_bundle,
)
from contracts.hashing import bytes_id, canonical_json
from contracts.providers import CPU, CUDA, TENSORRT, Cuda, TensorRT, decode_providers, name_of, options_of


def test_names_are_short_or_onnx_runtimes_own() -> None:
    assert [name_of(name) for name in ("cpu", "cuda", "tensorrt", CUDA)] == [CPU, CUDA, TENSORRT, CUDA]
    assert name_of("OpenVINOExecutionProvider") == "OpenVINOExecutionProvider"
    assert name_of(TensorRT()) == TENSORRT
    with pytest.raises(ValueError, match=r"'cudda' is no execution provider; did you mean cuda\?"):
        name_of("cudda")


def test_options_go_to_onnx_runtime_as_texts_and_unset_ones_not_at_all() -> None:
    assert options_of(Cuda(device_id=1, gpu_mem_limit=2 << 30, cudnn_conv_algo_search="HEURISTIC")) == {
        "device_id": "1",
        "gpu_mem_limit": "2147483648",
        "arena_extend_strategy": "kNextPowerOfTwo",
        "cudnn_conv_algo_search": "HEURISTIC",
        "do_copy_in_default_stream": "1",
        "use_tf32": "0",
    }
    tensorrt = TensorRT(trt_fp16_enable=True, trt_engine_cache_enable=True, trt_engine_cache_path="/cache")
    assert options_of(tensorrt) == {
        "device_id": "0",
        "trt_fp16_enable": "1",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": "/cache",
        "trt_timing_cache_enable": "0",
    }
    assert options_of("cuda") == options_of(Cuda())
    assert options_of("cpu") == {}


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ('[{"name": "cuda", "gpu_mem_limt": 99999999}]', "did you mean gpu_mem_limit?"),
        ('[{"name": "cuda", "gpu_mem_limit": 1000}]', "Expected `int` >= 67108864"),
        ('[{"name": "cuda", "device_id": -1}]', "Expected `int` >= 0"),
        ('[{"name": "cuda", "arena_extend_strategy": "fast"}]', "Invalid enum value 'fast'"),
        ('[{"name": "cpu", "device_id": 0}]', "unknown field `device_id`"),
        ('[{"name": "tensorrt", "trt_engine_cache_enable": true}]', "go together: set both or none"),
        ('[{"name": "tensorrt", "trt_timing_cache_path": "/x"}]', "go together: set both or none"),
        ('[{"name": "rocm"}]', "Invalid value 'rocm'"),
        ("[", "truncated"),
        ("[]", "found none"),
        ("cuda,CUDAExecutionProvider", "names one twice"),
        ("gpu", "is no execution provider"),
    ],
)
def test_a_wrong_list_is_refused_with_what_is_wrong(text: str, refusal: str) -> None:
    with pytest.raises(ValueError, match=refusal.replace("?", r"\?")):
        decode_providers(text)


def test_a_profile_survives_its_manifest_and_one_of_before_is_read_as_it_was() -> None:
    profile = ServingProfile(
        providers=(TensorRT(trt_fp16_enable=True), Cuda(gpu_mem_limit=1 << 30), "cpu"),
        require="cuda",
        maximum_batch_rows=1024,
    )
    assert msgspec.json.decode(canonical_json(profile), type=ServingProfile) == profile
    before = b'{"providers":["CUDAExecutionProvider","CPUExecutionProvider"],"require":null,"intra_op_threads":2}'
    read = msgspec.json.decode(before, type=ServingProfile)
    assert [name_of(provider) for provider in read.providers] == [CUDA, CPU]
    assert (read.require, read.intra_op_threads, read.maximum_batch_rows) == (None, 2, None)


def test_a_manifest_with_an_unknown_option_is_refused_with_the_nearest(tmp_path: Path) -> None:
    manifest = Manifest(
        project="p",
        trainer="t",
        optimization="fp32",
        parameters={},
        snapshot="0",
        lock="0",
        threshold=0.5,
        frameworks={},
        serving=ServingProfile(providers=(Cuda(),)),
    )
    bundle = write_bundle(tmp_path, manifest, dict.fromkeys((MODEL, SCHEMA, BASELINE, GOLDEN, CARD), b""))
    path = bundle.path / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"use_tf32"', b'"use_tf16"'))
    with pytest.raises(BundleError, match=r"unknown field `use_tf16`.*did you mean use_tf32\?"):
        read_bundle(bundle.path, bytes_id(path.read_bytes()))
