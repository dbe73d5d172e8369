"""Single inputs of many predictions, as text: a column each, without a Python object for each row."""

from collections.abc import Sequence

import pyarrow as pa


def input_texts(predictions: pa.Table, names: Sequence[str]) -> pa.Table:
    """The values of the fields `names` in the order of the rows: numbers and booleans as JSON writes them.

    Null where a record has no such value, or is no JSON object.
    """
    import duckdb

    if not names:
        return pa.table({})
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
