"""The baseline and the golden rows that travel in the bundle: what monitors and the model server compare with."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from contracts.bundle import Baseline, CategoryBaseline, Golden, NumberBaseline
from contracts.input_schema import InputSchema
from contracts.slots import SCORE_BINS

NUMBER_BINS = 10
GOLDEN_TOLERANCE = 1e-4  # a graph's float32 sums may differ between processors by less than this


def make_baseline(
    schema: InputSchema, features: NDArray[np.float32], scores: NDArray[np.float32], metrics: Mapping[str, float]
) -> Baseline:
    """The reference of monitors: encoded training `features` (rows × columns), test `scores` and `metrics`.

    Numbers are counted in at most ten bins of nearly equal mass, categories by word, scores in the bins of slots.

    Raises:
        ValueError: the features have other columns than the schema, or no rows.
    """
    if features.ndim != 2 or features.shape[1] != len(schema.columns) or not len(features):
        raise ValueError(f"features have the shape {features.shape}, expected rows × {len(schema.columns)} columns")
    words = {field.name: field.vocabulary for field in schema.fields if field.kind == "category"}
    numbers: dict[str, NumberBaseline] = {}
    categories: dict[str, CategoryBaseline] = {}
    for position, name in enumerate(schema.columns):
        column = features[:, position].astype(np.float64)
        if position in schema.categorical:
            categories[name] = _category(column, words[name])
        else:
            numbers[name] = _number(column)
    edges = np.linspace(0, 1, SCORE_BINS + 1)
    return Baseline(
        rows=len(features),
        numbers=numbers,
        categories=categories,
        score_counts=tuple(np.histogram(np.clip(scores, 0, 1), edges)[0].tolist()),
        metrics=dict(metrics),
    )


def make_golden(
    records: Sequence[Mapping[str, Any]], scores: NDArray[np.float32], tolerance: float = GOLDEN_TOLERANCE
) -> Golden:
    """Raw `records` (as a client sends them; timestamps become ISO 8601 text) with the scores the bundle gives them.

    Raises:
        ValueError: no records, or not one score for each.
    """
    if not records or len(records) != len(scores):
        raise ValueError(f"found {len(records)} golden records, {len(scores)} scores; expected as many, and some")
    plain = [msgspec.to_builtins(dict(record)) for record in records]
    return Golden(records=plain, scores=[float(score) for score in scores], tolerance=tolerance)


def _number(column: NDArray[np.float64]) -> NumberBaseline:
    present = column[~np.isnan(column)]
    missing = len(column) - len(present)
    if not len(present):
        return NumberBaseline(
            missing=missing, mean=0.0, standard_deviation=0.0, quartiles=(0.0, 0.0, 0.0), edges=(), counts=()
        )
    edges = _equal_mass_edges(present)
    first, middle, third = (float(value) for value in np.quantile(present, (0.25, 0.5, 0.75)))
    return NumberBaseline(
        missing=missing,
        mean=float(present.mean()),
        standard_deviation=float(present.std()),
        quartiles=(first, middle, third),
        edges=tuple(edges.tolist()),
        counts=tuple(np.histogram(present, edges)[0].tolist()),
    )


def _equal_mass_edges(present: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ascending edges, at least two; a value that many rows share gets one bin, not several empty ones."""
    edges = np.unique(np.quantile(present, np.linspace(0, 1, NUMBER_BINS + 1), method="inverted_cdf"))
    if len(edges) > 1:
        return edges
    return np.array([edges[0], np.nextafter(edges[0], np.inf)])  # one value only: a bin that holds it


def _category(column: NDArray[np.float64], words: tuple[str, ...]) -> CategoryBaseline:
    present = column[~np.isnan(column)].astype(np.int64)
    counts = np.bincount(present, minlength=len(words))
    return CategoryBaseline(missing=len(column) - len(present), counts=dict(zip(words, counts.tolist(), strict=True)))
