import msgspec
import numpy as np
import pytest

from pipelines.evaluation.groups import by_edges, by_word
from pipelines.evaluation.slices import Slice, SliceLimits, SliceRows, Slices, measure_slices, slice_gates
from pipelines.statistics.classification import auc, log_loss
from tests.fixtures.scored_rows import Floats, Rows, model, scored_rows, shuffled

ROWS = scored_rows(rows_a_day=400)
CHALLENGER, CHAMPION = model(ROWS, seed=1), model(ROWS, seed=2)
LIMITS = SliceLimits(minimum_rows=100)


def measured(
    challenger: Floats = CHALLENGER,
    champion: Floats | None = CHAMPION,
    rows: Rows = ROWS,
    limits: SliceLimits = LIMITS,
    declared: int = 1,
) -> Slices:
    grouped = rows.groupings()
    return measure_slices(
        SliceRows(rows.labels, rows.days, challenger, champion), grouped[:declared], grouped, grouped, limits
    )


def test_every_declared_slice_is_listed_with_the_numbers_of_its_rows() -> None:
    found = measured()
    assert [part.name for part in found.declared] == [f"carrier = {name}" for name in ("AA", "B6", "DL", "EV", "UA")]
    first = found.declared[0]
    chosen = ROWS.carriers == "AA"
    assert first.rows == chosen.sum()
    assert first.days == 14
    assert first.label_share == pytest.approx(ROWS.labels[chosen].mean())
    assert first.log_loss == pytest.approx(log_loss(ROWS.labels[chosen], CHALLENGER[chosen]))
    assert first.reference_log_loss == pytest.approx(log_loss(ROWS.labels[chosen], CHAMPION[chosen]))
    assert first.difference == pytest.approx(first.log_loss - first.reference_log_loss)
    assert first.auc == pytest.approx(auc(ROWS.labels[chosen], CHALLENGER[chosen]))
    assert first.verdict == "not worse"


def test_all_slices_of_one_and_of_two_features_are_looked_at() -> None:
    found = measured()
    assert found.looked_at_one == 5 + 4 + 2
    assert found.looked_at_two == 5 * 4 + 5 * 2 + 4 * 2
    assert len(found.worst) == 20


def test_the_slice_that_was_broken_is_the_first_of_the_worst() -> None:
    broken = shuffled(CHALLENGER, (ROWS.carriers == "DL") & (ROWS.ages == "young"))
    found = measured(broken)
    assert found.worst[0].name == "carrier = DL and age = young"
    assert found.worst[0].verdict == "worse"
    assert found.worst[0].p_value is not None
    assert found.worst[0].p_value < 0.01


def test_chance_alone_is_rarely_called_worse_however_many_slices_are_looked_at() -> None:
    alarms = 0
    for seed in range(40):
        rows = scored_rows(rows_a_day=150, seed=seed + 10)
        grouped = [by_word(f"field {n}", np.random.default_rng(n).integers(0, 6, 2100).tolist()) for n in range(8)]
        sides = model(rows, noise=0.8, seed=1), model(rows, noise=0.8, seed=2)
        limits = SliceLimits(minimum_rows=40, found_log_loss_margin=1e-6)
        found = measure_slices(SliceRows(rows.labels, rows.days, *sides), [], grouped, grouped, limits)
        assert found.looked_at_two > 500
        alarms += any(part.verdict == "worse" for part in found.worst)
    assert alarms <= 6  # 2 are expected at the level 0.05


def test_small_slices_are_listed_as_too_small_and_not_judged() -> None:
    names = ROWS.carriers.tolist()
    names[:7] = ["HA"] * 7
    tiny = by_word("carrier", names)
    found = measure_slices(SliceRows(ROWS.labels, ROWS.days, CHALLENGER, CHAMPION), [tiny], [tiny], [], LIMITS)
    small = next(part for part in found.declared if part.name == "carrier = HA")
    assert (small.rows, small.days, small.verdict, small.difference) == (7, 1, "too few rows", None)
    assert found.looked_at_one == 5
    gate = slice_gates(found, LIMITS)[0]
    assert gate.passed
    assert "5 declared slices with enough rows, 1 with too few" in gate.reason


def test_a_slice_of_too_few_days_is_not_judged_however_many_rows_it_has() -> None:
    storm = by_word("storm", (ROWS.days < 15_002).tolist())
    found = measure_slices(SliceRows(ROWS.labels, ROWS.days, CHALLENGER, CHAMPION), [storm], [storm], [], LIMITS)
    assert [(part.name, part.verdict) for part in found.declared] == [
        ("storm = false", "not worse"),
        ("storm = true", "too few rows"),
    ]
    assert found.looked_at_one == 1


def test_a_slice_without_positives_has_losses_and_no_auc() -> None:
    labels = np.where(ROWS.carriers == "UA", 0.0, ROWS.labels)
    grouped = ROWS.groupings()[:1]
    found = measure_slices(SliceRows(labels, ROWS.days, CHALLENGER, CHAMPION), grouped, grouped, [], LIMITS)
    ua = next(part for part in found.declared if part.name == "carrier = UA")
    assert ua.label_share == 0
    assert ua.log_loss is not None
    assert (ua.auc, ua.reference_auc) == (None, None)


def test_without_a_champion_the_reference_is_always_saying_the_base_rate() -> None:
    found = measured(champion=None)
    assert found.reference == "base rate"
    rate = ROWS.labels.mean()
    chosen = ROWS.carriers == "AA"
    assert found.declared[0].reference_log_loss == pytest.approx(
        log_loss(ROWS.labels[chosen], np.full(chosen.sum(), rate))
    )
    assert {gate.against for gate in slice_gates(found, LIMITS)} == {"limit"}
    assert {gate.against for gate in slice_gates(measured(), LIMITS)} == {"champion", "limit"}


def a_slice(**more: object) -> Slice:
    known = {
        "name": "carrier = UA",
        "rows": 900,
        "days": 14,
        "label_share": 0.25,
        "verdict": "not worse",
        "mean_score": 0.26,
        "log_loss": 0.5,
        "reference_log_loss": 0.49,
        "difference": 0.01,
        "low": -0.01,
        "high": 0.03,
        "calibration_gap": (-0.01, 0.03),
    }
    return msgspec.convert(known | more, Slice)


@pytest.mark.parametrize(
    ("verdict", "reference", "passes"),
    [
        ("not worse", "champion", True),
        ("may be worse", "champion", False),  # it must be shown to be not worse
        ("worse", "champion", False),
        ("not worse", "base rate", True),
        ("may be worse", "base rate", True),  # a first model is only kept out by what is shown
        ("worse", "base rate", False),
    ],
)
def test_a_declared_slice_is_judged_by_its_verdict(verdict: str, reference: str, passes: bool) -> None:
    found = Slices(
        reference="champion" if reference == "champion" else "base rate",
        looked_at_one=0,
        looked_at_two=0,
        declared=(a_slice(verdict=verdict),),
        worst=(),
    )
    assert slice_gates(found, LIMITS)[0].passed is passes


def test_the_calibration_of_a_slice_fails_only_where_it_is_shown_to_be_off() -> None:
    for gap, passes in (((0.16, 0.3), False), ((-0.3, -0.16), False), ((0.1, 0.4), True), ((-0.5, 0.5), True)):
        found = Slices(
            reference="champion", looked_at_one=0, looked_at_two=0, declared=(a_slice(calibration_gap=gap),), worst=()
        )
        assert slice_gates(found, LIMITS)[1].passed is passes, gap


def test_nothing_is_searched_where_the_project_says_so() -> None:
    limits = msgspec.structs.replace(LIMITS, find=False)
    found = measured(limits=limits)
    assert (found.looked_at_one, found.looked_at_two, found.worst) == (0, 0, ())
    assert [gate.name for gate in slice_gates(found, limits)] == [
        "declared slices against the champion",
        "calibration on declared slices",
    ]
    assert slice_gates(measured(limits=limits, declared=0), limits) == ()


def test_a_grouping_of_other_rows_is_refused() -> None:
    other = by_edges("temperature", np.zeros(3), (1.0,))
    with pytest.raises(ValueError, match="temperature groups 3 rows, there are 5600 labels"):
        measure_slices(SliceRows(ROWS.labels, ROWS.days, CHALLENGER, None), [other], [], [], LIMITS)


@pytest.mark.parametrize(
    "limits", [{"minimum_rows": 5}, {"minimum_days": 1}, {"level": 0}, {"log_loss_margin": 0}, {"fields": ["a", "a"]}]
)
def test_limits_out_of_bounds_are_refused_by_name(limits: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError, match=next(iter(limits))):
        msgspec.convert(limits, SliceLimits)
