from typing import Any

import msgspec

from pipelines.monitoring.measures import Estimate, Quality
from pipelines.monitoring.outcomes import Coverage
from pipelines.monitoring.watch_metrics import FAMILIES, watch_metrics


def _observed(**changes: Any) -> dict[str, Any]:
    """What a watch returns, as its entry in the ledger has it."""
    quality = Quality(
        version="7",
        slot="champion",
        rows=100,
        errors=1,
        labelled=60,
        mean_score=0.25,
        decision_share=None,
        positive_share=0.3,
        auc=Estimate(value=0.7, low=0.6, high=0.8, n=60, blocks=7),
        log_loss=Estimate(value=0.5, low=None, high=None, n=60, blocks=1),
        brier=None,
        false_positive_rate=None,
    )
    observed: dict[str, Any] = {
        "project": "flight_delay",
        "as_of": "2013-08-08",
        "days": 7,
        "predictions": 100,
        "undated": 2,
        "damaged": [{"path": "day=2013-08-01/a.arrows", "reason": "from byte 8 on"}],
        "coverage": Coverage(
            predictions=100, due=80, labelled=60, without_key=0, early=3, corrected=1, age_days=2, delay_days=1.5
        ),
        "quarantine": {"impossible_value": 4},
        "quality": [quality],
    }
    builtins: dict[str, Any] = msgspec.to_builtins(observed | changes)
    return builtins


def _samples(observed: dict[str, Any]) -> dict[tuple[str, ...], float]:
    return {
        (metric.name.removeprefix("paceline_watch_"), *metric.labels.values()): metric.value
        for metric in watch_metrics(observed)
    }


def test_coverage_label_age_quality_and_quarantine_are_metrics() -> None:
    found = _samples(_observed())
    assert found["label_coverage_ratio",] == 0.75
    assert (found["label_age_days",], found["label_delay_days",]) == (2, 1.5)
    assert (found["outcomes_early",], found["outcomes_corrected",]) == (3, 1)
    assert found["outcomes_quarantined", "impossible_value"] == 4
    assert found["quality", "7", "champion", "auc"] == 0.7
    assert found["quality_low", "7", "champion", "auc"] == 0.6


def test_what_is_not_known_yet_has_no_sample_and_is_no_zero() -> None:
    nothing = Coverage(predictions=100, due=0, labelled=0, without_key=0)
    found = _samples(_observed(coverage=nothing, quarantine={}, damaged=[]))
    names = {name for name, *_ in found}
    assert names & {"label_coverage_ratio", "label_age_days", "label_delay_days", "outcomes_quarantined"} == set()
    assert ("quality_low", "7", "champion", "log_loss") not in found
    assert ("quality", "7", "champion", "brier") not in found
    assert ("decision_ratio", "7", "champion") not in found


def test_every_sample_has_the_labels_of_its_family_and_an_old_entry_is_no_error() -> None:
    found = watch_metrics(_observed())
    assert {metric.name: tuple(metric.labels) for metric in found}.items() <= {
        name: labels for name, (labels, _) in FAMILIES.items()
    }.items()
    assert len({(metric.name, *metric.labels.values()) for metric in found}) == len(found)
    assert watch_metrics({"as_of": "2013-07-02", "predictions": 1}) == []
