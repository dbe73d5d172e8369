"""A timer on the event loop that is exact to some ten microseconds.

The loops' own timers have a resolution of a millisecond, which would be added to each latency that is counted from the
intended time. Linux's timerfd has none of that; elsewhere the loop's own timer has to do.
"""

import asyncio
import contextlib
import ctypes
import os
import sys
import time
from collections.abc import Callable

_CLOCK_MONOTONIC, _TFD_NONBLOCK, _TFD_CLOEXEC, _TFD_TIMER_ABSTIME = 1, 0o4000, 0o2000000, 1
_EXPIRATIONS_BYTES = 8


class _Spec(ctypes.Structure):
    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    )


class Alarm:
    """Calls `callback` once, at the moment that `set` was last given; moments are of `time.monotonic`."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._callback = callback
        self._handle: asyncio.TimerHandle | None = None
        self._descriptor = -1
        if sys.platform == "linux":
            self._libc = ctypes.CDLL(None, use_errno=True)
            self._descriptor = self._libc.timerfd_create(_CLOCK_MONOTONIC, _TFD_NONBLOCK | _TFD_CLOEXEC)
            if self._descriptor < 0:
                raise OSError(ctypes.get_errno(), "timerfd_create failed")
            self._spec = _Spec()
            self._pointer = ctypes.byref(self._spec)
            self._loop.add_reader(self._descriptor, self._ring)

    def set(self, at_s: float) -> None:
        """Rings at `at_s`, at once where that is past."""
        if self._descriptor < 0:
            if self._handle is not None:
                self._handle.cancel()
            self._handle = self._loop.call_later(max(0.0, at_s - time.monotonic()), self._callback)
            return
        seconds, rest = divmod(at_s, 1.0)
        # a value of zero would disarm it
        self._spec.value_s, self._spec.value_ns = int(seconds), max(1, int(rest * 1e9))
        self._libc.timerfd_settime(self._descriptor, _TFD_TIMER_ABSTIME, self._pointer, None)

    def close(self) -> None:
        """Rings no more."""
        if self._handle is not None:
            self._handle.cancel()
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _ring(self) -> None:
        with contextlib.suppress(BlockingIOError):  # it was set anew since it rang
            os.read(self._descriptor, _EXPIRATIONS_BYTES)
        self._callback()
