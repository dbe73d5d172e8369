from typing import Any

import msgspec
import pytest

from pipelines.rollout.staging import Staging, StagingEvidence, staging_gates, staging_refusal

POLICY = Staging(url="http://staging:8500", peak_per_s=100, memory_mb_max=500, cores_max=1)
GOOD = StagingEvidence(
    golden_rows=30, golden_worst=1e-7, golden_tolerance=1e-5, asked_per_s=250, answered_per_s=249, p99_ms=12,
    failed_share=0.0, memory_mb=200, cores=0.4,
)  # fmt: skip


def test_one_that_keeps_everything_passes_with_its_numbers() -> None:
    gates = staging_gates(POLICY, GOOD)
    assert [gate.name for gate in gates] == ["deploy", "golden rows", "latency", "failures", "memory", "cores"]
    assert all(gate.passed for gate in gates)
    assert staging_refusal(gates) is None
    assert gates[2].reason == "p99 12 ms <= 50 ms at 250 requests a second (2.5 times the peak)"


@pytest.mark.parametrize(
    ("changes", "gate", "reason"),
    [
        ({"refused": "409 no"}, "deploy", "staging did not take it: 409 no"),
        ({"golden_worst": 0.2}, "golden rows", "30 golden rows, largest difference 0.2 > 1e-05"),
        ({"golden_worst": None}, "golden rows", "no score for all of 30 golden rows"),
        ({"golden_rows": 0}, "golden rows", "no score for all of 0 golden rows"),
        ({"p99_ms": 51.0}, "latency", "p99 51 ms > 50 ms at 250"),
        ({"p99_ms": None}, "latency", "p99 could not be measured at 250"),
        ({"failed_share": 0.01}, "failures", "share of requests that failed 0.01 > 0.001 at 250"),
        ({"memory_mb": 600.0}, "memory", "memory 600 MB > 500 MB"),
        ({"cores": None}, "cores", "cores could not be measured"),
    ],
)
def test_each_gate_fails_by_itself_and_says_why(changes: dict[str, Any], gate: str, reason: str) -> None:
    gates = staging_gates(POLICY, msgspec.structs.replace(GOOD, **changes))
    assert [each.name for each in gates if not each.passed] == [gate]
    told = staging_refusal(gates)
    assert told is not None
    assert told.startswith(f"staging failed: {gate}: ")
    assert reason in told


def test_wrong_answers_are_not_loaded_and_limits_may_be_left_out() -> None:
    wrong = staging_gates(POLICY, msgspec.structs.replace(GOOD, golden_worst=1.0))
    assert [gate.name for gate in wrong] == ["deploy", "golden rows"]
    free = staging_gates(msgspec.structs.replace(POLICY, memory_mb_max=None, cores_max=None), GOOD)
    assert [gate.name for gate in free] == ["deploy", "golden rows", "latency", "failures"]


@pytest.mark.parametrize(
    "wrong", [{"times": 1.5}, {"times": 4}, {"url": "staging:8500"}, {"peak_per_s": 0}, {"objectives": 1}]
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"url": "http://staging:8500", "peak_per_s": 100, **wrong}, Staging)
