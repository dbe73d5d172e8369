"""How much a snapshot may differ from what is usual: the slice of a project's configuration that validation owns."""

from typing import Annotated, Literal, Self

import msgspec

Level = Literal["error", "warning"]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Ratio = Annotated[float, msgspec.Meta(gt=0)]


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Something expected of a snapshot that it does not meet; `column` is None where it is about the table."""

    expectation: str
    column: str | None
    found: str
    expected: str
    level: Level

    def __str__(self) -> str:
        of = f" of {self.column}" if self.column else ""
        return f"{self.level}: {self.expectation}{of}: found {self.found}, expected {self.expected}"


class ShiftRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How far a snapshot may lie from the last accepted one, over all its rows; for the newest rows by themselves (the
    test window) `newest_factor` times as far. What chance alone gives for so few rows is not counted. `level` is what
    happens beyond.

    `mean`: of a number, in standard deviations of the accepted rows; `spread_ratio`: of its standard deviations (over
    all rows). `missing`: the change of a missing share. `words`: how many rows have changed their word, as a share
    (total variation distance). `segment_share`: a word that so many rows had must not be left with less than a quarter
    of its share. `distinct_ratio`: how many times as many different words there may be. `hours`: as `words`, of the
    hours of the day of a timestamp. `label`: the change of its share. `rewritten`: how many rows of the days that both
    snapshots have may differ in a field, as a share.

    Fields in `seasonal` move with the year: each has a limit of its own in place of `mean`, over all rows, and
    `seasonal_newest` is that of their newest rows. They and the label are compared only with a snapshot whose newest
    window ends at most `days` days away, over all rows only when most of the days are the same.
    """

    level: Level = "error"
    mean: Ratio = 0.25
    spread_ratio: Annotated[float, msgspec.Meta(gt=1)] = 2.0
    missing: Share = 0.1
    words: Share = 0.07
    segment_share: Share = 0.02
    distinct_ratio: Annotated[float, msgspec.Meta(gt=1)] = 3.0
    hours: Share = 0.04
    label: Share = 0.1
    newest_factor: Annotated[float, msgspec.Meta(ge=1)] = 2.0
    rewritten: Share = 0.05
    seasonal: dict[str, Ratio] = {}
    seasonal_newest: Ratio = 2.0
    days: Annotated[int, msgspec.Meta(ge=1)] = 45


class ValidationRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How much a snapshot may differ from what is usual; beyond it an error stops the run, a warning is only shown.

    Rows: at least `minimum_train_rows` to train on, `minimum_held_out_rows` to choose by and as many to judge by,
    `minimum_rows_per_day` over all windows, and between
    `rows_ratio_minimum` and `rows_ratio_maximum` times what the previous snapshot lets expect.
    Label: its share over all rows lies in [`label_share_minimum`, `label_share_maximum`].
    Missing values of an optional field: a warning above `missing_share_warning` (or the field's own in
    `missing_shares`), an error above `missing_share_maximum`.
    Numbers outside their range where the schema clips them or calls them missing: an error above
    `outside_share_maximum`; where the schema rejects them one is too many.
    Words outside a declared vocabulary: a warning above `unseen_share_warning`, or an error at the first where the
    schema rejects them. Of an open vocabulary: a warning when it has more words than the schema keeps, an error when
    more than `rare_words_share_maximum` of the rows have a word that occurs nowhere else (so many are an identifier).
    Each part has `minimum_class_rows` rows of each outcome. Days without a row, where that day of the week usually
    has ten: as `empty_days` says; days with more than `day_rows_ratio_maximum` times the usual rows are an error.
    Infinite numbers are an error; a field with one value only is a warning: training takes it, and learns nothing of
    it.
    `shifts`: how far the snapshot may lie from the last accepted one.
    """

    minimum_train_rows: Annotated[int, msgspec.Meta(ge=1)] = 1000
    minimum_held_out_rows: Annotated[int, msgspec.Meta(ge=1)] = 100
    minimum_class_rows: Annotated[int, msgspec.Meta(ge=1)] = 10
    minimum_rows_per_day: Annotated[float, msgspec.Meta(ge=0)] = 1.0
    rows_ratio_minimum: Ratio = 0.5
    rows_ratio_maximum: Ratio = 2.0
    label_share_minimum: Share = 0.01
    label_share_maximum: Share = 0.99
    missing_share_warning: Share = 0.05
    missing_share_maximum: Share = 0.5
    missing_shares: dict[str, Share] = {}
    outside_share_maximum: Share = 0.001
    unseen_share_warning: Share = 0.01
    rare_words_share_maximum: Share = 0.2
    empty_days: Level = "error"
    day_rows_ratio_maximum: Annotated[float, msgspec.Meta(gt=1)] = 5.0
    shifts: ShiftRules = ShiftRules()

    def __post_init__(self) -> None:
        for low, high in (
            ("rows_ratio_minimum", "rows_ratio_maximum"),
            ("label_share_minimum", "label_share_maximum"),
            ("missing_share_warning", "missing_share_maximum"),
        ):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(f"{low}: {getattr(self, low):g} is above {high}, {getattr(self, high):g}")

    def accepting_shifts(self) -> Self:
        """These rules, with shifts that are told and stop nothing."""
        return msgspec.structs.replace(self, shifts=msgspec.structs.replace(self.shifts, level="warning"))
