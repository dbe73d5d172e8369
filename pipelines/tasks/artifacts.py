"""Files that tasks hand to each other, named by their content, below `PACELINE_HOME/artifacts`."""

import os
from pathlib import Path
from typing import Any

import msgspec

from contracts.durable_files import write_whole
from contracts.hashing import bytes_id, canonical_json
from pipelines.wiring import home


def keep(content: bytes) -> str:
    """Stores `content` and returns its id; the file appears whole or not at all, also when the disk is full."""
    artifact = bytes_id(content)
    path = _path(artifact)
    try:
        os.utime(path)  # what is asked for again is not cleaned up as forgotten
    except FileNotFoundError:
        write_whole(path, content)
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


def keep_folder(folder: Path) -> str:
    """Stores the files below `folder`, hidden and compiled ones left out, and returns the id of the whole."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not _is_passing(path.relative_to(folder)))
    return keep_json({path.relative_to(folder).as_posix(): keep(path.read_bytes()) for path in files})


def write_folder(artifact: str, folder: Path) -> None:
    """Writes the files that `keep_folder` stored below `folder`. Raises LookupError when one is not kept."""
    for name, content in read_json(artifact).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(read(content))


def _is_passing(path: Path) -> bool:
    return any(part.startswith(".") or part == "__pycache__" for part in path.parts)


def keep_json(value: Any) -> str:
    return keep(canonical_json(value))


def read_json(artifact: str) -> Any:
    return msgspec.json.decode(read(artifact))


def _path(artifact: str) -> Path:
    return home().artifacts / artifact[:2] / artifact
