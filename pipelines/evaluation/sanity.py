"""Whether the data can be what it claims: gates on the signs of a leak that `leaks` measures. Pure."""

from datetime import date, timedelta

import msgspec

from pipelines.evaluation.gate import Gate
from pipelines.evaluation.leaks import Duplicates, FeatureAlone, MissingTells, PartSpan, ShuffledTarget

_NAMED = 3  # offenders that a reason names
_EPOCH = date(1970, 1, 1)


class SanityLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When data looks too good to be true.

    No column alone may rank the train rows better than `single_feature_auc_max`; where a field is missing the odds of
    the label may not be shown to be more than `missing_odds_ratio_max` times those elsewhere, nor less than its
    inverse. At most `duplicate_share_max` of the validation or test rows may be shown to be copies of earlier ones,
    beyond what occurs by nature. `known_after` lists columns of the source that are known only after the event: the
    schema may take none of them. A timestamp that lies after the event is a leak too, unless `planned` lists its field
    (an arrival by the timetable).
    """

    single_feature_auc_max: float = 0.8
    missing_odds_ratio_max: float = 10.0
    duplicate_share_max: float = 0.01
    known_after: tuple[str, ...] = ()
    planned: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0.5 < self.single_feature_auc_max <= 1:
            found = self.single_feature_auc_max
            raise ValueError(f"single_feature_auc_max: found {found}, expected a number above 0.5 and at most 1")
        if not self.missing_odds_ratio_max > 1:
            raise ValueError(f"missing_odds_ratio_max: found {self.missing_odds_ratio_max}, expected a number above 1")
        if not 0 <= self.duplicate_share_max <= 1:
            raise ValueError(f"duplicate_share_max: found {self.duplicate_share_max}, expected a number from 0 to 1")


class Sanity(msgspec.Struct, frozen=True, kw_only=True):
    """What the gates see. `later` has, for each timestamp field but the event's own, the share of rows in which it lies
    after the event; `fields` are the names of the schema's fields."""

    parts: tuple[PartSpan, ...]
    fields: tuple[str, ...]
    later: dict[str, float]
    alone: tuple[FeatureAlone, ...]
    missing: tuple[MissingTells, ...]
    duplicates: tuple[Duplicates, ...]
    shuffled: ShuffledTarget


def sanity_gates(found: Sanity, limits: SanityLimits) -> tuple[Gate, ...]:
    """All sanity gates, in the order in which they are read; the parts are in the order of time."""
    return (
        _time_order(found),
        _known_before(found, limits),
        _alone(found, limits.single_feature_auc_max),
        _missing(found, limits.missing_odds_ratio_max),
        _duplicates(found, limits.duplicate_share_max),
        _shuffled(found.shuffled),
    )


def _gate(name: str, passed: bool, reason: str) -> Gate:
    return Gate(name=name, passed=passed, reason=reason, area="sanity")


def _time_order(found: Sanity) -> Gate:
    overlaps = [
        f"{later.part} begins on {_day(later.first_day)}, not after {_day(earlier.last_day)}, when {earlier.part} ends"
        for earlier, later in zip(found.parts, found.parts[1:], strict=False)
        if later.first_day <= earlier.last_day
    ]
    spans = "; ".join(
        f"{span.part} {_day(span.first_day)} … {_day(span.last_day)} (label {span.label_share:.1%} of {span.rows:,})"
        for span in found.parts
    )
    return _gate("time order", not overlaps, "; ".join(overlaps) or spans)


def _known_before(found: Sanity, limits: SanityLimits) -> Gate:
    declared = sorted(set(limits.known_after) & set(found.fields))
    problems = [f"{name} is known only after the event (known_after), and a field of the schema" for name in declared]
    problems += [
        f"{name} lies after the event in {share:.2%} of the train rows: leave it out, or list it in planned"
        for name, share in sorted(found.later.items())
        if share > 0 and name not in limits.planned
    ]
    looked_at = f"{len(found.fields)} fields, {len(limits.known_after)} declared as known after, none among them"
    return _gate("known before the event", not problems, "; ".join(problems) or looked_at)


def _alone(found: Sanity, limit: float) -> Gate:
    if not found.alone:
        return _gate("one feature alone", True, "no encoded columns")
    offenders = [feature for feature in found.alone if feature.auc > limit]
    shown = ", ".join(f"{feature.column} {feature.auc:.4f}" for feature in (offenders or found.alone)[:_NAMED])
    return _gate("one feature alone", not offenders, f"AUC alone {shown} {'>' if offenders else '<='} limit {limit:g}")


def _missing(found: Sanity, limit: float) -> Gate:
    if not found.missing:
        return _gate("missing values", True, "no field is missing in enough rows to tell")
    offenders = [tells for tells in found.missing if tells.low > limit or tells.high < 1 / limit]
    shown = "; ".join(
        f"{tells.field} (missing in {tells.share:.1%}) {tells.odds_ratio:.3g} (95 % {tells.low:.3g} … {tells.high:.3g})"
        for tells in (offenders or found.missing)[:_NAMED]
    )
    side = f"beyond limit {limit:g}" if offenders else f"within limit {limit:g}"
    return _gate("missing values", not offenders, f"odds of the label where missing against present: {shown}, {side}")


def _duplicates(found: Sanity, limit: float) -> Gate:
    offenders = [
        part for part in found.duplicates if part.excess_low > limit or part.same_key > limit * max(1, part.rows)
    ]
    shown = "; ".join(
        f"{part.part}: {part.same_row:,} of {part.rows:,} rows equal an earlier one "
        f"({part.excess:+.2%} beyond the natural {part.natural_share:.2%}, lower bound {part.excess_low:+.2%}), "
        f"{part.same_key:,} have the key of one" + (f"; such as rows {list(part.examples)}" if part.examples else "")
        for part in offenders or found.duplicates
    )
    return _gate("duplicates", not offenders, f"{shown}; {'above' if offenders else 'within'} limit {limit:.2%}")


def _shuffled(found: ShuffledTarget) -> Gate:
    passed = found.low <= 0.5 <= found.high
    reason = (
        f"AUC {found.auc:.4f} (99.9 % {found.low:.4f} … {found.high:.4f}, {found.shuffles} shuffles of "
        f"{found.rows:,} labels; {found.auc_with_labels:.4f} with the true ones), "
        f"0.5 {'within' if passed else 'outside'} the interval"
    )
    return _gate("shuffled target", passed, reason)


def _day(number: int) -> str:
    return (_EPOCH + timedelta(days=number)).isoformat()
