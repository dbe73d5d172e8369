"""The binary tensor data extension of the Open Inference Protocol, as Triton's clients speak it.

A body is a JSON head, whose length a header gives, and behind it the data of the tensors that have a
`binary_data_size`, one after the other: little-endian numbers, one byte for a BOOL, and for BYTES a length of four
bytes before each element.
Specification: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from serving.protocols.records import MalformedRequestError

HEADER = b"inference-header-content-length"
SIZE = "binary_data_size"
_MAXIMUM_DIGITS = 19
_LENGTH = struct.Struct("<I")
_TYPES: dict[str, np.dtype[Any]] = {
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    **{f"INT{8 * size}": np.dtype(f"<i{size}") for size in (1, 2, 4, 8)},
    **{f"UINT{8 * size}": np.dtype(f"<u{size}") for size in (1, 2, 4, 8)},
}


def split(body: bytes, head_length: str) -> tuple[bytes, memoryview]:
    """The JSON head of `body`, and the data behind it.

    Raises:
        MalformedRequestError: `head_length`, the header's value, is no length within the body.
    """
    # more digits than any length has are not even read: Python refuses numbers of thousands of digits
    is_number = head_length.isascii() and head_length.isdigit() and len(head_length) <= _MAXIMUM_DIGITS
    if not is_number or int(head_length) > len(body):
        raise MalformedRequestError(
            400, f"Inference-Header-Content-Length is {head_length[:20]!r}, expected a length up to {len(body)}"
        )
    length = int(head_length)
    return body[:length], memoryview(body)[length:]


def values_of(name: str, datatype: str, data: memoryview) -> list[Any]:
    """The elements of one tensor. A NaN, which has no other use in a request, stands for a missing value.

    Raises:
        MalformedRequestError: the data does not divide into elements, or is no text.
    """
    if datatype == "BYTES":
        return _texts(name, data)
    if datatype == "BOOL":
        if any(value > 1 for value in data):
            raise MalformedRequestError(422, f"{name}: a BOOL is one byte, 0 or 1")
        return [value == 1 for value in data]
    kind = _TYPES.get(datatype)
    if kind is None:
        raise MalformedRequestError(422, f"{name}: there is no datatype {datatype[:20]!r}")
    if len(data) % kind.itemsize:
        raise MalformedRequestError(422, f"{name}: {len(data)} bytes are no whole number of {datatype} elements")
    values: list[Any] = np.frombuffer(data, dtype=kind).tolist()
    if kind.kind == "f":
        return [None if math.isnan(value) else value for value in values]
    return values


def bytes_of(datatype: str, values: Sequence[Any]) -> bytes:
    """The data of one tensor of an answer."""
    if datatype == "BYTES":
        encoded = [value.encode() for value in values]
        return b"".join(_LENGTH.pack(len(each)) + each for each in encoded)
    if datatype == "BOOL":
        return bytes(values)
    return np.array(values, dtype=_TYPES[datatype]).tobytes()


def _texts(name: str, data: memoryview) -> list[str]:
    texts: list[str] = []
    start = 0
    while start < len(data):
        begin = start + _LENGTH.size
        end = begin + _LENGTH.unpack_from(data, start)[0] if begin <= len(data) else len(data) + 1
        if end > len(data):
            raise MalformedRequestError(422, f"{name}: the element at byte {start} goes beyond the tensor's data")
        try:
            texts.append(str(data[begin:end], "utf-8"))
        except UnicodeDecodeError:
            raise MalformedRequestError(422, f"{name}: the element at byte {start} is not UTF-8") from None
        start = end
    return texts
