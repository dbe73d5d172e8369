"""The stage before any traffic: what a challenger must show on a server that nobody else uses. Pure."""

from typing import Annotated, Literal

import msgspec

Positive = Annotated[float, msgspec.Meta(gt=0)]


class Staging(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where a challenger is staged, and what it must keep there.

    It gets `times` the expected peak (requests a second) for `seconds`, and must keep `objective_p99_ms` with at most
    `failed_share_max` of the requests unanswered. `memory_mb_max` is what may be resident in the server then,
    `cores_max` the processor cores that it may use; None: measured and not limited.
    """

    url: Annotated[str, msgspec.Meta(pattern="^https?://[^/]+/?$")]
    peak_per_s: Annotated[float, msgspec.Meta(gt=0, le=100_000)]
    times: Annotated[float, msgspec.Meta(ge=2, le=3)] = 2.5
    seconds: Annotated[float, msgspec.Meta(ge=0.5, le=600)] = 30.0
    objective_p99_ms: Positive = 50.0
    failed_share_max: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.001
    memory_mb_max: Positive | None = None
    cores_max: Positive | None = None


class StagingEvidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What was found. `refused` is why the server did not take the challenger; then nothing else was measured.

    `golden_worst` is the largest difference between a golden score and the answer, None where a row had no answer.
    """

    refused: str | None = None
    golden_rows: int = 0
    golden_worst: float | None = None
    golden_tolerance: float = 0.0
    asked_per_s: float | None = None
    answered_per_s: float | None = None
    p99_ms: float | None = None
    failed_share: float | None = None
    memory_mb: float | None = None
    cores: float | None = None


class StagingGate(msgspec.Struct, frozen=True, kw_only=True):
    """One check with the numbers of both sides."""

    name: Literal["deploy", "golden rows", "latency", "failures", "memory", "cores"]
    passed: bool
    reason: str


def staging_gates(policy: Staging, found: StagingEvidence) -> tuple[StagingGate, ...]:
    """All checks, in the order in which they are made. What could not be measured passes no limit."""
    if found.refused is not None:
        return (StagingGate(name="deploy", passed=False, reason=f"staging did not take it: {found.refused}"),)
    gates = [StagingGate(name="deploy", passed=True, reason="loaded and leading on staging"), _golden(found)]
    if not gates[-1].passed:
        return tuple(gates)  # what answers wrongly needs no load
    asked = f"at {found.asked_per_s or 0.0:,.4g} requests a second ({policy.times:g} times the peak)"
    gates += [
        _limit("latency", "p99", found.p99_ms, policy.objective_p99_ms, " ms", asked),
        _limit("failures", "share of requests that failed", found.failed_share, policy.failed_share_max, "", asked),
    ]
    if policy.memory_mb_max is not None:
        gates.append(_limit("memory", "memory", found.memory_mb, policy.memory_mb_max, " MB", asked))
    if policy.cores_max is not None:
        gates.append(_limit("cores", "cores", found.cores, policy.cores_max, "", asked))
    return tuple(gates)


def staging_refusal(gates: tuple[StagingGate, ...]) -> str | None:
    """Why the release must not begin, or None."""
    failed = [f"{gate.name}: {gate.reason}" for gate in gates if not gate.passed]
    return f"staging failed: {'; '.join(failed)}" if failed else None


def _golden(found: StagingEvidence) -> StagingGate:
    if found.golden_worst is None or found.golden_rows == 0:
        reason, passed = f"no score for all of {found.golden_rows} golden rows", False
    else:
        passed = found.golden_worst <= found.golden_tolerance
        sign = "<=" if passed else ">"
        reason = (
            f"{found.golden_rows} golden rows, largest difference {found.golden_worst:.2g} {sign} "
            f"{found.golden_tolerance:.2g}"
        )
    return StagingGate(name="golden rows", passed=passed, reason=reason)


def _limit(
    name: Literal["latency", "failures", "memory", "cores"],
    what: str,
    value: float | None,
    limit: float,
    unit: str,
    asked: str,
) -> StagingGate:
    if value is None:
        return StagingGate(name=name, passed=False, reason=f"{what} could not be measured {asked}")
    passed = value <= limit
    sign = "<=" if passed else ">"
    return StagingGate(name=name, passed=passed, reason=f"{what} {value:.4g}{unit} {sign} {limit:g}{unit} {asked}")
