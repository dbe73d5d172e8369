"""How far quality falls when inputs are not what they were: missing, noisy, unseen, and some of each at once.

Each perturbation changes encoded rows of the test window and has them scored again, so its fall is paired with the
undisturbed rows. What the schema lets a client send is plausible, and judged; what the server would refuse is shown as
a "what if" (what would it cost to make this field optional?), and not judged. After Breck et al., "The ML Test Score",
IEEE Big Data, 2017 (test Model 6 and Monitor 3), and the corruptions of Hendrycks and Dietterich, "Benchmarking neural
network robustness to common corruptions and perturbations", ICLR 2019, translated to records.
"""

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from contracts.input_schema import Field, InputSchema
from pipelines.evaluation.comparison import Difference
from pipelines.evaluation.gate import Gate
from pipelines.statistics import classification
from pipelines.statistics.bootstrap import Blocks, interval

Features = NDArray[np.float32]
Scorer = Callable[[Features], NDArray[Any]]  # encoded rows → scores as the graph gives them, not checked
Kind = Literal["undisturbed", "missing", "unseen", "noise", "mixed", "smallest", "largest"]

ROWS = 5_000
_NAMED = 3  # perturbations that a reason names


class RobustnessLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How much worse a challenger may become when its inputs do.

    Its log loss may rise by at most `log_loss_rise_max`, with the upper end of the 95 % interval, when a field that may
    be missing is missing in all rows, when all words of a category are unseen, when a number has noise of `noise_share`
    of its standard deviation, or when each value is disturbed in one of these ways with the chance `mixed_share`. A
    field that tells much costs what it told (on the flights of 2013 up to 0.07, with an upper end of 0.13).
    """

    log_loss_rise_max: float = 0.15
    noise_share: float = 0.1
    mixed_share: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.log_loss_rise_max <= 10:
            raise ValueError(f"log_loss_rise_max: found {self.log_loss_rise_max}, expected above 0 and at most 10")
        if not 0 < self.noise_share <= 10:
            raise ValueError(f"noise_share: found {self.noise_share}, expected above 0 and at most 10")
        if not 0 < self.mixed_share <= 1:
            raise ValueError(f"mixed_share: found {self.mixed_share}, expected above 0 and at most 1")


class Perturbation(msgspec.Struct, frozen=True, kw_only=True):
    """One way to disturb the rows, and what it cost: positive numbers are worse.

    `plausible` perturbations are judged, others shown; `invalid_scores` counts scores that are no number from 0 to 1,
    with which there is no fall to tell (None).
    """

    kind: Kind
    field: str
    plausible: bool
    invalid_scores: int
    log_loss_rise: Difference | None
    auc_fall: float | None

    @property
    def title(self) -> str:
        return f"{self.field} {self.kind}" if self.field else self.kind


class Robustness(msgspec.Struct, frozen=True, kw_only=True):
    """All perturbations, the worst first; log loss and AUC of the undisturbed rows."""

    rows: int
    log_loss: float
    auc: float
    perturbations: tuple[Perturbation, ...]


class _Disturbed(NamedTuple):
    kind: Kind
    field: str
    plausible: bool
    rows: Features


def measure_robustness(
    score: Scorer,
    schema: InputSchema,
    rows: tuple[Features, NDArray[Any], NDArray[np.int64]],
    limits: RobustnessLimits,
    seed: int,
) -> Robustness:
    """Scores the features, labels and days of `rows` (at most `ROWS` of them, evenly spread) under each perturbation.

    Raises:
        ValueError: fewer than two days, or one class only.
    """
    chosen = np.unique(np.linspace(0, len(rows[1]) - 1, min(ROWS, len(rows[1]))).astype(int))
    features, labels, days = rows[0][chosen], np.asarray(rows[1], dtype=np.float64)[chosen], rows[2][chosen]
    blocks = Blocks(days, seed=seed)
    plain = np.asarray(score(features), dtype=np.float64)
    usable = np.where(_invalid(plain), labels.mean(), plain)  # a graph may fail on plain rows: the gate must say so
    area = classification.auc(labels, usable)
    if area is None:
        raise ValueError(f"all {len(labels)} rows have the label {labels[0]:g}: take a longer test window")
    losses = classification.log_losses(labels, usable)
    found = [_undisturbed(plain)] if _invalid(plain).any() else []
    for disturbed in _disturbances(schema, features, limits, seed):
        given = np.asarray(score(disturbed.rows), dtype=np.float64)
        found.append(_measured(disturbed, given, labels, losses, area, blocks))
    return Robustness(
        rows=len(labels), log_loss=float(losses.mean()), auc=area, perturbations=tuple(sorted(found, key=_badness))
    )


def robustness_gates(found: Robustness, limits: RobustnessLimits) -> tuple[Gate, ...]:
    """Every score is a number from 0 to 1; no plausible perturbation costs more than the limit."""
    invalid = [each for each in found.perturbations if each.invalid_scores]
    judged = [each for each in found.perturbations if each.plausible and each.log_loss_rise is not None]
    limit = limits.log_loss_rise_max
    offenders = [each for each in judged if each.log_loss_rise is not None and each.log_loss_rise.high > limit]
    shown = "; ".join(_fall(each) for each in (offenders or judged)[:_NAMED]) or "nothing that a client may send"
    scored = f"{len(found.perturbations)} perturbations of {found.rows:,} rows"
    named = "; ".join(f"{each.title}: {each.invalid_scores:,} scores" for each in invalid[:_NAMED])
    return (
        Gate(
            name="valid scores",
            passed=not invalid,
            reason=f"{named} that are no number from 0 to 1" if invalid else f"all scores in [0, 1], {scored}",
            area="robustness",
        ),
        Gate(
            name="disturbed inputs",
            passed=not offenders,
            reason=f"log loss rises from {found.log_loss:.4f}: {shown}, "
            f"upper bound {'>' if offenders else '<='} limit {limit:+g}",
            area="robustness",
        ),
    )


def may_be_missing(field: Field) -> bool:
    """Whether the encoder gives NaN for something that a client may send in this field."""
    if not field.required or field.malformed == "missing" or field.nan == "missing":
        return True
    if field.kind == "category":
        return field.unseen == "missing"
    return field.kind == "number" and field.outside == "missing"


def _disturbances(schema: InputSchema, features: Features, limits: RobustnessLimits, seed: int) -> Iterator[_Disturbed]:
    """One after the other, so that only one copy of the rows is held."""
    generator = np.random.default_rng(seed)
    fields = [field for field in schema.fields if field.columns]
    for field in fields:
        # an unseen word has the code of a missing one: for a category that must be there, this is what "unseen" costs
        kind: Kind = "unseen" if field.kind == "category" and field.required else "missing"
        yield _Disturbed(kind, field.name, may_be_missing(field), _without(schema, features, [field]))
    optional = [field for field in fields if not field.required]
    if len(optional) > 1:
        yield _Disturbed("missing", "all optional fields", False, _without(schema, features, optional))
    numbers = [field for field in fields if field.kind == "number"]
    for field in numbers:
        changed = features.copy()
        position = schema.columns.index(field.name)
        changed[:, position] = _noisy(field, features[:, position], limits.noise_share, generator)
        yield _Disturbed("noise", field.name, True, changed)
    yield _Disturbed("mixed", "", True, _mixed(schema, features, limits, generator))
    yield _Disturbed("smallest", "all numbers", False, _at(schema, features, {f.name: f.minimum for f in numbers}))
    yield _Disturbed("largest", "all numbers", False, _at(schema, features, {f.name: f.maximum for f in numbers}))


def _without(schema: InputSchema, features: Features, fields: list[Field]) -> Features:
    changed = features.copy()
    changed[:, [schema.columns.index(column) for field in fields for column in field.columns]] = np.nan
    return changed


def _noisy(field: Field, column: NDArray[np.float32], share: float, generator: np.random.Generator) -> Features:
    """`column` with noise of `share` of its standard deviation, kept in the field's range; missing stays missing."""
    present = column[~np.isnan(column)]
    deviation = float(present.astype(np.float64).std()) if len(present) else 0.0
    noisy = column + generator.normal(0, share * deviation, len(column))
    low = -np.inf if field.minimum is None else field.minimum
    high = np.inf if field.maximum is None else field.maximum
    return np.clip(noisy, low, high).astype(np.float32)


def _at(schema: InputSchema, features: Features, values: dict[str, float | None]) -> Features:
    """The rows with each of these columns at its value, where it is known."""
    changed = features.copy()
    for column, value in values.items():
        if value is not None:
            changed[:, schema.columns.index(column)] = value
    return changed


def _mixed(
    schema: InputSchema, features: Features, limits: RobustnessLimits, generator: np.random.Generator
) -> Features:
    """Each number gets noise, and each field that may be missing is missing, in `mixed_share` of the rows."""
    changed = features.copy()
    for field in schema.fields:
        positions = [schema.columns.index(column) for column in field.columns]
        if field.kind == "number":
            hit = generator.random(len(features)) < limits.mixed_share
            noisy = _noisy(field, features[:, positions[0]], limits.noise_share, generator)
            changed[hit, positions[0]] = noisy[hit]
        if positions and may_be_missing(field):
            hit = generator.random(len(features)) < limits.mixed_share
            for position in positions:
                changed[hit, position] = np.nan
    return changed


def _invalid(scores: NDArray[np.float64]) -> NDArray[np.bool_]:
    return ~((scores >= 0) & (scores <= 1))  # also true for NaN


def _undisturbed(scores: NDArray[np.float64]) -> Perturbation:
    return Perturbation(
        kind="undisturbed",
        field="",
        plausible=True,
        invalid_scores=int(_invalid(scores).sum()),
        log_loss_rise=None,
        auc_fall=None,
    )


def _measured(
    disturbed: _Disturbed,
    scores: NDArray[np.float64],
    labels: NDArray[np.float64],
    losses: NDArray[np.float64],
    area: float,
    blocks: Blocks,
) -> Perturbation:
    invalid = int(_invalid(scores).sum())
    rise = None
    fall = None
    if not invalid:
        rise = Difference(
            **interval(blocks.mean(classification.log_losses(labels, scores) - losses), blocks=blocks.count)._asdict()
        )
        disturbed_area = classification.auc(labels, scores)
        fall = None if disturbed_area is None else area - disturbed_area
    return Perturbation(
        kind=disturbed.kind,
        field=disturbed.field,
        plausible=disturbed.plausible,
        invalid_scores=invalid,
        log_loss_rise=rise,
        auc_fall=fall,
    )


def _badness(found: Perturbation) -> tuple[float, str, str]:
    worst = float("inf") if found.log_loss_rise is None else found.log_loss_rise.estimate
    return -worst, found.field, found.kind


def _fall(found: Perturbation) -> str:
    rise = found.log_loss_rise
    if rise is None:
        return f"{found.title}: not known"
    fall = "" if found.auc_fall is None else f", AUC {-found.auc_fall:+.4f}"
    return f"{found.title} {rise.estimate:+.4f} (95 % {rise.low:+.4f} … {rise.high:+.4f}{fall})"
