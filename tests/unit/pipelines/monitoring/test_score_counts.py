"""Scores from the metrics page that the server really writes."""

import asyncio
from pathlib import Path

import pytest

from pipelines.monitoring.score_counts import NoScoresError, new_scores, read_counters
from serving.metrics import Metrics
from serving.prediction_writer import Mask, PredictionWriter
from serving.slots import Slots


@pytest.fixture
def metrics(tmp_path: Path) -> Metrics:
    return Metrics(Slots(server="a"), PredictionWriter(tmp_path, project="p", mask=Mask(b"key")))


def _page(metrics: Metrics) -> str:
    return asyncio.run(metrics.exposition()).decode()


def test_the_page_of_a_server_gives_its_scores_by_version_and_slot(metrics: Metrics) -> None:
    assert read_counters(_page(metrics)) == {}
    metrics.of("3", "champion").answered_together(0.001, [0.05, 0.55, 0.55, 1.0])
    metrics.of("4", "shadow").answered(0.001, 0.95)
    found = read_counters(_page(metrics))
    assert found == {"3/champion": [1, 0, 0, 0, 0, 2, 0, 0, 0, 1], "4/shadow": [0] * 9 + [1]}


def test_what_is_new_is_counted_once_and_shadows_are_not(metrics: Metrics) -> None:
    metrics.of("3", "champion").answered_together(0.001, [0.05, 0.55])
    before = read_counters(_page(metrics))
    assert new_scores(None, before) == [0] * 10, "what was before the first look belongs to no hour"
    metrics.of("3", "champion").answered(0.001, 0.55)
    metrics.of("4", "challenger").answered(0.001, 0.95)
    metrics.of("4", "shadow").answered(0.001, 0.15)
    assert new_scores(before, read_counters(_page(metrics))) == [0, 0, 0, 0, 0, 1, 0, 0, 0, 1]


def test_a_server_that_began_anew_is_seen_by_counters_that_went_back() -> None:
    before = {"3/champion": [5, 0, 0, 0, 0, 100, 0, 0, 0, 0]}
    assert new_scores(before, {"3/champion": [0, 0, 0, 0, 0, 7, 0, 0, 0, 2]}) == [0, 0, 0, 0, 0, 7, 0, 0, 0, 2]
    assert new_scores(before, {}) == [0] * 10


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("up 1\n", "is it the /metrics of a model server"),
        (
            '# TYPE paceline_scores histogram\npaceline_scores_bucket{version="1",slot="champion",le="0.5"} 1\n'
            'paceline_scores_bucket{version="1",slot="champion",le="+Inf"} 1\n',
            "paceline_scores of 1/champion has 1 buckets, expected 10",
        ),
    ],
)
def test_another_page_is_refused(page: str, message: str) -> None:
    with pytest.raises(NoScoresError, match=message):
        read_counters(page)
