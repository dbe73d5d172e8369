from datetime import date

import msgspec
import pytest

from pipelines.monitoring.drift import Answer, ColumnDrift, DriftReport
from pipelines.monitoring.holds import Past, PastRetrain
from pipelines.monitoring.measures import Estimate, Quality
from pipelines.monitoring.triggers import TriggerDecision, TriggerPolicy, Watched, decide_trigger

POLICY = TriggerPolicy(false_positive_rate_max=0.3)


def _estimate(value: float, n: int = 5000) -> Estimate:
    return Estimate(value=value, low=value - 0.01, high=value + 0.01, n=n, blocks=7)


def _quality(
    auc: Estimate | None = None, log_loss: Estimate | None = None, false_positives: Estimate | None = None
) -> Quality:
    return Quality(
        version="3",
        slot="champion",
        rows=6000,
        errors=0,
        labelled=5000,
        mean_score=0.3,
        decision_share=0.2,
        positive_share=0.3,
        auc=auc or _estimate(0.7),
        log_loss=log_loss or _estimate(0.5),
        brier=_estimate(0.16),
        false_positive_rate=false_positives or _estimate(0.1),
    )


def _drift(inputs: Answer = "no_drift", scores: Answer = "no_drift") -> DriftReport:
    score = ColumnDrift(
        column="score",
        answer=scores,
        counts=True,
        reason="PSI 0.4 > 0.2",
        rows=900,
        measure="population_stability_index",
        limit=0.2,
    )
    return DriftReport(rows=900, inputs=inputs, scores=scores, reason="3 columns drifted", columns=(), score=score)


def _decide(
    drift: DriftReport | None = None,
    quality: Quality | None = None,
    last_retrain: date | None = date(2013, 4, 1),
    new_labels: int = 50_000,
    policy: TriggerPolicy = POLICY,
) -> TriggerDecision:
    watched = Watched(
        as_of=date(2013, 7, 1),
        drift=drift,
        quality=quality,
        baseline_metrics={"auc": 0.7, "log_loss": 0.5},
        past=Past(
            retrains=() if last_retrain is None else (PastRetrain(as_of=last_retrain, trigger="schedule"),),
            new_labels=new_labels,
        ),
    )
    return decide_trigger(watched, policy)


def test_a_healthy_champion_starts_nothing_and_the_reason_has_the_numbers() -> None:
    decision = _decide(_drift(), _quality())
    assert decision.trigger is None
    assert decision.found is None
    assert not decision.blind
    assert "auc 0.7000 (95 % 0.6900 … 0.7100, n = 5,000): 0.7100 >= 0.6700 = 0.7000 - 0.03" in decision.reason


@pytest.mark.parametrize("drift", [_drift(inputs="drift"), _drift(scores="drift")])
def test_drift_of_inputs_or_of_scores_starts_a_retrain(drift: DriftReport) -> None:
    decision = _decide(drift, _quality())
    assert decision.trigger == "drift"
    assert decision.reason.startswith("drift: ")


@pytest.mark.parametrize(
    ("quality", "text"),
    [
        (_quality(auc=_estimate(0.65)), "0.6600 < 0.6700"),
        (_quality(log_loss=_estimate(0.57)), "0.5600 > 0.5500 = 0.5000 + 0.05"),
        (_quality(false_positives=_estimate(0.32)), "0.3100 > 0.3000"),
    ],
)
def test_worse_quality_starts_a_retrain(quality: Quality, text: str) -> None:
    decision = _decide(_drift(), quality)
    assert decision.trigger == "performance"
    assert text in decision.reason


def test_quality_whose_interval_reaches_the_limit_is_not_worse() -> None:
    decision = _decide(_drift(), _quality(auc=_estimate(0.665), log_loss=_estimate(0.555)))
    assert decision.trigger is None
    assert {rule.answer for rule in decision.rules if rule.name in ("auc", "log_loss")} == {"quiet"}


def test_performance_comes_before_drift() -> None:
    assert _decide(_drift(inputs="drift"), _quality(auc=_estimate(0.6))).trigger == "performance"


def test_within_the_cooldown_nothing_starts_and_what_was_found_is_kept() -> None:
    decision = _decide(_drift(inputs="drift"), _quality(), last_retrain=date(2013, 6, 25))
    assert decision.trigger is None
    assert (decision.found, decision.suppressed_by) == ("drift", "cooldown")
    assert "6 days since the last retrain (as of 2013-06-25, schedule) < 7" in decision.reason
    assert _decide(_drift(inputs="drift"), _quality(), last_retrain=date(2013, 6, 24)).trigger == "drift"
    assert _decide(_drift(inputs="drift"), _quality(), last_retrain=None).trigger == "drift"


def test_without_enough_new_labels_nothing_starts() -> None:
    decision = _decide(_drift(inputs="drift"), _quality(), new_labels=999)
    assert decision.trigger is None
    assert decision.suppressed_by == "new_labels"
    assert "999 new labels < 1,000" in decision.reason
    assert _decide(_drift(inputs="drift"), _quality(), new_labels=1000).trigger == "drift"


def test_no_data_is_blindness_and_never_good_news() -> None:
    for decision in (_decide(), _decide(_drift("no_data", "no_data"), None)):
        assert decision.trigger is None
        assert decision.blind
        assert decision.reason.startswith("nothing can be judged")
    assert not _decide(_drift(), None).blind


def test_too_few_labelled_predictions_are_not_known_yet() -> None:
    decision = _decide(_drift(), _quality(auc=_estimate(0.4, n=499)))
    assert decision.trigger is None
    assert "auc: 499 labelled < 500" in decision.reason


def test_an_estimate_without_an_interval_fires_nothing() -> None:
    lonely = Estimate(value=0.3, low=None, high=None, n=5000, blocks=1)
    decision = _decide(_drift(), _quality(auc=lonely))
    assert decision.trigger is None
    assert "too few blocks of time (1)" in decision.reason


def test_a_rule_that_is_off_neither_fires_nor_blinds() -> None:
    off = TriggerPolicy(on_drift=False, auc_drop_max=None, log_loss_rise_max=None)
    decision = _decide(_drift(inputs="drift"), _quality(auc=_estimate(0.1)), policy=off)
    assert decision.trigger is None
    assert not decision.blind
    assert "every rule is switched off" in decision.reason


def test_a_bundle_without_metrics_cannot_be_compared_with() -> None:
    watched = Watched(
        as_of=date(2013, 7, 1),
        drift=None,
        quality=_quality(),
        baseline_metrics={},
        past=Past(),
    )
    decision = decide_trigger(watched, TriggerPolicy())
    assert decision.blind
    assert "auc: the bundle's baseline has none" in decision.reason


def test_a_decision_survives_json() -> None:
    decision = _decide(_drift(inputs="drift"), _quality())
    assert msgspec.json.decode(msgspec.json.encode(decision), type=TriggerDecision) == decision


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"auc_drop_max": 2}, "auc_drop_max lies between 0 and 1, or is null; found 2"),
        ({"log_loss_rise_max": -1}, "log_loss_rise_max is at least 0, or null; found -1"),
        ({"cooldown_days": -1}, "cooldown_days is at least 0, found -1"),
    ],
)
def test_policies_without_a_meaning_are_refused_by_name(policy: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TriggerPolicy(**policy)  # type: ignore[arg-type]
