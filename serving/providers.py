"""On what a graph runs: which execution providers are tried, which one is in use, and why another one is not.

ONNX Runtime falls back to the CPU without a word where a library or a device is missing, and also where it has the
provider but none of the graph's operators run on it (trees have no form for CUDA). Both are found out here and told.
"""

import ctypes
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime

from contracts.bundle import ServingProfile
from contracts.providers import CPU, CUDA, TENSORRT, name_of, options_of
from serving.execution import Execution

_RECORD_NODES = "session.record_ep_graph_assignment_info"
_ERRORS_ONLY = 3
_LIBRARIES = {CUDA: "cuda", TENSORRT: "tensorrt"}
_SHOWN_OPERATORS = 5
logger = logging.getLogger(__name__)


class ProviderError(ValueError):
    """The graph cannot run on what it requires: what was found, what was missing, and what to do."""


@dataclass(frozen=True)
class Opened:
    """A session, and for each provider in use how many of the graph's operators run on it; the first has most."""

    session: Any
    nodes: dict[str, int]

    @property
    def has_device(self) -> bool:
        """Whether anything beside the CPU takes part, so that inputs and outputs are copied."""
        return self.nodes.keys() != {CPU}

    @property
    def gpu(self) -> int | None:
        """The number of the NVIDIA GPU that takes part."""
        options = self.session.get_provider_options()
        numbers = [int(options[name].get("device_id", 0)) for name in (TENSORRT, CUDA) if name in self.nodes]
        return numbers[0] if numbers else None


def open_session(path: Path, profile: ServingProfile, execution: Execution) -> Opened:
    """A session for the graph at `path` as `profile` says, and this server's `execution` over it.

    Raises:
        ProviderError: the provider that is required is not in use.
        Exception: whatever ONNX Runtime raises for a graph that it cannot load.
    """
    providers = execution.providers_for(profile)
    required = execution.requirement_for(profile)
    available = onnxruntime.get_available_providers()
    wanted = [(name_of(provider), options_of(provider)) for provider in providers if name_of(provider) in available]
    if CPU not in dict(wanted):
        wanted.append((CPU, {}))  # operators that no other provider has
    opened = Opened(*_open(path, profile, wanted))
    reasons = {
        name: _why_not(name, opened, is_available=name in available)
        for name in dict.fromkeys([name_of(provider) for provider in providers] + ([required] if required else []))
        if name not in opened.nodes
    }
    in_use = ", ".join(opened.nodes)
    if required is not None and required not in opened.nodes:
        tried = [name_of(provider) for provider in providers]
        reason = reasons[required] if required in tried else f"it is not among the providers {', '.join(tried)}"
        raise ProviderError(
            f"the graph requires {required}, in use would be {in_use}: {reason}. Serve it where that provider runs, "
            "build a bundle that does not require it, or lift it by PACELINE_SERVING_REQUIRE_PROVIDER=none"
        )
    for name, reason in reasons.items():
        if name != CPU:
            logger.warning("the graph %s runs on %s and not on %s: %s", path, in_use, name, reason)
    return opened


def _open(
    path: Path, profile: ServingProfile, wanted: Sequence[tuple[str, dict[str, str]]]
) -> tuple[Any, dict[str, int]]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = profile.intra_op_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    # by default idle threads spin, which doubles the CPU time of a server
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry(_RECORD_NODES, "1")
    session = onnxruntime.InferenceSession(path, options, providers=list(wanted))
    session.disable_fallback()  # a device that fails later must fail the run, and not move the model to the CPU
    nodes: Counter[str] = Counter()
    for part in session.get_provider_graph_assignment_info():
        nodes[part.ep_name] += len(part.get_nodes())
    return session, dict(nodes.most_common()) or {CPU: 0}  # a graph may be nothing but constants


def _why_not(name: str, opened: Opened, *, is_available: bool) -> str:
    if not is_available:
        return f"this ONNX Runtime {onnxruntime.__version__} has {', '.join(onnxruntime.get_available_providers())}"
    if name in opened.session.get_providers():
        operators = sorted(
            {node.op_type for part in opened.session.get_provider_graph_assignment_info() for node in part.get_nodes()}
        )
        shown = ", ".join(operators[:_SHOWN_OPERATORS])
        return f"it is there, and none of the graph's operators ({shown}) runs on it"
    missing = missing_library(name)
    if missing is not None:
        return (
            f"{missing}. ONNX Runtime {onnxruntime.__version__} needs CUDA {_cuda_version()} with cuDNN 9, an NVIDIA "
            f"driver for it{', and TensorRT 10' if name == TENSORRT else ''}: install what is missing, or put its "
            "folder on LD_LIBRARY_PATH"
        )
    return "its libraries are there, but it did not start: what ONNX Runtime wrote on stderr says why"


def missing_library(name: str) -> str | None:
    """What the loader says about the first library that the provider `name` lacks, or None when it has all."""
    kind = _LIBRARIES.get(name)
    if kind is None:
        return None
    folder = Path(onnxruntime.__file__).parent / "capi"
    try:
        for each in ("shared", kind):
            ctypes.CDLL(str(folder / f"libonnxruntime_providers_{each}.so"))
    except OSError as error:
        return str(error)
    return None


def _cuda_version() -> str:
    from onnxruntime.capi import build_and_package_info

    return str(getattr(build_and_package_info, "cuda_version", "(none in this build)"))
