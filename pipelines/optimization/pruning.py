"""Smaller nets: the least hidden units, or the least weights, go, and what stays is fine-tuned in torch.

What is tuned to are the scores of the graph as trained, not labels (Hinton et al., "Distilling the Knowledge in a
Neural Network", 2015). On flights, two weeks that none had seen: with labels the pruned nets lost up to 0.013 in log
loss, and three times as much on the weeks before, which the graph as trained has seen and they have not; with scores
they lost at most 0.0005 where half of the units went.

Works on any graph that ends in layers (`Gemm`, `Relu`, `Gemm` …) and a sigmoid. What comes before the first layer,
such as scaling and embeddings, is run as it is and stays as it is; constants between the last layer and the sigmoid,
such as calibration, are kept fixed. Magnitude pruning with retraining: Han et al., "Learning both Weights and
Connections for Efficient Neural Networks", NIPS 2015; of whole units: Li et al., "Pruning Filters for Efficient
ConvNets", ICLR 2017.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.inference import score
from pipelines.optimization.folding import fold_constants
from pipelines.optimization.stable_bytes import NotApplicableError, read_graph, stable_bytes, tensor_of

EPOCHS = 4
LEARNING_RATE = 1e-3
TUNING_BATCH_ROWS = 1024
TUNING_ROWS = 60_000  # the newest; all 107,000 of flights were no better
_UNIT_MULTIPLE = 8  # what a processor multiplies at once; a width between saves nothing

Floats = NDArray[np.float32]


class Layer(NamedTuple):
    """A node `Gemm` with its weight (units × inputs) and bias (units,)."""

    node: Any
    weight: Floats
    bias: Floats


def prune_units(graph: bytes, sample: Floats, seed: int, share: float) -> bytes:
    """The graph without the `share` of each hidden layer's units that weigh least: smaller matrices for any runtime.

    A unit weighs the length of its incoming weights (with the bias) times that of its outgoing ones.

    Raises:
        NotApplicableError: there are no hidden layers that could be found.
        ValueError: there are no training rows in `sample`, or fine-tuning diverged.
    """
    model, layers = _layers(graph)
    weights, biases = [layer.weight for layer in layers], [layer.bias for layer in layers]
    for position in range(len(layers) - 1):
        incoming = np.linalg.norm(np.column_stack([weights[position], biases[position]]), axis=1)
        importance = incoming * np.linalg.norm(weights[position + 1], axis=0)
        units = len(importance)
        left = min(units, max(1, -(-round(units * (1 - share)) // _UNIT_MULTIPLE) * _UNIT_MULTIPLE))
        kept = np.sort(np.argsort(-importance, kind="stable")[:left])
        weights[position], biases[position] = weights[position][kept], biases[position][kept]
        weights[position + 1] = weights[position + 1][:, kept]
    if all(len(weight) == len(layer.weight) for weight, layer in zip(weights, layers, strict=True)):
        raise NotApplicableError(f"not applicable: the hidden layers have at most {_UNIT_MULTIPLE} units")
    masks = [np.ones_like(weight) for weight in weights]
    return _fine_tuned(graph, model, layers, [weights, biases, masks], sample, seed)


def prune_weights(graph: bytes, sample: Floats, seed: int, share: float) -> bytes:
    """The graph with the `share` of each layer's weights that are nearest to zero set to zero, and kept there.

    The file compresses better; the matrices keep their shape, so that a CPU takes the same time.

    Raises:
        NotApplicableError: there are no hidden layers that could be found.
        ValueError: there are no training rows, or fine-tuning diverged.
    """
    model, layers = _layers(graph)
    masks = []
    for layer in layers:
        order = np.argsort(np.abs(layer.weight), axis=None, kind="stable")
        mask = np.ones(layer.weight.size, dtype=np.float32)
        mask[order[: int(layer.weight.size * share)]] = 0
        masks.append(mask.reshape(layer.weight.shape))
    weights = [layer.weight * mask for layer, mask in zip(layers, masks, strict=True)]
    return _fine_tuned(graph, model, layers, [weights, [layer.bias for layer in layers], masks], sample, seed)


def _layers(graph: bytes) -> tuple[Any, list[Layer]]:
    """The model with all that follows the last layer folded into it, and its layers from the first to the last."""
    from onnx import numpy_helper

    model = read_graph(graph)
    fold_constants(model.graph)
    constants = {constant.name: numpy_helper.to_array(constant) for constant in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    readers: dict[str, list[Any]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    sigmoids = [node for node in model.graph.node if node.op_type == "Sigmoid"]
    node, layers = makers.get(sigmoids[-1].input[0]) if sigmoids else None, list[Layer]()
    while node is not None and node.op_type == "Gemm" and (layer := _layer(node, constants)) is not None:
        layers.insert(0, layer)
        before = makers.get(node.input[0])
        alone = len(readers[node.input[0]]) == 1
        if before is None or before.op_type != "Relu" or not alone or len(readers[before.input[0]]) != 1:
            break
        node = makers.get(before.input[0])
    if len(layers) < 2:
        raise NotApplicableError("not applicable: the graph has no hidden layers (Gemm, Relu, Gemm, Sigmoid) to prune")
    return model, layers


def _layer(node: Any, constants: dict[str, Floats]) -> Layer | None:
    settings = {attribute.name: attribute for attribute in node.attribute}
    plain = all(settings[name].f == 1 for name in ("alpha", "beta") if name in settings)
    if len(node.input) != 3 or not plain or ("transA" in settings and settings["transA"].i):
        return None
    if node.input[1] not in constants or node.input[2] not in constants:
        return None
    weight = constants[node.input[1]]
    weight = weight if "transB" in settings and settings["transB"].i else weight.T
    bias = np.broadcast_to(constants[node.input[2]].reshape(-1), (len(weight),))
    return Layer(node, np.array(weight, dtype=np.float32), np.array(bias, dtype=np.float32))


def _fine_tuned(
    graph: bytes, model: Any, layers: list[Layer], parts: list[list[Floats]], sample: Floats, seed: int
) -> bytes:
    from onnx import helper, numpy_helper

    rows = np.ascontiguousarray(sample[-TUNING_ROWS:], np.float32)
    if not len(rows):
        raise ValueError("pruning needs training rows to fine-tune with, found none")
    tuned = _descend(tensor_of(model, layers[0].node.input[0], rows), score(graph, rows), parts, seed)
    for position, (layer, (weight, bias)) in enumerate(zip(layers, tuned, strict=True)):
        for place, values in ((1, weight), (2, bias)):
            name = f"pruned_{position}_{place}"
            model.graph.initializer.append(numpy_helper.from_array(values, name))
            layer.node.input[place] = name
        del layer.node.attribute[:]
        layer.node.attribute.append(helper.make_attribute("transB", 1))
    return stable_bytes(model, graph)


def _descend(
    inputs: Floats, wanted_scores: Floats, parts: list[list[Floats]], seed: int
) -> list[tuple[Floats, Floats]]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums in another order would give other bytes
    try:
        weights, biases, masks = ([torch.from_numpy(values.copy()) for values in part] for part in parts)
        for parameter in (*weights, *biases):
            parameter.requires_grad_(True)
        optimizer = torch.optim.AdamW([*weights, *biases], lr=LEARNING_RATE)
        generator = torch.Generator().manual_seed(seed)
        rows, wanted = torch.from_numpy(inputs), torch.from_numpy(wanted_scores)
        loss_of = torch.nn.BCEWithLogitsLoss()
        for _ in range(EPOCHS):
            for chosen in torch.randperm(len(wanted), generator=generator).split(TUNING_BATCH_ROWS):
                flow = rows[chosen]
                for position, (weight, bias, mask) in enumerate(zip(weights, biases, masks, strict=True)):
                    flow = torch.nn.functional.linear(flow.relu() if position else flow, weight * mask, bias)
                loss = loss_of(flow.squeeze(1), wanted[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        if not torch.isfinite(loss):
            raise ValueError(f"pruning: the loss is {loss.item()} after fine-tuning, the graph stays as trained")
        pairs = zip(weights, biases, masks, strict=True)
        return [((weight * mask).detach().numpy(), bias.detach().numpy()) for weight, bias, mask in pairs]
    finally:
        torch.set_num_threads(threads)
