"""Whether a change is one of the data rather than of the world: what broke, in which columns, and how it shows. Pure.

Such a change is a reason for an alert and none for a retrain: a model that learns from broken inputs is worse than an
old one. Each rule holds one unit of days against every unit of the reference, so that what real days do now and then is
not called broken.
"""

from collections.abc import Iterator, Mapping, Sequence, Set
from itertools import combinations
from math import log
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipelines.monitoring.day_summaries import Days, Layout, cells
from pipelines.monitoring.drift_limits import DriftLimits
from pipelines.statistics.distances import jensen_shannon_divergences, stability_indices

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Kind = Literal["missing", "broken_join", "stuck", "unit_change", "swapped", "unseen_words"]
Severity = Literal["critical", "warning"]
_TOGETHER = 0.8  # of the rows that lack one column lack the others as well: they come from one source
_ALL = 0.9
_SMALLEST_FACTOR = 1.25
_STEADY_FACTOR = 1.1  # between the quartiles' factors: a scale moves all of them alike
_QUARTILES = (0.25, 0.5, 0.75)
_SAME_SHAPE = 0.1  # PSI between the values, put right, and the reference
_ALIKE = 0.5  # PSI of nine in ten days to the whole reference
_EFFECT, _LARGE_EFFECT = 0.05, 0.2  # bits of Jensen–Shannon divergence
_FEWEST_VALUES = 50
_UNSEEN_MAXIMUM = 5
_ANY_SCALE = "another scale"
# what is mistaken for what: name → factor, and what is added after it
_UNITS: Mapping[str, tuple[float, float]] = {
    "miles for kilometres": (1 / 1.609344, 0.0),
    "kilometres for miles": (1.609344, 0.0),
    "feet for metres": (3.28084, 0.0),
    "metres for feet": (1 / 3.28084, 0.0),
    "pounds for kilograms": (2.204623, 0.0),
    "kilograms for pounds": (1 / 2.204623, 0.0),
    "inches for centimetres": (1 / 2.54, 0.0),
    "centimetres for inches": (2.54, 0.0),
    "knots for miles an hour": (1 / 1.150779, 0.0),
    "degrees Celsius for Fahrenheit": (1 / 1.8, -32 / 1.8),
    "degrees Fahrenheit for Celsius": (1.8, 32.0),
    "a hundredth": (0.01, 0.0),
    "a hundred times": (100.0, 0.0),
    "a thousandth": (0.001, 0.0),
    "a thousand times": (1000.0, 0.0),
    "a tenth": (0.1, 0.0),
    "ten times": (10.0, 0.0),
    "minutes for seconds, or hours for minutes": (1 / 60, 0.0),
    "seconds for minutes, or minutes for hours": (60.0, 0.0),
}


class DataQuality(msgspec.Struct, frozen=True, kw_only=True):
    """One finding: its kind, the columns, how bad it is, and what was found and expected. `source` is the project's
    name of what brings the columns, where it has one."""

    kind: Kind
    columns: tuple[str, ...]
    severity: Severity
    reason: str
    source: str | None = None


def find_faults(
    layout: Layout,
    reference: Days,
    unit: Days,
    limits: DriftLimits,
    *,
    unseen: Mapping[str, Mapping[str, int]] | None = None,
    masked: Set[str] = frozenset(),
) -> tuple[DataQuality, ...]:
    """What is broken in a unit (one summary), held against the units of the reference.

    Args:
        masked: the columns of personal fields, which the log has no values of: that they are missing is no fault.
        unseen: for each category the words of the unit that its vocabulary lacks, and how many rows have each.
    """
    if not len(unit) or not len(reference) or unit.rows[0] < limits.minimum_rows:
        return ()
    gone = _gone(reference, unit, limits)
    unexpected = np.array([place for place in gone.tolist() if layout.columns[place] not in masked], dtype=gone.dtype)
    found = [
        *_swapped_words(layout, unit, unseen or {}, gone),
        *_missing(layout, unit, reference, unexpected, limits, unseen or {}),
        *_stuck(layout, reference, unit, gone),
        *_swapped_numbers(layout, reference, unit),
    ]
    told = {column for each in found for column in each.columns}
    found += [each for each in _units(layout, reference, unit) if told.isdisjoint(each.columns)]
    return _once(found)


def _once(found: Sequence[DataQuality]) -> tuple[DataQuality, ...]:
    """A column that one finding explains needs no other."""
    kept: list[DataQuality] = []
    told: set[str] = set()
    for each in found:
        if not told.issuperset(each.columns):
            kept.append(each)
            told.update(each.columns)
    return tuple(kept)


def _shares(units: Days) -> Floats:
    found: Floats = units.missing / np.maximum(1, units.rows)[:, None]
    return found


def _gone(reference: Days, unit: Days, limits: DriftLimits) -> Ints:
    """The columns that lack far more values than on the worst day of the reference."""
    worst, now = _shares(reference).max(axis=0), _shares(unit)[0]
    return np.flatnonzero(now > np.minimum(worst + limits.missing_jump, (worst + 1) / 2 + 1e-9))


def _missing(
    layout: Layout,
    unit: Days,
    reference: Days,
    gone: Ints,
    limits: DriftLimits,
    unseen: Mapping[str, Mapping[str, int]],
) -> Iterator[DataQuality]:
    rest = list(gone.tolist())
    now, worst = _shares(unit)[0], _shares(reference).max(axis=0)
    for place in gone.tolist():
        words = unseen.get(layout.columns[place], {})
        if words and sum(words.values()) > unit.missing[0, place] / 2:
            rest.remove(place)
            yield DataQuality(
                kind="unseen_words",
                columns=(layout.columns[place],),
                severity="warning",
                reason=f"{now[place]:.1%} of the rows have a word that the vocabulary lacks, on the worst reference "
                f"day {worst[place]:.1%}: {_listed(words)}",
            )
    while rest:
        first = rest[0]
        together = [
            place
            for place in rest
            if unit.joint_missing[0, first, place] >= _TOGETHER * max(unit.missing[0, first], unit.missing[0, place])
        ]
        rest = [place for place in rest if place not in together]
        names = tuple(layout.columns[place] for place in together)
        share = f"{now[together].min():.1%} to {now[together].max():.1%}" if len(together) > 1 else f"{now[first]:.1%}"
        source = _source(names, limits)
        if len(together) > 1:
            yield DataQuality(
                kind="broken_join",
                columns=names,
                severity="critical",
                reason=f"{len(names)} columns are missing in the same rows ({share}), on the worst reference day in at "
                f"most {worst[together].max():.1%}{f': the source {source}' if source else ''}",
                source=source,
            )
        else:
            yield DataQuality(
                kind="missing",
                columns=names,
                severity="critical" if now[first] >= _ALL else "warning",
                reason=f"missing in {share} of the rows, on the worst reference day in {worst[first]:.1%}",
                source=source,
            )


def _source(names: Sequence[str], limits: DriftLimits) -> str | None:
    return next((name for name, fields in limits.sources.items() if set(names) <= set(fields)), None)


def _stuck(layout: Layout, reference: Days, unit: Days, gone: Ints) -> Iterator[DataQuality]:
    known = unit.rows[0] - unit.missing[0]
    for place, name in enumerate(layout.columns):
        if place in gone or known[place] < _FEWEST_VALUES:
            continue
        varied = reference.lows[:, place] < reference.highs[:, place]
        if unit.lows[0, place] == unit.highs[0, place] and bool(varied[reference.rows > _FEWEST_VALUES].all()):
            value = unit.lows[0, place]
            shown = f"{value:g}" if layout.edges[place] is not None else layout.words[place][int(value)]
            yield DataQuality(
                kind="stuck",
                columns=(name,),
                severity="critical",
                reason=f"all {known[place]:,} values are {shown}; on each of {len(reference)} reference days they vary",
            )


def _numeric(layout: Layout, unit: Days) -> list[int]:
    known = unit.rows[0] - unit.missing[0]
    return [
        place
        for place, edges in enumerate(layout.edges)
        if edges is not None and len(edges) > 2 and known[place] >= _FEWEST_VALUES and "." not in layout.columns[place]
    ]


def _swapped_numbers(layout: Layout, reference: Days, unit: Days) -> Iterator[DataQuality]:
    """Two columns each of which looks much more like the other one's reference than like its own.

    By a divergence that has a bound: a stability index grows with the rows of a day, whose empty cells become ever less
    likely, until any other column is "as near" as the strangest reference day, and the weather is swapped each week.
    """
    values = {place: unit.values(place) for place in _numeric(layout, unit)}
    places = [place for place, known in values.items() if len(known) >= _FEWEST_VALUES]
    own = {place: float(_divergences(reference, place, unit.counts[place])[0]) for place in places}
    worst = {place: float(_divergences(reference, place, reference.counts[place]).max()) for place in places}
    for one, other in combinations([place for place in places if own[place] > worst[place]], 2):
        crossed = {
            mine: float(_divergences(reference, mine, _counted(values[theirs], layout.edges[mine])[None])[0])
            for mine, theirs in ((one, other), (other, one))
        }
        if all(_is_nearer(found, own[mine], worst[mine]) for mine, found in crossed.items()):
            yield DataQuality(
                kind="swapped",
                columns=(layout.columns[one], layout.columns[other]),
                severity="critical",
                reason=f"each has the other one's values: {own[one]:.2f} and {own[other]:.2f} bits from their own "
                f"reference (Jensen–Shannon), {crossed[one]:.2f} and {crossed[other]:.2f} when exchanged",
            )


def _is_nearer(crossed: float, own: float, worst: float) -> bool:
    """Whether exchanged values are such as on a reference day, and much nearer than those that are there (bits)."""
    less = own - crossed
    return crossed <= max(_EFFECT, worst) and (less > _LARGE_EFFECT or (less > _EFFECT and crossed < own / 3))


def _swapped_words(
    layout: Layout, unit: Days, unseen: Mapping[str, Mapping[str, int]], gone: Ints
) -> Iterator[DataQuality]:
    """Two categories whose unknown words are the other one's vocabulary."""
    words = {layout.columns[place]: set(layout.words[place]) for place in gone.tolist() if layout.words[place]}
    names = sorted(words)
    for number, one in enumerate(names):
        for other in names[number + 1 :]:
            if all(_mostly_in(unseen.get(mine, {}), words[theirs]) for mine, theirs in ((one, other), (other, one))):
                yield DataQuality(
                    kind="swapped",
                    columns=(one, other),
                    severity="critical",
                    reason=f"the words of {one} ({_listed(unseen[one])}) are those of {other}, and the other way round "
                    f"({_listed(unseen[other])})",
                )


def _mostly_in(found: Mapping[str, int], words: set[str]) -> bool:
    total = sum(found.values())
    return total > 0 and sum(count for word, count in found.items() if word in words) >= _ALL * total


def _units(layout: Layout, reference: Days, unit: Days) -> Iterator[DataQuality]:
    """Numbers that look like the reference again when they are scaled back."""
    for place in _numeric(layout, unit):
        values = unit.values(place)
        if len(values) < _FEWEST_VALUES or values.min() == values.max():
            continue
        before = reference.counts[place].sum(axis=0)
        usual = _own_distances(reference, place)
        limit = float(np.quantile(usual, 0.9))
        if limit > _ALIKE:  # the weather: no day is like the whole, and any scale makes some day like another
            continue
        own = _distance(unit.counts[place][0], before)
        if own <= max(2 * _SAME_SHAPE, float(usual.max()) * 1.2):
            continue
        known = _quantiles(reference.values(place))
        candidates = list(_candidates(known, _quantiles(values)))
        # a known unit that fits is a better explanation than whatever number fits best
        fits = [
            (_distance(_counted((values - offset) / factor, layout.edges[place]), before), name, factor)
            for name, factor, offset in candidates
        ]
        allowed = min(max(_SAME_SHAPE, limit), own / 3)
        fitting = sorted(fit for fit in fits if fit[0] <= allowed)
        if fitting:
            best = next((fit for fit in fitting if fit[1] != _ANY_SCALE), fitting[0])
            yield DataQuality(
                kind="unit_change",
                columns=(layout.columns[place],),
                severity="critical",
                reason=f"{best[1]}: the values are {best[2]:.3g} times what they were; PSI {own:.2f} to the reference, "
                f"{best[0]:.2f} when put right",
            )


def _candidates(known: Floats, now: Floats) -> Iterator[tuple[str, float, float]]:
    """Scales that may explain the quartiles `now`: name, factor, and what is added after it."""
    yield from ((name, factor, offset) for name, (factor, offset) in _UNITS.items())
    positive = (known > 0) & (now > 0)
    if positive.sum() == len(_QUARTILES):
        factors = now / known
        middle = float(np.median(factors))
        steady = float(factors.max() / factors.min()) <= _STEADY_FACTOR
        if steady and abs(log(middle)) > log(_SMALLEST_FACTOR):
            yield _ANY_SCALE, middle, 0.0


def _quantiles(values: Floats) -> Floats:
    found: Floats = np.quantile(values, _QUARTILES) if len(values) else np.zeros(len(_QUARTILES))
    return found


def _counted(values: Floats, edges: Floats | None) -> Ints:
    chosen = np.empty(0) if edges is None else edges
    return np.bincount(cells(values, chosen), minlength=len(chosen) + 1)


def _distance(now: Ints, before: Ints) -> float:
    return float(np.nan_to_num(stability_indices(before[None], now[None])[0], nan=0.0))


def _divergences(reference: Days, place: int, counts: Ints) -> Floats:
    """How far each row of counts lies from the whole reference, in bits (0 to 1)."""
    whole = np.repeat(reference.counts[place].sum(axis=0)[None], len(counts), axis=0)
    return np.nan_to_num(jensen_shannon_divergences(whole, counts), nan=0.0)


def _own_distances(reference: Days, place: int) -> Floats:
    """How far each unit of the reference lies from all of it."""
    counts = reference.counts[place]
    whole = np.repeat(counts.sum(axis=0)[None], len(counts), axis=0)
    found: Floats = np.nan_to_num(stability_indices(whole, counts), nan=0.0)
    return found


def _listed(words: Mapping[str, int]) -> str:
    most = sorted(words, key=lambda word: (-words[word], word))[:_UNSEEN_MAXIMUM]
    return ", ".join(most)
