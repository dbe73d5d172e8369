"""Content names things: one canonical form of JSON, one hash."""

import hashlib
from pathlib import Path
from typing import Any

import msgspec

_CHUNK_BYTES = 1 << 20


def canonical_json(value: Any) -> bytes:
    """`value` as JSON bytes that do not depend on the order in which keys were set."""
    return msgspec.json.encode(value, order="deterministic")


def content_id(value: Any) -> str:
    """The SHA-256 of the canonical JSON of `value`, as 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def bytes_id(content: bytes) -> str:
    """The SHA-256 of `content`, as 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def file_id(path: Path) -> str:
    """The SHA-256 of the file at `path`, read in pieces of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_CHUNK_BYTES):
            digest.update(piece)
    return digest.hexdigest()
