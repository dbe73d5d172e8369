from math import ceil, inf, nan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.capacity import Demand, MeasuredServer, size
from pipelines.capacity.prices import read_prices
from pipelines.capacity.sizing import LOST_ZONE_UTILISATION_MAX
from tests.fixtures.capacity import measured_server, ramp_step

PRICES = read_prices()


def test_the_load_alone_decides_where_it_needs_more_than_the_loss_of_a_zone(measured: MeasuredServer) -> None:
    sized = size(measured, Demand(peak_per_s=20_000, zones=4), PRICES)
    assert (sized.replicas, sized.per_zone) == (32, 8)  # 20,000 / 650 = 30.8, in whole zones
    assert sized.arithmetic[0] == (
        "load: 20,000 requests a second / (1,000 at saturation × 65%) = 30.77, so 31 replicas"
    )
    assert sized.utilisation_at_peak == pytest.approx(0.625)


def test_the_loss_of_one_of_two_zones_doubles_the_replicas(measured: MeasuredServer) -> None:
    sized = size(measured, Demand(peak_per_s=9500, zones=2), PRICES)
    assert (sized.replicas, sized.per_zone) == (20, 10)
    assert sized.utilisation_without_a_zone == pytest.approx(0.95)


@given(
    peak=st.floats(1, 1e6),
    zones=st.integers(2, 6),
    saturation=st.floats(50, 50_000),
    trough=st.floats(0, 1),
)
def test_what_is_left_after_the_loss_of_a_zone_always_carries_the_load(
    peak: float, zones: int, saturation: float, trough: float
) -> None:
    demand = Demand(peak_per_s=peak, zones=zones, trough_per_s=trough * peak)
    if peak / saturation > 1500:  # more is refused
        return
    sized = size(measured_server(saturation_per_s=saturation), demand, PRICES)
    assert sized.utilisation_at_peak <= demand.utilisation + 1e-9
    assert sized.utilisation_without_a_zone is not None
    assert sized.utilisation_without_a_zone <= LOST_ZONE_UTILISATION_MAX + 1e-9
    assert max(2, zones) <= sized.replicas_min <= sized.replicas <= sized.replicas_max
    if sized.replicas_min < sized.replicas:  # any count that the autoscaler may run bears the loss, at what it aims at
        aim = sized.cpu_target_percent * sized.cpu_request / (saturation * 500e-6) / 100
        assert 0.59 <= aim <= 0.66
        for count in range(sized.replicas_min, sized.replicas + 1):
            left = count - ceil(count / zones)
            assert count * aim / left <= LOST_ZONE_UTILISATION_MAX + 0.02


def test_an_autoscaler_may_not_take_away_what_the_loss_of_a_zone_needs(measured: MeasuredServer) -> None:
    few = size(measured, Demand(peak_per_s=2000, trough_per_s=100), PRICES)
    assert few.replicas_min == few.replicas == 6
    assert "do not bear the loss of one of 3 zones" in " ".join(few.arithmetic)
    many = size(measured, Demand(peak_per_s=200_000, trough_per_s=30_000), PRICES)
    assert many.replicas_min < many.replicas
    assert 60 <= many.cpu_target_percent < 65


def test_one_zone_is_said_to_be_an_outage(measured: MeasuredServer) -> None:
    sized = size(measured, Demand(peak_per_s=100, zones=1), PRICES)
    assert (sized.replicas, sized.utilisation_without_a_zone) == (2, None)
    assert "one zone: its loss is an outage" in sized.warnings
    assert any(warning.startswith("one replica would carry") for warning in sized.warnings)


def test_requests_limits_and_targets_follow_from_what_was_measured(measured: MeasuredServer) -> None:
    sized = size(measured, Demand(peak_per_s=2000), PRICES)
    assert (sized.cpu_request, sized.cpu_limit) == (0.5, 0.75)
    assert (sized.memory_request_mib, sized.memory_limit_mib) == (240, 384)
    assert sized.cpu_target_percent == 65
    assert sized.queue_target_rows == pytest.approx(0.74)  # the ramp's 0.2 at 500 and 2.0 at 1,000, read at 650


def test_a_ramp_without_queues_leaves_the_target_to_the_formula() -> None:
    sized = size(measured_server(steps=(ramp_step(1000),)), Demand(peak_per_s=2000), PRICES)
    assert 0.3 < sized.queue_target_rows < 0.65**2 / 2 / 0.35
    assert any("(M/D/1)" in line for line in sized.arithmetic)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peak_per_s": 0}, "--peak: found 0, expected 0.1 to 10,000,000"),
        ({"peak_per_s": -5}, "--peak: found -5"),
        ({"peak_per_s": nan}, "--peak: found nan"),
        ({"peak_per_s": inf}, "--peak: found inf"),
        ({"zones": 0}, "--zones: found 0, expected 1 to 10"),
        ({"utilisation": 0.9}, "--utilisation: found 0.9, expected 0.6 to 0.7: below, replicas idle"),
        ({"utilisation": 0.5}, "--utilisation: found 0.5"),
        ({"trough_per_s": 3000}, "--trough: found 3000, expected at most the peak, 2000"),
        ({"burst": 0.5}, "--burst: found 0.5"),
    ],
)
def test_nonsense_is_refused_with_what_was_expected(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="^" + message.replace("+", r"\+").replace(".", r"\.")):
        Demand(**{"peak_per_s": 2000, **changes})


def test_a_number_of_replicas_that_nobody_runs_names_the_units() -> None:
    with pytest.raises(ValueError, match="look at the units of the peak and of the measurement"):
        size(measured_server(saturation_per_s=5), Demand(peak_per_s=9e6), PRICES)
