"""Models with a fault in their graph's place (`contracts.faults`): only where the settings allow it."""

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from contracts.encoder import InvalidRecordError
from contracts.faults import (
    ConstantScore,
    CrashingProcess,
    Fault,
    LeakingMemory,
    NanScores,
    ShiftedScores,
    SlowRuns,
    SwappedScores,
    WrongFor,
    WrongShape,
)
from serving.engine import Model

Scores = NDArray[np.float32]
Run = Callable[[NDArray[np.float32]], Scores]
_MINUTE_S = 60.0


class FaultError(ValueError):
    """This model cannot have this fault; the text says why."""


def faulty(model: Model, fault: Fault) -> Model:
    """`model` with `fault` in its graph's place.

    Raises:
        FaultError: its records have no such field, or the field no such value.
    """
    run = _run_of(model, fault)
    return replace(model, run=cast(Any, run))


def _run_of(model: Model, fault: Fault) -> Run:
    run: Run = model.run
    match fault:
        case NanScores():
            return lambda features: np.full(len(features), np.nan, np.float32)
        case ConstantScore(score=score):
            return lambda features: np.full(len(features), score, np.float32)
        case ShiftedScores(by=by):
            return lambda features: np.clip(run(features) + np.float32(by), 0, 1)
        case SwappedScores():
            return lambda features: 1 - run(features)
        case WrongShape():
            return lambda features: np.stack([run(features).reshape(-1)] * 2, axis=1)
        case SlowRuns():
            return _Slow(run, fault)
        case LeakingMemory():
            return _Leaking(run, fault)
        case CrashingProcess():
            return _Crashing(run, fault)
        case WrongFor():
            return _wrong_for(model, run, fault)


class _Slow:
    def __init__(self, run: Run, fault: SlowRuns) -> None:
        self._run = run
        self._fault = fault
        self._began_s = time.monotonic()

    def __call__(self, features: NDArray[np.float32]) -> Scores:
        minutes = (time.monotonic() - self._began_s) / _MINUTE_S
        time.sleep((self._fault.ms + self._fault.more_each_minute_ms * minutes) / 1000)
        return self._run(features)


class _Leaking:
    def __init__(self, run: Run, fault: LeakingMemory) -> None:
        self._run = run
        self._bytes = int(fault.mb_each_run * 1e6)
        self._runs_left = int(fault.maximum_mb / fault.mb_each_run)
        self._kept: list[bytes] = []
        self._lock = threading.Lock()

    def __call__(self, features: NDArray[np.float32]) -> Scores:
        with self._lock:
            if self._runs_left > 0:
                self._runs_left -= 1
                self._kept.append(b"\1" * self._bytes)  # written to, so that it is resident
        return self._run(features)


class _Crashing:
    def __init__(self, run: Run, fault: CrashingProcess) -> None:
        self._run = run
        self._runs_left = fault.after_runs
        self._lock = threading.Lock()

    def __call__(self, features: NDArray[np.float32]) -> Scores:
        with self._lock:
            self._runs_left -= 1
            if self._runs_left < 0:
                os.kill(os.getpid(), signal.SIGSEGV)
        return self._run(features)


def _wrong_for(model: Model, run: Run, fault: WrongFor) -> Run:
    if fault.field not in model.schema.columns:
        raise FaultError(
            f"field is {fault.field!r}, expected one that is a column of its own: {', '.join(model.schema.columns)}"
        )
    column = model.schema.columns.index(fault.field)
    record = {**model.bundle.golden.records[0], fault.field: fault.value}
    try:
        code = model.encoder.encode(record)[0, column]
    except InvalidRecordError as error:
        raise FaultError(f"value is {fault.value!r}, which the schema refuses: {error}") from error

    def wrong(features: NDArray[np.float32]) -> Scores:
        scores = run(features).reshape(-1)
        return np.where(features[:, column] == code, 1 - scores, scores)

    return wrong
