import msgspec
import numpy as np
import pytest

from pipelines.inference import Latency
from pipelines.optimization.gate import (
    Contender,
    PartQuality,
    Slice,
    budgets,
    choose,
    compare_losses,
    judge,
    upper_bound,
)
from pipelines.optimization.limits import BatchSize, Name, OptimizationLimits

LIMITS = OptimizationLimits()
ROWS = 2000
DAYS = np.repeat(np.arange(20), 100)
REFERENCE = np.full(ROWS, 0.5)
LAST_TENTH = np.arange(ROWS) >= 1800


def latency(rows: int = 1, p50: float = 20.0, p99: float = 30.0) -> Latency:
    return Latency(rows=rows, runs=400, us_p50=p50, us_p95=(p50 + p99) / 2, us_p99=p99)


def parts_of(
    differences: np.ndarray, slices: list[Slice] | None = None, limits: OptimizationLimits = LIMITS
) -> tuple[PartQuality, ...]:
    return compare_losses(REFERENCE + differences, REFERENCE, DAYS, slices or [], limits)


def accepts(parts: tuple[PartQuality, ...]) -> bool:
    return judge(parts, [latency()], {1: 2000.0}, 0.0, LIMITS).accepted


def test_a_loss_on_all_rows_beyond_the_margin_is_refused_with_its_bound() -> None:
    judged = judge(parts_of(np.full(ROWS, 0.003)), [latency()], {1: 2000.0}, 0.0, LIMITS)
    assert not judged.accepted
    assert judged.reason == "log loss at most +0.00300 > margin 0.002 on all rows (n = 2,000), the worst of 1 parts"
    assert accepts(parts_of(np.full(ROWS, 0.0019)))


def test_a_loss_that_is_small_on_average_but_uncertain_is_refused() -> None:
    differences = np.tile([0.5, -0.5], ROWS // 2)  # mean 0, standard error 0.011
    assert not accepts(parts_of(differences))
    assert accepts(parts_of(differences / 100))


def test_days_that_differ_make_the_bound_wider_than_rows_alone_would() -> None:
    by_day = np.random.default_rng(0).normal(size=20)[DAYS] / 100
    assert upper_bound(by_day, DAYS, 0.95) > 3 * upper_bound(by_day - by_day.mean(), None, 0.95)
    assert upper_bound(by_day, np.zeros(ROWS, dtype=np.int64), 0.95) == upper_bound(by_day, None, 0.95)


def test_the_bound_of_days_holds_as_often_as_it_says() -> None:
    random, held, repetitions = np.random.default_rng(1), 0, 2000
    days = np.repeat(np.arange(8), 10)
    for _ in range(repetitions):
        held += upper_bound(random.normal(size=8)[days] + random.normal(size=80) / 10, days, 0.9) >= 0
    assert held / repetitions == pytest.approx(0.9, abs=0.02)


def test_a_slice_that_pays_for_the_others_is_found_however_good_the_mean() -> None:
    differences = np.where(LAST_TENTH, 0.012, -0.002)
    limits = OptimizationLimits(minimum_slice_rows=200)
    whole, of_slice = parts_of(differences, [Slice("carrier UA", LAST_TENTH)], limits)
    assert whole.difference < 0 < of_slice.difference
    assert whole.passed
    judged = judge((whole, of_slice), [latency()], {}, 0.0, limits)
    assert not judged.accepted
    assert "> margin 0.01 on carrier UA (n = 200), the worst of 2 parts" in judged.reason


def test_a_slice_with_too_few_rows_is_told_and_not_judged() -> None:
    limits = OptimizationLimits(minimum_slice_rows=201)
    parts = parts_of(np.where(LAST_TENTH, 0.012, -0.002), [Slice("carrier UA", LAST_TENTH)], limits)
    assert parts[1].bound is None
    assert parts[1].difference == pytest.approx(0.012)
    assert accepts(parts)


def test_more_slices_make_the_gate_stricter_and_still_find_the_one_that_collapsed() -> None:
    random = np.random.default_rng(3)
    differences = random.normal(scale=0.05, size=ROWS)
    limits = OptimizationLimits(minimum_slice_rows=50)
    many = [Slice(f"part {place}", place == DAYS % 20) for place in range(19)]
    alone, among = parts_of(differences, [], limits)[0], parts_of(differences, many, limits)[0]
    assert alone.bound is not None
    assert among.bound is not None
    assert among.bound > alone.bound
    collapsed = parts_of(differences + np.where(LAST_TENTH, 0.1, 0), [*many, Slice("UA", LAST_TENTH)], limits)
    assert not judge(collapsed, [latency()], {}, 0.0, limits).accepted


def test_a_candidate_that_is_slow_at_p99_is_refused_however_good_its_median() -> None:
    parts = parts_of(np.zeros(ROWS))
    slow = judge(parts, [latency(p50=5.0, p99=2500.0)], {1: 2000.0}, 0.0, LIMITS)
    assert slow == (False, "p99 of 1 rows 2,500 µs > budget 2,000 µs")
    assert judge(parts, [latency(p50=1900.0, p99=2000.0)], {1: 2000.0}, 0.0, LIMITS).accepted


def test_a_batch_has_its_own_budget_and_one_row_the_stricter_of_two() -> None:
    declared = [
        BatchSize(rows=1, latency_us_p99_max=300),
        BatchSize(rows=32, latency_us_p99_max=900),
        BatchSize(rows=8),
    ]
    assert budgets(declared, 2000.0) == {1: 300.0, 32: 900.0}
    assert budgets(declared, 200.0) == {1: 200.0, 32: 900.0}
    parts = parts_of(np.zeros(ROWS))
    assert not judge(parts, [latency(32, p99=901.0)], budgets(declared, 200.0), 0.0, LIMITS).accepted


def test_a_score_that_depends_on_the_rows_beside_it_is_refused() -> None:
    parts = parts_of(np.zeros(ROWS))
    judged = judge(parts, [latency()], {}, 0.02, LIMITS)
    assert judged == (False, "the score of a row changes by up to 0.02 > 0.0001 with the rows that share its run")
    assert judge(parts, [latency()], {}, 1e-6, LIMITS).accepted


def contender(name: Name, *us: float, accepted: bool = True) -> Contender:
    sizes = (1, 8, 32, 128)
    times = us if len(us) > 1 else us * len(sizes)
    return Contender(name, accepted, tuple(latency(rows, p50) for rows, p50 in zip(sizes, times, strict=True)))


FP32 = contender("fp32", 100.0)


@pytest.mark.parametrize(
    ("others", "expected", "why"),
    [
        ([contender("int8_per_tensor", 50.0)], "int8_per_tensor", "it saves 50% of fp32's time"),
        ([contender("int8_per_tensor", 50.0, accepted=False)], "fp32", "no other was accepted: fp32 serves"),
        ([contender("int8_per_tensor", 120.0)], "fp32", "none of 1 accepted is faster: fp32 serves"),
        ([contender("graph_optimised", 95.0)], "fp32", "graph_optimised would save 5.0% < 10.0% of the time"),
        # weights 3, 2, 2, 1: worth more at one row than at 128
        ([contender("trees_50", 60.0, 100.0, 100.0, 110.0)], "trees_50", "it saves 14% of fp32's time"),
        ([contender("trees_50", 110.0, 100.0, 100.0, 60.0)], "fp32", "would save 1.2% < 10.0% of the time"),
    ],
)
def test_the_fastest_accepted_candidate_is_chosen_when_it_saves_enough(
    others: list[Contender], expected: Name, why: str
) -> None:
    chosen, reason = choose([FP32, *others], LIMITS)
    assert chosen == expected
    assert why in reason


def test_where_the_graph_as_trained_is_over_its_budget_another_needs_to_save_nothing() -> None:
    over = FP32._replace(accepted=False)
    assert choose([over, contender("int8_per_tensor", 99.0)], LIMITS)[0] == "int8_per_tensor"
    assert choose([over], LIMITS) == ("fp32", "no candidate was accepted: fp32 serves")


def test_a_named_candidate_is_taken_when_it_was_accepted() -> None:
    limits = OptimizationLimits(choose="int8_per_tensor")
    assert choose([FP32, contender("int8_per_tensor", 200.0)], limits)[0] == "int8_per_tensor"
    refused = choose([FP32, contender("int8_per_tensor", 10.0, accepted=False)], limits)
    assert refused == ("fp32", "int8_per_tensor was asked for and refused: fp32 serves")


@pytest.mark.parametrize(
    "limits",
    [
        {"log_loss_margin": 0},
        {"slice_log_loss_margin": 2},
        {"beside_difference_max": 0},
        {"minimum_slice_rows": 1},
        {"minimum_saving": 1},
        {"choose": "int4"},
        {"slice_field": "carrier"},
        {"slice_fields": ["carrier", "carrier"]},
        {"batches": [{"rows": 8}]},
        {"batches": [{"rows": 1, "weight": 0}]},
        {"batches": [{"rows": 1, "latency_us_p99_max": 0}]},
    ],
)
def test_limits_out_of_bounds_are_refused_by_name(limits: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError, match=next(iter(limits))):
        msgspec.convert(limits, OptimizationLimits)
