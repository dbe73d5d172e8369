"""From what one replica does to how many a peak needs, with the arithmetic in words. Pure."""

from math import ceil, floor, isfinite

import msgspec

from pipelines.capacity.measured import MeasuredServer
from pipelines.capacity.prices import Cost, Prices, cost
from pipelines.capacity.queueing import service_rate, waiting

UTILISATION_MIN, UTILISATION_MAX = 0.6, 0.7
LOST_ZONE_UTILISATION_MAX = 0.95  # of saturation, on the replicas that are left: chance does not divide evenly
MEMORY_REQUEST, MEMORY_LIMIT = 1.25, 2.0  # of what is resident at saturation; a new champion is loaded beside the old
CPU_LIMIT = 1.5  # of the request: bursts, garbage, and a model that is being loaded
_CPU_STEP, _MEMORY_STEP_MIB = 0.01, 16
REPLICAS_MAX = 10_000


class Demand(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is asked for. `peak_per_s` and `trough_per_s` are the usual highest and lowest rates of a day.

    `utilisation` is the share of saturation that the autoscaler aims at; `burst` how far beyond the peak it may go.

    Raises:
        ValueError: it makes no sense; says what was found and what is expected.
    """

    peak_per_s: float
    zones: int = 3
    trough_per_s: float | None = None
    utilisation: float = 0.65
    burst: float = 3.0

    def __post_init__(self) -> None:
        for name, found, low, high in (
            ("--peak", self.peak_per_s, 0.1, 10_000_000.0),
            ("--trough", self.trough_per_s, 0.0, 10_000_000.0),
            ("--zones", self.zones, 1, 10),
            ("--burst", self.burst, 1.0, 20.0),
        ):
            if found is not None and (not isfinite(found) or not low <= found <= high):
                raise ValueError(f"{name}: found {found:g}, expected {low:g} to {high:,.10g}")
        if not UTILISATION_MIN <= self.utilisation <= UTILISATION_MAX:
            raise ValueError(
                f"--utilisation: found {self.utilisation:g}, expected {UTILISATION_MIN:g} to {UTILISATION_MAX:g}: "
                "below, replicas idle; above, what comes before a new replica is ready waits"
            )
        if self.trough_per_s is not None and self.trough_per_s > self.peak_per_s:
            raise ValueError(f"--trough: found {self.trough_per_s:g}, expected at most the peak, {self.peak_per_s:g}")


class Sizing(msgspec.Struct, frozen=True, kw_only=True):
    """The answer. Cores and MiB are of one replica; utilisations are shares of saturation at the peak.

    `cpu_target_percent` and `queue_target_rows` (rows that wait, a mean over the replicas) are two targets for the same
    load; `arithmetic` has a line for each number, `costs` one entry for each offer that fits.
    """

    replicas: int
    per_zone: int
    replicas_min: int
    replicas_max: int
    utilisation_at_peak: float
    utilisation_without_a_zone: float | None
    cpu_request: float
    cpu_limit: float
    memory_request_mib: int
    memory_limit_mib: int
    cpu_target_percent: int
    queue_target_rows: float
    arithmetic: tuple[str, ...]
    warnings: tuple[str, ...]
    costs: tuple[Cost, ...]


def size(measured: MeasuredServer, demand: Demand, prices: Prices) -> Sizing:
    """How many replicas `demand` needs, what each may use, and what they cost.

    Raises:
        ValueError: it takes more than `REPLICAS_MAX` replicas, so a unit is probably wrong.
    """
    said: list[str] = []
    replicas = _replicas(measured, demand, said)
    fewest, most, aim = _bounds(measured, demand, replicas, said)
    saturation, peak, zones = measured.saturation_per_s, demand.peak_per_s, demand.zones
    request, limit, memory_request, memory_limit = _resources(measured, said)
    queue = _queue_target(measured, aim, said)
    left = replicas - replicas // zones if zones > 1 else 0
    found = [
        cost(prices, offer, replicas=replicas, fewest=fewest, zones=zones, cores=request, memory_mib=memory_request)
        for offer in prices.offers
    ]
    return Sizing(
        replicas=replicas,
        per_zone=replicas // zones,
        replicas_min=fewest,
        replicas_max=most,
        utilisation_at_peak=peak / (replicas * saturation),
        utilisation_without_a_zone=peak / (left * saturation) if left else None,
        cpu_request=request,
        cpu_limit=limit,
        memory_request_mib=memory_request,
        memory_limit_mib=memory_limit,
        cpu_target_percent=round(100 * aim * measured.cores / request),
        queue_target_rows=queue,
        arithmetic=tuple(said),
        warnings=_warnings(measured, demand),
        costs=tuple(each for each in found if each is not None),
    )


def _replicas(measured: MeasuredServer, demand: Demand, said: list[str]) -> int:
    """Replicas at the peak, the same number in each zone."""
    saturation, peak, zones = measured.saturation_per_s, demand.peak_per_s, demand.zones
    usable = saturation * demand.utilisation
    for_load = _counted(peak, usable)
    said.append(
        f"load: {peak:,.10g} requests a second / ({saturation:,.4g} at saturation × {demand.utilisation:.0%}) = "
        f"{peak / usable:,.2f}, so {for_load} replicas"
    )
    if zones == 1:
        said.append("zones: one, so its loss is an outage whatever the number of replicas")
        return max(2, for_load)
    left = _counted(peak, saturation * LOST_ZONE_UTILISATION_MAX)
    per_zone = max(ceil(left / (zones - 1)), ceil(for_load / zones))
    said.append(
        f"zones: without one of {zones} the others carry the peak at {LOST_ZONE_UTILISATION_MAX:.0%} of saturation "
        f"with {peak:,.10g} / ({saturation:,.4g} × {LOST_ZONE_UTILISATION_MAX:g}) = {left} replicas, "
        f"{ceil(left / (zones - 1))} in each of {zones - 1}"
    )
    said.append(
        f"replicas: max({ceil(left / (zones - 1))}, {for_load} / {zones}) in each zone × {zones} = {per_zone * zones}"
    )
    return per_zone * zones


def _counted(rate: float, each: float) -> int:
    count = ceil(rate / each - 1e-9)
    if count > REPLICAS_MAX:
        raise ValueError(
            f"{rate:g} requests a second at {each:g} for each replica are {count:,} replicas, expected at most "
            f"{REPLICAS_MAX:,}: look at the units of the peak and of the measurement"
        )
    return max(1, count)


def _bounds(measured: MeasuredServer, demand: Demand, replicas: int, said: list[str]) -> tuple[int, int, float]:
    """The fewest and the most that an autoscaler may run, and the utilisation that it aims at."""
    fewest, aim = replicas, demand.utilisation
    if demand.trough_per_s is None:
        why = "no --trough was given, so the fewest are those of the peak"
    else:
        trough = msgspec.structs.replace(demand, peak_per_s=max(demand.trough_per_s, 0.1), trough_per_s=None)
        few = max(2, _replicas(measured, trough, []))
        safe = _safe_aim(demand, few, replicas)
        if safe is None:
            why = (
                f"with fewer, an autoscaler that aims at {UTILISATION_MIN:.0%} or more would run counts that do not "
                f"bear the loss of one of {demand.zones} zones"
            )
        else:
            fewest, aim = few, safe
            why = f"what the trough of {demand.trough_per_s:,.10g} a second needs by the same rules"
            if aim < demand.utilisation:
                why += f"; every count from there on bears the loss of a zone at {aim:.0%}"
    most = max(_counted(demand.peak_per_s * demand.burst, measured.saturation_per_s * aim), replicas)
    said.append(f"at least {fewest}: {why}")
    said.append(f"at most {most}: {demand.burst:g} times the peak at {aim:.0%} of saturation")
    return fewest, most, aim


def _safe_aim(demand: Demand, few: int, replicas: int) -> float | None:
    """The highest utilisation at which each count from `few` to `replicas`, spread evenly, bears the loss of a zone.

    An autoscaler does not count in whole zones, and the one that is lost may be that with one replica more.
    """
    if demand.zones == 1:
        return demand.utilisation
    counts = range(few, max(few, replicas) + 1)
    safe = min(LOST_ZONE_UTILISATION_MAX * (count - ceil(count / demand.zones)) / count for count in counts)
    aim = min(demand.utilisation, floor(safe * 100 + 1e-9) / 100)
    return aim if aim >= UTILISATION_MIN else None


def _resources(measured: MeasuredServer, said: list[str]) -> tuple[float, float, int, int]:
    request = _up(measured.cores, _CPU_STEP)
    limit = _up(request * CPU_LIMIT, _CPU_STEP)
    memory_request, memory_limit = (
        _MEMORY_STEP_MIB * ceil(measured.resident_mb * 1e6 / 1024**2 * times / _MEMORY_STEP_MIB)
        for times in (MEMORY_REQUEST, MEMORY_LIMIT)
    )
    said.append(
        f"cpu: {measured.saturation_per_s:,.4g} a second × {measured.cpu_us_per_request:,.4g} µs = "
        f"{measured.cores:.3g} cores at saturation: request {request:g}, limit × {CPU_LIMIT:g} = {limit:g}"
    )
    said.append(
        f"memory: {measured.resident_mb:,.0f} MB resident: request × {MEMORY_REQUEST:g} = {memory_request} MiB, "
        f"limit × {MEMORY_LIMIT:g} = {memory_limit} MiB, since a new champion is loaded beside the old one"
    )
    return request, limit, memory_request, memory_limit


def _up(value: float, step: float) -> float:
    return round(step * ceil(value / step - 1e-9), 6)


def _queue_target(measured: MeasuredServer, utilisation: float, said: list[str]) -> float:
    seen = measured.queue_rows_at(measured.saturation_per_s * utilisation)
    if seen is not None and seen > 0.01:
        said.append(f"queue: {seen:.3g} rows waited on average in the ramp at {utilisation:.0%} of saturation")
        return float(f"{seen:.2g}")
    most = service_rate(measured.saturation_per_s, measured.objective_ms / 1e3)
    load = utilisation * measured.saturation_per_s / most
    rows = float(f"{waiting(load):.2g}")
    said.append(
        f"queue: at {utilisation:.0%} of saturation a replica is busy for {load:.0%}, so ρ² / 2(1 − ρ) = {rows:g} rows "
        "wait on average (M/D/1)"
    )
    return rows


def _warnings(measured: MeasuredServer, demand: Demand) -> tuple[str, ...]:
    found = []
    if demand.zones == 1:
        found.append("one zone: its loss is an outage")
    if demand.peak_per_s < measured.saturation_per_s * demand.utilisation:
        found.append("one replica would carry the peak: the others are there for failures and updates")
    if measured.start_s > 30:
        found.append(
            f"a replica is ready {measured.start_s:.0f} s after its start: no autoscaler follows a spike that is faster"
        )
    if not measured.steps:
        found.append("the measurement has no ramp, so its saturation cannot be looked at")
    return tuple(found)
