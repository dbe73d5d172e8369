"""Faults of features, training, export, quantisation, and of the evaluation itself."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from benchmarks.gates.fault import Fault, around

ENCODE, TRAIN = "pipelines.tasks.features._encode", "pipelines.training.trainer.train"
FINISH, CASE = "pipelines.training.graph.GraphWriter.finish", "pipelines.tasks.judging.read_case"
_TIME_OF_DAY = 3  # its place among the encoded columns


def _test_features(change: Callable[[np.ndarray, Any], np.ndarray]) -> Callable[[], Any]:
    """The challenger's test rows, which stand for live requests, are encoded otherwise than its training rows."""
    from pipelines.inference import score

    def changed(case: Any) -> Any:
        features = change(case.test.features.copy(), case.schema)
        return dataclasses.replace(case, test=case.test._replace(features=features), scores=score(case.graph, features))

    return _judged(changed)


def _other_codes(features: np.ndarray, schema: Any) -> np.ndarray:
    for position, words in schema.categorical.items():
        features[:, position] = (words - 1) - features[:, position]
    return features


def _zeros(features: np.ndarray, schema: Any) -> np.ndarray:
    return np.nan_to_num(features, nan=0.0)


def _order(features: np.ndarray, schema: Any) -> np.ndarray:
    return np.ascontiguousarray(np.roll(features, 1, axis=1))


def _scaled(features: np.ndarray, schema: Any) -> np.ndarray:
    numbers = [place for place in range(features.shape[1]) if place not in schema.categorical]
    features[:, numbers] = (features[:, numbers] - np.nanmean(features[:, numbers], axis=0)) / 100
    return features


def _cached(features: np.ndarray, schema: Any) -> np.ndarray:
    """A feature store that answers with the values of the row before."""
    return np.roll(features, 1, axis=0)


def _trained(change: Callable[..., tuple[Any, ...]]) -> Callable[[], Any]:
    """`change` gets (spec, features, labels) of training and gives them back."""

    def wrap(train: Any) -> Any:
        def trained(spec: Any, seed: int, schema: Any, rows: Any, *more: Any, **named: Any) -> Any:
            spec, features, labels = change(spec, *rows[:2])
            return train(spec, seed, schema, (features, labels, *rows[2:]), *more, **named)

        return trained

    return around(TRAIN, wrap)


def _with_parameters(**parameters: Any) -> Callable[..., tuple[Any, ...]]:
    import msgspec

    return lambda spec, features, labels: (
        msgspec.structs.replace(spec, parameters={**spec.parameters, **parameters}),
        features,
        labels,
    )


def _noisy(spec: Any, features: Any, labels: Any) -> tuple[Any, ...]:
    flipped = np.random.default_rng(6).random(len(labels)) < 0.4
    return spec, features, np.where(flipped, 1 - labels, labels)


def _file(change: Callable[[onnx.ModelProto], None]) -> Callable[[], Any]:
    """The graph is written wrongly: `change` edits the model that the export has made."""

    def wrap(finish: Any) -> Any:
        def finished(*given: Any) -> bytes:
            model = onnx.load_from_string(finish(*given))
            change(model)
            return bytes(model.SerializeToString(deterministic=True))

        return finished

    return around(FINISH, wrap)


def _attribute(model: onnx.ModelProto, name: str) -> Any:
    trees = next(node for node in model.graph.node if node.op_type.startswith("TreeEnsemble"))
    return next(attribute for attribute in trees.attribute if attribute.name == name)


def _half_precision(model: onnx.ModelProto) -> None:
    values = _attribute(model, "nodes_values").floats
    values[:] = np.asarray(values, dtype=np.float16).astype(np.float32).tolist()


def _missing_turned(model: onnx.ModelProto) -> None:
    sides = _attribute(model, "nodes_missing_value_tracks_true").ints
    sides[:] = [1 - side for side in sides]


def _base_lost(model: onnx.ModelProto) -> None:
    values = _attribute(model, "base_values").floats
    values[:] = [0.0] * len(values)


def _trees_lost(model: onnx.ModelProto) -> None:
    weights, trees = _attribute(model, "target_weights").floats, _attribute(model, "target_treeids").ints
    last = max(trees)
    weights[:] = [0.0 if tree > last * 0.8 else weight for weight, tree in zip(weights, trees, strict=True)]


def _columns_off_by_one(model: onnx.ModelProto) -> None:
    columns = _attribute(model, "nodes_featureids").ints
    columns[:] = [max(0, column - 1) for column in columns]


def _no_sigmoid(model: onnx.ModelProto) -> None:
    next(node for node in model.graph.node if node.op_type == "Sigmoid").op_type = "Identity"


def _one_row_only(model: onnx.ModelProto) -> None:
    for tensor in (*model.graph.input, *model.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_value = 1


def _newer_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version, model.ir_version = 99, 99


def _calibration_lost(model: onnx.ModelProto) -> None:
    """The curve is three times as steep: scores are too sure of themselves, in the same order."""
    for node in model.graph.node:
        if node.op_type == "Mul":
            constant = next(each for each in model.graph.initializer if each.name == node.input[1])
            constant.CopyFrom(numpy_helper.from_array(3 * numpy_helper.to_array(constant), constant.name))


def _judged(change: Callable[[Any], Any]) -> Callable[[], Any]:
    """The evaluation looks at something else than it says."""
    return around(CASE, lambda case: lambda *given: change(case(*given)))


def _labels_moved(case: Any) -> Any:
    return dataclasses.replace(case, test=case.test._replace(labels=np.roll(case.test.labels, 1)))


def _rival_shuffled(case: Any) -> Any:
    return dataclasses.replace(case, rival_scores=np.random.default_rng(7).permutation(case.rival_scores))


def _swapped(case: Any) -> Any:
    return dataclasses.replace(case, scores=case.rival_scores, rival_scores=case.scores)


def _few(case: Any) -> Any:
    """Every fiftieth row is judged, as if that were the test window."""
    part = case.test
    kept = type(part)(*(values[::50] for values in part))
    rival = None if case.rival is None else (case.rival[0], case.rival[1][::50])
    scores, others = case.scores[::50], case.rival_scores[::50]
    return dataclasses.replace(case, test=kept, scores=scores, rival=rival, rival_scores=others)


def _one_day(case: Any) -> Any:
    return dataclasses.replace(case, test=case.test._replace(days=np.zeros_like(case.test.days)))


def _itself(case: Any) -> Any:
    """The challenger is compared with itself."""
    return dataclasses.replace(case, rival_scores=case.scores)


def _trained_on_test() -> Callable[[], Any]:
    """The test rows are training rows: the encoded parts are mixed up."""

    def wrap(encode: Any) -> Any:
        def encoded(project: Any, snapshot: Any, schema: Any, part: str) -> Any:
            made = encode(project, snapshot, schema, part)
            if part != "train":
                return made
            test = encode(project, snapshot, schema, "test")
            return type(made)(*(np.concatenate(pair) for pair in zip(made, test, strict=True)))

        return encoded

    return around(ENCODE, wrap)


FEATURES = (
    Fault(
        "codes of another vocabulary",
        "features",
        "words are numbered otherwise than in training",
        _test_features(_other_codes),
    ),
    Fault(
        "zeros for missing in serving",
        "features",
        "missing is NaN in training and 0 in serving",
        _test_features(_zeros),
    ),
    Fault("columns in another order", "features", "each column is one place to the right", _test_features(_order)),
    Fault("scaled twice", "features", "serving scales what training did not", _test_features(_scaled)),
    Fault("stale features", "features", "a cache answers with the row before", _test_features(_cached)),
)
TRAINING = (
    Fault(
        "too few rows", "training", "40 rows are left by a wrong filter", _trained(lambda s, x, y: (s, x[:40], y[:40]))
    ),
    Fault(
        "a tenth of the rows", "training", "a debug sample is left in", _trained(lambda s, x, y: (s, x[::10], y[::10]))
    ),
    Fault(
        "the oldest rows only",
        "training",
        "the newest three quarters are cut off",
        _trained(lambda s, x, y: (s, x[: len(x) // 4], y[: len(y) // 4])),
    ),
    Fault("one tree", "training", "the number of trees is 1", _trained(_with_parameters(trees=1))),
    Fault(
        "wild leaves",
        "training",
        "leaves of one row, no restraint",
        _trained(_with_parameters(minimum_leaf_rows=1, leaves=500, l2=0.0, learning_rate=1.0, patience=300)),
    ),
    Fault("noisy labels", "training", "40 % of the labels are wrong in training", _trained(_noisy)),
    Fault(
        "training labels inverted",
        "training",
        "late means on time in training",
        _trained(lambda s, x, y: (s, x, 1 - y)),
    ),
    Fault(
        "a column of zeros",
        "training",
        "the time of day is 0 in training",
        _trained(lambda s, x, y: (s, np.where(np.arange(x.shape[1]) == _TIME_OF_DAY, np.float32(0), x), y)),
    ),
    Fault("trained on the test rows", "training", "the test rows are among the training rows", _trained_on_test()),
)
EXPORT = (
    Fault("thresholds in half precision", "export", "a converter casts them to float16", _file(_half_precision)),
    Fault("missing goes the other way", "export", "the default branch is turned round", _file(_missing_turned)),
    Fault("the base value is lost", "export", "the converter forgets it", _file(_base_lost)),
    Fault("the last trees are lost", "export", "a fifth of the trees has no weight", _file(_trees_lost)),
    Fault("columns off by one", "export", "the converter counts from 1", _file(_columns_off_by_one)),
    Fault("log odds for scores", "export", "the sigmoid is left out", _file(_no_sigmoid)),
    Fault("batches of one row", "export", "the number of rows is fixed", _file(_one_row_only)),
    Fault("too new for the runtime", "export", "an opset that serving does not know", _file(_newer_opset)),
    Fault("too sure of itself", "export", "the calibration is three times as steep", _file(_calibration_lost)),
)
EVALUATION = (
    Fault("labels one row off", "evaluation", "scores and labels are joined wrongly", _judged(_labels_moved)),
    Fault(
        "champion on other rows",
        "evaluation",
        "the champion's scores are those of other rows",
        _judged(_rival_shuffled),
    ),
    Fault(
        "the sides change places",
        "evaluation",
        "the champion's scores are taken for the challenger's",
        _judged(_swapped),
    ),
    Fault("compared with itself", "evaluation", "the challenger's scores on both sides", _judged(_itself)),
    Fault("a handful of rows", "evaluation", "every fiftieth test row is judged", _judged(_few)),
    Fault("one day", "evaluation", "all test rows carry the same day", _judged(_one_day)),
)
