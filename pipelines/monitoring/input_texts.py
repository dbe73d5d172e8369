"""Single inputs of many predictions, as text: a column each, without a Python object for each row."""

from collections.abc import Mapping, Sequence

import pyarrow as pa

_HELD = "inputs."  # before the name of a field that a narrowed table has as a column


def narrowed(predictions: pa.Table, names: Sequence[str]) -> pa.Table:
    """`predictions` with the fields `names` as columns of their own instead of all inputs: `input_texts` finds them."""
    texts = input_texts(predictions, names)
    rest = {name: predictions[name] for name in predictions.column_names if name != "inputs"}
    return held(rest, {name: texts[name] for name in names})


def held(columns: Mapping[str, pa.ChunkedArray], texts: Mapping[str, pa.ChunkedArray]) -> pa.Table:
    """A table of `columns` in which `input_texts` finds `texts`."""
    return pa.table({**columns, **{f"{_HELD}{name}": column for name, column in texts.items()}})


def input_texts(predictions: pa.Table, names: Sequence[str]) -> pa.Table:
    """The values of the fields `names` in the order of the rows: numbers and booleans as JSON writes them.

    Null where a record has no such value, or is no JSON object.
    """
    if "inputs" not in predictions.column_names:
        return pa.table({name: predictions[f"{_HELD}{name}"] for name in names})
    if not names:
        return pa.table({})
    return _extracted(predictions, names)


def _extracted(predictions: pa.Table, names: Sequence[str]) -> pa.Table:
    import duckdb

    paths = [f'$."{name}"' for name in names]
    rows = predictions.select(["inputs"])
    with duckdb.connect() as connection:
        connection.register("rows", rows)
        found = connection.sql(
            "SELECT CASE WHEN json_valid(inputs) THEN json_extract_string(inputs, ?) END AS texts FROM rows",
            params=[paths],
        )
        connection.register("found", found.to_arrow_table())
        columns = ", ".join(f"texts[{place}] AS c{place}" for place in range(1, len(names) + 1))
        table = connection.sql(f"SELECT {columns} FROM found").to_arrow_table()
    return table.rename_columns(list(names))
