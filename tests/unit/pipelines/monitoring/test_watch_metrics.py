from typing import Any

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from pipelines.monitoring.measures import Estimate, Quality
from pipelines.monitoring.outcomes import Coverage
from pipelines.monitoring.watch_metrics import HELP, PREFIX, exposition, watch_metrics


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


def _samples(observed: dict[str, Any]) -> dict[tuple[str, tuple[str, ...]], float]:
    return {
        (metric.name.removeprefix(PREFIX), tuple(value for key, value in metric.labels.items() if key != "project")): (
            metric.value
        )
        for metric in watch_metrics(observed)
    }


def test_coverage_label_age_damage_and_quarantine_are_metrics() -> None:
    found = _samples(_observed())
    assert found["label_coverage_ratio", ()] == 0.75
    assert (found["label_age_days", ()], found["label_delay_days", ()]) == (2, 1.5)
    assert (found["damaged_segments", ()], found["undated_predictions", ()]) == (1, 2)
    assert found["quarantined_outcomes", ("impossible_value",)] == 4
    assert found["as_of_timestamp_seconds", ()] == 1_375_920_000
    assert found["quality", ("7", "champion", "auc")] == 0.7
    assert found["quality_low", ("7", "champion", "auc")] == 0.6


def test_what_is_not_known_yet_has_no_sample_and_is_no_zero() -> None:
    nothing = Coverage(predictions=100, due=0, labelled=0, without_key=0)
    found = _samples(_observed(coverage=nothing, quarantine={}, damaged=[]))
    names = {name for name, _ in found}
    assert names & {"label_coverage_ratio", "label_age_days", "label_delay_days", "quarantined_outcomes"} == set()
    assert found["damaged_segments", ()] == 0
    assert ("quality_low", ("7", "champion", "log_loss")) not in found
    assert ("quality", ("7", "champion", "brier")) not in found
    assert ("decision_ratio", ("7", "champion")) not in found


def test_the_text_is_what_prometheus_reads_and_every_family_has_its_help() -> None:
    metrics = watch_metrics(_observed())
    families = {family.name: family for family in text_string_to_metric_families(exposition(metrics).decode())}
    assert sorted(families) == sorted({metric.name for metric in metrics})
    assert all(family.documentation == HELP[name.removeprefix(PREFIX)] for name, family in families.items())
    read = [(s.name, s.labels, s.value) for family in families.values() for s in family.samples]
    assert sorted(map(str, read)) == sorted(map(str, metrics_as_tuples(metrics)))


def metrics_as_tuples(metrics: list[Any]) -> list[tuple[str, dict[str, str], float]]:
    return [(metric.name, dict(sorted(metric.labels.items())), metric.value) for metric in metrics]
