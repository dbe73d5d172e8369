"""The binary tensor data extension of the Open Inference Protocol, as Triton's clients speak it.

A body is a JSON head, whose length a header gives, and behind it the data of the tensors that have a
`binary_data_size`, one after the other: little-endian numbers, one byte for a BOOL, and for BYTES a length of four
bytes before each element.
Specification: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from serving.columns import Column, nan_as_missing
from serving.protocols.records import MalformedRequestError

HEADER = b"inference-header-content-length"
SIZE = "binary_data_size"
_MAXIMUM_DIGITS = 19
_LENGTH = struct.Struct("<I")
_ONE_BYTE = 127  # lengths up to this are ASCII themselves
DTYPES: dict[str, np.dtype[Any]] = {
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


def values_of(name: str, datatype: str, data: memoryview) -> Column:
    """The elements of one tensor, numbers and booleans without a copy. A NaN stands for a missing value, since there is
    nothing else for one.

    Raises:
        MalformedRequestError: the data does not divide into elements, or is no text.
    """
    if datatype == "BYTES":
        return _texts(name, data)
    if datatype == "BOOL":
        if bytes(data).translate(None, b"\x00\x01"):
            raise MalformedRequestError(422, f"{name}: a BOOL is one byte, 0 or 1")
        return np.frombuffer(data, dtype=np.bool_)
    kind = DTYPES.get(datatype)
    if kind is None:
        raise MalformedRequestError(422, f"{name}: there is no datatype {datatype[:20]!r}")
    if len(data) % kind.itemsize:
        raise MalformedRequestError(422, f"{name}: {len(data)} bytes are no whole number of {datatype} elements")
    values = np.frombuffer(data, dtype=kind)
    return nan_as_missing(values) if kind.kind == "f" else values


def bytes_of(datatype: str, values: Sequence[Any]) -> bytes:
    """The data of one tensor of an answer."""
    if datatype == "BYTES":
        lengths = set(map(len, values))
        if len(lengths) == 1 and max(lengths) <= _ONE_BYTE and all(map(str.isascii, values)):  # ids, and versions
            length = _LENGTH.pack(lengths.pop()).decode()
            return (length + length.join(values)).encode()
        encoded = [value.encode() for value in values]
        return b"".join(_LENGTH.pack(len(each)) + each for each in encoded)
    if datatype == "BOOL":
        return bytes(values)
    return np.array(values, dtype=DTYPES[datatype]).tobytes()


def _texts(name: str, data: memoryview) -> list[str]:
    size = len(data)
    raw = bytes(data)
    unpack, head = _LENGTH.unpack_from, _LENGTH.size
    # where all is ASCII, lengths too, the text is made once and cut; else each element by itself
    whole = raw.decode("ascii") if raw.isascii() else None
    if whole is not None and size >= head:
        # all of one length, as codes and times mostly are: then their length stands between them, and nowhere else
        length = unpack(raw)[0]
        _, *others = whole.split(whole[:head])
        if len(others) * (head + length) == size and set(map(len, others)) == {length}:
            return others
    texts: list[str] = []
    start = 0
    while start < size:
        begin = start + head
        end = begin + unpack(raw, start)[0] if begin <= size else size + 1
        if end > size:
            raise MalformedRequestError(422, f"{name}: the element at byte {start} goes beyond the tensor's data")
        if whole is not None:
            texts.append(whole[begin:end])
        else:
            try:
                texts.append(raw[begin:end].decode())
            except UnicodeDecodeError:
                raise MalformedRequestError(422, f"{name}: the element at byte {start} is not UTF-8") from None
        start = end
    return texts
