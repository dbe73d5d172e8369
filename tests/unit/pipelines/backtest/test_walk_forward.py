"""Walk-forward over a small history whose rule turns round half way: only who retrains keeps up."""

from datetime import date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from contracts.input_schema import Field
from pipelines.backtest.page import walk_forward_page
from pipelines.backtest.walk_forward import History, Step, WalkForward, periods, walk_forward
from pipelines.data.schema import DeclaredSchema, Label
from pipelines.data.windows import NotEnoughHistoryError
from pipelines.training.plan import TrialSpec

FIRST_DAY = date(2024, 1, 1)
TURN = 70  # the day on which the rule turns round
DAYS, ROWS_A_DAY = 182, 40
SPEC = TrialSpec(trainer="boosted_trees", parameters={"trees": 20, "minimum_leaf_rows": 20, "column_share": 1.0})
DECLARED = DeclaredSchema(
    version=1,
    entity="who",
    time="at",
    key=("who", "at"),
    fields=(
        Field(name="who", kind="identifier"),
        Field(name="at", kind="timestamp"),
        Field(name="x", kind="number"),
    ),
)


@pytest.fixture(scope="module")
def history() -> History:
    generator = np.random.default_rng(7)
    day = np.repeat(np.arange(DAYS), ROWS_A_DAY)
    x = generator.normal(size=len(day))
    chance = 1 / (1 + np.exp(-3 * np.where(day < TURN, x, -x)))
    labels = (generator.random(len(day)) < chance).astype(float)
    start = datetime(2024, 1, 1, 12)
    table = pa.table(
        {
            "who": [str(number) for number in range(len(day))],
            "at": [start + timedelta(days=int(number)) for number in day],
            "x": x,
        }
    )
    return History(table, np.datetime64(FIRST_DAY) + day, labels)


def _run(history: History, start: date, until: date, delay_days: int = 1) -> tuple[WalkForward, list[Step]]:
    heard: list[Step] = []
    label = Label(column="y", delay_days=delay_days)
    chosen = periods(start, until, 14)
    return walk_forward("toy", history, DECLARED, label, SPEC, 1, chosen, 14, heard.append), heard


def test_who_retrains_keeps_up_with_a_rule_that_turns_round(history: History) -> None:
    found, heard = _run(history, date(2024, 2, 26), date(2024, 7, 1))
    assert list(found.steps) == heard
    assert len(heard) == 9
    before, last = found.steps[0], found.steps[-1]
    assert before.retrained == before.first
    assert before.retrained.auc is not None
    assert before.retrained.auc > 0.8
    assert last.first.auc is not None
    assert last.first.auc < 0.5 < (last.retrained.auc or 0)
    assert last.retrained.log_loss < last.first.log_loss
    assert found.retrained.log_loss == pytest.approx(np.mean([step.retrained.log_loss for step in found.steps]))


def test_a_model_sees_no_label_that_was_not_known_at_the_start_of_its_period(history: History) -> None:
    for delay_days in (0, 1, 5):
        found, _ = _run(history, date(2024, 2, 26), date(2024, 3, 11), delay_days)
        known_days = (date(2024, 2, 26) - FIRST_DAY).days - delay_days
        assert found.steps[0].train_rows == known_days * ROWS_A_DAY
        assert found.steps[0].rows == 14 * ROWS_A_DAY


def test_too_little_history_or_a_period_without_events_is_refused(history: History) -> None:
    with pytest.raises(NotEnoughHistoryError, match="there are 16 days to train on"):
        _run(history, date(2024, 2, 1), date(2024, 2, 15))
    with pytest.raises(ValueError, match="no labelled events from 2025-01-01"):
        _run(history, date(2025, 1, 1), date(2025, 1, 15))
    with pytest.raises(ValueError, match="no period of 14 days fits"):
        periods(date(2024, 1, 1), date(2024, 1, 10), 14)


def test_the_page_shows_each_period_and_what_retraining_is_worth(history: History) -> None:
    found, _ = _run(history, date(2024, 2, 26), date(2024, 7, 1))
    page = walk_forward_page(found)
    assert page.count("<svg") == 2
    assert all(str(step.start) in page for step in found.steps)
    assert f"{found.retrained.log_loss:.4f}" in page
