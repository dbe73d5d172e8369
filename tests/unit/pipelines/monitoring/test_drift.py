from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from contracts.bundle import Baseline, CategoryBaseline, NumberBaseline
from contracts.input_schema import Field, InputSchema
from pipelines.monitoring.drift import ColumnDrift, DriftReport, bin_scores, find_drift
from pipelines.monitoring.drift_limits import DriftLimits

CARRIERS = ("AA", "B6", "UA")
SCHEMA = InputSchema(
    version=1,
    entity="tailnum",
    time="scheduled",
    key=("tailnum", "scheduled"),
    fields=(
        Field(name="tailnum", kind="identifier"),
        Field(name="scheduled", kind="timestamp", parts=("day_of_week", "day_of_year")),
        Field(name="carrier", kind="category", vocabulary=CARRIERS),
        Field(name="distance", kind="number"),
        Field(name="temperature", kind="number", required=False),
        Field(name="income", kind="number", personal=True),
    ),
)


def _rows(
    n: int, seed: int = 0, *, distance: float = 0.0, carriers: Sequence[float] = (0.5, 0.3, 0.2)
) -> NDArray[np.float32]:
    generator = np.random.default_rng(seed)
    columns = [
        generator.integers(0, 7, n),
        generator.integers(1, 91, n),
        generator.choice(3, n, p=carriers),
        generator.normal(1000 + distance, 300, n),
        np.where(generator.random(n) < 0.1, np.nan, generator.normal(60, 10, n)),
        np.full(n, np.nan),
    ]
    return np.column_stack(columns).astype(np.float32)


def _number(values: NDArray[np.float32]) -> NumberBaseline:
    known = values[~np.isnan(values)].astype(np.float64)
    edges = np.unique(np.quantile(known, np.linspace(0, 1, 11)))
    return NumberBaseline(
        missing=len(values) - len(known),
        mean=float(known.mean()),
        standard_deviation=float(known.std()),
        quartiles=(0.0, 0.0, 0.0),
        edges=tuple(edges.tolist()),
        counts=tuple(np.histogram(known, edges)[0].tolist()),
    )


def _baseline(rows: NDArray[np.float32], scores: NDArray[np.float32]) -> Baseline:
    named = dict(zip(SCHEMA.columns, rows.T, strict=True))
    counts = np.bincount(named["carrier"].astype(int), minlength=3).tolist()
    return Baseline(
        rows=len(rows),
        numbers={name: _number(named[name]) for name in named if name not in ("carrier", "income")},
        categories={"carrier": CategoryBaseline(missing=0, counts=dict(zip(CARRIERS, counts, strict=True)))},
        score_counts=tuple(bin_scores(scores, 10)),
        metrics={"auc": 0.7},
    )


def _scores(n: int, seed: int = 0, positive: float = 0.6) -> NDArray[np.float32]:
    generator = np.random.default_rng(seed)
    return np.where(generator.random(n) < positive, 0.9, 0.1).astype(np.float32)


BASELINE = _baseline(_rows(20_000, 1), _scores(20_000, 1))


def _find(rows: NDArray[np.float32], scores: NDArray[np.float32] | None = None, **limits: object) -> DriftReport:
    found = _scores(len(rows)) if scores is None else scores
    return find_drift(BASELINE, SCHEMA, rows, found, DriftLimits(**limits))  # type: ignore[arg-type]


def _column(report: DriftReport, name: str) -> ColumnDrift:
    return next(column for column in report.columns if column.column == name)


def test_rows_like_those_of_training_have_not_drifted() -> None:
    report = _find(_rows(2000))
    assert (report.inputs, report.scores) == ("no_drift", "no_drift")
    assert report.drifted == ()
    assert "PSI 0.0" in _column(report, "distance").reason
    assert "n = 2,000 against 20,000" in _column(report, "distance").reason


def test_a_shifted_number_is_drift_and_its_moments_are_shown() -> None:
    report = _find(_rows(2000, distance=400))
    assert report.inputs == "drift"
    assert report.drifted == ("distance",)
    assert "1 of 5 columns that count drifted >= 1; distance: PSI" in report.reason
    column = _column(report, "distance")
    assert column.baseline is not None
    assert column.current is not None
    assert column.current.mean - column.baseline.mean == pytest.approx(400, abs=40)


def test_a_shifted_vocabulary_is_drift() -> None:
    report = _find(_rows(2000, carriers=(0.1, 0.2, 0.7)))
    assert report.drifted == ("carrier",)
    assert _column(report, "carrier").measure == "jensen_shannon_divergence"


def test_a_column_that_goes_missing_is_drift_although_its_other_values_are_the_same() -> None:
    rows = _rows(4000)
    rows[:2000, 4] = np.nan
    report = _find(rows)
    assert report.drifted == ("temperature",)
    assert "missing share 0.5" in _column(report, "temperature").reason


def test_an_approval_rate_that_jumps_from_60_to_95_percent_is_score_drift_within_500_rows() -> None:
    report = _find(_rows(500), _scores(500, positive=0.95))
    assert report.scores == "drift"
    assert report.inputs == "no_drift"
    assert "PSI 0." in report.score.reason


def test_too_few_rows_are_no_data_and_not_no_drift() -> None:
    report = _find(_rows(499, distance=4000))
    assert (report.inputs, report.scores) == ("no_data", "no_data")
    assert "499 rows" in report.reason
    assert _find(_rows(0)).inputs == "no_data"


def test_a_significant_but_small_change_does_not_count() -> None:
    report = _find(_rows(20_000, distance=60))
    column = _column(report, "distance")
    assert column.adjusted_p_value is not None
    assert column.adjusted_p_value < 0.001
    assert column.answer == "no_drift"


def test_a_large_change_that_may_be_chance_does_not_count() -> None:
    rows = _rows(12, carriers=(0.5, 0.3, 0.2))
    rows[:, 2] = [0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 2, 2]
    report = _find(rows, minimum_rows=10, jensen_shannon_minimum=0.0001)
    column = _column(report, "carrier")
    assert column.answer == "no_drift"
    assert "may be chance" in column.reason


def test_an_ignored_column_is_shown_and_does_not_count() -> None:
    report = _find(_rows(2000, distance=400), ignored=("distance", "scheduled"))
    assert report.inputs == "no_drift"
    assert report.drifted == ()
    assert _column(report, "distance").answer == "drift"
    assert not _column(report, "scheduled.day_of_year").counts
    with pytest.raises(ValueError, match="'weather', which is no field or column"):
        _find(_rows(2000), ignored=("weather",))


def test_fewer_columns_than_the_policy_asks_for_are_no_drift() -> None:
    report = _find(_rows(2000, distance=400), minimum_columns=2)
    assert report.inputs == "no_drift"
    assert "1 of 5 columns that count drifted < 2" in report.reason


def test_a_masked_column_and_one_without_a_baseline_cannot_be_judged() -> None:
    report = _find(_rows(2000))
    assert _column(report, "income").answer == "no_data"
    assert "personal" in _column(report, "income").reason


def test_values_beyond_all_that_training_saw_are_drift_also_of_a_constant() -> None:
    constant = NumberBaseline(
        missing=0,
        mean=5.0,
        standard_deviation=0.0,
        quartiles=(5.0, 5.0, 5.0),
        edges=(5.0, float(np.nextafter(5.0, 6))),
        counts=(20_000,),
    )
    baseline = Baseline(rows=20_000, numbers={"distance": constant}, categories={}, score_counts=(), metrics={})
    rows = _rows(1000)
    rows[:, 3] = 5.0
    assert _column(find_drift(baseline, SCHEMA, rows, _scores(1000), DriftLimits()), "distance").answer == "no_drift"
    rows[:300, 3] = 9.0
    report = find_drift(baseline, SCHEMA, rows, _scores(1000), DriftLimits())
    assert _column(report, "distance").answer == "drift"
    assert _column(report, "carrier").reason == "the bundle has no baseline for it"
    assert report.scores == "no_data"


def test_a_baseline_that_cannot_tell_values_apart_is_no_data() -> None:
    coarse = NumberBaseline(
        missing=0, mean=0.5, standard_deviation=0.5, quartiles=(0.0, 0.0, 1.0), edges=(0.0, 1.0), counts=(20_000,)
    )
    baseline = Baseline(rows=20_000, numbers={"distance": coarse}, categories={}, score_counts=(), metrics={})
    rows = _rows(1000)
    rows[:, 3] = 1.0
    column = _column(find_drift(baseline, SCHEMA, rows, _scores(1000), DriftLimits()), "distance")
    assert column.answer == "no_data"
    assert "one cell" in column.reason


def test_weeks_without_drift_seldom_raise_an_alarm() -> None:
    alarms = sum(
        "drift" in (report.inputs, report.scores)
        for report in (_find(_rows(700, seed), _scores(700, seed)) for seed in range(100, 200))
    )
    assert alarms == 0  # effect sizes and false-discovery control together: far below 5 %


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="6 columns are needed"):
        _find(np.zeros((10, 3), dtype=np.float32), _scores(10))
    with pytest.raises(ValueError, match="9 scores and 10 rows"):
        _find(_rows(10), _scores(9))


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"psi_minimum": 0}, "psi_minimum is a distance above 0, found 0"),
        ({"false_discovery": 1.5}, "false_discovery lies between 0 and 1, found 1.5"),
        ({"minimum_rows": 0}, "minimum_rows is at least 1, found 0"),
    ],
)
def test_limits_without_a_meaning_are_refused_by_name(limits: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DriftLimits(**limits)  # type: ignore[arg-type]
