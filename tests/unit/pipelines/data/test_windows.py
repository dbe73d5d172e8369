from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.data.schema import Label
from pipelines.data.windows import NotEnoughHistoryError, SplitRule, Window, choose_windows

RULE = SplitRule(train_days=60, validation_days=14, test_days=7, minimum_train_days=20)
days = st.integers(min_value=1, max_value=90)


@given(days, days, days, st.integers(0, 30), st.integers(0, 400))
def test_windows_are_side_by_side_and_end_where_labels_stop_being_known(
    train: int, validation: int, test: int, delay: int, history: int
) -> None:
    as_of, label = date(2013, 7, 1), Label(column="late", delay_days=delay)
    rule = SplitRule(train_days=train, validation_days=validation, test_days=test, minimum_train_days=1)
    earliest = as_of - timedelta(days=history)
    try:
        windows = choose_windows(as_of, label, rule, earliest)
    except NotEnoughHistoryError:
        assert history < delay + test + validation + 1
        return
    assert windows.test.end == as_of - timedelta(days=delay)
    assert (windows.train.end, windows.validation.end) == (windows.validation.start, windows.test.start)
    assert (windows.validation.days, windows.test.days) == (validation, test)
    assert 1 <= windows.train.days <= train
    assert windows.train.start >= earliest


def test_training_takes_all_history_up_to_the_rules_maximum() -> None:
    label = Label(column="late", delay_days=1)
    short = choose_windows(date(2013, 3, 1), label, RULE, date(2013, 1, 1))
    assert short.train == Window(date(2013, 1, 1), date(2013, 2, 7))
    long = choose_windows(date(2013, 9, 1), label, RULE, date(2013, 1, 1))
    assert long.train.days == 60


def test_too_little_history_says_what_there_is_and_from_when_there_is_enough() -> None:
    label = Label(column="late", delay_days=1)
    with pytest.raises(
        NotEnoughHistoryError, match=r"19 days to train on .* 20 are needed: choose 2013-02-12"
    ) as caught:
        choose_windows(date(2013, 2, 11), label, RULE, date(2013, 1, 1))
    assert "2013-01-20" in str(caught.value)
    assert choose_windows(date(2013, 2, 12), label, RULE, date(2013, 1, 1)).train.days == 20


def test_no_history_at_all_counts_as_zero_days() -> None:
    with pytest.raises(NotEnoughHistoryError, match="there are 0 days"):
        choose_windows(date(2012, 1, 1), Label(column="late", delay_days=0), RULE, date(2013, 1, 1))


def test_a_minimum_above_the_maximum_is_refused() -> None:
    with pytest.raises(ValueError, match="minimum_train_days: 28 is above train_days, 20"):
        SplitRule(train_days=20)


def test_a_window_is_shown_with_its_last_day() -> None:
    assert str(Window(date(2013, 1, 1), date(2013, 2, 1))) == "2013-01-01 to 2013-01-31"
