"""Whether a snapshot is still like the last accepted one: units, joins, time zones and words that changed on the way.

Each answer names the field, both sides and the limit. A change that is real stops a retrain as well, until a person has
looked at it and accepts it. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import pi, sqrt

from pipelines.data.profile import FieldProfile, Numbers, PartProfile, Profile, Times, Words, days_apart, shared_days
from pipelines.data.rules import Failure, ShiftRules

NUMBERS, SPREAD, MISSING, WORDS, HOURS = "same scale", "same spread", "same gaps", "same words", "same hours"
SEGMENT, DISTINCT, LABEL = "no word lost", "no exploding vocabulary", "same share of the label"
NAMES = (NUMBERS, SPREAD, MISSING, WORDS, HOURS, SEGMENT, DISTINCT, LABEL)
_LOST = 0.25  # of a word's share must be left
_SHARED_DAYS = 0.6
_CHANCE = 4.0  # standard errors: of some hundred comparisons none should be beyond by chance


def shifts(found: Profile, reference: Profile, rules: ShiftRules) -> tuple[Failure, ...]:
    """All ways in which `found` lies farther from the accepted `reference` than `rules` allow."""
    is_near = days_apart(found, reference) <= rules.days
    is_like = is_near and shared_days(found, reference) >= _SHARED_DAYS
    whole = _of_part(found.whole, reference.whole, reference, rules, is_newest=False, seasons=is_like)
    newest = _of_part(found.newest, reference.newest, reference, rules, is_newest=True, seasons=is_near)
    # of both, the newest: where only they have changed, the average over all rows hides by how much
    told = {(failure.expectation, failure.column): failure for failure in (*whole, *newest)}
    return tuple(told.values())


def _of_part(
    found: PartProfile,
    reference: PartProfile,
    accepted: Profile,
    rules: ShiftRules,
    *,
    is_newest: bool,
    seasons: bool,
) -> Iterator[Failure]:
    if not found.rows or not reference.rows:
        return
    compared = _Comparison(rules, 1 / found.rows + 1 / reference.rows, is_newest=is_newest)
    if seasons and found.label_share is not None and reference.label_share is not None:
        yield from compared.label(found.label_share, reference.label_share)
    for name, before in reference.fields.items():
        now = found.fields.get(name)
        if now is None or type(now) is not type(before) or (name in rules.seasonal and not seasons):
            continue
        yield from compared.missing(name, now, before)
        if isinstance(now, Numbers) and isinstance(before, Numbers):
            of_whole = accepted.whole.fields[name]
            deviation = of_whole.standard_deviation if isinstance(of_whole, Numbers) else before.standard_deviation
            yield from compared.numbers(name, now, before, deviation)
        elif isinstance(now, Words) and isinstance(before, Words):
            yield from compared.words(name, now, before)
        elif isinstance(now, Times) and isinstance(before, Times):
            yield from compared.hours(name, now, before)


class _Comparison:
    """Of one part of two snapshots; `noise` is the sum of the reciprocal row counts."""

    def __init__(self, rules: ShiftRules, noise: float, *, is_newest: bool) -> None:
        self._rules, self._noise, self._is_newest = rules, noise, is_newest
        self._part, self._factor = ("the newest rows", rules.newest_factor) if is_newest else ("all rows", 1.0)

    def label(self, now: float, before: float) -> Iterator[Failure]:
        yield from self._share(LABEL, None, now, before, self._rules.label)

    def missing(self, name: str, now: FieldProfile, before: FieldProfile) -> Iterator[Failure]:
        yield from self._share(MISSING, name, now.missing, before.missing, self._rules.missing)

    def numbers(self, name: str, now: Numbers, before: Numbers, deviation: float) -> Iterator[Failure]:
        limit = self._rules.mean * self._factor
        if name in self._rules.seasonal:
            limit = self._rules.seasonal_newest if self._is_newest else self._rules.seasonal[name]
        apart = abs(now.mean - before.mean)
        if apart > deviation * (limit + _CHANCE * sqrt(self._noise)):
            times = f", {now.mean / before.mean:.3g} times" if before.mean else ""
            far = f"{apart / deviation:,.3g} standard deviations" if deviation else "all had one value"
            yield self._failure(
                NUMBERS,
                name,
                f"a mean of {now.mean:,.4g}{times}",
                f"{before.mean:,.4g}",
                f"{far} apart, limit {limit:g}",
            )
        if self._is_newest or not now.standard_deviation or not before.standard_deviation:
            return  # in few rows a storm is a spread of its own
        ratio = now.standard_deviation / before.standard_deviation
        most = self._rules.spread_ratio
        if not 1 / most <= ratio <= most:
            sides = f"{now.standard_deviation:,.4g}", f"{before.standard_deviation:,.4g}"
            yield self._failure(
                SPREAD,
                name,
                f"a standard deviation of {sides[0]}",
                sides[1],
                f"{ratio:.3g} times, limit {most:g} times",
            )

    def words(self, name: str, now: Words, before: Words) -> Iterator[Failure]:
        rules = self._rules
        yield from self._distance(WORDS, name, now.shares, before.shares, rules.words)
        lost = [
            f"{word} in {now.shares.get(word, 0.0):.1%} (was {share:.1%})"
            for word, share in before.shares.items()
            if share >= rules.segment_share + _CHANCE * sqrt(share * self._noise)
            and now.shares.get(word, 0.0) < _LOST * share
        ]
        if lost:
            yield self._failure(SEGMENT, name, ", ".join(lost[:3]), "at least a quarter of each word's share", "")
        if now.distinct > rules.distinct_ratio * max(before.distinct, 3):
            yield self._failure(
                DISTINCT,
                name,
                f"{now.distinct:,} different words",
                f"{before.distinct:,}",
                f"limit {rules.distinct_ratio:g} times",
            )

    def hours(self, name: str, now: Times, before: Times) -> Iterator[Failure]:
        found, known = ({f"{hour:02}": share for hour, share in enumerate(side.hours)} for side in (now, before))
        yield from self._distance(HOURS, name, found, known, self._rules.hours)

    def _distance(
        self, what: str, name: str, now: Mapping[str, float], before: Mapping[str, float], limit: float
    ) -> Iterator[Failure]:
        """The total variation distance, less what two samples of so many rows differ by when nothing changed."""
        limit *= self._factor
        cells = sorted({*now, *before}, key=lambda cell: -abs(now.get(cell, 0.0) - before.get(cell, 0.0)))
        pairs = [(now.get(cell, 0.0), before.get(cell, 0.0)) for cell in cells]
        apart = sum(abs(ours - theirs) for ours, theirs in pairs) / 2
        # E|N(0, s²)| = s·√(2/π), with s² the variance of the difference of two shares
        middles = [(ours + theirs) / 2 for ours, theirs in pairs]
        chance = sum(sqrt(2 / pi * share * (1 - share) * self._noise) for share in middles) / 2
        if apart - chance <= limit:
            return
        most = [
            f"{cell} in {ours:.1%} (was {theirs:.1%})" for cell, (ours, theirs) in zip(cells[:3], pairs, strict=False)
        ]
        yield self._failure(what, name, ", ".join(most), "as before", f"{apart:.1%} changed, limit {limit:.0%}")

    def _share(self, what: str, name: str | None, now: float, before: float, limit: float) -> Iterator[Failure]:
        limit *= self._factor
        chance = _CHANCE * sqrt(max(now * (1 - now), before * (1 - before)) * self._noise)
        if abs(now - before) > limit + chance:
            yield self._failure(what, name, f"{now:.1%}", f"{before:.1%}", f"limit ±{limit:.0%}")

    def _failure(self, what: str, column: str | None, found: str, expected: str, limit: str) -> Failure:
        how = f" ({limit})" if limit else ""
        return Failure(
            expectation=what,
            column=column,
            found=f"{found} in {self._part}",
            expected=f"{expected}, as the last accepted snapshot has it{how}",
            level=self._rules.level,
        )
