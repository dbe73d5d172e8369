"""What the serving runtime can load: the facts of a graph's file, held against bounds that are written down.

A graph that this process can load may be too new for the runtime that serves it; hence bounds and not only a trial.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from pipelines.inference import INPUT, OUTPUT, open_session

ONNX, ONNX_ML, CONTRIB = "", "ai.onnx.ml", "com.microsoft"
OLDEST_OPSET = 8  # Min and Max take several shapes since then; converters of trees write 9 to this day


class ExportError(ValueError):
    """A graph that the serving runtime would not load, or not run as the model server does: what was found where."""


class RuntimeLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The newest operator sets and the newest IR version that a release of ONNX Runtime loads."""

    opsets: Mapping[str, int]
    ir_version: int


class FileFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a graph's file says of itself."""

    opsets: dict[str, int]
    ir_version: int
    size_bytes: int


# By release (major.minor). A test loads graphs of every version up to these and beyond with the runtime that is
# installed, so a release that is not here, or that loads something else, is noticed where the lock changes.
LIMITS: Mapping[str, RuntimeLimits] = {
    "1.31": RuntimeLimits(opsets={ONNX: 26, ONNX_ML: 5, CONTRIB: 1}, ir_version=13),
}


def limits_of(runtime_version: str) -> RuntimeLimits:
    """The bounds of that version of ONNX Runtime.

    Raises:
        ExportError: they are not written down.
    """
    release = ".".join(runtime_version.split(".")[:2])
    if release not in LIMITS:
        raise ExportError(
            f"the bounds of ONNX Runtime {runtime_version} are not known, only those of {', '.join(LIMITS)}: measure "
            "them with tests/unit/pipelines/training/test_export.py, and add them to pipelines.training.export.LIMITS"
        )
    return LIMITS[release]


def check_file(graph: bytes, width: int, limits: RuntimeLimits) -> FileFacts:
    """The facts of a graph from `features` (float32, any number of rows × `width`) to `score` (float32, rows).

    Raises:
        ExportError: the file is no valid ONNX, newer than `limits`, leans on another file, does not load, or has other
            inputs and outputs.
    """
    model = read_model(graph)
    facts = check_versions(model, len(graph), limits)
    tensors = {value.name: value.type.tensor_type for value in (*model.graph.input, *model.graph.output)}
    names = [value.name for value in model.graph.input], [value.name for value in model.graph.output]
    if names != ([INPUT], [OUTPUT]):
        raise ExportError(f"the graph maps {names[0]} to {names[1]}, expected [{INPUT!r}] to [{OUTPUT!r}]")
    for name, expected in ((INPUT, [None, width]), (OUTPUT, [None])):
        kind, shape = tensors[name].elem_type, shape_of(tensors[name])
        if (kind, shape) != (FLOAT, expected):
            raise ExportError(
                f"{name} has the element type {kind} and the shape {shape}, "
                f"expected {FLOAT} (float32) and {expected}, where None is any number of rows"
            )
    try:
        open_session(graph)
    except Exception as error:
        raise ExportError(f"ONNX Runtime does not load the graph: {error}") from error
    return facts


FLOAT = 1  # onnx.TensorProto.FLOAT


def read_model(content: bytes) -> Any:
    """The model in `content`, checked.

    Raises:
        ExportError: it is none, or it breaks ONNX's rules.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model = onnx.load_from_string(content)
    except DecodeError as error:
        raise ExportError(f"{len(content):,} bytes are no ONNX model: {error}") from error
    if not model.graph.node:
        raise ExportError(f"{len(content):,} bytes are no ONNX model: there is no node in it")
    _refuse_other_files(model)
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise ExportError(f"the model is no valid ONNX: {error}") from error
    return model


def check_versions(model: Any, size_bytes: int, limits: RuntimeLimits) -> FileFacts:
    """The versions that `model` (an onnx.ModelProto) asks for.

    Raises:
        ExportError: an operator set or the IR version is newer than `limits`, too old, or not known at all.
    """
    opsets = {("" if opset.domain == "ai.onnx" else opset.domain): opset.version for opset in model.opset_import}
    for domain, found in sorted(opsets.items()):
        title = domain or "ai.onnx"
        if domain not in limits.opsets:
            known = ", ".join(name or "ai.onnx" for name in limits.opsets)
            raise ExportError(f"the operators of {title} are not in the serving runtime, which has {known}")
        if found > limits.opsets[domain]:
            raise ExportError(
                f"operator set {found} of {title} is newer than {limits.opsets[domain]}, the newest that the serving "
                "runtime loads: export for an older one"
            )
    if opsets.get(ONNX, OLDEST_OPSET) < OLDEST_OPSET:
        raise ExportError(
            f"operator set {opsets[ONNX]} of ai.onnx is older than {OLDEST_OPSET}: export for a newer one"
        )
    if model.ir_version > limits.ir_version:
        raise ExportError(
            f"IR version {model.ir_version} is newer than {limits.ir_version}, the newest that the serving runtime "
            "loads: export with an older one"
        )
    return FileFacts(opsets=opsets, ir_version=model.ir_version, size_bytes=size_bytes)


def shape_of(tensor: Any) -> list[int | None]:
    """The dimensions of a tensor's type; None where the model leaves one open."""
    return [dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim]


def _refuse_other_files(model: Any) -> None:
    from onnx import TensorProto

    for tensor in _tensors(model.graph):
        if tensor.data_location == TensorProto.EXTERNAL:
            raise ExportError(
                f"the tensor {tensor.name!r} lies in another file: save the model in one file (no external data)"
            )


def _tensors(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                yield from _tensors(inner)
