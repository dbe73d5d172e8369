"""What encoding costs a row of 15 columns: one record, batches of records, and columns as binary tensors bring them.

    .venv/bin/python benchmarks/serving/encoder.py [--rounds 20]

Beside it, taken in turns, what msgspec needs to parse the JSON of the same record: a yardstick on the same machine.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import model
import msgspec
import numpy as np

from contracts.encoder import Encoder

CALLS = 2000
SIZES = (4, 16, 64)


def microseconds(call: Callable[[Any], Any], arguments: list[Any]) -> float:
    """The time of one call, from as many as make about 2,000 rows."""
    started = time.perf_counter()
    for argument in arguments:
        call(argument)
    return (time.perf_counter() - started) / len(arguments) * 1e6


def main() -> None:
    """Measures all forms in turns and prints the quickest round of each: what disturbs can only add."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    random = np.random.default_rng(1)
    records = [model.record_of(random, number) for number in range(CALLS)]
    whole = [{name: int(value) if type(value) is float else value for name, value in each.items()} for each in records]
    encoder = Encoder(model.FIELDS)
    forms: dict[str, tuple[Callable[[Any], Any], list[Any], int]] = {
        "parsing its JSON": (msgspec.json.decode, [json.dumps(record).encode() for record in records], 1),
        "a record": (encoder.encode, records, 1),
        "a record of whole numbers": (encoder.encode, whole, 1),
    }
    for size in SIZES:
        batches = [records[start : start + size] for start in range(0, CALLS - size, size)]
        forms[f"{size} records"] = (encoder.encode_rows, batches, size)
        columns = [_columns(batch) for batch in batches]
        forms[f"columns of {size} rows"] = (encoder.encode_columns, columns, size)
    taken: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(options.rounds):
        for name, (call, arguments, rows) in forms.items():
            taken[name].append(microseconds(call, arguments) / rows)
    yardstick = min(taken["parsing its JSON"])
    print("| | µs a row, quickest round | median | times parsing |\n| --- | --- | --- | --- |")  # noqa: T201
    for name, found in taken.items():
        print(f"| {name} | {min(found):.2f} | {statistics.median(found):.2f} | {min(found) / yardstick:.2f} |")  # noqa: T201


def _columns(records: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        name: np.array([record[name] for record in records]) if name in model.NUMBERS else [r[name] for r in records]
        for name in records[0]
    }


if __name__ == "__main__":
    main()
