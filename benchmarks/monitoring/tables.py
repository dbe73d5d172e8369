"""The tables of false alarms, of detection, and of the season."""

from collections.abc import Callable, Sequence
from datetime import date

import numpy as np
from numpy.typing import NDArray

from benchmarks.monitoring.evidently_rule import SHARES, evidently_rule
from benchmarks.monitoring.flights import Flights, drawn, in_order, named
from benchmarks.monitoring.rules import OURS, RULES, Night, board_alarms, simple_alarms
from pipelines.monitoring.board import BoardState, read_board
from pipelines.monitoring.board_reference import make_reference
from pipelines.monitoring.data_quality import find_faults

KNOWN_DAYS = (60, 150)
YEAR_DAYS, STATIONARY_DAYS = 365, 60
EVIDENTLY_REPLAYS = 2  # each takes four minutes of processor time
SEASON_STARTS = 59  # the champion learnt from January and February
Matrix = NDArray[np.float32]


def false_alarms(flights: Flights, replays: int) -> list[list[str]]:
    """Retrains in years without a change, put together of real days, each year with a reference of its own."""
    counts: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for known in KNOWN_DAYS:
        for number in range(replays):
            random = np.random.default_rng(number)
            places = np.concatenate([drawn(flights.days, length, random) for length in (known, YEAR_DAYS)])
            days = in_order(flights.days, places)
            by_rule = _by_rule(flights, days, known)
            if known == KNOWN_DAYS[0] and number < EVIDENTLY_REPLAYS:
                for name, share in SHARES.items():
                    rule = evidently_rule(flights, places, share)
                    by_rule[name] = simple_alarms(rule, flights.layout, days, known, flights.limits)
            for name, nights in by_rule.items():
                early = sum(night.day < known + STATIONARY_DAYS for night in nights)
                counts.setdefault((name, known), []).append((len(nights), early))
    rows = [
        [
            "retrains without a change",
            "of what the reference has",
            "replays",
            "a year, mean",
            "a year, most",
            "in 60 days, most",
        ]
    ]
    for (name, known), found in counts.items():
        years, early = [year for year, _ in found], [first for _, first in found]
        rows.append([name, f"{known} days", f"{len(found)}", f"{np.mean(years):.1f}", f"{max(years)}", f"{max(early)}"])
    return rows


def detection(flights: Flights, tries: int) -> tuple[list[list[str]], bool]:
    """Changes injected into single real days, and whether all were found on that day and named for what they are."""
    past = flights.full.take(np.arange(SEASON_STARTS))
    reference = make_reference(flights.layout, past, frozenset(flights.limits.ignored), flights.limits)
    days = np.random.default_rng(1).choice(np.arange(SEASON_STARTS, 364), tries, replace=False).tolist()
    rows = [["injected", "named", "found on its day", "named so", "an example"]]
    is_all = True
    for name, kind, change in _changes(flights):
        found = right = 0
        example = ""
        for day in days:
            unit = flights.changed(day, change)
            faults = find_faults(flights.layout, past, unit, flights.limits)
            reading = read_board(reference, unit, BoardState(bundle="b"), flights.limits, known_before=date(2100, 1, 1))
            is_fault = any(fault.kind == kind for fault in faults)
            is_drift = not faults and any(alarm.statistic == kind for alarm in reading.alarms)
            found += bool(faults or reading.alarms)
            right += is_fault or is_drift
            told = [fault.reason for fault in faults] or [alarm.reason for alarm in reading.alarms]
            example = example or next(iter(told), "")
        is_all &= right == len(days)
        rows.append([name, kind, f"{found} of {len(days)}", f"{right} of {len(days)}", example])
    return rows, is_all


def delays(flights: Flights, starts: Sequence[int] = (90, 150, 210, 270, 330)) -> list[list[str]]:
    """After how many days a change that stays is found: of the inputs, and of the outcomes alone."""
    rows = [["a change that stays", OURS, *RULES]]
    place = flights.layout.columns.index("distance_miles")
    for name in ("distances shifted by 700 miles", "twice as many late flights, inputs as before"):
        found: dict[str, list[str]] = {OURS: [], **{rule: [] for rule in RULES}}
        for start in starts:
            random = np.random.default_rng(start)
            days = in_order(flights.days, drawn(flights.days, 120 + 60, random))
            if name.startswith("distances"):
                days.counts[place][120:] = np.roll(days.counts[place][120:], 3, axis=1)
            else:
                outcomes = days.outcomes[120:]
                more = np.minimum(outcomes[:, 0], outcomes[:, 1])
                days.outcomes[120:] = np.column_stack([outcomes[:, 0] - more, outcomes[:, 1] + more])
            for rule, nights in _by_rule(flights, days, 120).items():
                found[rule].append("never" if not nights else f"{nights[0].day - 120}")
        rows.append([name, *(" · ".join(each) for each in found.values())])
    return rows


def season(flights: Flights) -> list[Night]:
    """The nights of 2013 at which the board would have retrained."""
    return board_alarms(flights.layout, flights.days, SEASON_STARTS, flights.limits)


def season_table(flights: Flights, nights: Sequence[Night]) -> list[list[str]]:
    """Each alarm, with the late share of the days since the change began and of the reference."""
    rows = [["alarm", "since", "what", "late then", "late before", "reason"]]
    outcomes, start = flights.days.outcomes, 0
    for night in nights:
        alarm = night.alarms[0]
        since = (alarm.since - named(0)).days
        then, before = outcomes[since : night.day + 1].sum(axis=0), outcomes[start:since].sum(axis=0)
        rows.append(
            [
                f"{named(night.day)}",
                f"{alarm.since}",
                alarm.statistic,
                f"{then[1] / then.sum():.1%}",
                f"{before[1] / before.sum():.1%}",
                alarm.reason,
            ]
        )
    return rows


def _by_rule(flights: Flights, days, known: int) -> dict[str, list[Night]]:  # type: ignore[no-untyped-def]
    found = {OURS: board_alarms(flights.layout, days, known, flights.limits)}
    for name, rule in RULES.items():
        found[name] = simple_alarms(rule, flights.layout, days, known, flights.limits)
    return found


def _changes(flights: Flights) -> list[tuple[str, str, Callable[[Matrix], None]]]:
    columns = list(flights.layout.columns)

    def place(name: str) -> int:
        return columns.index(name)

    def shift(rows: Matrix) -> None:
        rows[:, place("distance_miles")] += 700

    def take_over(rows: Matrix) -> None:
        chosen = np.random.default_rng(0).random(len(rows)) < 0.6
        rows[chosen, place("carrier")] = flights.layout.words[place("carrier")].index("UA")

    def broken_join(rows: Matrix) -> None:
        for name in ("plane_age_years", "seats", "engine"):
            rows[:, place(name)] = np.nan

    def unit(rows: Matrix) -> None:
        rows[:, place("distance_miles")] *= np.float32(1.609344)

    def swap(rows: Matrix) -> None:
        pair = [place("arrival_minute"), place("scheduled_minutes")]
        rows[:, pair] = rows[:, pair[::-1]]

    def stuck(rows: Matrix) -> None:
        rows[:, place("pressure_mbar")] = 1013

    def missing(rows: Matrix) -> None:
        rows[:, place("seats")] = np.nan

    return [
        ("distances 700 miles longer", "distance_miles", shift),
        ("one carrier takes 60 % more", "carrier", take_over),
        ("the join with the planes brings nothing", "broken_join", broken_join),
        ("kilometres for miles", "unit_change", unit),
        ("arrival minute and duration swapped", "swapped", swap),
        ("a stuck barometer", "stuck", stuck),
        ("seats are missing", "missing", missing),
    ]
