"""What a piece of work took: processor time, energy, and its price where one is known.

Energy is that of the processor's own counters (RAPL, `/sys/class/powercap`) where this process may read them, shared
out by its part of the processor time in the meantime. Elsewhere, as in most virtual machines, it is estimated:
processor time times `PACELINE_WATTS_PER_CORE`. Memory, disks, fans and accelerators are in neither.
"""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

POWERCAP = Path("/sys/class/powercap")
# of a server's core under load: package powers of 150 to 280 W over 16 to 32 cores (processors of 2020 to 2025)
USUAL_WATTS_PER_CORE = 9.0
WATTS, PRICE = "PACELINE_WATTS_PER_CORE", "PACELINE_PRICE_PER_CPU_HOUR"
_JOULES_A_KWH = 3.6e6


class Spent(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds by the clock and of processors, energy and how it is known, and the price of the processor time."""

    wall_s: float
    cpu_s: float
    energy_kwh: float
    method: str
    cost: float | None = None


@contextmanager
def spending(counters: Path = POWERCAP) -> Iterator[dict[str, Any]]:
    """Measures the block; the mapping that it gives has the fields of `Spent` once the block has ended.

    Raises:
        ValueError: `PACELINE_WATTS_PER_CORE` or `PACELINE_PRICE_PER_CPU_HOUR` is no number above 0.
    """
    watts, price = _setting(WATTS) or USUAL_WATTS_PER_CORE, _setting(PRICE)
    found: dict[str, Any] = {}
    before, started, busy = _microjoules(counters), time.monotonic(), time.process_time()
    machine = _machine_cpu_s()
    try:
        yield found
    finally:
        cpu_s = time.process_time() - busy
        after, whole = _microjoules(counters), _machine_cpu_s() - machine
        kwh, method = _energy(before, after, cpu_s, whole, watts)
        spent = Spent(
            wall_s=time.monotonic() - started,
            cpu_s=cpu_s,
            energy_kwh=kwh,
            method=method,
            cost=None if price is None else price * cpu_s / 3600,
        )
        found.update(msgspec.to_builtins(spent))


def spent_tags(trials: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What all trials of a search took together, as tags of the registry; none where nothing was measured."""
    spent = [msgspec.convert(trial["spent"], Spent) for trial in trials if trial.get("spent")]
    if not spent:
        return {}
    tags = {
        "training_cpu_s": f"{sum(each.cpu_s for each in spent):.1f}",
        "training_energy_wh": f"{1000 * sum(each.energy_kwh for each in spent):.3f}",
        "training_energy_method": spent[0].method,
    }
    costs = [each.cost for each in spent if each.cost is not None]
    return {**tags, "training_cost": f"{sum(costs):.6f}"} if costs else tags


def _energy(
    before: dict[str, int], after: dict[str, int], cpu_s: float, machine_s: float, watts: float
) -> tuple[float, str]:
    # a counter that went back has overflowed: what it counted is not known then
    whole = before.keys() & after.keys()
    if whole and all(after[name] >= before[name] for name in whole) and machine_s > 0:
        joules = sum(after[name] - before[name] for name in whole) / 1e6 * min(1.0, cpu_s / machine_s)
        return joules / _JOULES_A_KWH, "counted by the processor (RAPL), shared out by processor time"
    return cpu_s * watts / _JOULES_A_KWH, f"estimated: {watts:g} W a core, for the processor alone"


def _microjoules(counters: Path) -> dict[str, int]:
    """The energy counter of each processor package; none where they cannot be read."""
    found = {}
    for file in sorted(counters.glob("intel-rapl:[0-9]*/energy_uj")):
        if file.parent.name.count(":") > 1:
            continue  # a part of a package, which has it in its sum
        try:
            found[file.parent.name] = int(file.read_text())
        except OSError:
            return {}  # only root may read them on most systems
    return found


def _machine_cpu_s() -> float:
    """The processor time of all processes since the machine started, without idling."""
    import psutil

    times = psutil.cpu_times()
    return float(times.user + times.system + times.nice)


def _setting(name: str) -> float | None:
    text = os.environ.get(name, "")
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ValueError(f"{name}: found {text!r}, expected a number above 0")
    return value
