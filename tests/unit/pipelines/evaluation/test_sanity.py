import re
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from contracts.input_schema import InputSchema
from pipelines.evaluation import leaks
from pipelines.evaluation.gate import Gate
from pipelines.evaluation.sanity import Sanity, SanityLimits, sanity_gates

LIMITS = SanityLimits()
WIND, SEATS = 2, 3  # columns


@pytest.fixture(scope="module")
def honest(schema: InputSchema, events: Callable[..., Any]) -> Sanity:
    """What is found in data without a leak."""
    return examined(schema, events(8000))


def examined(schema: InputSchema, rows: Any, copies: NDArray[np.bool_] | None = None) -> Sanity:
    """All that is measured; `copies` marks test rows that are replaced by train rows, under new keys."""
    parts = {
        "train": rows.between(15_000, 15_025),
        "validation": rows.between(15_025, 15_032),
        "test": rows.between(15_032, 15_040),
    }
    train, test = parts["train"], parts["test"]
    keys, texts, start = {}, {}, 0
    for name, part in parts.items():
        content = np.column_stack([part.features[:, 1:], part.labels]).astype(np.float32)
        if copies is not None and name == "test":
            hit = copies[: len(content)]
            content[hit] = np.column_stack([train.features[:, 1:], train.labels])[: hit.sum()]
        texts[name] = leaks.row_bytes([content])
        keys[name] = leaks.row_bytes([np.arange(start, start + len(content))])
        start += len(content)
    return Sanity(
        parts=tuple(leaks.part_span(name, part.labels, part.days) for name, part in parts.items()),
        fields=tuple(field.name for field in schema.fields),
        later={},
        alone=leaks.features_alone(schema, *train),
        missing=leaks.missing_tells(schema, *train, seed=1),
        duplicates=leaks.duplicates(keys, texts),
        shuffled=leaks.shuffled_target(leaks.quick_trees, train[:2], test[:2], seed=1, shuffles=8),
    )


def failed(found: Sanity, limits: SanityLimits = LIMITS) -> dict[str, str]:
    return {gate.name: gate.reason for gate in sanity_gates(found, limits) if not gate.passed}


def test_honest_data_passes_every_gate(honest: Sanity) -> None:
    gates = sanity_gates(honest, LIMITS)
    assert failed(honest) == {}
    assert {gate.area for gate in gates} == {"sanity"}
    assert [gate.name for gate in gates] == [
        "time order",
        "known before the event",
        "one feature alone",
        "missing values",
        "duplicates",
        "shuffled target",
    ]


def test_a_label_copied_with_noise_into_a_feature_is_named(schema: InputSchema, events: Callable[..., Any]) -> None:
    rows = events(8000)
    wrong = np.random.default_rng(5).random(len(rows.labels)) < 0.1
    rows.features[:, SEATS] = 150 + np.where(wrong, 1 - rows.labels, rows.labels)
    reasons = failed(examined(schema, rows))
    assert list(reasons) == ["one feature alone"]
    assert re.fullmatch(r"AUC alone seats 0\.\d{4} > limit 0\.8", reasons["one feature alone"])


@pytest.mark.parametrize("shape", ["both ends", "one in the middle"])
def test_a_leak_is_found_whatever_the_shape_of_its_influence(
    schema: InputSchema, events: Callable[..., Any], shape: str
) -> None:
    rows = events(8000)
    random = np.random.default_rng(6)
    far = rows.labels == 1 if shape == "both ends" else rows.labels == 0
    rows.features[:, SEATS] = 450 + random.normal(0, 40, len(far)) + far * random.choice([-300, 300], len(far))
    found = leaks.features_alone(schema, *rows)
    assert found[0].column == "seats"
    assert found[0].auc > 0.99


def test_a_word_for_each_row_does_not_look_like_a_leak(events: Callable[..., Any], schema: InputSchema) -> None:
    from contracts.input_schema import Field

    rows = events(4000)
    words = tuple(f"word {number}" for number in range(4000))
    many = msgspec.structs.replace(schema, fields=(*schema.fields, Field(name="id", kind="category", vocabulary=words)))
    features = np.column_stack([rows.features, np.arange(4000)]).astype(np.float32)
    alone = {found.column: found.auc for found in leaks.features_alone(many, features, rows.labels, rows.days)}
    assert abs(alone["id"] - 0.5) < 0.05


@pytest.mark.parametrize("when", [0, 1])
def test_a_field_whose_absence_gives_the_label_away_is_named(
    schema: InputSchema, events: Callable[..., Any], when: int
) -> None:
    rows = events(8000)
    rows.features[:, WIND] = np.nan_to_num(rows.features[:, WIND], nan=10)
    hit = (rows.labels == when) & (np.random.default_rng(7).random(len(rows.labels)) < 0.05)
    rows.features[hit, WIND] = np.nan
    reasons = failed(examined(schema, rows))
    assert list(reasons) == ["missing values"]
    assert reasons["missing values"].startswith("odds of the label where missing against present: wind (missing in")
    assert reasons["missing values"].endswith("beyond limit 10")


def test_a_field_that_was_missing_on_one_stormy_day_only_is_no_leak(
    schema: InputSchema, events: Callable[..., Any]
) -> None:
    rows = events(8000)
    rows.features[:, WIND] = np.nan_to_num(rows.features[:, WIND], nan=10)
    stormy = rows.days == 15_010
    rows.features[stormy, WIND] = np.nan
    rows.labels[stormy] = 1
    found = leaks.missing_tells(schema, *rows, seed=1)[0]
    assert found.odds_ratio > LIMITS.missing_odds_ratio_max > found.low


def test_train_rows_that_come_again_in_the_test_rows_are_found(
    schema: InputSchema, events: Callable[..., Any], honest: Sanity
) -> None:
    rows = events(8000)
    copies = np.random.default_rng(8).random(8000) < 0.03
    found = examined(schema, rows, copies)
    assert list(failed(found)) == ["duplicates"]
    assert failed(found)["duplicates"].startswith("test: ")
    assert found.duplicates[1].same_row > 30
    assert copies[list(found.duplicates[1].examples)].all()
    assert honest.duplicates[1].same_row == 0


def test_the_same_key_twice_is_a_duplicate_whatever_else_differs() -> None:
    keys = {part: leaks.row_bytes([np.arange(1000)]) for part in ("train", "validation")}
    keys["test"] = leaks.row_bytes([np.arange(1980, 2980)])
    rows = {part: leaks.row_bytes([np.arange(n, n + 1000)]) for n, part in ((0, "train"), (2000, "validation"))}
    rows["test"] = leaks.row_bytes([np.arange(9000, 10_000)])
    validation, test = leaks.duplicates(keys, rows)
    assert (validation.same_key, validation.same_row, validation.examples) == (1000, 0, (0, 1, 2))
    assert (test.same_key, test.same_row, test.examples) == (0, 0, ())


def test_rows_that_are_equal_by_nature_are_no_duplicates() -> None:
    random = np.random.default_rng(9)
    rows = {
        part: leaks.row_bytes([random.integers(0, 4, (count, 4))])
        for part, count in (("train", 2000), ("validation", 500), ("test", 500))
    }
    keys = {
        part: leaks.row_bytes([np.arange(n, n + len(rows[part]))]) for n, part in ((0, "train"), (5000, "validation"))
    }
    keys["test"] = leaks.row_bytes([np.arange(9000, 9500)])
    test = leaks.duplicates(keys, rows)[1]
    assert test.same_row > 450
    assert test.excess_low < LIMITS.duplicate_share_max


def test_a_trainer_that_has_seen_the_test_labels_fails_the_shuffled_target(
    schema: InputSchema, events: Callable[..., Any], honest: Sanity
) -> None:
    rows = events(8000)
    train, test = rows.between(15_000, 15_025), rows.between(15_032, 15_040)

    def cheating(features: NDArray[np.float32], labels: NDArray[np.float64], seed: int) -> leaks.Scorer:
        both = np.concatenate([features, test.features]), np.concatenate([labels, test.labels])
        return leaks.quick_trees(*both, seed)

    found = leaks.shuffled_target(cheating, train[:2], test[:2], seed=1, shuffles=8)
    reason = failed(msgspec.structs.replace(honest, shuffled=found))["shuffled target"]
    assert found.low > 0.5
    assert reason.endswith("0.5 outside the interval")
    assert honest.shuffled.low <= 0.5 <= honest.shuffled.high < honest.shuffled.auc_with_labels


def test_windows_that_overlap_are_named(honest: Sanity) -> None:
    train, validation, test = honest.parts
    mixed = msgspec.structs.replace(honest, parts=(train, validation, msgspec.structs.replace(test, first_day=15_031)))
    assert failed(mixed) == {
        "time order": "test begins on 2011-02-26, not after 2011-02-26, when validation ends",
    }


def test_what_is_known_only_after_the_event_may_be_no_field(honest: Sanity) -> None:
    limits = SanityLimits(known_after=("wind", "landed_at"))
    assert failed(honest, limits) == {
        "known before the event": "wind is known only after the event (known_after), and a field of the schema"
    }
    later = msgspec.structs.replace(honest, later={"landed_at": 0.25})
    assert "landed_at lies after the event in 25.00% of the train rows" in failed(later)["known before the event"]
    assert failed(later, SanityLimits(planned=("landed_at",))) == {}


def test_a_part_without_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="test: found no rows"):
        leaks.part_span("test", np.empty(0), np.empty(0, dtype=np.int64))


def test_findings_survive_json(honest: Sanity) -> None:
    assert msgspec.json.decode(msgspec.json.encode(honest), type=Sanity) == honest
    assert all(isinstance(gate, Gate) for gate in sanity_gates(honest, LIMITS))


@pytest.mark.parametrize(
    "limits",
    [
        {"single_feature_auc_max": 0.5},
        {"missing_odds_ratio_max": 1},
        {"duplicate_share_max": 1.5},
        {"known_afterwards": ["wind"]},
    ],
)
def test_limits_out_of_bounds_are_refused_by_name(limits: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError, match=next(iter(limits))):
        msgspec.convert(limits, SanityLimits)
