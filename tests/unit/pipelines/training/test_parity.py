from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit

from contracts.input_schema import InputSchema
from pipelines.training.calibration import Calibration
from pipelines.training.graph import GraphWriter
from pipelines.training.parity import ParityError, check_parity

IDENTITY = Calibration(1.0, 0.0)
WIND = 2


@pytest.fixture(scope="module")
def real(events: Callable[..., Any]) -> dict[str, NDArray[np.float32]]:
    return {"train": events(11_000, 1).features, "validation": events(500, 2).features}


def capped_wind(cap: float = 30.0) -> bytes:
    """The log odds are the wind, at most `cap`, divided by ten; 0 where it is missing."""
    graph = GraphWriter(4)
    wind = graph.columns([WIND])
    known = graph.node("Where", graph.node("IsNaN", wind), graph.constant(0.0), wind)
    capped = graph.node("Clip", known, graph.constant(-30.0), graph.constant(cap))
    return graph.finish(graph.node("Div", capped, graph.constant(10.0)), IDENTITY)


def model(features: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.asarray(expit(np.clip(np.nan_to_num(features[:, WIND], nan=0.0), -30, 30) / 10), dtype=np.float64)


def test_ten_thousand_real_rows_and_all_edge_rows_are_compared(
    real: dict[str, NDArray[np.float32]], schema: InputSchema
) -> None:
    found = check_parity(model, capped_wind(), real, schema)
    assert found.rows == 11_500
    assert found.edge_rows > 100
    assert found.batch_rows == (1, 7, 11_500 + found.edge_rows)
    assert found.worst_real_difference <= found.worst_difference < 1e-6
    assert found.worst.difference == found.worst_difference
    assert found.worst.part in ("train", "validation", "edge")


def test_fewer_real_rows_are_all_compared(real: dict[str, NDArray[np.float32]], schema: InputSchema) -> None:
    assert check_parity(model, capped_wind(), {"train": real["train"][:60]}, schema).rows == 60


def test_a_single_real_row_that_differs_is_found_and_named(
    real: dict[str, NDArray[np.float32]], schema: InputSchema
) -> None:
    features = real["validation"].copy()
    features[321] = [1000, 1, 12.5, 0]

    def odd(rows: NDArray[np.float32]) -> NDArray[np.float64]:
        return model(rows) + np.where((rows == features[321]).all(axis=1), 0.01, 0)

    with pytest.raises(
        ParityError,
        match=r"by 1.00e-02 on row 321 of validation, in batches of .* the model says .*, the graph .*"
        r"on 1 of 11500 real and 0 of \d+ edge rows; it must not be served",
    ):
        check_parity(odd, capped_wind(), real | {"validation": features}, schema)


def test_a_graph_that_is_wrong_beyond_all_real_rows_only_is_found_by_edge_rows(
    real: dict[str, NDArray[np.float32]], schema: InputSchema
) -> None:
    calm = {part: np.where(np.isnan(rows), rows, np.minimum(rows, 1400)) for part, rows in real.items()}
    for rows in calm.values():
        rows[:, WIND] = np.minimum(rows[:, WIND], 25)
    with pytest.raises(ParityError, match=r"column wind: (far above|largest float32).*on 0 of 11500 real and"):
        check_parity(model, capped_wind(cap=28.0), calm, schema)


def test_a_graph_that_takes_a_missing_value_for_another_is_named_by_the_column(
    real: dict[str, NDArray[np.float32]], schema: InputSchema
) -> None:
    whole = {part: rows[~np.isnan(rows).any(axis=1)] for part, rows in real.items()}

    def other(rows: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.where(np.isnan(rows[:, WIND]), 0.9, model(rows))

    with pytest.raises(ParityError, match=r"edge row \((column wind|all columns): missing"):
        check_parity(other, capped_wind(), whole, schema)


def test_a_score_that_is_no_probability_is_a_difference_on_both_sides(
    real: dict[str, NDArray[np.float32]], schema: InputSchema
) -> None:
    def broken(rows: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.where(rows[:, 0] > 1e30, np.nan, model(rows))

    with pytest.raises(ParityError, match=r"by inf on an edge row .*at.minute_of_day: largest float32.*says nan"):
        check_parity(broken, capped_wind(), real, schema)


def test_a_graph_with_a_fixed_number_of_rows_does_not_pass(
    real: dict[str, NDArray[np.float32]], schema: InputSchema
) -> None:
    graph = GraphWriter(4)
    one = graph.node("Reshape", graph.columns([0]), graph.constant([1, 1], np.int64))
    with pytest.raises(ParityError, match="does not run with 7 rows"):
        check_parity(lambda rows: np.full(len(rows), 0.5), graph.finish(one, IDENTITY), real, schema)


def test_a_graph_that_gives_one_score_for_all_rows_does_not_pass(
    real: dict[str, NDArray[np.float32]], schema: InputSchema
) -> None:
    graph = GraphWriter(4)
    first = graph.node("ReduceMean", graph.constant([[0.0]]), keepdims=1)
    with pytest.raises(ParityError, match="gives 1 scores for 7 rows"):
        check_parity(lambda rows: np.full(len(rows), 0.5), graph.finish(first, IDENTITY), real, schema)
