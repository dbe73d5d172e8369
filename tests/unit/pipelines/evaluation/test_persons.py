import numpy as np
import pytest

from contracts.bundle import Baseline
from contracts.encoder import Encoder
from contracts.input_schema import Field, InputSchema
from pipelines.evaluation.baseline import make_baseline
from pipelines.evaluation.persons import without_persons

SCHEMA = InputSchema(
    version=1,
    entity="loan",
    time="at",
    key=("loan",),
    fields=(
        Field(name="loan", kind="identifier"),
        Field(name="at", kind="timestamp"),
        Field(name="name", kind="identifier", personal=True, required=False),
        Field(name="account", kind="identifier", personal=True),
        Field(name="born", kind="timestamp", personal=True),
        Field(name="income", kind="number", personal=True, required=False, minimum=10),
        Field(name="pension", kind="number", personal=True, minimum=3),
        Field(name="town", kind="category", vocabulary=("Aby", "Bro"), personal=True),
        Field(name="married", kind="boolean", personal=True),
        Field(name="amount", kind="number"),
    ),
)
RECORDS = [
    {
        "loan": row, "at": "2024-01-01T09:00:00", "name": "Ada", "account": 990077, "born": "1815-12-10T00:00:00",
        "income": None if row == 3 else 77.25, "pension": 4711.0, "town": "Aby", "married": False,
        "amount": 1000.0 + row,
    }
    for row in range(8)
]  # fmt: skip


@pytest.fixture(scope="module")
def baseline() -> Baseline:
    features = np.zeros((100, len(SCHEMA.columns)), dtype=np.float32)
    features[:, 0] = np.linspace(100, 200, 100)
    features[:, 1] = np.nan  # no training row had a pension
    return make_baseline(SCHEMA, features, np.array([0.5], dtype=np.float32), {})


def test_no_personal_value_is_left_and_all_else_stays(baseline: Baseline) -> None:
    made_up = without_persons(RECORDS, SCHEMA, baseline)
    shown = repr(made_up)
    assert not [value for value in ("Ada", "990077", "1815", "77.25", "4711") if value in shown]
    assert [record["amount"] for record in made_up] == [record["amount"] for record in RECORDS]
    assert [record["loan"] for record in made_up] == list(range(8))
    assert RECORDS[0]["name"] == "Ada"


def test_what_is_made_up_reaches_over_the_whole_range_and_what_is_missing_stays_missing(baseline: Baseline) -> None:
    made_up = without_persons(RECORDS, SCHEMA, baseline)
    incomes = [record["income"] for record in made_up]
    assert incomes[3] is None
    assert len(set(incomes)) == len(RECORDS)
    assert min(income for income in incomes if income) < 130 < 160 < max(income for income in incomes if income)
    assert {record["town"] for record in made_up} == {"Aby", "Bro"}
    assert {record["pension"] for record in made_up} == {3}


def test_the_rows_are_still_what_the_schema_takes_and_always_the_same(baseline: Baseline) -> None:
    made_up = without_persons(RECORDS, SCHEMA, baseline)
    assert Encoder(SCHEMA).encode_rows(made_up).shape == (8, len(SCHEMA.columns))
    assert made_up == without_persons(RECORDS, SCHEMA, baseline)
