"""When the benchmark of optimisation calls its goal reached, on made-up measurements."""

from benchmarks.optimization.tables import Ratio, Way, candidates_table, goal, ways_table
from pipelines.inference import Latency
from pipelines.optimization.candidates import Candidate, Optimised
from pipelines.optimization.gate import PartQuality
from pipelines.optimization.limits import Name

FASTER = Ratio(0.9, 0.88, 0.95)


def candidate(name: Name, size: int, accepted: bool = True) -> Candidate:
    part = PartQuality(title="all rows", rows=9, log_loss=0.5, difference=0.001, bound=0.0015, margin=0.002)
    return Candidate(
        name=name,
        accepted=accepted,
        reason="as trained" if accepted else "log loss at most +0.003 > margin 0.002",
        size_bytes=size,
        compressed_bytes=size - 1,
        log_loss=0.5,
        auc=0.7,
        peak_memory_bytes=1_000_000,
        latency=tuple(Latency(rows=rows, runs=9, us_p50=10, us_p95=11, us_p99=12) for rows in (1, 32)),
        parts=(part,),
    )


def optimised(*candidates: Candidate) -> Optimised:
    return Optimised(
        graph=b"",
        chosen="fp32",
        reason="",
        timed_on="",
        candidates=(candidate("fp32", 1000), *candidates, Candidate(name="fp16", accepted=False, reason="no GPU")),
    )


def test_the_goal_needs_all_three_of_one_candidate() -> None:
    assert goal(optimised(candidate("int8_per_tensor", 300)), {"int8_per_tensor": FASTER})[0]
    assert not goal(optimised(candidate("int8_per_tensor", 301)), {"int8_per_tensor": FASTER})[0]
    assert not goal(optimised(candidate("int8_per_tensor", 300, accepted=False)), {"int8_per_tensor": FASTER})[0]
    once_slower = Ratio(0.9, 0.8, 1.0)
    assert not goal(optimised(candidate("int8_per_tensor", 300)), {"int8_per_tensor": once_slower})[0]
    small, fast = candidate("int8_per_tensor", 300), candidate("int8_static_minmax", 400)
    apart = {"int8_per_tensor": once_slower, "int8_static_minmax": FASTER}
    assert not goal(optimised(small, fast), apart)[0]


def test_a_goal_without_measurements_is_not_reached() -> None:
    assert goal(optimised(), {}) == (False, "")


def test_tables_say_what_was_found_and_why_something_was_not() -> None:
    table = candidates_table(optimised(candidate("int8_per_tensor", 280, accepted=False)))
    assert "| `int8_per_tensor` | 280 | 28.0% |" in table
    assert "no: log loss |" in table
    assert "- `fp16`: no GPU" in table
    ways = ways_table([Way("fp32", 1000, 10.0, 40.0, 0.0), Way("QOperator", 250, 9.0, 30.0, -0.001)])
    assert "| QOperator | 250 | 25.0% | 9.0 | 30.0 | 75% | -0.00100 |" in ways
