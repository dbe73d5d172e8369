import msgspec
import pytest

from pipelines.evaluation.comparison import Comparison, Difference
from pipelines.evaluation.gate import Gate
from pipelines.evaluation.gates import GateLimits, latency_gates, quality_gates
from pipelines.evaluation.latency import LatencyComparison
from pipelines.inference import Latency

LIMITS = GateLimits(log_loss_margin=0.001, auc_margin=0.005, brier_margin=0.001, improvement=0.0)
LATENCY = (
    Latency(rows=1, runs=400, us_p50=12, us_p95=15, us_p99=21),
    Latency(rows=32, runs=400, us_p50=200, us_p95=300, us_p99=9000),
)
CHALLENGER = {
    "log_loss": 0.5136,
    "base_rate_log_loss": 0.5561,
    "base_rate": 0.244,
    "auc": 0.699,
    "brier": 0.165,
    "calibration_error": 0.021,
}
CHAMPION = CHALLENGER | {"log_loss": 0.5315, "auc": 0.666, "brier": 0.171}


def comparison(challenger: dict[str, float] | None = None, **differences: tuple[float, float, float]) -> Comparison:
    measured = {
        "log_loss": (-0.0179, -0.0201, -0.0155),
        "auc": (0.033, 0.021, 0.045),
        "brier": (-0.006, -0.008, -0.004),
        "calibration_error": (0.001, -0.004, 0.006),
    } | differences
    return Comparison(
        rows=12_683,
        blocks=14,
        challenger=CHALLENGER | (challenger or {}),
        champion=CHAMPION,
        differences={name: Difference(estimate=e, low=low, high=high) for name, (e, low, high) in measured.items()},
    )


def failed(found: tuple[Gate, ...]) -> dict[str, str]:
    return {gate.name: gate.reason for gate in found if not gate.passed}


def gates(compared: Comparison, limits: GateLimits = LIMITS, slower: Difference | None = None) -> tuple[Gate, ...]:
    measured = LatencyComparison(challenger=LATENCY, difference_us_p50=slower)
    return (*quality_gates(compared, limits), *latency_gates(measured, limits))


def judged(compared: Comparison, limits: GateLimits = LIMITS) -> dict[str, str]:
    return failed(gates(compared, limits))


def test_a_better_challenger_passes_every_gate() -> None:
    assert judged(comparison()) == {}


def test_a_gate_says_both_sides_the_interval_and_the_margin() -> None:
    reasons = {gate.name: gate.reason for gate in gates(comparison())}
    assert reasons["log loss against the champion"] == (
        "log loss 0.5136 vs 0.5315: difference -0.0179 (95 % -0.0201 … -0.0155, 14 days), upper bound <= margin +0.001"
    )
    assert reasons["AUC against the champion"] == (
        "AUC 0.6990 vs 0.6660: difference +0.0330 (95 % +0.0210 … +0.0450, 14 days), lower bound >= margin -0.005"
    )
    assert reasons["test rows"] == "12,683 test rows >= minimum 500"
    assert reasons["better than the base rate"] == "log loss 0.5136 < 0.5561, that of always saying 0.244"
    assert reasons["latency"] == "p99 of one row 21 µs (n = 400) <= limit 2000"
    assert reasons["improvement"].endswith("gained +0.0179 >= +0 asked for")


def test_a_challenger_that_may_be_worse_than_the_margin_fails_even_when_its_estimate_is_better() -> None:
    found = judged(comparison(log_loss=(-0.0010, -0.0040, 0.0020)))
    assert list(found) == ["log loss against the champion"]
    assert "upper bound > margin +0.001" in found["log loss against the champion"]


def test_a_lower_auc_than_the_margin_allows_fails() -> None:
    found = judged(comparison(auc=(-0.001, -0.006, 0.004)))
    assert "lower bound < margin -0.005" in found["AUC against the champion"]
    assert judged(comparison(auc=(-0.001, -0.005, 0.004))) == {}


def test_a_brier_score_worse_than_the_margin_fails() -> None:
    assert list(judged(comparison(brier=(0.0005, 0.0, 0.0011)))) == ["Brier score against the champion"]


def test_an_improvement_that_is_asked_for_must_be_shown() -> None:
    found = judged(comparison(), msgspec.structs.replace(LIMITS, improvement=0.02))
    assert "gained +0.0179 < +0.02 asked for" in found["improvement"]


@pytest.mark.parametrize(
    ("challenger", "name", "reason"),
    [
        ({"log_loss": 0.5561}, "better than the base rate", "log loss 0.5561 >= 0.5561, that of always saying 0.244"),
        ({"auc": 0.52}, "AUC", "AUC 0.5200 < minimum 0.55"),
        ({"calibration_error": 0.2}, "calibration", "calibration error 0.2000 (n = 12,683) > limit 0.15"),
    ],
)
def test_absolute_gates_hold_with_and_without_a_champion(challenger: dict[str, float], name: str, reason: str) -> None:
    with_champion = comparison(challenger)
    alone = msgspec.structs.replace(with_champion, champion=None, differences={})
    assert judged(with_champion)[name] == reason
    assert judged(alone) == {name: reason}


def test_too_few_test_rows_fail() -> None:
    few = msgspec.structs.replace(comparison(), rows=499)
    assert judged(few) == {"test rows": "499 test rows < minimum 500"}


def test_the_latency_gate_is_about_one_row_at_a_time() -> None:
    found = judged(comparison(), msgspec.structs.replace(LIMITS, latency_us_p99_max=20))
    assert found == {"latency": "p99 of one row 21 µs (n = 400) > limit 20"}
    with pytest.raises(ValueError, match=r"measured for \[32\] rows at a time: measure one row"):
        latency_gates(LatencyComparison(challenger=LATENCY[1:], difference_us_p50=None), LIMITS)


def test_without_a_champion_only_absolute_gates_are_asked() -> None:
    alone = msgspec.structs.replace(comparison(), champion=None, differences={})
    names = [gate.name for gate in gates(alone)]
    assert names == ["test rows", "better than the base rate", "AUC", "calibration", "latency"]


@pytest.mark.parametrize(
    "limits",
    [
        {"log_loss_margin": 0},
        {"auc_margin": 1.5},
        {"improvement": 2},
        {"auc_min": 1},
        {"latency_us_p99_max": 0},
        {"minimum_test_rows": 0},
        {"log_loss_margn": 0.1},
    ],
)
def test_limits_out_of_bounds_are_refused_by_name(limits: dict[str, float]) -> None:
    with pytest.raises(msgspec.ValidationError, match=next(iter(limits))):
        msgspec.convert(limits, GateLimits)


def test_a_calibration_worse_than_the_margin_fails() -> None:
    found = judged(comparison(calibration_error=(0.03, 0.01, 0.051)))
    assert "upper bound > margin +0.05" in found["calibration error against the champion"]
    assert judged(comparison(calibration_error=(0.03, 0.01, 0.05))) == {}


@pytest.mark.parametrize(("high", "passes"), [(500.0, True), (501.0, False)])
def test_a_challenger_slower_than_the_margin_fails(high: float, passes: bool) -> None:
    slower = Difference(estimate=450, low=400, high=high)
    found = {gate.name: gate for gate in gates(comparison(), slower=slower)}
    gate = found["latency against the champion"]
    assert gate.passed is passes
    assert f"(95 % +400.0 … +{high:.1f})" in gate.reason
    assert "latency against the champion" not in {gate.name for gate in gates(comparison())}


def test_the_latency_of_32_rows_is_a_gate_where_a_limit_is_set() -> None:
    asked = msgspec.structs.replace(LIMITS, latency_us_p99_max_32_rows=5000.0)
    assert judged(comparison(), asked) == {"latency of 32 rows": "p99 of 32 rows 9,000 µs (n = 400) > limit 5000"}
    assert judged(comparison(), msgspec.structs.replace(asked, latency_us_p99_max_32_rows=9000.0)) == {}


def test_margins_that_are_not_set_ask_for_nothing_and_those_that_are_hold() -> None:
    worse = comparison(
        {"cost": 0.7, "false_positive_rate": 0.2, "f1": 0.5, "recall": 0.4, "average_precision": 0.4},
        cost=(0.05, 0.01, 0.09),
        false_positive_rate=(0.02, 0.0, 0.04),
        f1=(-0.05, -0.07, -0.03),
        recall=(-0.05, -0.07, -0.03),
        average_precision=(-0.02, -0.03, -0.01),
    )
    champion = CHAMPION | {"cost": 0.65, "false_positive_rate": 0.18, "f1": 0.55, "recall": 0.45}
    worse = msgspec.structs.replace(worse, champion=champion | {"average_precision": 0.42})
    assert judged(worse) == {}
    asked = msgspec.structs.replace(
        LIMITS,
        cost_margin=0.05,
        false_positive_rate_margin=0.03,
        f1_margin=0.05,
        recall_margin=0.05,
        average_precision_margin=0.02,
    )
    assert list(judged(worse, asked)) == [
        "PR-AUC against the champion",
        "cost per row against the champion",
        "F1 against the champion",
        "recall against the champion",
        "false-positive rate against the champion",
    ]
    wide = msgspec.structs.replace(
        LIMITS,
        cost_margin=0.1,
        false_positive_rate_margin=0.05,
        f1_margin=0.1,
        recall_margin=0.1,
        average_precision_margin=0.05,
    )
    assert judged(worse, wide) == {}


def test_gates_against_the_champion_are_marked_as_such() -> None:
    marked = {gate.name for gate in gates(comparison()) if gate.against == "champion"}
    assert marked == {gate.name for gate in gates(comparison()) if "champion" in gate.name} | {"improvement"}
    alone = msgspec.structs.replace(comparison(), champion=None, differences={})
    assert {gate.against for gate in gates(alone)} == {"limit"}


def test_a_limit_on_what_is_not_defined_fails() -> None:
    found = judged(comparison(), msgspec.structs.replace(LIMITS, cost_max=0.5))
    assert found == {"cost per row": "cost per row is not defined on these rows, and has the limit 0.5"}
