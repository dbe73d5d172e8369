from pathlib import Path

import numpy as np
import pytest

from pipelines.evaluation.latency import compare_latency
from tests.fixtures.bundles import tiny_bundle


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return tiny_bundle(tmp_path).model_path


@pytest.fixture
def rows(tmp_path: Path) -> np.ndarray:
    bundle = tiny_bundle(tmp_path)
    return np.zeros((64, len(bundle.schema.columns)), dtype=np.float32)


def test_a_graph_against_itself_differs_by_little_of_its_own_time(graph: Path, rows: np.ndarray) -> None:
    found = compare_latency((graph, rows), (graph, rows), seed=1)
    assert found.difference_us_p50 is not None
    assert found.difference_us_p50.low <= found.difference_us_p50.estimate <= found.difference_us_p50.high
    assert abs(found.difference_us_p50.estimate) < found.challenger[0].us_p50


def test_without_a_champion_there_is_no_difference(graph: Path, rows: np.ndarray) -> None:
    found = compare_latency((graph, rows), None, seed=1)
    assert found.difference_us_p50 is None
    assert [latency.rows for latency in found.challenger] == [1, 32]


def test_no_rows_are_refused(graph: Path, rows: np.ndarray) -> None:
    with pytest.raises(ValueError, match="real rows"):
        compare_latency((graph, rows[:0]), None, seed=1)
