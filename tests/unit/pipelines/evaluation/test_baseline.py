from datetime import datetime

import msgspec
import numpy as np
import pytest

from contracts.bundle import Baseline, Golden
from contracts.encoder import Encoder
from contracts.input_schema import Field, InputSchema
from pipelines.evaluation.baseline import make_baseline, make_golden

SCHEMA = InputSchema(
    version=1,
    entity="plane",
    time="at",
    key=("plane",),
    fields=(
        Field(name="plane", kind="identifier"),
        Field(name="at", kind="timestamp", parts=("day_of_week",)),
        Field(name="wind", kind="number", required=False),
        Field(name="carrier", kind="category", vocabulary=("UA", "AA", "DL")),
        Field(name="empty", kind="number", required=False),
        Field(name="constant", kind="number"),
    ),
)
NAN = np.nan


@pytest.fixture(scope="module")
def baseline() -> Baseline:
    random = np.random.default_rng(0)
    features = np.empty((1000, 5), dtype=np.float32)
    features[:, 0] = random.integers(0, 7, 1000)
    features[:, 1] = random.gamma(2, 5, 1000)
    features[:100, 1] = NAN
    features[:, 2] = np.repeat([0, 1, NAN], [600, 380, 20])
    features[:, 3] = NAN
    features[:, 4] = 7
    scores = np.array([0.0, 0.05, 0.15, 0.95, 1.0], dtype=np.float32)
    return make_baseline(SCHEMA, features, scores, {"auc": 0.7})


def test_each_column_is_counted_over_all_rows(baseline: Baseline) -> None:
    assert baseline.rows == 1000
    assert baseline.numbers.keys() == {"at.day_of_week", "wind", "empty", "constant"}
    for column in baseline.numbers.values():
        assert sum(column.counts) + column.missing == 1000
        assert len(column.counts) == max(0, len(column.edges) - 1)


def test_numbers_have_bins_of_equal_mass_and_their_moments(baseline: Baseline) -> None:
    wind = baseline.numbers["wind"]
    assert wind.missing == 100
    assert len(wind.counts) == 10
    assert max(wind.counts) - min(wind.counts) <= 2
    assert wind.edges == tuple(sorted(set(wind.edges)))
    assert wind.quartiles[0] < wind.quartiles[1] < wind.quartiles[2]
    assert wind.mean == pytest.approx(10, abs=0.7)


def test_words_are_counted_by_name_and_unseen_ones_as_missing(baseline: Baseline) -> None:
    carrier = baseline.categories["carrier"]
    assert carrier.counts == {"UA": 600, "AA": 380, "DL": 0}
    assert carrier.missing == 20


def test_a_column_without_any_value_and_one_with_a_single_value_are_described(baseline: Baseline) -> None:
    assert baseline.numbers["empty"].missing == 1000
    assert baseline.numbers["empty"].counts == ()
    assert baseline.numbers["constant"].counts == (1000,)
    assert baseline.numbers["constant"].standard_deviation == 0


def test_scores_are_counted_in_the_bins_that_the_model_server_uses(baseline: Baseline) -> None:
    assert baseline.score_counts == (2, 1, 0, 0, 0, 0, 0, 0, 0, 2)


def test_a_baseline_survives_json(baseline: Baseline) -> None:
    assert msgspec.json.decode(msgspec.json.encode(baseline), type=Baseline) == baseline


def test_features_of_another_schema_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(3, 4\), expected rows × 5 columns"):
        make_baseline(SCHEMA, np.zeros((3, 4), np.float32), np.zeros(3, np.float32), {})


def test_golden_records_encode_the_same_after_their_way_through_json() -> None:
    record = {"plane": "N1", "at": datetime(2013, 7, 1, 8, 30), "wind": None, "carrier": "AA", "constant": 7.0}
    golden = make_golden([record], np.array([0.25], dtype=np.float32))
    restored = msgspec.json.decode(msgspec.json.encode(golden), type=Golden)
    assert restored.records[0]["at"] == "2013-07-01T08:30:00"
    encoder = Encoder(SCHEMA)
    np.testing.assert_array_equal(encoder.encode(restored.records[0]), encoder.encode(record))
    assert restored.scores == [0.25]


def test_golden_rows_need_a_score_each() -> None:
    with pytest.raises(ValueError, match="found 0 golden records, 1 scores"):
        make_golden([], np.array([0.5], dtype=np.float32))
