"""A watch of real flights: what broke is told from what changed, night after night."""

from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from benchmarks.monitoring.installation import PROJECT, install, serve
from contracts.bundle import Bundle
from pipelines.monitoring.watch_metrics import watch_metrics
from pipelines.tasks import watching

FIRST = date(2013, 3, 4)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bundle]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PACELINE_HOME", str(tmp_path_factory.mktemp("home")))
        patch.delenv("PACELINE_LEDGER_URL", raising=False)
        yield install()


def _kilometres(records: list[dict[str, Any]]) -> None:
    for record in records:
        record["distance_miles"] = min(6000, record["distance_miles"] * 1.609344)


def _no_planes(records: list[dict[str, Any]]) -> None:
    for record in records:
        for name in ("plane_age_years", "seats", "engine"):
            record.pop(name, None)


def _one_carrier(records: list[dict[str, Any]]) -> None:
    for record in records[: len(records) * 2 // 3]:
        record["carrier"] = "UA"


def test_nights_of_real_flights_are_quiet_then_each_change_is_named(bundle: Bundle, tmp_path: Path) -> None:
    nights = [lambda records: None, lambda records: None, _kilometres, _no_planes, _one_carrier]
    seen = []
    for number, change in enumerate(nights):
        day = FIRST + timedelta(days=number)
        assert serve(bundle, day, change) > 700
        seen.append(watching.observe(PROJECT, (day + timedelta(days=1)).isoformat(), days=3))
    assert [entry["drift_board"]["units"] for entry in seen] == [1, 1, 0, 0, 1]
    for entry in seen[:2]:
        assert entry["data_quality"] == []
        drift = entry["drift"]
        assert (drift["inputs"], drift["scores"]) == ("no_drift", "no_drift"), drift["reason"]
    (unit,) = seen[2]["data_quality"]
    assert (unit["kind"], unit["columns"]) == ("unit_change", ("distance_miles",))
    assert unit["day"] == "2013-03-06"
    (join,) = seen[3]["data_quality"]
    assert (join["kind"], join["source"], join["severity"]) == ("broken_join", "planes", "critical")
    # what is broken starts no retrain
    for entry in seen[2:4]:
        assert entry["drift"]["inputs"] != "drift", entry["drift"]["reason"]
        assert entry["drift"]["scores"] != "drift"
        assert entry["decision"]["found"] is None
    changed = seen[4]
    assert changed["data_quality"] == []
    assert changed["drift"]["inputs"] == "drift", changed["drift"]["reason"]
    assert "carrier" in changed["drift"]["reason"]
    assert changed["drift_board"]["alarms"][0]["statistic"] == "carrier"
    named = {(metric.name, metric.labels.get("kind")): metric.value for metric in watch_metrics(seen[3])}
    assert named["paceline_watch_data_quality", "broken_join"] == 3
    assert "carrier" in changed["relation"]["columns"]
    # safe to repeat: the same night sees the same
    again = watching.observe(PROJECT, (FIRST + timedelta(days=5)).isoformat(), days=3)
    assert again["drift_board"] == changed["drift_board"]


def test_a_day_without_a_reference_at_hand_is_no_data(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.data.snapshots import SnapshotError
    from pipelines.tasks import drifting

    def gone(*_: Any) -> None:
        raise SnapshotError("the snapshot is in the archive")

    monkeypatch.setattr(drifting, "reference_days", gone)
    seen = watching.observe(PROJECT, (FIRST + timedelta(days=5)).isoformat(), days=3)
    assert (seen["drift"]["inputs"], seen["drift"]["scores"]) == ("no_data", "no_data")
    assert "the snapshot is in the archive" in seen["drift"]["reason"]
