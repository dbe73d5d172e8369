import msgspec
import pytest

from pipelines.evaluation.comparison import Comparison, Difference
from pipelines.evaluation.gate import Gate
from pipelines.evaluation.limits import GateLimits
from pipelines.evaluation.outcome import decide, superiority_gates

PASSED = Gate(name="log loss against the champion", passed=True, reason="fine", against="champion")
LOST = Gate(name="AUC against the champion", passed=False, reason="0.66 vs 0.70", against="champion")
SLOW = Gate(name="latency", passed=False, reason="p99 9,000 µs", area="latency")
ANY = GateLimits()
BETTER = GateLimits(promote_when="better")


def compared(low: float, high: float, auc_low: float = 0.01) -> Comparison:
    return Comparison(
        rows=13_000,
        blocks=14,
        challenger={"log_loss": 0.51, "auc": 0.71},
        champion={"log_loss": 0.52, "auc": 0.70},
        differences={
            "log_loss": Difference(estimate=(low + high) / 2, low=low, high=high),
            "auc": Difference(estimate=0.01, low=auc_low, high=0.02),
        },
    )


def test_without_a_champion_it_is_the_first() -> None:
    alone = msgspec.structs.replace(compared(-0.02, -0.01), champion=None, differences={})
    assert decide(alone, [SLOW], ANY).name == "first"
    assert superiority_gates(alone, BETTER) == ()


def test_an_interval_below_zero_is_better() -> None:
    found = decide(compared(-0.02, -0.01), [PASSED], ANY)
    assert found.name == "better"
    assert "log loss 0.5100 vs 0.5200: difference -0.0150 (95 % -0.0200 … -0.0100, 14 days)" in found.reason


def test_an_interval_around_zero_is_not_worse_and_says_whether_that_is_enough() -> None:
    found = decide(compared(-0.02, 0.001), [PASSED], ANY)
    assert found.name == "not worse"
    assert found.reason.endswith("not shown to be better; fresher data are reason enough")
    assert decide(compared(-0.02, 0.001), [PASSED], BETTER).reason.endswith("promote_when asks for better")


def test_a_lost_gate_against_the_champion_is_worse_however_good_the_rest() -> None:
    found = decide(compared(-0.02, -0.01), [PASSED, LOST], ANY)
    assert found.name == "worse"
    assert "AUC against the champion: 0.66 vs 0.70" in found.reason


def test_a_fixed_limit_says_nothing_about_who_is_better() -> None:
    assert decide(compared(-0.02, -0.01), [PASSED, SLOW], ANY).name == "better"


@pytest.mark.parametrize(("high", "passes"), [(-0.001, True), (0.0, False), (0.001, False)])
def test_superiority_is_a_gate_where_the_plan_asks_for_it(high: float, passes: bool) -> None:
    (gate,) = superiority_gates(compared(-0.02, high), BETTER)
    assert gate.passed is passes
    assert (decide(compared(-0.02, high), [PASSED], BETTER).name == "better") is passes
    assert superiority_gates(compared(-0.02, high), ANY) == ()


def test_each_metric_that_is_named_must_be_better() -> None:
    both = GateLimits(promote_when="better", better_in=("log_loss", "auc"))
    not_by_auc = compared(-0.02, -0.01, auc_low=-0.001)
    assert [gate.passed for gate in superiority_gates(not_by_auc, both)] == [True, False]
    assert decide(not_by_auc, [PASSED], both).name == "not worse"
    assert decide(compared(-0.02, -0.01), [PASSED], both).name == "better"


@pytest.mark.parametrize("limits", [{"better_in": []}, {"better_in": ["auc", "auc"]}, {"promote_when": "always"}])
def test_a_plan_that_asks_for_nothing_or_twice_is_refused(limits: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(limits, GateLimits)
