"""How much memory this process has."""

import os
from pathlib import Path

_STATM = Path("/proc/self/statm")
_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 1e6 if hasattr(os, "sysconf") else 0.0


def resident_memory_mb() -> float | None:
    """Resident memory of this process in 10^6 bytes; None where the system does not tell it by /proc."""
    try:
        return int(_STATM.read_bytes().split()[1]) * _PAGE_MB
    except OSError:
        return None
