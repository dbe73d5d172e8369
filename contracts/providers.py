"""ONNX Runtime's execution providers with their options: on what a graph runs.

The options have ONNX Runtime's own names, so that its documentation holds; sizes are in bytes. A serving profile says
what the model was made for, the settings of a server may say what its machine has.
"""

import difflib
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
_SHORT = {"cpu": CPU, "cuda": CUDA, "tensorrt": TENSORRT}
_SUFFIX = "ExecutionProvider"
_MINIMUM_MEMORY = 64 << 20
_UNKNOWN_FIELD = re.compile(r"unknown field `([^`]*)`")

Device = Annotated[int, msgspec.Meta(ge=0, le=127)]
Memory = Annotated[int, msgspec.Meta(ge=_MINIMUM_MEMORY)]


class _Provider(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="name"):
    @property
    def options(self) -> dict[str, str]:
        """In ONNX Runtime's form."""
        found = ((name, getattr(self, name)) for name in self.__struct_fields__)
        return {name: _text(value) for name, value in found if value is not None}


class Cpu(_Provider, frozen=True, tag="cpu"):
    """The CPU, which needs no options: threads are a matter of the profile."""


class Cuda(_Provider, frozen=True, tag="cuda"):
    """An NVIDIA GPU by CUDA. TF32 is off unless asked for: it is quicker, and golden scores may not hold with it."""

    device_id: Device = 0
    gpu_mem_limit: Memory | None = None
    arena_extend_strategy: Literal["kNextPowerOfTwo", "kSameAsRequested"] = "kNextPowerOfTwo"
    cudnn_conv_algo_search: Literal["EXHAUSTIVE", "HEURISTIC", "DEFAULT"] = "EXHAUSTIVE"
    do_copy_in_default_stream: bool = True
    use_tf32: bool = False


class TensorRT(_Provider, frozen=True, tag="tensorrt"):
    """An NVIDIA GPU by TensorRT, which compiles the graph into engines; with a cache they outlive the process."""

    device_id: Device = 0
    trt_max_workspace_size: Memory | None = None
    trt_fp16_enable: bool = False
    trt_engine_cache_enable: bool = False
    trt_engine_cache_path: str | None = None
    trt_timing_cache_enable: bool = False
    trt_timing_cache_path: str | None = None

    def __post_init__(self) -> None:
        for kind in ("engine", "timing"):
            path = getattr(self, f"trt_{kind}_cache_path")
            if getattr(self, f"trt_{kind}_cache_enable") != (path is not None):
                raise ValueError(f"trt_{kind}_cache_enable and trt_{kind}_cache_path go together: set both or none")


Provider = Cpu | Cuda | TensorRT
_BY_NAME: dict[str, Provider] = {CPU: Cpu(), CUDA: Cuda(), TENSORRT: TensorRT()}
_OPTIONS = sorted({name for provider in _BY_NAME.values() for name in provider.__struct_fields__})


def provider_name(name: str) -> str:
    """ONNX Runtime's name for `name`: cpu, cuda, tensorrt, or a name of its own.

    Raises:
        ValueError: it is none of these.
    """
    if name in _SHORT:
        return _SHORT[name]
    if name.endswith(_SUFFIX):  # whether this build of ONNX Runtime has it, only the server can tell
        return name
    near = difflib.get_close_matches(name.lower(), _SHORT, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(_SHORT)}, or ONNX Runtime's own names"
    raise ValueError(f"{name!r} is no execution provider; {hint}")


def name_of(provider: str | Provider) -> str:
    """ONNX Runtime's name of `provider`."""
    return provider_name(provider if isinstance(provider, str) else str(provider.__struct_config__.tag))


def options_of(provider: str | Provider) -> dict[str, str]:
    """The options of `provider` in ONNX Runtime's form; those of one that is only named are Paceline's usual ones."""
    known = _BY_NAME.get(name_of(provider)) if isinstance(provider, str) else provider
    return known.options if known is not None else {}


def check_providers(providers: Sequence[str | Provider], require: str | None) -> None:
    """Raises ValueError where a name is unknown or stands there twice, or what is required would not be tried."""
    names = [name_of(provider) for provider in providers]
    if not names:
        raise ValueError("providers: found none, expected at least one, such as cpu")
    if len(set(names)) != len(names):
        raise ValueError(f"providers: {', '.join(names)} names one twice")
    if require is not None:
        provider_name(require)


def decode_providers(text: str) -> tuple[str | Provider, ...]:
    """Providers from a setting: names with commas between them, or a JSON list of names and objects with options.

    >>> decode_providers("cuda,cpu")
    ('cuda', 'cpu')
    >>> decode_providers('[{"name": "cuda", "device_id": 1}, "cpu"]')[0].device_id
    1

    Raises:
        ValueError: a name or an option is unknown (with the nearest one), or a value is not allowed.
    """
    providers: tuple[str | Provider, ...]
    if text.lstrip().startswith("["):
        try:
            providers = msgspec.json.decode(text, type=tuple[str | Provider, ...])
        except msgspec.DecodeError as error:
            raise ValueError(with_hint(str(error))) from error
    else:
        providers = tuple(name.strip() for name in text.split(","))
    check_providers(providers, None)
    return providers


def with_hint(message: str) -> str:
    """`message` of a decoder, with the nearest option where it complains about an unknown one."""
    found = _UNKNOWN_FIELD.search(message)
    near = difflib.get_close_matches(found[1], _OPTIONS, n=1) if found else []
    return f"{message}; did you mean {near[0]}?" if near else message


def _text(value: Any) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)
