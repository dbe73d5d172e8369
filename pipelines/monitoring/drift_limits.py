"""From where on a project counts a change as drift, and how many false alarms a year it can do with."""

from typing import Literal

import msgspec


class DriftLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """From where on a change counts as drift: large enough, unlikely to be chance, and seen on enough rows.

    `psi_minimum` is for numbers and `score_psi_minimum` for scores (population stability index, in nats),
    `jensen_shannon_minimum` for vocabularies (divergence in bits, 0 to 1), `missing_share_minimum` for the absolute
    change of a column's missing share. `false_discovery` bounds the expected share of false alarms among all alarms.
    `minimum_rows` live rows are needed for any answer but "no data". The inputs count as drifted when at least
    `minimum_columns` of them are. Columns in `ignored` (seasons, the weather) are measured and shown, and never count;
    the name of a timestamp stands for all its parts.

    `false_alarms_per_year` is the budget for all features, predictions and outcomes together: a change counts only
    where the days of the reference do not differ as much from each other (`docs/drift.md`); null: rows decide alone,
    as if those of one day were independent of each other. `label_share_minimum` is the change of the share of positive
    outcomes that matters, `label_shift` in which direction it counts. `season_days` are those around the same day of
    earlier years that a change is held against as well, where the source has them. `sources` names the fields that one
    join brings, so that a broken one can be told by its name; `missing_jump` is the missing share, beyond that of the
    worst reference day, from which on a column is broken rather than drifted.
    """

    psi_minimum: float = 0.2
    jensen_shannon_minimum: float = 0.05
    missing_share_minimum: float = 0.05
    score_psi_minimum: float = 0.2
    minimum_rows: int = 500
    minimum_columns: int = 1
    false_discovery: float = 0.05
    ignored: tuple[str, ...] = ()
    false_alarms_per_year: float | None = 2.0
    label_share_minimum: float = 0.05
    label_shift: Literal["both", "more", "fewer", "off"] = "both"
    season_days: int = 21
    sources: dict[str, tuple[str, ...]] = {}
    missing_jump: float = 0.2

    def __post_init__(self) -> None:
        for name in ("psi_minimum", "score_psi_minimum"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is a distance above 0, found {getattr(self, name)}")
        shares = ("jensen_shannon_minimum", "missing_share_minimum", "false_discovery", "label_share_minimum")
        for name in (*shares, "missing_jump"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} lies between 0 and 1, found {getattr(self, name)}")
        for name in ("minimum_rows", "minimum_columns", "season_days"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is at least 1, found {getattr(self, name)}")
        if self.false_alarms_per_year is not None and not 0 < self.false_alarms_per_year <= 365:
            raise ValueError(
                f"false_alarms_per_year is above 0 and at most 365, or null; found {self.false_alarms_per_year}"
            )
