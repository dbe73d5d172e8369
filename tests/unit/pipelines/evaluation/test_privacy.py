from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier

from pipelines.evaluation.privacy import Privacy, PrivacyLimits, Sides, attack, privacy_gates

LIMITS = PrivacyLimits()


@pytest.fixture(scope="module")
def sides(events: Callable[..., Any]) -> Sides:
    rows = events(5000)
    fitted, unseen = rows.between(15_000, 15_032), rows.between(15_032, 15_040)
    return Sides((fitted.features, fitted.labels), (unseen.features, unseen.labels))


def attacked(model: Any, sides: Sides, minimum_rows: int = 200) -> Privacy:
    model.fit(*sides.fitted)
    return attack(lambda rows: model.predict_proba(rows)[:, 1], sides, 1, minimum_rows)


@pytest.fixture(scope="module")
def regular(sides: Sides) -> Privacy:
    model = HistGradientBoostingClassifier(
        max_iter=40, max_leaf_nodes=8, min_samples_leaf=100, early_stopping=False, random_state=0
    )
    return attacked(model, sides)


@pytest.fixture(scope="module")
def overfitted(sides: Sides) -> Privacy:
    return attacked(RandomForestClassifier(20, random_state=0), sides)  # unpruned: each leaf is a member


def failed(found: Privacy, limits: PrivacyLimits = LIMITS) -> dict[str, str]:
    return {gate.name: gate.reason for gate in privacy_gates(found, limits) if not gate.passed}


def test_a_regular_model_tells_nobody_who_was_in_its_rows(regular: Privacy) -> None:
    gates = privacy_gates(regular, LIMITS)
    assert [gate.passed for gate in gates] == [True, True], [gate.reason for gate in gates]
    assert {gate.area for gate in gates} == {"privacy"}
    assert {each.name for each in regular.attacks} == {
        "loss threshold",
        "loss against a reference",
        "random forest",
        "logistic regression",
        "label only",
    }


def test_a_model_that_overfitted_its_members_is_caught(overfitted: Privacy) -> None:
    reasons = failed(overfitted)
    assert set(reasons) == {"membership inference", "membership inference at 1 % false positives"}
    assert "upper bound > limit 0.6" in reasons["membership inference"]
    by_name = {each.name: each for each in overfitted.attacks}
    assert by_name["loss threshold"].auc.net.low > 0.65
    assert by_name["random forest"].auc.net.low > 0.65
    assert by_name["label only"].auc.net.low > 0.6


def test_both_sides_are_matched_so_that_what_knows_neither_cannot_tell_them_apart(regular: Privacy) -> None:
    assert regular.members == regular.non_members > 500
    assert abs(regular.matching_auc - 0.5) < 0.02
    assert all(abs(each.auc.control - 0.5) < 0.06 for each in regular.attacks)


def test_harder_times_are_not_taken_for_members(sides: Sides) -> None:
    random = np.random.default_rng(0)
    labels = sides.unseen[1].copy()
    turned = random.random(len(labels)) < 0.3  # the test window is noisier than anything before
    labels[turned] = 1 - labels[turned]
    model = HistGradientBoostingClassifier(max_iter=40, max_leaf_nodes=8, min_samples_leaf=100, random_state=0)
    found = attacked(model, Sides(sides.fitted, (sides.unseen[0], labels)))
    assert found.time_auc > 0.55
    assert failed(found) == {}


def test_too_few_rows_are_no_pass(sides: Sides) -> None:
    few = Sides(sides.fitted, (sides.unseen[0][:150], sides.unseen[1][:150]))
    found = attacked(HistGradientBoostingClassifier(max_iter=5, random_state=0), few)
    assert found.attacks == ()
    reason = failed(found)["membership inference"]
    assert "after matching, minimum 200 each: take a longer test window" in reason


def test_the_same_seed_gives_the_same_attacks(sides: Sides, regular: Privacy) -> None:
    model = HistGradientBoostingClassifier(
        max_iter=40, max_leaf_nodes=8, min_samples_leaf=100, early_stopping=False, random_state=0
    )
    assert attacked(model, sides) == regular


def test_one_class_in_the_older_rows_is_refused(sides: Sides) -> None:
    one_class = Sides((sides.fitted[0], sides.fitted[1] * 0), sides.unseen)
    with pytest.raises(ValueError, match="one class only: take a longer train window"):
        attack(lambda rows: rows[:, 0] * 0, one_class, 1, 200)


@pytest.mark.parametrize(
    "limits", [{"auc_max": 0.5}, {"true_positive_rate_max": 0.01}, {"minimum_rows": 10}, {"auc": 0.6}]
)
def test_limits_out_of_bounds_are_refused_by_name(limits: dict[str, float]) -> None:
    with pytest.raises(msgspec.ValidationError, match=next(iter(limits))):
        msgspec.convert(limits, PrivacyLimits)
