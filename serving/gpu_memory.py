"""Memory of an NVIDIA GPU, asked of the CUDA runtime that ONNX Runtime has loaded already."""

import ctypes
from collections.abc import Callable
from typing import Any, NamedTuple

RUNTIME = "libcudart.so.13"  # of the CUDA version that the pinned ONNX Runtime is built for


class GpuMemory(NamedTuple):
    """Bytes of a whole device, whichever processes use them."""

    used: int
    total: int


def gpu_memory(device: int, load: Callable[[str], Any] = ctypes.CDLL) -> GpuMemory | None:
    """The memory of `device` now; None where the runtime is not there or refuses."""
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    try:
        runtime = load(RUNTIME)
    except OSError:
        return None
    if runtime.cudaSetDevice(device) or runtime.cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total)):
        return None
    return GpuMemory(total.value - free.value, total.value)
