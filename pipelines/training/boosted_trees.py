"""The trainer `boosted_trees`: scikit-learn's histogram gradient boosting, written out as one ONNX tree ensemble.

Words enter as their codes: vocabularies are ordered by frequency, and on flights neither native categorical splits nor
codes ordered by the target were better. Numbers enter unscaled, and thresholds are rounded towards what keeps every
float32 on its side of the split; a general converter rounds to the nearest, which moves a row now and then.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.input_schema import InputSchema
from pipelines.training.graph import TREES_DOMAIN, GraphWriter, float32_at_most
from pipelines.training.plan import BoostedTrees
from pipelines.training.rows import OnStep, Rows

FIRST_STAGE_TREES = 25  # `on_step` hears after so many trees, and then whenever their number has doubled


class FittedTrees:
    """A fitted ensemble: its own log odds, and the same as nodes of a graph."""

    def __init__(self, model: Any, width: int, curve: list[dict[str, float]]) -> None:
        self._model = model
        self._width = width
        self.curve = curve

    @property
    def steps(self) -> int:
        """The number of trees."""
        return len(self._model._predictors)

    def log_odds(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """The log odds of label 1, shape (rows,)."""
        return np.asarray(self._model.decision_function(features), dtype=np.float64)

    def write(self) -> tuple[GraphWriter, str]:
        """A graph that ends in the log odds (rows × 1), and the name of that tensor."""
        graph = GraphWriter(self._width)
        trees = [stage[0].nodes for stage in self._model._predictors]
        base = float(np.asarray(self._model._baseline_prediction).ravel()[0])
        return graph, graph.node(
            "TreeEnsembleRegressor",
            graph.columns(list(range(self._width))),
            domain=TREES_DOMAIN,
            **ensemble(trees, base),
        )


def fit(
    parameters: BoostedTrees,
    seed: int,
    schema: InputSchema,
    rows: Rows,
    until: Rows | int,
    progress: Callable[[str], None],
    on_step: OnStep | None,
) -> FittedTrees:
    """Fits on `rows`: up to the least log loss on other rows, or for a known number of trees.

    With `on_step` it grows in stages, which give the trees that one fit gives: a warm start goes on with the generator
    of column choices and the sums of the trees so far. Each stage bins the rows again, so they double.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    stopped = isinstance(until, Rows)
    features = _without_idle_columns(rows.features, parameters.minimum_leaf_rows)
    model = HistGradientBoostingClassifier(
        max_iter=parameters.trees if isinstance(until, Rows) else until,
        learning_rate=parameters.learning_rate,
        max_leaf_nodes=parameters.leaves,
        min_samples_leaf=parameters.minimum_leaf_rows,
        l2_regularization=parameters.l2,
        max_features=parameters.column_share,
        early_stopping=stopped,
        n_iter_no_change=parameters.patience,
        categorical_features=None,
        random_state=seed,
        warm_start=stopped,
    )
    progress(f"boosted trees: {'up to ' if stopped else ''}{model.max_iter} trees on {len(rows.labels):,} rows")
    if not isinstance(until, Rows):
        model.fit(features, rows.labels)
        return FittedTrees(model, len(schema.columns), [])
    for trees in [parameters.trees] if on_step is None else _stages(parameters.trees):
        model.set_params(max_iter=trees).fit(features, rows.labels, X_val=until.features, y_val=until.labels)
        if on_step is not None:
            on_step(model.n_iter_, float(-model.validation_score_[-1]))
        if model.n_iter_ < trees:  # nothing was gained for too long
            break
    training_losses, losses = -model.train_score_, -model.validation_score_  # of 0, 1, 2 … trees
    best = max(1, int(np.argmin(losses)))
    del model._predictors[best:]  # the trees after the best one only cost time
    progress(f"boosted trees: {best} trees, log loss {losses[best]:.4f} on {len(until.labels):,} rows to stop by")
    curve = [
        {"step": float(step), "train_log_loss": float(training), "validation_log_loss": float(validation)}
        for step, (training, validation) in enumerate(zip(training_losses, losses, strict=True))
    ]
    return FittedTrees(model, len(schema.columns), curve)


def _without_idle_columns(features: NDArray[np.float32], minimum_leaf_rows: int) -> NDArray[np.float32]:
    """The features with zeros in columns that have too few values for any leaf: binning fails on one without a value.

    No tree can split on such a column either way, nor on a constant one, so what comes there later changes no score.
    """
    idle = (~np.isnan(features)).sum(axis=0) < minimum_leaf_rows
    return np.where(idle, np.float32(0), features) if idle.any() else features


def _stages(trees: int) -> list[int]:
    doubled = [FIRST_STAGE_TREES << times for times in range(trees.bit_length())]
    return [*(stage for stage in doubled if stage < trees), trees]


def ensemble(trees: list[NDArray[Any]], base: float) -> dict[str, Any]:
    """The attributes of `TreeEnsembleRegressor` (ai.onnx.ml 3) for scikit-learn's tables of nodes, one a tree.

    A leaf's value is its log odds with the learning rate in it; missing values go where the split sends them.
    """
    nodes = np.concatenate(trees)
    leaf = nodes["is_leaf"].astype(bool)
    if nodes["is_categorical"].any():
        raise ValueError("a split on a set of words cannot be written here: train on codes")
    tree_ids = np.repeat(np.arange(len(trees)), [len(tree) for tree in trees])
    node_ids = np.concatenate([np.arange(len(tree)) for tree in trees])
    thresholds = np.where(leaf, np.float32(0), float32_at_most(nodes["num_threshold"]))
    return {
        "n_targets": 1,
        "base_values": [base],
        "aggregate_function": "SUM",
        "post_transform": "NONE",
        "nodes_treeids": tree_ids.tolist(),
        "nodes_nodeids": node_ids.tolist(),
        "nodes_featureids": np.where(leaf, 0, nodes["feature_idx"]).astype(int).tolist(),
        "nodes_modes": ["LEAF" if end else "BRANCH_LEQ" for end in leaf.tolist()],
        "nodes_values": thresholds.astype(np.float32).tolist(),
        "nodes_truenodeids": np.where(leaf, 0, nodes["left"]).astype(int).tolist(),
        "nodes_falsenodeids": np.where(leaf, 0, nodes["right"]).astype(int).tolist(),
        "nodes_missing_value_tracks_true": np.where(leaf, 0, nodes["missing_go_to_left"]).astype(int).tolist(),
        "target_ids": [0] * int(leaf.sum()),
        "target_treeids": tree_ids[leaf].tolist(),
        "target_nodeids": node_ids[leaf].tolist(),
        "target_weights": nodes["value"][leaf].astype(np.float32).tolist(),
    }
