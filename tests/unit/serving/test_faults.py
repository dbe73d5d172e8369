"""What a challenger can do wrong, by faults and by real graphs: no client sees it, and it is counted."""

import asyncio
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from contracts.encoder import Encoder
from contracts.faults import (
    ConstantScore,
    Fault,
    LeakingMemory,
    NanScores,
    ShiftedScores,
    SlowRuns,
    SwappedScores,
    WrongFor,
    WrongShape,
)
from contracts.slots import HardLimits, InjectFault, PromoteSlot
from serving.challenger import Challenger
from serving.engine import ModelRefusedError
from serving.resident import resident_memory_mb
from serving.slots import SlotConflictError, SlotMessageError
from tests.fixtures.bundles import TINY_SCHEMA, tiny_bundle, tiny_record
from tests.unit.serving.test_answering import Parts, sigmoid

RECORDS = [tiny_record(number, tailnum=f"N{number}") for number in range(9)]
FAR = tiny_record(9, tailnum="N9", distance=900)


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    """Version 2 is the challenger of r1; both score alike."""
    with asyncio.Runner() as runner:
        found = Parts(tmp_path, tiny_bundle(tmp_path), runner)
        found.place(tiny_bundle(tmp_path, threshold=0.5), "2", "r1")
        yield found


def challenger_of(parts: Parts) -> Challenger:
    assert parts.slots.challenger is not None
    return parts.slots.challenger


def inject(parts: Parts, fault: Fault) -> None:
    parts.slots.inject_fault(InjectFault(fault=fault))


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (NanScores(), "the score is nan"),
        (ConstantScore(score=1.5), "the score is 1.5"),
        (ConstantScore(score=math.inf), "the score is inf"),
        (WrongShape(), r"the graph gave scores of the shape [9, 2] for 9 rows"),
    ],
)
def test_scores_that_are_none_are_the_challengers_errors_and_the_champion_answers(
    parts: Parts, fault: Fault, error: str
) -> None:
    inject(parts, fault)
    parts.share(1.0)
    answer = parts.answer(*RECORDS)
    assert {each.slot for each in answer.predictions} == {"champion"}
    assert challenger_of(parts).counts.errors == 9
    found = {text for slot, _, text in parts.log.rows() if slot == "challenger"}
    assert len(found) == 1
    assert error in str(found.pop())


@pytest.mark.parametrize(
    ("fault", "changed"),
    [
        (ConstantScore(score=0.25), lambda score, record: 0.25),
        (ShiftedScores(by=0.3), lambda score, record: score + 0.3),
        (ShiftedScores(by=0.9), lambda score, record: 1.0),
        (SwappedScores(), lambda score, record: 1 - score),
        (
            WrongFor(field="carrier", value="UA"),
            lambda score, record: 1 - score if record["carrier"] == "UA" else score,
        ),
        (
            WrongFor(field="distance", value=110.0),
            lambda score, record: 1 - score if record["distance"] == 110 else score,
        ),
    ],
)
def test_scores_that_are_wrong_look_like_scores(parts: Parts, fault: Fault, changed: Any) -> None:
    inject(parts, fault)
    parts.share(1.0)
    answer = parts.answer(*RECORDS)
    assert {each.slot for each in answer.predictions} == {"challenger"}
    expected = [changed(sigmoid(record["distance"] / 1000), record) for record in RECORDS]
    assert [each.score for each in answer.predictions] == pytest.approx(expected, abs=1e-6)
    assert len({each.score for each in answer.predictions}) == len(set(expected))
    assert challenger_of(parts).counts.errors == 0


def test_slow_runs_take_longer_and_ever_longer(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s, slept = 1000.0, list[float]()
    monkeypatch.setattr("serving.faulty.time.monotonic", lambda: now_s)
    monkeypatch.setattr("serving.faulty.time.sleep", slept.append)
    inject(parts, SlowRuns(ms=20, more_each_minute_ms=30))
    model = challenger_of(parts).model
    features = model.encoder.encode_rows(RECORDS)
    model.score(features)
    now_s += 90
    model.score(features)
    assert slept == pytest.approx([0.02, 0.065])


def test_a_leak_is_in_the_memory_of_the_process_and_ends_at_its_limit(parts: Parts) -> None:
    inject(parts, LeakingMemory(mb_each_run=20, maximum_mb=60))
    model = challenger_of(parts).model
    features = model.encoder.encode_rows(RECORDS)
    model.score(features)
    before = resident_memory_mb()
    assert before is not None
    for _ in range(10):
        model.score(features)
    after = resident_memory_mb()
    assert after is not None
    assert 30 < after - before < 60


def test_a_challenger_with_which_the_process_grows_too_much_trips(parts: Parts, tmp_path: Path) -> None:
    parts.place(tiny_bundle(tmp_path, bias=0.5), "3", "r2", HardLimits(memory_mb=50))
    for resident_mb in (120.0, 100.0, 149.0):  # what loading took for a moment is no growth
        parts.slots.check_memory(resident_mb)
    assert parts.slots.observe().tripped is None
    parts.slots.check_memory(151.0)
    tripped = parts.slots.observe().tripped
    assert tripped is not None
    assert (tripped.cause, tripped.reason) == (
        "hard_limit",
        "the server grew by 51 MB since it loaded the challenger > limit 50 MB",
    )
    parts.slots.check_memory(900.0)
    assert parts.slots.trips == {"hard_limit": 1, "lease": 0}


def test_without_a_limit_of_memory_nothing_trips(parts: Parts) -> None:
    for resident_mb in (100.0, 90_000.0):
        parts.slots.check_memory(resident_mb)
    assert parts.slots.observe().tripped is None


def test_a_fault_ends_when_another_takes_its_place_and_when_the_challenger_leads(parts: Parts) -> None:
    inject(parts, NanScores())
    parts.share(1.0)
    parts.slots.inject_fault(InjectFault())
    assert parts.answer(RECORDS[0]).predictions[0].slot == "challenger"
    inject(parts, ConstantScore(score=0.25))
    parts.slots.promote(PromoteSlot(version="2", expected="1"), lambda _: None)
    prediction = parts.answer(RECORDS[0]).predictions[0]
    assert (prediction.model_version, prediction.score) == ("2", pytest.approx(sigmoid(0.1)))


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        (WrongFor(field="tailnum", value="N1"), "expected one that is a column of its own: carrier, distance, humid"),
        (WrongFor(field="carrier", value=3.5), "value is 3.5, which the schema refuses"),
    ],
)
def test_a_fault_that_the_model_cannot_have_is_refused(parts: Parts, fault: Fault, problem: str) -> None:
    with pytest.raises(SlotMessageError, match=problem):
        inject(parts, fault)
    parts.slots.drop("r1")
    with pytest.raises(SlotConflictError, match="no challenger to fail"):
        inject(parts, fault)


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        ({"error_share": 1.5}, "error_share is 1.5, expected 0 to 1"),
        ({"fault": {"kind": "sleepy"}}, "sleepy"),
        ({"fault": {"kind": "slow", "ms": -1}}, "ms is -1, expected 0 to 60000"),
        ({"fault": {"kind": "leak", "mb_each_run": 0}}, "0 < mb_each_run"),
        ({"fault": {"kind": "crash", "runs": 3}}, "runs"),
    ],
)
def test_a_message_that_is_no_fault_is_refused_with_what_was_found(message: dict[str, Any], problem: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=problem):
        msgspec.json.decode(msgspec.json.encode(message), type=InjectFault)


def graph(last: list[onnx.NodeProto], **tensors: Any) -> bytes:
    """distance / 1000 as `logit`, its comparison with 0.5 as `far`, sigmoid as `usual`, and then `last` to `score`."""
    width = Encoder(TINY_SCHEMA).width
    weights = np.zeros((width, 1), dtype=np.float32)
    weights[TINY_SCHEMA.columns.index("distance"), 0] = 0.001
    nodes = [
        helper.make_node("IsNaN", ["features"], ["missing"]),
        helper.make_node("Where", ["missing", "zero", "features"], ["filled"]),
        helper.make_node("MatMul", ["filled", "weights"], ["product"]),
        helper.make_node("Squeeze", ["product", "axis"], ["logit"]),
        helper.make_node("Greater", ["logit", "half"], ["far"]),
        helper.make_node("Sigmoid", ["logit"], ["usual"]),
        *last,
    ]
    initializers = [
        helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]),
        helper.make_tensor("half", TensorProto.FLOAT, [], [0.5]),
        helper.make_tensor("weights", TensorProto.FLOAT, [width, 1], weights.ravel().tolist()),
        helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
        *(helper.make_tensor(name, TensorProto.FLOAT, [], [value]) for name, value in tensors.items()),
    ]
    made = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", width])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, None)],
        initializers,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(model.SerializeToString())


GRAPHS = {
    "infinite": graph([helper.make_node("Where", ["far", "infinity", "usual"], ["score"])], infinity=math.inf),
    "above 1": graph([helper.make_node("Where", ["far", "much", "usual"], ["score"])], much=2.0),
    "leaves rows out": graph(
        [helper.make_node("Not", ["far"], ["near"]), helper.make_node("Compress", ["usual", "near"], ["score"], axis=0)]
    ),
    "wider when it likes": graph(
        [
            helper.make_node("Cast", ["far"], ["counts"], to=TensorProto.INT64),
            helper.make_node("ReduceMax", ["counts"], ["more"], keepdims=1),
            helper.make_node("Constant", [], ["one"], value_ints=[1]),
            helper.make_node("Add", ["more", "one"], ["times"]),
            helper.make_node("Tile", ["usual", "times"], ["score"]),
        ]
    ),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_a_real_graph_that_gives_no_score_for_a_row_is_answered_for_and_has_failed(
    parts: Parts, tmp_path: Path, name: str
) -> None:
    parts.place(tiny_bundle(tmp_path, bias=0.0, graph=GRAPHS[name]), "3", "r2")
    parts.slots.drop("r1")
    parts.share(1.0, rollout="r2")
    for _ in range(3):  # the first run of a size is another way through ONNX Runtime than the later ones
        assert parts.answer(RECORDS[0]).predictions[0].model_version == "3"
        prediction = parts.answer(FAR).predictions[0]
        assert (prediction.slot, prediction.score) == ("champion", pytest.approx(sigmoid(0.9)))
    assert (challenger_of(parts).counts.requests, challenger_of(parts).counts.errors) == (6, 3)


def test_a_graph_whose_scores_are_texts_is_not_loaded(parts: Parts, tmp_path: Path) -> None:
    texts = graph([helper.make_node("Cast", ["usual"], ["score"], to=TensorProto.STRING)])
    model = onnx.load_from_string(texts)
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.STRING
    with pytest.raises(ModelRefusedError, match="expected an output 'score' of floats"):
        parts.place(tiny_bundle(tmp_path, graph=model.SerializeToString()), "3", "r2")
