import math
from typing import Any

import msgspec
import numpy as np
import pytest

from contracts.bundle import Baseline, CategoryBaseline, NumberBaseline
from contracts.encoder import Encoder
from serving.unusual import Reference
from tests.fixtures.bundles import TINY_SCHEMA, tiny_record


def number(*edges: float) -> NumberBaseline:
    return NumberBaseline(
        missing=0, mean=0.0, standard_deviation=0.0, quartiles=(0.0, 0.0, 0.0), edges=edges, counts=(1,) * len(edges)
    )


BASELINE = Baseline(
    rows=100,
    numbers={"distance": number(100.0, 200.0, 400.0), "humid": number(50.0, math.nextafter(50.0, 60.0))},
    categories={"carrier": CategoryBaseline(missing=0, counts={"AA": 60, "UA": 40, "WN": 0})},
    score_counts=(10, 20, 30, 20, 10, 5, 5, 0, 0, 0),
    metrics={},
)
REFERENCE = Reference(TINY_SCHEMA, BASELINE)


def flags(**changes: Any) -> list[str]:
    record = tiny_record(**{"distance": 300.0, **changes})
    features = Encoder(TINY_SCHEMA).encode(record)
    found = REFERENCE.flag_inputs(features, [record])
    assert {row for row, _ in found} <= {0}
    return [flag for _, flag in found]


@pytest.mark.parametrize("distance", [0.0, 100.0, 400.0, 650.0, 700.0])
def test_a_number_within_a_range_of_the_training_rows_is_usual(distance: float) -> None:
    assert flags(distance=distance) == []


def test_a_number_beyond_the_training_rows_by_more_than_their_range_is_flagged_with_its_field() -> None:
    assert flags(distance=700.1) == ["outside_baseline:distance"]


def test_a_field_with_one_value_in_training_has_no_range_to_judge_by() -> None:
    assert flags(humid=99.0) == []


def test_a_missing_number_and_a_missing_category_are_not_unusual() -> None:
    assert flags(humid=None) == []
    record = tiny_record(carrier=None)
    assert REFERENCE.flag_inputs(np.array([[math.nan, 300.0, 50.0]], dtype=np.float32), [record]) == []


def test_a_word_outside_the_vocabulary_and_one_that_no_training_row_had_are_unseen() -> None:
    assert flags(carrier="ZZ") == ["unseen_category:carrier"]
    assert flags(carrier="WN") == ["unseen_category:carrier"]
    assert flags(carrier="UA") == []


def test_each_row_has_its_own_flags() -> None:
    records = [tiny_record(distance=300.0, carrier="AA"), tiny_record(distance=9e5, carrier="?")]
    features = Encoder(TINY_SCHEMA).encode_rows(records)
    assert REFERENCE.flag_inputs(features, records) == [
        (1, "outside_baseline:distance"),
        (1, "unseen_category:carrier"),
    ]


def extreme(counts: tuple[int, ...], *scores: float) -> list[float]:
    reference = Reference(TINY_SCHEMA, msgspec.structs.replace(BASELINE, score_counts=counts))
    return [scores[place] for place in reference.flag_scores(np.array(scores))]


def test_scores_beyond_those_of_the_test_rows_are_extreme() -> None:
    counts = (0, 20, 30, 20, 10, 5, 5, 0, 0, 0)
    assert extreme(counts, 0.05, 0.1, 0.15, 0.65, 0.7, 0.71, 0.95) == [0.05, 0.71, 0.95]


def test_at_an_end_where_test_scores_lie_only_a_claim_that_they_cannot_back_is_extreme() -> None:
    counts = (1000, 5000, 3000, 0, 0, 0, 0, 0, 500, 500)  # ten thousand rows: nobody can know one in a million
    assert extreme(counts, 0.00005, 0.0002, 0.9998, 0.99995) == [0.00005, 0.99995]
    assert extreme((10, 0, 0, 0, 0, 0, 0, 0, 10, 10), 0.005, 0.02, 0.98, 0.995) == [0.005, 0.995]


def test_at_an_end_where_most_test_scores_lie_none_is_extreme() -> None:
    assert extreme((90, 10, 0, 0, 0, 0, 0, 0, 0, 0), 0.0, 1e-9, 0.15) == []


def test_no_score_and_no_test_scores_flag_nothing() -> None:
    assert extreme((0,) * 10, 0.0, 1.0) == []
    assert list(REFERENCE.flag_scores(np.array([math.nan, 0.3]))) == []
