import pyarrow as pa

from pipelines.monitoring.input_texts import input_texts


def test_inputs_are_told_as_text_in_the_order_of_the_rows_and_null_where_there_are_none() -> None:
    rows = ['{"a": 17, "b c": "x"}', '{"a": "17", "b c": null}', "not JSON", None, '{"a": true}', "[1]"]
    found = input_texts(pa.table({"inputs": pa.array(rows, pa.string())}), ["a", "b c"])
    assert found["a"].to_pylist() == ["17", "17", None, None, "true", None]
    assert found["b c"].to_pylist() == ["x", None, None, None, None, None]
    assert found.column_names == ["a", "b c"]
