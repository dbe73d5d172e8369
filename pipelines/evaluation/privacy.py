"""Whether a model tells who was among the rows it was fitted on: membership inference, as an outsider would try it.

The attacks see what a client sees, a record with its outcome and the score of the graph:

- the loss threshold of Yeom et al., "Privacy risk in machine learning", CSF 2018: members have lower losses;
- the same loss against that of a reference model that has seen neither side (Watson et al., "On the importance of
  difficulty calibration in membership inference attacks", ICLR 2022), the strongest of the cheap ones;
- a random forest and a logistic regression over score and label (Shokri et al., S&P 2017), by the
  adversarial-robustness-toolbox: fitted on one half of the rows, used on the other, and the other way round;
- its label-only attack: right means member.

Beside the AUC stands the true-positive rate at 1 % false positives: an attack that names a few members for certain is a
breach that averages hide (Carlini et al., "Membership inference attacks from first principles", S&P 2022).

Time alone can tell members from non-members: a test window is later, and may be harder or have other labels. Three
things stand against taking that for a breach. The members are the newest rows of the fit. Both sides are matched: in
each group of equal label and about equal score by the reference model, which was fitted on rows older than all of
these, as many members as non-members are kept (coarsened exact matching: Iacus, King and Porro, "Causal inference
without balance checking", Political Analysis 20(1), 2012). And each attack is tried in the same way on a control model,
which has seen neither side: what succeeds there has found the time, not the members, and only what goes beyond it
counts (`net`). `matching_auc` is the loss attack on the reference model itself, 0.5 where the matching works;
`time_auc` is the same before the matching.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.comparison import Difference
from pipelines.evaluation.gate import Gate
from pipelines.statistics import classification

Features = NDArray[np.float32]
Floats = NDArray[np.float64]
Scorer = Callable[[Features], NDArray[Any]]

ROWS_PER_SIDE = 4_000
OUTSIDER_ROWS = 20_000
RESAMPLES = 500
FALSE_POSITIVE_RATE = 0.01
_MATCHING_GROUPS = 20  # of reference scores, for each label
_FOREST = {"n_estimators": 60, "min_samples_leaf": 20, "max_samples": 0.5, "n_jobs": 1}


class PrivacyLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What an attacker may learn about who was in the training rows of a project that is marked `sensitive`.

    For every attack the upper end of the 95 % interval of its net AUC may reach `auc_max`, and that of its net
    true-positive rate at 1 % false positives `true_positive_rate_max`. With fewer than `minimum_rows` matched rows on
    a side nothing is known, and the gate fails.
    """

    auc_max: float = 0.6
    true_positive_rate_max: float = 0.1
    minimum_rows: int = 200

    def __post_init__(self) -> None:
        if not 0.5 < self.auc_max <= 1:
            raise ValueError(f"auc_max: found {self.auc_max}, expected a number above 0.5 and at most 1")
        if not FALSE_POSITIVE_RATE < self.true_positive_rate_max <= 1:
            found = self.true_positive_rate_max
            raise ValueError(f"true_positive_rate_max: found {found}, expected above {FALSE_POSITIVE_RATE}, at most 1")
        if self.minimum_rows < 100:
            raise ValueError(f"minimum_rows: found {self.minimum_rows}, expected at least 100: 1 % of less is no row")


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What an attack reached: on the model, on the control model, and net of what the control shows to be time only.

    net = found - max(0, control - what knowing nothing gives), with the 95 % interval of a bootstrap over rows.
    """

    found: Difference
    control: float
    net: Difference


class Attack(msgspec.Struct, frozen=True, kw_only=True):
    """One attack: its AUC, and its true-positive rate at 1 % false positives."""

    name: str
    auc: Measured
    true_positive_rate: Measured


class Privacy(msgspec.Struct, frozen=True, kw_only=True):
    """All attacks, the strongest by AUC first. `members` and `non_members` are what the matching kept of each side."""

    members: int
    non_members: int
    reference_rows: int
    matching_auc: float
    time_auc: float
    attacks: tuple[Attack, ...]


class Sides(NamedTuple):
    """Features and labels of rows: those that the model was fitted on, in time order, and those that it never saw."""

    fitted: tuple[Features, NDArray[Any]]
    unseen: tuple[Features, NDArray[Any]]


class _Attacked(NamedTuple):
    """Matched rows: features, labels, whether each is a member, and the reference model's loss of it."""

    features: Features
    labels: Floats
    member: NDArray[np.bool_]
    reference_losses: Floats


def attack(score: Scorer, sides: Sides, seed: int, minimum_rows: int) -> Privacy:
    """Attacks the model behind `score`; with fewer than `minimum_rows` matched rows on a side no attack is run.

    Raises:
        ValueError: the older half of the fitted rows has one class only, so that there is no reference model.
    """
    older = len(sides.fitted[1]) // 2
    reference, control = (
        _outsider(sides.fitted[0][start:older:2], np.asarray(sides.fitted[1][start:older:2], dtype=np.float64), seed)
        for start in (0, 1)
    )
    newest = slice(max(older, len(sides.fitted[1]) - 2 * ROWS_PER_SIDE), None)  # nearest in time, with some to choose
    pool = (
        np.concatenate([sides.fitted[0][newest], sides.unseen[0]]),
        np.concatenate([sides.fitted[1][newest], sides.unseen[1]]).astype(np.float64),
    )
    member = np.arange(len(pool[1])) < len(pool[1]) - len(sides.unseen[1])
    reference_scores = reference(pool[0])
    losses = classification.log_losses(pool[1], reference_scores)
    kept = _matched(reference_scores, pool[1], member, seed)
    attacked = _Attacked(pool[0][kept], pool[1][kept], member[kept], losses[kept])
    members = int(attacked.member.sum())
    enough = min(members, len(kept) - members) >= minimum_rows
    return Privacy(
        members=members,
        non_members=len(kept) - members,
        reference_rows=min((older + 1) // 2, OUTSIDER_ROWS),
        matching_auc=_area(attacked.member, -attacked.reference_losses),
        time_auc=_area(member, -losses),
        attacks=_attacks(score, control, attacked, seed) if enough else (),
    )


def privacy_gates(found: Privacy, limits: PrivacyLimits) -> tuple[Gate, ...]:
    """No attack may tell members from others better than the limits allow; what was not measured fails."""
    sides = f"{found.members:,} members, {found.non_members:,} others"
    smallest = min(found.members, found.non_members)
    if smallest < limits.minimum_rows or not found.attacks:
        reason = f"{sides} after matching, minimum {limits.minimum_rows:,} each: take a longer test window"
        return (Gate(name="membership inference", passed=False, reason=reason, area="privacy"),)
    return (
        _worst("membership inference", "AUC", [(each.name, each.auc) for each in found.attacks], limits.auc_max, sides),
        _worst(
            "membership inference at 1 % false positives",
            "true-positive rate",
            [(each.name, each.true_positive_rate) for each in found.attacks],
            limits.true_positive_rate_max,
            sides,
        ),
    )


def _worst(name: str, what: str, attacks: list[tuple[str, Measured]], limit: float, sides: str) -> Gate:
    attack_name, value = max(attacks, key=lambda each: each[1].net.high)
    passed = value.net.high <= limit
    return Gate(
        name=name,
        passed=passed,
        reason=f"{what} {value.net.estimate:.4f} net (95 % {value.net.low:.4f} … {value.net.high:.4f}; "
        f"{value.found.estimate:.4f}, and {value.control:.4f} on a model that saw neither side) by {attack_name}, the "
        f"worst of {len(attacks)} attacks on {sides}, upper bound {'<=' if passed else '>'} limit {limit:g}",
        area="privacy",
    )


def _outsider(features: Features, labels: Floats, seed: int) -> Callable[[Features], Floats]:
    from sklearn.ensemble import HistGradientBoostingClassifier

    if len(np.unique(labels)) < 2:
        raise ValueError(f"the older {len(labels)} of the fitted rows have one class only: take a longer train window")
    model = HistGradientBoostingClassifier(
        max_iter=60, learning_rate=0.08, max_leaf_nodes=15, min_samples_leaf=30, early_stopping=False, random_state=seed
    ).fit(features[-OUTSIDER_ROWS:], labels[-OUTSIDER_ROWS:])
    return lambda rows: np.asarray(model.predict_proba(rows)[:, 1], dtype=np.float64)


def _matched(scores: Floats, labels: Floats, member: NDArray[np.bool_], seed: int) -> NDArray[np.int64]:
    """The positions that are kept: in each group of label and reference score as many members as others, at random."""
    generator = np.random.default_rng(seed)
    edges = np.unique(np.quantile(scores[~member], np.linspace(0, 1, _MATCHING_GROUPS + 1)[1:-1]))
    groups = np.searchsorted(edges, scores) * 2 + labels.astype(np.int64)
    kept = []
    share = min(1.0, ROWS_PER_SIDE / max(1, int((~member).sum())))
    for group in np.unique(groups):
        inside, outside = (np.flatnonzero((groups == group) & side) for side in (member, ~member))
        count = min(len(inside), int(np.ceil(len(outside) * share)))
        kept += [generator.permutation(side)[:count] for side in (inside, outside)]
    return np.sort(np.concatenate(kept))


def _attacks(score: Scorer, control: Scorer, attacked: _Attacked, seed: int) -> tuple[Attack, ...]:
    sides = [_suspicions(target, attacked, seed) for target in (score, control)]
    names = list(sides[0])
    curves = [[_curve(attacked.member, suspicions[name]) for name in names] for suspicions in sides]
    drawn = np.array(
        [[[curve(weights) for curve in side] for side in curves] for weights in _resamples(attacked.member, seed)]
    )  # (1 + resamples, the model and the control, attacks, AUC and rate)
    found = [
        Attack(
            name=name,
            auc=_measured(drawn[:, 0, position, 0], drawn[:, 1, position, 0], 0.5),
            true_positive_rate=_measured(drawn[:, 0, position, 1], drawn[:, 1, position, 1], FALSE_POSITIVE_RATE),
        )
        for position, name in enumerate(names)
    ]
    return tuple(sorted(found, key=lambda each: (-each.auc.net.estimate, each.name)))


def _suspicions(score: Scorer, attacked: _Attacked, seed: int) -> dict[str, Floats]:
    """For each attack how sure it is that a row is a member, shape (rows,)."""
    scores = np.asarray(score(attacked.features), dtype=np.float64)
    losses = classification.log_losses(attacked.labels, scores)
    return {
        "loss threshold": -losses,
        "loss against a reference": attacked.reference_losses - losses,
        **_learned(score, attacked, seed),
    }


def _measured(found: Floats, control: Floats, nothing: float) -> Measured:
    return Measured(
        found=_interval(found),
        control=float(control[0]),
        net=_interval(found - np.maximum(0, control - nothing)),
    )


def _learned(score: Scorer, attacked: _Attacked, seed: int) -> dict[str, Floats]:
    """The attacks of the toolbox."""
    from art.attacks.inference.membership_inference import (
        MembershipInferenceBlackBox,
        MembershipInferenceBlackBoxRuleBased,
    )
    from art.estimators.classification import BlackBoxClassifier

    def predict(rows: Features) -> NDArray[np.float32]:
        positive = np.asarray(score(np.asarray(rows, dtype=np.float32)), dtype=np.float32)
        return np.stack([1 - positive, positive], axis=1)

    target = BlackBoxClassifier(predict, input_shape=attacked.features.shape[1:], nb_classes=2)
    labels = attacked.labels.astype(np.int64)
    fold = _folds(attacked.member, labels, seed)
    found = {}
    for name, kind in (("random forest", "rf"), ("logistic regression", "lr")):
        suspicion = np.empty(len(labels))
        for mine in (fold, ~fold):
            learner = MembershipInferenceBlackBox(target, attack_model_type=kind)
            learner.attack_model.set_params(random_state=seed, **(_FOREST if kind == "rf" else {}))
            inside, outside = ~mine & attacked.member, ~mine & ~attacked.member
            learner.fit(attacked.features[inside], labels[inside], attacked.features[outside], labels[outside])
            inferred = learner.infer(attacked.features[mine], labels[mine], probabilities=True)
            suspicion[mine] = np.asarray(inferred, dtype=np.float64).ravel()
        found[name] = suspicion
    right = MembershipInferenceBlackBoxRuleBased(target).infer(attacked.features, labels)
    return found | {"label only": np.asarray(right, dtype=np.float64).ravel()}


def _folds(member: NDArray[np.bool_], labels: NDArray[np.int64], seed: int) -> NDArray[np.bool_]:
    """Half of the rows, with half of the members and half of each label in it."""
    generator = np.random.default_rng(seed)
    fold = np.zeros(len(labels), dtype=bool)
    for side in (False, True):
        for label in (0, 1):
            rows = generator.permutation(np.flatnonzero((member == side) & (labels == label)))
            fold[rows[: len(rows) // 2]] = True
    return fold


def _resamples(member: NDArray[np.bool_], seed: int) -> Iterator[Floats]:
    """How often each row is drawn, members and others each among themselves; first the sample itself."""
    generator = np.random.default_rng(seed)
    yield np.ones(len(member))
    for _ in range(RESAMPLES):
        weights = np.zeros(len(member))
        for side in (np.flatnonzero(member), np.flatnonzero(~member)):
            weights += np.bincount(generator.choice(side, len(side)), minlength=len(member))
        yield weights


def _curve(member: NDArray[np.bool_], suspicion: Floats) -> Callable[[Floats], tuple[float, float]]:
    """What gives, for the weight of each row, the area under the ROC curve and its height at 1 % false positives.

    Rows of one suspicion are one step of the curve, and between two steps it is the line (an attacker may toss a coin
    among equals): so an attack of a few distinct values has a height too, and one that knows nothing has 1 %.
    """
    order = np.argsort(-suspicion, kind="stable")
    starts = np.flatnonzero(np.diff(suspicion[order], prepend=np.inf))
    inside, outside = member[order].astype(np.float64), (~member[order]).astype(np.float64)

    def measure(weights: Floats) -> tuple[float, float]:
        drawn = weights[order]
        caught = np.cumsum(np.add.reduceat(drawn * inside, starts))
        wronged = np.cumsum(np.add.reduceat(drawn * outside, starts))
        true_rates = np.concatenate([[0.0], caught / caught[-1]])
        false_rates = np.concatenate([[0.0], wronged / wronged[-1]])
        height = np.interp(FALSE_POSITIVE_RATE, false_rates, true_rates)
        return float(np.trapezoid(true_rates, false_rates)), float(height)

    return measure


def _area(member: NDArray[np.bool_], suspicion: Floats) -> float:
    area = classification.auc(member, suspicion)
    return 0.5 if area is None else area


def _interval(values: Floats) -> Difference:
    low, high = np.quantile(values[1:], (0.025, 0.975))
    return Difference(estimate=float(values[0]), low=float(low), high=float(high))
