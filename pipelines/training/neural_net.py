"""The trainer `neural_net`: a multilayer perceptron in torch, written out as ONNX with all its preprocessing inside.

Each vocabulary has one more code than words, for missing and unseen; a code that no word has counts as unseen. Numbers
are scaled by the training rows and clipped, a missing one becomes the mean, and columns with missing values in training
add an indicator each.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from contracts.input_schema import InputSchema
from pipelines.training.graph import GraphWriter, categorical_columns
from pipelines.training.plan import NeuralNet
from pipelines.training.rows import OnStep, Rows

CLIP = 5.0  # standard deviations
_SCORE_ROWS = 8192


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
        self, net: Any, preparation: Preparation, width: int, curve: list[dict[str, float]], steps: int
    ) -> None:
        self._net = net
        self._preparation = preparation
        self._width = width
        self.curve = curve
        self.steps = steps  # the epoch whose weights these are

    def log_odds(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """The log odds of label 1, shape (rows,)."""
        return _log_odds(self._net, *_tensors(self._preparation, features))

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
) -> FittedNet:
    """Fits on `rows`: up to the epoch with the least log loss on other rows, or for a known number of epochs."""
    import torch

    preparation = prepare(schema, rows.features)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums in another order would give other bytes
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = _network(preparation, parameters)
            curve, steps = _descend(net, preparation, parameters, seed, rows, until, progress, on_step)
    finally:
        torch.set_num_threads(threads)
    return FittedNet(net, preparation, len(schema.columns), curve, steps)


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


def _forward(net: Any, dense: Any, rows: Any) -> Any:
    import torch

    flow = torch.cat([dense, net["embeddings"](rows).flatten(1)], dim=1) if "embeddings" in net else dense
    return net["layers"](flow).squeeze(1)


def _descend(
    net: Any,
    preparation: Preparation,
    parameters: NeuralNet,
    seed: int,
    train: Rows,
    until: Rows | int,
    progress: Callable[[str], None],
    on_step: OnStep | None,
) -> tuple[list[dict[str, float]], int]:
    import torch

    generator = torch.Generator().manual_seed(seed)
    dense, rows = _tensors(preparation, train.features)
    labels = torch.from_numpy(train.labels.astype(np.float32))
    unseen = torch.from_numpy(preparation.unseen.astype(np.int64) + preparation.offsets)
    stopping = _tensors(preparation, until.features) if isinstance(until, Rows) else None
    epochs = parameters.epochs if isinstance(until, Rows) else until
    optimizer = torch.optim.AdamW(net.parameters(), lr=parameters.learning_rate, weight_decay=parameters.weight_decay)
    loss_of = torch.nn.BCEWithLogitsLoss()
    curve: list[dict[str, float]] = []
    best, best_state, best_epoch = np.inf, net.state_dict(), 0
    for epoch in range(1, epochs + 1):
        net.train()
        whole = 0.0
        for chosen in torch.randperm(len(labels), generator=generator).split(parameters.batch_rows):
            hidden = torch.rand(rows[chosen].shape, generator=generator) < parameters.unseen_share
            loss = loss_of(_forward(net, dense[chosen], torch.where(hidden, unseen, rows[chosen])), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            whole += loss.item() * len(chosen)
        _refuse_divergence(whole, epoch)
        if stopping is None or not isinstance(until, Rows):
            progress(f"neural net: epoch {epoch} of {epochs} on {len(labels):,} rows")
            continue
        found = _loss(_log_odds(net, *stopping), until.labels)
        _refuse_divergence(found, epoch)
        curve.append({"step": epoch, "train_log_loss": whole / len(labels), "validation_log_loss": found})
        progress(
            f"neural net: epoch {epoch} of {epochs}, log loss {found:.4f} on {len(until.labels):,} rows to stop by"
        )
        if on_step is not None:
            on_step(epoch, found)
        if found < best:
            best, best_epoch = found, epoch
            best_state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        elif epoch - best_epoch >= parameters.patience:
            break
    if isinstance(until, Rows):
        net.load_state_dict(best_state)
    net.eval()
    return curve, best_epoch if isinstance(until, Rows) else epochs


def _refuse_divergence(loss: float, epoch: int) -> None:
    if not np.isfinite(loss):
        raise ValueError(f"neural net: the loss is {loss} after epoch {epoch}: lower the learning_rate")


def _tensors(preparation: Preparation, features: NDArray[np.float32]) -> tuple[Any, Any]:
    import torch

    return torch.from_numpy(preparation.dense(features)), torch.from_numpy(preparation.rows_of_table(features))


def _log_odds(net: Any, dense: Any, rows: Any) -> NDArray[np.float64]:
    import torch

    net.eval()
    with torch.inference_mode():
        parts = [_forward(net, *part) for part in zip(dense.split(_SCORE_ROWS), rows.split(_SCORE_ROWS), strict=True)]
        return np.asarray(torch.cat(parts).numpy(), dtype=np.float64)


def _loss(log_odds: NDArray[np.float64], labels: NDArray[np.float64]) -> float:
    return float(np.logaddexp(0, np.where(labels == 1, -log_odds, log_odds)).mean())


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
