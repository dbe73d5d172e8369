from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from pipelines.monitoring.pipeline_metrics import METRICS, Leading, Record, Sample, samples_of, score_samples
from pipelines.monitoring.score_watch import ScoreWatch, ScoreWatchLimits, look

AT = datetime(2013, 7, 2, 5, 0, tzinfo=UTC)
WATCH: dict[str, Any] = {
    "as_of": "2013-07-02",
    "predictions": 4000,
    "undated": 3,
    "segments": 12,
    "days_empty": 2,
    "damaged": [{"path": "a"}],
    "decision": {"blind": False},
}
ESTIMATE = {"value": 0.5, "low": 0.4, "high": 0.6}
OUTCOMES: dict[str, Any] = {
    "coverage": {"due": 8, "labelled": 6, "early": 1, "corrected": 1, "age_days": 2, "delay_days": 1.5},
    "quarantine": {"impossible_value": 1},
    "quality": [
        {"version": "3", "slot": "champion", "labelled": 6, "mean_score": 0.2, "decision_share": 0.1}
        | dict.fromkeys(("auc", "log_loss", "brier", "false_positive_rate"), ESTIMATE)
    ],
}


@dataclass
class Told:
    """An entry of the ledger."""

    kind: str
    body: dict[str, Any] = field(default_factory=dict)
    subject: str = "s"
    at: datetime = AT


USUAL = {"2013-07-01": {hour: [100] * 10 for hour in range(24)}}


def _samples(*told: Told, leading: Leading | None = None, due: datetime | None = None) -> dict[str, float]:
    record = Record()
    for each in told:
        record.add(each)
    found = list(samples_of("flights", record, leading or Leading(), due))
    assert all(sample.labels[0] == "flights" for sample in found)
    return {_name(sample): sample.value for sample in found}


def _name(sample: Sample) -> str:
    return "/".join((sample.name.removeprefix("paceline_"), *sample.labels[1:]))


def test_what_is_not_known_has_no_sample() -> None:
    found = _samples()
    assert found == {
        "watches": 0,
        "rollout_running": 0,
        "rollouts_queued": 0,
        "holdout_running": 0,
        "investigations_open": 0,
        "score_alarms": 0,
    }


def test_a_watch_tells_its_time_and_what_it_read() -> None:
    found = _samples(Told("watch", WATCH), due=datetime(2013, 7, 3, 5, tzinfo=UTC))
    assert {name.removeprefix("watch_"): value for name, value in found.items() if name.startswith("watch_")} == {
        "last_success_timestamp_seconds": AT.timestamp(),
        "due_timestamp_seconds": AT.timestamp() + 86400,
        "as_of_timestamp_seconds": datetime(2013, 7, 2, tzinfo=UTC).timestamp(),
        "predictions": 4000,
        "undated_predictions": 3,
        "segments": 12,
        "damaged_segments": 1,
        "days_empty": 2,
        "blind": 0,
    }


def test_a_watch_of_older_code_says_less_and_nothing_wrong() -> None:
    older = {name: value for name, value in WATCH.items() if name not in ("segments", "days_empty")}
    found = _samples(Told("watch", older))
    assert "watch_segments" not in found
    assert "watch_days_empty" not in found
    assert found["watch_predictions"] == 4000


@pytest.mark.parametrize(
    ("entries", "name", "value"),
    [
        ([Told("failure", {"workflow": "watch"})] * 2, "workflow_failures/watch", 2),
        ([Told("trigger", {"trigger": "drift"})], "retrains/drift", 1),
        ([Told("trigger", {"trigger": "drift"})], "retrain_last_timestamp_seconds/drift", AT.timestamp()),
        ([Told("trigger.due", {"trigger": "alert"})], "retrains_due/alert", 1),
        (
            [Told("trigger.suppressed", {"trigger": "drift", "held_by": [{"hold": "cooldown"}, {"hold": "budget"}]})],
            "retrains_suppressed/drift/budget",
            1,
        ),
        ([Told("release.ended", {"state": "rolled_back"})], "rollouts/rolled_back", 1),
        ([Told("investigation.opened", subject="r1")], "investigations_open", 1),
        (
            [Told("investigation.opened", subject="r1"), Told("investigation.closed", subject="r1")],
            "investigations_open",
            0,
        ),
        ([Told("scores.alarm")], "score_alarms", 1),
    ],
)
def test_each_kind_of_entry_is_counted(entries: list[Told], name: str, value: float) -> None:
    assert _samples(*entries)[name] == value


def test_the_champion_and_a_running_rollout_are_told() -> None:
    rollout = {"share": 0.25, "paused": True, "asks": False, "looked_s": 1372741200.0}
    found = _samples(Told("champion.swapped"), leading=Leading(version="3", bundle="b3", rollout=rollout, queued=1))
    assert found["champion_info/3/b3"] == 1
    assert found["champion_since_timestamp_seconds"] == AT.timestamp()
    assert (found["rollout_running"], found["rollout_share"], found["rollout_paused"]) == (1, 0.25, 1)
    assert found["rollouts_queued"] == 1


DRIFT = {
    "drift": {
        "inputs": "drift",
        "scores": "no_drift",
        "outcomes": "no_data",
        "columns": [
            {"column": "dest", "counts": True, "distance": 0.3, "limit": 0.2},
            {"column": "seats", "counts": False, "distance": 0.3, "limit": 0.1},
        ],
    },
    "data_quality": [{"kind": "stuck", "severity": "warning", "columns": ["seats"]}],
    "relation": {"auc": 0.6},
    "drift_board": {"highest_sum": 0.4},
}


SKEW: dict[str, Any] = {
    "sampled": 40,
    "encoding": {"rows": 40, "differing": 3, "columns": [{"column": "carrier", "rows": 3}]},
    "source": {"rows": 0, "differing": 0, "columns": []},
    "not_due": 30,
    "absent": 10,
    "ambiguous": 0,
    "without_bundle": {"b": 2},
    "damaged": [],
}


def test_the_last_comparison_of_features_is_told_and_what_it_did_not_compare_has_no_count() -> None:
    found = _samples(Told("skew", SKEW | {"sampled": 1}), Told("skew", SKEW))
    assert {name.removeprefix("skew_"): value for name, value in found.items() if name.startswith("skew_")} == {
        "last_success_timestamp_seconds": AT.timestamp(),
        "rows_sampled": 40,
        "damaged_segments": 0,
        "rows_compared/encoding": 40,
        "rows_differing/encoding": 3,
        "field_rows_differing/encoding/carrier": 3,
        "rows_compared/source": 0,
        "rows_unknown/not_due": 30,
        "rows_unknown/absent": 10,
        "rows_unknown/ambiguous": 0,
        "rows_unknown/no_bundle": 2,
    }


def test_every_sample_belongs_to_a_declared_family_with_its_labels() -> None:
    record = Record()
    for told in (
        Told("watch", WATCH | OUTCOMES | DRIFT),
        Told("skew", SKEW),
        Told("failure", {"workflow": "watch"}),
        Told("trigger", {"trigger": "drift"}),
        Told("trigger.due", {"trigger": "drift"}),
        Told("trigger.suppressed", {"trigger": "drift", "held_by": [{"hold": "cooldown"}]}),
        Told("release.ended", {"state": "promoted"}),
        Told("champion.swapped"),
    ):
        record.add(told)
    rollout = {"share": 0.25, "paused": True, "asks": False, "looked_s": 1.0}
    leading = Leading(version="3", bundle="b", rollout=rollout)
    found = list(samples_of("flights", record, leading, AT))
    declared = {metric.name: metric for metric in METRICS}
    watch = look(ScoreWatch(usual=USUAL), [10] * 10, AT.timestamp(), 0.4, ScoreWatchLimits(minimum_days=1))
    found += score_samples("flights", watch, 0, 0.4, ScoreWatchLimits())
    assert {sample.name for sample in found} == set(declared)
    distances = {sample.labels: sample.value for sample in found if sample.name == "paceline_watch_drift_distance"}
    assert distances == pytest.approx({("flights", "dest", "yes"): 1.5, ("flights", "seats", "no"): 3.0})
    assert all(len(sample.labels) == 1 + len(declared[sample.name].labels) for sample in found)


def test_the_watch_over_scores_tells_what_it_knows_and_no_more() -> None:
    young = {
        sample.name.removeprefix("paceline_score_"): sample.value
        for sample in score_samples("flights", ScoreWatch(), 1, 0.4, ScoreWatchLimits())
    }
    assert young == {"drift_alarm": 0, "watch_learning": 1, "watch_scores": 0, "watch_servers_unreachable": 1}
    limits = ScoreWatchLimits(minimum_days=1)
    watch = ScoreWatch(usual=USUAL)
    for minute in range(10):
        watch = look(watch, [0] * 9 + [100], AT.timestamp() + 60 * minute, 0.4, limits)
    found = {
        sample.name.removeprefix("paceline_score_"): sample.value
        for sample in score_samples("flights", watch, 0, 0.4, limits)
    }
    assert (found["drift_alarm"], found["drift_share"], found["watch_scores"]) == (1, 1.0, 1000)
    assert (found["drift_usual_low"], found["drift_usual_high"]) == pytest.approx((0.5, 0.7))
    assert found["drift_evidence_ratio"] >= 1
    assert found["watch_last_look_timestamp_seconds"] == AT.timestamp() + 540
