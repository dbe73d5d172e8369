"""What is judged is what will be served: records must score as the rows that were evaluated."""

import numpy as np
import pytest

from pipelines.tasks.bundling import SkewError, refuse_skew

SCORES = np.array([0.1, 0.5, 0.9], dtype=np.float32)


def test_scores_that_differ_by_the_order_of_sums_are_the_same() -> None:
    refuse_skew(SCORES + np.float32(3e-6), SCORES)


@pytest.mark.parametrize("wrong", [0.52, np.nan])
def test_a_record_that_scores_otherwise_is_named_with_both_scores(wrong: float) -> None:
    of_records = SCORES.copy()
    of_records[1] = wrong
    with pytest.raises(SkewError, match=rf"1 of 3 test rows .* row 1 {wrong:.6f}, evaluated with 0.500000"):
        refuse_skew(of_records, SCORES)
