"""Which days a run may see, computed from its as-of and nothing else. Pure."""

from datetime import date, timedelta
from typing import Annotated

import msgspec

from pipelines.data.schema import Label

Days = Annotated[int, msgspec.Meta(ge=1, le=36_500)]


class NotEnoughHistoryError(ValueError):
    """The data begins too late for the windows of this as-of: what there is, and what is needed."""


class SplitRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How long each window is, in days. Training takes what there is, from `minimum_train_days` to `train_days`."""

    train_days: Days = 365
    validation_days: Days = 14
    test_days: Days = 14
    minimum_train_days: Days = 28

    def __post_init__(self) -> None:
        if self.minimum_train_days > self.train_days:
            raise ValueError(f"minimum_train_days: {self.minimum_train_days} is above train_days, {self.train_days}")


class Window(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The days from `start` up to and without `end`."""

    start: date
    end: date

    @property
    def days(self) -> int:
        return (self.end - self.start).days

    def __str__(self) -> str:
        return f"{self.start} to {self.end - timedelta(days=1)}"


class Windows(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The windows of one run: side by side, in the order of time, all with known labels at `as_of`."""

    as_of: date
    train: Window
    validation: Window
    test: Window

    @property
    def whole(self) -> Window:
        """From the first training day to the last test day."""
        return Window(self.train.start, self.test.end)

    def by_part(self) -> dict[str, Window]:
        """The three windows by the name of their part, in the order of time."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


def choose_windows(as_of: date, label: Label, rule: SplitRule, earliest: date) -> Windows:
    """The windows of a run as of the start of the day `as_of`, for data that begins on `earliest`.

    The test window ends where labels stop being known, validation lies before it, and training before that.

    >>> rule = SplitRule(train_days=60, validation_days=14, test_days=14)
    >>> windows = choose_windows(date(2013, 4, 1), Label(column="late", delay_days=1), rule, date(2013, 1, 1))
    >>> str(windows.train), str(windows.validation), str(windows.test)
    ('2013-01-02 to 2013-03-02', '2013-03-03 to 2013-03-16', '2013-03-17 to 2013-03-30')

    Raises:
        NotEnoughHistoryError: fewer than `rule.minimum_train_days` are left for training.
    """
    test_end = label.known_before(as_of)
    validation_end = test_end - timedelta(days=rule.test_days)
    train_end = validation_end - timedelta(days=rule.validation_days)
    train = Window(max(earliest, train_end - timedelta(days=rule.train_days)), train_end)
    if train.days < rule.minimum_train_days:
        first = earliest + timedelta(
            days=rule.minimum_train_days + rule.validation_days + rule.test_days + label.delay_days
        )
        raise NotEnoughHistoryError(
            f"as of {as_of} there are {max(train.days, 0)} days to train on (the data begins on {earliest}, training"
            f" must end before {train_end}), {rule.minimum_train_days} are needed: choose {first} or later,"
            " or a shorter split"
        )
    return Windows(
        as_of=as_of,
        train=train,
        validation=Window(train_end, validation_end),
        test=Window(validation_end, test_end),
    )
