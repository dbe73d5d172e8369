"""What a retrain costs is measured in a home of its own, and nothing of it is kept."""

import os
from datetime import date
from pathlib import Path

import pytest

from pipelines.tasks.bench_training import PartCost, TrainingCost, bench_train, cost_text, cost_values


def test_without_a_warehouse_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACELINE_HOME", str(tmp_path))
    with pytest.raises(LookupError, match="run paceline ingest flight_delay first"):
        bench_train("flight_delay", "2013-05-01", 56)


def test_a_failure_leaves_the_environment_and_the_home_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PACELINE_HOME", str(tmp_path))
    monkeypatch.delenv("PACELINE_LEDGER_URL", raising=False)
    (tmp_path / "warehouse" / "flight_delay").mkdir(parents=True)
    before = dict(os.environ)
    with pytest.raises(FileNotFoundError, match="ingest the project"):
        bench_train("flight_delay", date(2013, 5, 1).isoformat(), 56)
    assert dict(os.environ) == before
    assert [path.name for path in tmp_path.iterdir()] == ["warehouse"]


def test_the_parts_are_listed_and_summed() -> None:
    cost = TrainingCost(
        project="toy",
        as_of="2013-05-01",
        trainer="boosted_trees",
        rows={"train": 50_000},
        gates=12,
        passed=True,
        parts=(
            PartCost(part="training", wall_s=20.0, cpu_s=18.0),
            PartCost(part="evaluation", wall_s=10.5, cpu_s=9.5),
        ),
        peak_mb=700.4,
    )
    text = cost_text(cost)
    assert "all               30.5 s     27.5 s of processors" in text
    assert "12 gates: all passed; at most 700 MB resident in one process" in text
    assert (cost_values(cost)["wall_s"], cost_values(cost)["cpu_s"]) == (30.5, 27.5)
