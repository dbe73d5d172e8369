"""Equal, close or different, and where."""

import numpy as np
import pytest

from pipelines.governance.reproduction import (
    ScoreDifference,
    compare_files,
    compare_scores,
    excuse,
    judge,
)

HERE = "x86_64, Some Processor, avx2"
APART = ScoreDifference(rows=100, different=40, worst=0.004, mean=0.001)


def test_the_same_hash_is_equal_whatever_the_hardware() -> None:
    assert judge("a", "a", (), None, "another processor").outcome == "equal"
    assert judge("a", "a", (), None, None).outcome == "equal"


@pytest.mark.parametrize(
    ("reason", "scores", "outcome"),
    [
        (None, APART, "different"),
        ("trained on a GPU", APART, "close"),
        ("trained on a GPU", ScoreDifference(rows=100, different=40, worst=0.2, mean=0.1), "different"),
        ("trained on a GPU", None, "different"),
    ],
    ids=["nothing excuses", "hardware excuses", "hardware does not excuse that much", "no scores"],
)
def test_another_hash_is_close_only_where_the_hardware_excuses_it_and_the_scores_agree(
    reason: str | None, scores: ScoreDifference | None, outcome: str
) -> None:
    files = compare_files({"model.onnx": b"abc"}, {"model.onnx": b"abd"})
    judged = judge("a", "b", files, scores, reason, tolerance=0.01)
    assert judged.outcome == outcome
    assert judged.reason.startswith("model.onnx differ")
    assert (reason or "nothing excuses it") in judged.reason


def test_a_difference_in_the_manifest_alone_is_a_difference() -> None:
    files = compare_files({"manifest.json": b'{"threshold":0.4}'}, {"manifest.json": b'{"threshold":0.5}'})
    judged = judge("a", "b", files, ScoreDifference(rows=9, different=0, worst=0, mean=0), None)
    assert judged.outcome == "different"
    assert "all 9 test rows have the same score" in judged.reason
    assert files[0].where == "threshold: 0.4 on record, 0.5 now"


def test_only_another_device_or_processor_excuses() -> None:
    assert excuse({"machine": HERE}, HERE) is None
    assert excuse({}, HERE) is None
    assert excuse({"machine": HERE, "device": "cpu"}, HERE) is None
    assert "cuda" in str(excuse({"machine": HERE, "device": "cuda: NVIDIA H100"}, HERE))
    assert "Another" in str(excuse({"machine": "x86_64, Another, avx512f"}, HERE))


@pytest.mark.parametrize(
    ("name", "recorded", "made", "first", "where"),
    [
        ("model.onnx", b"abcdef", b"abXdef", 2, "byte 2"),
        ("model.onnx", b"abc", b"abcd", 3, "byte 3"),
        ("schema.json", b'{"a":[1,2],"b":3}', b'{"a":[1,5],"b":4}', 8, "a[1]: 2 on record, 5 now"),
        ("golden.json", b'{"a":[1]}', b'{"a":[1,2]}', 7, "a: 1 items on record, 2 now"),
        ("baseline.json", b'{"a":1}', b'{"a":1,"b":2}', 6, "b: only on what was made now"),
        ("baseline.json", b'{"a":1}', b'{"a": 1}', 5, "the same values, written otherwise"),
        ("model_card.md", b"one\ntwo\nthree", b"one\ntwo\nTHREE", 8, "line 3"),
    ],
)
def test_the_place_of_the_first_difference_is_said_in_words(
    name: str, recorded: bytes, made: bytes, first: int, where: str
) -> None:
    (found,) = compare_files({name: recorded, "same": b"x"}, {name: made, "same": b"x"})
    assert (found.bytes_recorded, found.bytes_made) == (len(recorded), len(made))
    assert (found.first_byte, found.where) == (first, where)


def test_a_file_that_only_one_bundle_has_is_named() -> None:
    gone, new = compare_files({"a": b"1"}, {"b": b"22"})
    assert (gone.name, gone.bytes_recorded, gone.bytes_made) == ("a", 1, None)
    assert (new.name, new.bytes_recorded, new.bytes_made) == ("b", None, 2)


def test_scores_are_compared_row_by_row() -> None:
    one = np.array([0.1, 0.5, 0.9], dtype=np.float32)
    assert compare_scores(one, one) == ScoreDifference(rows=3, different=0, worst=0, mean=0)
    found = compare_scores(one, np.array([0.1, 0.5, 0.8], dtype=np.float32))
    assert (found.rows, found.different) == (3, 1)
    assert found.worst == pytest.approx(0.1, abs=1e-6)
    with pytest.raises(ValueError, match="the same rows"):
        compare_scores(one, one[:2])
