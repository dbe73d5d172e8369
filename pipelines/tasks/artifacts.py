"""Files that tasks hand to each other, named by their content, below `PACELINE_HOME/artifacts`."""

import os
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from contracts.hashing import bytes_id, canonical_json
from pipelines.wiring import home


def keep(content: bytes) -> str:
    """Stores `content` and returns its id; the file appears whole or not at all."""
    artifact = bytes_id(content)
    path = _path(artifact)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".draft-", delete=False) as draft:
            draft.write(content)
            draft.flush()
            os.fsync(draft.fileno())
        Path(draft.name).rename(path)
    return artifact


def read(artifact: str) -> bytes:
    """The content with the id `artifact`.

    Raises:
        LookupError: there is none, or the file was altered.
    """
    try:
        content = _path(artifact).read_bytes()
    except OSError as error:
        raise LookupError(f"no artifact {artifact} in {home().artifacts}: run the step that makes it again") from error
    if bytes_id(content) != artifact:
        raise LookupError(f"{_path(artifact)} was altered: delete it, and run the step that makes it again")
    return content


def keep_json(value: Any) -> str:
    return keep(canonical_json(value))


def read_json(artifact: str) -> Any:
    return msgspec.json.decode(read(artifact))


def _path(artifact: str) -> Path:
    return home().artifacts / artifact[:2] / artifact
