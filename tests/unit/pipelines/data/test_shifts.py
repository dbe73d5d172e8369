"""A snapshot against the last accepted one: what moved, what was lost, and what chance and seasons do."""

import re
from datetime import date, datetime, timedelta
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from pipelines.data.profile import Profile, Words, profile
from pipelines.data.rules import Failure, ShiftRules
from pipelines.data.schema import DeclaredSchema, Label
from pipelines.data.shifts import shifts
from pipelines.data.windows import SplitRule, choose_windows

RULES = ShiftRules()
DAYS, ROWS_PER_DAY = 60, 40


def table(day: date = date(2013, 1, 1), seed: int = 0, days: int = DAYS, **changed: Any) -> pa.Table:
    """Deliveries by chance; `changed` replaces columns, given as functions of the column."""
    random = np.random.default_rng(seed)
    rows = days * ROWS_PER_DAY
    midnight = datetime.combine(day, datetime.min.time())
    minutes = np.sort(random.integers(6 * 60, 22 * 60, (days, ROWS_PER_DAY)), axis=1)
    columns: dict[str, Any] = {
        "leaves": [midnight + timedelta(days=d, minutes=int(minute)) for d in range(days) for minute in minutes[d]],
        "depot": random.choice(["north", "south", "west"], rows, p=[0.6, 0.35, 0.05]).astype(object),
        "distance_km": random.gamma(2, 20, rows),
        "wind_kmh": np.where(random.random(rows) < 0.02, np.nan, random.gamma(3, 5, rows)),
        "express": random.random(rows) < 0.3,
        "late": random.random(rows) < 0.2,
    }
    for name, change in changed.items():
        columns[name] = change(columns[name])
    return pa.table({name: pa.array(list(values), from_pandas=True) for name, values in columns.items()})


def described(rows: pa.Table, declared: DeclaredSchema, label: Label) -> Profile:
    first, last = (value.as_py().date() for value in (rows.column("leaves")[0], rows.column("leaves")[-1]))
    as_of = last + timedelta(days=1 + label.delay_days)
    windows = choose_windows(as_of, label, SplitRule(train_days=500, validation_days=7, test_days=14), first)
    part = ["test" if moment.date() >= windows.test.start else "train" for moment in rows.column("leaves").to_pylist()]
    return profile(rows.append_column("part", pa.array(part)), windows, declared, label)


@pytest.fixture
def schema(declared: DeclaredSchema) -> DeclaredSchema:
    return declared


@pytest.fixture
def accepted(schema: DeclaredSchema, label: Label) -> Profile:
    return described(table(), schema, label)


def told(found: tuple[Failure, ...]) -> list[tuple[str, str | None]]:
    return sorted((failure.expectation, failure.column or "") for failure in found)


@pytest.mark.parametrize("seed", range(1, 9))
def test_other_rows_of_the_same_world_have_not_shifted(
    accepted: Profile, schema: DeclaredSchema, label: Label, seed: int
) -> None:
    assert shifts(described(table(seed=seed), schema, label), accepted, RULES) == ()
    assert shifts(described(table(day=date(2013, 1, 8), seed=seed), schema, label), accepted, RULES) == ()


PLANTED = {
    "kilometres become miles": ({"distance_km": lambda c: c / 1.609}, [("same scale", "distance_km")]),
    "a sentinel for missing": (
        {"wind_kmh": lambda c: np.where(np.isnan(c), 9999, c)},
        [("same scale", "wind_kmh"), ("same spread", "wind_kmh")],
    ),
    "a join that finds half": (
        {"wind_kmh": lambda c: np.where(np.arange(len(c)) % 2, np.nan, c)},
        [("same gaps", "wind_kmh")],
    ),
    "another time zone": (
        {"leaves": lambda c: [moment - timedelta(hours=5) for moment in c]},
        [("same hours", "leaves")],
    ),
    "summer time": ({"leaves": lambda c: [moment + timedelta(hours=1) for moment in c]}, [("same hours", "leaves")]),
    "words in capitals": (
        {"depot": lambda c: [word.upper() for word in c]},
        [("no word lost", "depot"), ("same words", "depot")],
    ),
    "a small segment lost": (
        {"depot": lambda c: [word if word != "west" else "south" for word in c]},
        [("no word lost", "depot")],
    ),
    "true for false": ({"express": lambda c: ~c}, [("same words", "express")]),
    "labels of another threshold": (
        {"late": lambda c: c | (np.arange(len(c)) % 4 == 0)},
        [("same share of the label", "")],
    ),
}


@pytest.mark.parametrize(("changed", "expected"), PLANTED.values(), ids=PLANTED.keys())
def test_a_planted_change_is_told_with_its_field(
    accepted: Profile, schema: DeclaredSchema, label: Label, changed: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    found = shifts(described(table(seed=1, **changed), schema, label), accepted, RULES)
    assert told(found) == expected
    assert {failure.level for failure in found} == {"error"}
    softened = shifts(described(table(seed=1, **changed), schema, label), accepted, ShiftRules(level="warning"))
    assert told(softened) == expected
    assert {failure.level for failure in softened} == {"warning"}


def test_a_change_in_the_newest_rows_alone_is_told_of_them(
    accepted: Profile, schema: DeclaredSchema, label: Label
) -> None:
    newest = np.arange(DAYS * ROWS_PER_DAY) >= (DAYS - 14) * ROWS_PER_DAY
    metres = table(seed=1, distance_km=lambda c: np.where(newest, c * 1000, c))
    failures = shifts(described(metres, schema, label), accepted, RULES)
    assert told(failures) == [("same scale", "distance_km"), ("same spread", "distance_km")]
    (scale,) = [failure for failure in failures if failure.expectation == "same scale"]
    factor = re.search(r"a mean of [\d,e+.]+, ([\d,e+.]+) times in the newest rows", scale.found)
    assert factor, scale
    assert float(factor[1]) == pytest.approx(1000, rel=0.15), "the factor says which unit it was"


def test_a_season_moves_what_is_declared_seasonal_and_is_not_compared_over_half_a_year(
    accepted: Profile, schema: DeclaredSchema, label: Label
) -> None:
    stormy = described(table(day=date(2013, 1, 15), seed=1, wind_kmh=lambda c: c + 6), schema, label)
    assert told(shifts(stormy, accepted, RULES)) == [("same scale", "wind_kmh")]
    seasonal = ShiftRules(seasonal={"wind_kmh": 1.0})
    assert shifts(stormy, accepted, seasonal) == ()
    gale = described(table(day=date(2013, 1, 15), seed=1, wind_kmh=lambda c: c + 30), schema, label)
    assert told(shifts(gale, accepted, seasonal)) == [("same scale", "wind_kmh")]
    later = described(table(day=date(2013, 7, 1), seed=1, wind_kmh=lambda c: c + 30, late=lambda c: ~c), schema, label)
    assert shifts(later, accepted, seasonal) == ()
    assert told(shifts(later, accepted, RULES)) == [("same scale", "wind_kmh")]


def test_a_vocabulary_that_has_several_times_its_words_is_told(
    accepted: Profile, schema: DeclaredSchema, label: Label
) -> None:
    numbered = table(
        seed=1, depot=lambda c: [f"{word}{row % 4}" if row % 25 == 0 else word for row, word in enumerate(c)]
    )
    found = shifts(described(numbered, schema, label), accepted, RULES)
    assert told(found) == [("no exploding vocabulary", "depot")]


def test_a_profile_has_no_word_that_few_rows_share_and_survives_the_ledger(
    schema: DeclaredSchema, label: Label
) -> None:
    rare = described(
        table(depot=lambda c: ["Ms Lindqvist" if row < 4 else word for row, word in enumerate(c)]), schema, label
    )
    words = rare.whole.fields["depot"]
    assert isinstance(words, Words)
    assert (words.distinct, set(words.shares)) == (4, {"north", "south", "west"})
    assert "Lindqvist" not in msgspec.json.encode(rare).decode()
    assert msgspec.convert(msgspec.to_builtins(rare), Profile) == rare
    assert len(msgspec.json.encode(rare)) < 4000
