"""Files of outcomes: CSV, JSON lines and Parquet become rows. A file that cannot be read is refused whole."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

SUFFIXES = (".csv", ".jsonl", ".ndjson", ".parquet")


class OutcomeFileError(ValueError):
    """A file that is none of outcomes: which, where in it, and what was expected."""


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of the file at `path`, by the names that it gives them.

    Raises:
        OutcomeFileError: another kind of file, or one that cannot be read to its end.
        FileNotFoundError: there is none.
    """
    readers = {".csv": _csv, ".jsonl": _json_lines, ".ndjson": _json_lines, ".parquet": _parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise OutcomeFileError(f"{path} ends with {path.suffix!r}; outcomes come as {', '.join(SUFFIXES)}")
    try:
        return list(reader(path))
    except (UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        raise OutcomeFileError(f"{path}: {str(error).splitlines()[0]}; nothing of it was taken") from error


def _csv(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, strict=True)
        for row in reader:
            if None in row or None in row.values():
                raise OutcomeFileError(
                    f"{path}, line {reader.line_num}: not as many values as its head has names; nothing was taken"
                )
            yield row


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    decoder = msgspec.json.Decoder(dict[str, Any])
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                yield decoder.decode(line)
            except msgspec.DecodeError as error:
                raise OutcomeFileError(f"{path}, line {number}: {error}; nothing of the file was taken") from error


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    yield from pq.read_table(path).to_pylist()
