import numpy as np

from pipelines.monitoring.day_summaries import SAMPLE_ROWS, Summary, blocks, summarise
from tests.fixtures.drifting_days import COLUMNS, FIRST_DAY, ROWS_A_DAY, made_layout, made_rows, summaries

ROWS = made_rows(8)
LAYOUT = made_layout(ROWS)


def test_rows_in_chunks_and_in_another_order_give_the_same_summaries() -> None:
    keys = np.random.default_rng(1).integers(0, 2**63, len(ROWS.days)).astype(np.uint64)
    whole, pieces = Summary(LAYOUT), Summary(LAYOUT)
    whole.add(ROWS.features, ROWS.scores, ROWS.days, keys)
    order = np.random.default_rng(2).permutation(len(keys))
    for chunk in np.array_split(order, 7):
        pieces.add(ROWS.features[chunk], ROWS.scores[chunk], ROWS.days[chunk], keys[chunk])
    one, other = whole.days(), pieces.days()
    assert one.days.tolist() == [FIRST_DAY + day for day in range(8)]
    assert one.rows.tolist() == [ROWS_A_DAY] * 8
    for mine, theirs in zip(one.counts, other.counts, strict=True):
        assert np.array_equal(mine, theirs)
    assert np.array_equal(one.missing, other.missing)
    assert np.array_equal(one.joint_missing, other.joint_missing)
    assert np.array_equal(one.sample, other.sample, equal_nan=True)
    assert np.allclose(one.sums, other.sums)


def test_every_row_is_in_a_cell_or_missing_also_beyond_what_training_saw() -> None:
    rows = made_rows(1, seed=3)
    rows.column("distance")[:10] = 1e6
    rows.column("distance")[10:15] = -5
    found = summaries(LAYOUT, rows)
    for place, counts in enumerate(found.counts):
        assert counts.sum() + found.missing[0, place] == ROWS_A_DAY
    distance = found.counts[COLUMNS.index("distance")][0]
    assert distance[-1] >= 10
    assert distance[0] >= 5
    assert found.highs[0, COLUMNS.index("distance")] == 1e6


def test_values_that_are_missing_together_are_counted_together() -> None:
    found = summaries(LAYOUT, ROWS)
    engine, age, distance = (COLUMNS.index(name) for name in ("engine", "age", "distance"))
    assert np.array_equal(found.joint_missing[:, engine, age], found.missing[:, age])
    assert found.joint_missing[:, engine, distance].sum() == 0


def test_a_day_of_many_rows_keeps_a_sample_and_all_counts() -> None:
    rows = 5 * SAMPLE_ROWS
    features = np.repeat(ROWS.features[:1], rows, axis=0)
    found = summarise(LAYOUT, features, np.full(rows, 0.5, dtype=np.float32), np.full(rows, FIRST_DAY))
    assert len(found.sample) == SAMPLE_ROWS
    assert found.rows.tolist() == [rows]
    assert found.score_counts.sum() == rows


def test_blocks_of_days_are_counted_back_from_the_last_and_leave_the_rest_out() -> None:
    whole = summaries(LAYOUT, ROWS)
    found = blocks(whole, 3)
    assert found.days.tolist() == [FIRST_DAY + 4, FIRST_DAY + 7]
    assert found.rows.tolist() == [3 * ROWS_A_DAY] * 2
    assert np.array_equal(found.outcomes[1], whole.outcomes[5:].sum(axis=0))
    gap = blocks(whole.take([1, 2, 7]), 3)
    assert gap.days.tolist() == [FIRST_DAY + 4, FIRST_DAY + 7]
    assert gap.rows.tolist() == [ROWS_A_DAY, ROWS_A_DAY]
