from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits

from pipelines.inference import score
from pipelines.training.boosted_trees import FittedTrees
from pipelines.training.calibration import Calibration
from pipelines.training.graph import GraphWriter, float32_at_most

IDENTITY = Calibration(1.0, 0.0)
FLOATS32 = st.floats(width=32, allow_nan=False)


def boosted(features: NDArray[Any], labels: NDArray[Any], trees: int) -> Any:
    with threadpool_limits(1):
        return HistGradientBoostingClassifier(max_iter=trees, early_stopping=False).fit(features, labels)


@given(threshold=st.floats(min_value=-3e38, max_value=3e38), x=FLOATS32)
def test_every_float32_stays_on_its_side_of_a_rounded_threshold(threshold: float, x: float) -> None:
    rounded = float32_at_most(np.array([threshold]))[0]
    for value in (np.float32(x), np.float32(threshold), rounded, np.nextafter(rounded, np.float32(np.inf))):
        assert (float(value) <= threshold) == (value <= rounded)


def test_trees_that_split_between_neighbouring_floats_keep_their_parity() -> None:
    # the split lies halfway between two neighbours; rounded to the nearest float32 it would move the upper one
    low = np.float32(1 + 2**-23)
    high = np.nextafter(low, np.float32(2))
    features = np.repeat([low, high], 200)[:, None]
    labels = np.repeat([0, 1], 200)
    model = boosted(features, labels, 5)
    threshold = model._predictors[0][0].nodes["num_threshold"][0]
    assert np.float32(threshold) > threshold  # rounding to the nearest goes up here
    fitted = FittedTrees(model, 1, [])
    scores = score(GraphWriter.finish(*fitted.write(), IDENTITY), features)
    np.testing.assert_allclose(scores, model.predict_proba(features)[:, 1], atol=1e-6)


def test_missing_values_go_where_each_split_sends_them() -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(2000, 3)).astype(np.float32)
    features[random.random((2000, 3)) < 0.3] = np.nan
    labels = (np.nan_to_num(features[:, 0], nan=2.0) + np.nan_to_num(features[:, 1], nan=-1.0) > 0).astype(int)
    model = boosted(features, labels, 30)
    sent_left = np.concatenate([stage[0].nodes["missing_go_to_left"] for stage in model._predictors])
    assert {0, 1} == set(sent_left.tolist())
    graph = GraphWriter.finish(*FittedTrees(model, 3, []).write(), IDENTITY)
    np.testing.assert_allclose(score(graph, features), model.predict_proba(features)[:, 1], atol=1e-6)
