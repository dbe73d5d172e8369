from typing import Any

from pipelines.governance.investigation_slices import rank, worst_text
from pipelines.monitoring.rollout_rows import Arm, Slice


def part(value: str, arm: Arm, rows: int, errors: int, **more: Any) -> Slice:
    changes = {"entities": rows, "failed_entities": errors, "p95_ms": 2.0, "mean_score": 0.3, **more}
    return Slice(field="carrier", value=value, arm=arm, rows=rows, errors=errors, **changes)


CHAMPION = [part(value, "champion", 1000, 5) for value in ("AA", "UA", "WN")]


def test_the_slice_that_surely_fails_most_comes_first_and_not_the_one_with_the_fewest_rows() -> None:
    challenger = [part("AA", "challenger", 6, 4), part("UA", "challenger", 300, 150), part("WN", "challenger", 300, 0)]
    ranked = rank([*CHAMPION, *challenger], "errors")
    assert [each.value for each in ranked] == ["UA", "AA"]  # WN fails no more than the champion
    assert ranked[0].low > ranked[1].low
    assert worst_text(ranked) == (
        "carrier UA failed most: 150 of 300 (50%, 95 % 44% … 56%), which is 97% of all its failures from 50% "
        "of its rows"
    )


def test_too_few_rows_say_nothing_of_a_slice() -> None:
    assert rank([*CHAMPION, part("AA", "challenger", 4, 4)], "errors") == ()
    assert worst_text(()) == ""


def test_a_slow_version_is_ranked_by_how_much_slower_and_a_shifted_one_by_its_scores() -> None:
    challenger = [
        part("AA", "challenger", 100, 0, p95_ms=9.0, mean_score=0.31),
        part("UA", "challenger", 100, 0, p95_ms=3.0, mean_score=0.6),
    ]
    assert [each.value for each in rank([*CHAMPION, *challenger], "latency")] == ["AA", "UA"]
    assert [each.value for each in rank([*CHAMPION, *challenger], "scores")] == ["UA", "AA"]
