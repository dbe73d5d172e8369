"""The trainer `neural_net`: a multilayer perceptron in torch, written out as ONNX with all its preprocessing inside.

Each vocabulary has one more code than words, for missing and unseen; a code that no word has counts as unseen. Numbers
are scaled by the training rows and clipped, a missing one becomes the mean, and columns with missing values in training
add an indicator each.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from contracts.input_schema import InputSchema
from pipelines.training.checkpoints import Checkpoint
from pipelines.training.descent import Descent, Inputs, Labelled, log_odds
from pipelines.training.graph import GraphWriter, categorical_columns
from pipelines.training.hardware import CPU, find_hardware
from pipelines.training.plan import NeuralNet
from pipelines.training.rows import OnStep, Rows

CLIP = 5.0  # standard deviations


class Preparation(NamedTuple):
    """What is fitted before the net: the positions of columns, the scaling of numbers, the offsets of vocabularies."""

    numbers: list[int]
    codes: list[int]
    means: NDArray[np.float32]
    scales: NDArray[np.float32]
    with_missing: list[int]  # positions among `numbers` that get an indicator
    unseen: NDArray[np.float32]  # the code for missing and unseen of each vocabulary
    offsets: NDArray[np.int64]  # where each vocabulary starts in the one table of embeddings

    @property
    def table_rows(self) -> int:
        """All codes of all vocabularies."""
        return int((self.unseen + 1).sum())

    @property
    def dense_width(self) -> int:
        """Scaled numbers and indicators."""
        return len(self.numbers) + len(self.with_missing)

    def dense(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scaled numbers beside indicators, rows × `dense_width`."""
        values = features[:, self.numbers]
        missing = np.isnan(values)
        with np.errstate(over="ignore"):  # the largest float32 overflows, and is clipped as it is in the graph
            scaled = np.clip((np.where(missing, self.means, values) - self.means) / self.scales, -CLIP, CLIP)
        return np.concatenate([scaled, missing[:, self.with_missing]], axis=1).astype(np.float32)

    def rows_of_table(self, features: NDArray[np.float32]) -> NDArray[np.int64]:
        """The row of each code in the table of embeddings, rows × vocabularies."""
        codes = features[:, self.codes]
        known = np.minimum(np.where(np.isnan(codes), self.unseen, codes), self.unseen)
        return known.astype(np.int64) + self.offsets


def prepare(schema: InputSchema, features: NDArray[np.float32]) -> Preparation:
    """Fits the preparation on the training features. A column without any value or spread becomes zeros."""
    numbers, codes = categorical_columns(schema)
    values = features[:, numbers].astype(np.float64)
    present = ~np.isnan(values)
    counts = np.maximum(present.sum(axis=0), 1)
    means = np.where(present, values, 0).sum(axis=0) / counts
    spreads = np.sqrt((np.where(present, values - means, 0) ** 2).sum(axis=0) / counts)
    sizes = np.array([schema.categorical[position] for position in codes], dtype=np.int64)
    return Preparation(
        numbers=numbers,
        codes=codes,
        means=means.astype(np.float32),
        scales=np.where(spreads > 0, spreads, 1).astype(np.float32),
        with_missing=np.flatnonzero(~present.all(axis=0)).tolist(),
        unseen=sizes.astype(np.float32),
        offsets=np.concatenate([[0], np.cumsum(sizes + 1)[:-1]]).astype(np.int64) if codes else sizes,
    )


class FittedNet:
    """A fitted net: its own log odds, and the same as nodes of a graph."""

    def __init__(
        self,
        net: Any,
        preparation: Preparation,
        width: int,
        curve: list[dict[str, float]],
        steps: int,
        device: str = "cpu",
    ) -> None:
        self._net = net
        self._preparation = preparation
        self._width = width
        self.curve = curve
        self.steps = steps  # the epoch whose weights these are
        self.device = device

    def log_odds(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """The log odds of label 1, shape (rows,)."""
        return log_odds(self._net, _inputs(self._preparation, features))

    def write(self) -> tuple[GraphWriter, str]:
        """A graph that ends in the log odds (rows × 1), and the name of that tensor."""
        graph, fitted = GraphWriter(self._width), self._preparation
        state = {name: tensor.detach().numpy() for name, tensor in self._net.state_dict().items()}
        parts = [*_write_dense(graph, fitted), *_write_embeddings(graph, fitted, state.get("embeddings.weight"))]
        flow = graph.node("Concat", *parts, axis=1) if len(parts) > 1 else parts[0]
        weights = sorted(int(name.split(".")[1]) for name in state if name.startswith("layers.") and "weight" in name)
        for position in weights:
            if position != weights[0]:
                flow = graph.node("Relu", flow)
            weight, bias = state[f"layers.{position}.weight"], state[f"layers.{position}.bias"]
            flow = graph.node("Gemm", flow, graph.constant(weight), graph.constant(bias), transB=1)
        return graph, flow


def fit(
    parameters: NeuralNet,
    seed: int,
    schema: InputSchema,
    rows: Rows,
    until: Rows | int,
    progress: Callable[[str], None],
    on_step: OnStep | None,
    checkpoints: Path | None = None,
) -> FittedNet:
    """Fits on `rows`: up to the epoch with the least log loss on other rows, or for a known number of epochs.

    In the folder `checkpoints`, which belongs to this trial alone, it keeps its state after each epoch, and goes on
    from what it finds there.
    """
    import torch

    hardware = find_hardware(parameters.device)
    preparation = prepare(schema, rows.features)
    name = "stopped.pt" if isinstance(until, Rows) else f"{until}-epochs.pt"
    checkpoint = Checkpoint(None if checkpoints is None else checkpoints / name, progress)
    if hardware != CPU:
        progress(f"neural net: on {hardware}")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums in another order would give other bytes
    try:
        with torch.random.fork_rng(devices=[] if hardware.device == "cpu" else [torch.cuda.current_device()]):
            torch.manual_seed(seed)
            unseen = torch.from_numpy(preparation.unseen.astype(np.int64) + preparation.offsets)
            descent = Descent(_network(preparation, parameters), parameters, seed, unseen, hardware)
            descent.run(
                Labelled(_inputs(preparation, rows.features), rows.labels),
                Labelled(_inputs(preparation, until.features), until.labels) if isinstance(until, Rows) else None,
                parameters.epochs if isinstance(until, Rows) else until,
                checkpoint,
                progress,
                on_step,
            )
    finally:
        torch.set_num_threads(threads)
    steps = descent.best_epoch if isinstance(until, Rows) else descent.epoch
    device = "cpu" if hardware.device == "cpu" else f"{torch.cuda.get_device_name()}: {hardware}"
    return FittedNet(descent.net, preparation, len(schema.columns), descent.curve, steps, device)


def _network(preparation: Preparation, parameters: NeuralNet) -> Any:
    from torch import nn

    parts: dict[str, Any] = {}
    width = preparation.dense_width
    if preparation.codes:
        parts["embeddings"] = nn.Embedding(preparation.table_rows, parameters.embedding_width)
        nn.init.normal_(parts["embeddings"].weight, std=0.1)
        width += len(preparation.codes) * parameters.embedding_width
    layers: list[Any] = []
    for units in parameters.hidden:
        layers += [nn.Linear(width, units), nn.ReLU(), nn.Dropout(parameters.dropout)]
        width = units
    parts["layers"] = nn.Sequential(*layers, nn.Linear(width, 1))
    return nn.ModuleDict(parts)


def _inputs(preparation: Preparation, features: NDArray[np.float32]) -> Inputs:
    import torch

    return Inputs(torch.from_numpy(preparation.dense(features)), torch.from_numpy(preparation.rows_of_table(features)))


def _write_dense(graph: GraphWriter, fitted: Preparation) -> list[str]:
    if not fitted.numbers:
        return []
    values = graph.columns(fitted.numbers)
    missing = graph.node("IsNaN", values)
    means = graph.constant(fitted.means)
    centred = graph.node("Sub", graph.node("Where", missing, means, values), means)
    scaled = graph.node("Div", centred, graph.constant(fitted.scales))
    parts = [graph.node("Clip", scaled, graph.constant(-CLIP), graph.constant(CLIP))]
    if fitted.with_missing:
        marks = graph.node("Cast", missing, to=1)  # 1 is FLOAT
        parts.append(graph.node("Gather", marks, graph.constant(fitted.with_missing, np.int64), axis=1))
    return parts


def _write_embeddings(graph: GraphWriter, fitted: Preparation, table: NDArray[np.float32] | None) -> list[str]:
    if not fitted.codes or table is None:
        return []
    codes = graph.columns(fitted.codes)
    unseen = graph.constant(fitted.unseen)
    known = graph.node("Min", graph.node("Where", graph.node("IsNaN", codes), unseen, codes), unseen)
    rows = graph.node("Add", graph.node("Cast", known, to=7), graph.constant(fitted.offsets, np.int64))  # 7 is INT64
    vectors = graph.node("Gather", graph.constant(table), rows, axis=0)
    return [graph.node("Reshape", vectors, graph.constant([-1, len(fitted.codes) * table.shape[1]], np.int64))]
