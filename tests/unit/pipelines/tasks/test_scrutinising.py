"""The sceptic's part of an evaluation, from a snapshot and a trained graph to its sections, on a small real project."""

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import ibis
import numpy as np
import pandas as pd
import pytest
import yaml  # type: ignore[import-untyped]

from pipelines.data.schema import fit_schema
from pipelines.data.snapshots import take_snapshot
from pipelines.data.windows import choose_windows
from pipelines.inference import score
from pipelines.projects import Project, load_project
from pipelines.tasks.cases import Case
from pipelines.tasks.features import encoded
from pipelines.tasks.scrutinising import scrutinise
from pipelines.training import trainer
from pipelines.training.plan import TrialSpec

PROJECT = {
    "name": "loans",
    "title": "Loans",
    "description": "Made-up loans with a known risk.",
    "owner": "tests",
    "label": {"column": "bad", "delay_days": 0},
    "schema": {
        "version": 1,
        "entity": "loan",
        "time": "asked_at",
        "key": ["loan", "asked_at"],
        "fields": [
            {"name": "loan", "kind": "identifier"},
            {"name": "asked_at", "kind": "timestamp", "parts": ["day_of_week"]},
            {"name": "repaid_at", "kind": "timestamp", "parts": ["day_of_week"]},
            {"name": "income", "kind": "number", "required": False, "minimum": 0, "maximum": 1000},
            {"name": "debt", "kind": "number", "minimum": 0, "maximum": 1000},
            {"name": "home", "kind": "category"},
        ],
    },
    "split": {"train_days": 60, "validation_days": 10, "test_days": 10, "minimum_train_days": 10},
    "training": {"seed": 3, "trials": [{"trainer": "boosted_trees"}]},
    "gates": {"sanity": {"planned": ["repaid_at"]}},
}
Table = Callable[[pd.DataFrame], pd.DataFrame]


def loans(rows: int = 8000) -> pd.DataFrame:
    random = np.random.default_rng(0)
    asked = pd.Timestamp("2024-01-01") + pd.to_timedelta(np.sort(random.uniform(0, 80, rows)), unit="D")
    income, debt = random.gamma(4, 10, rows), random.gamma(2, 20, rows)
    home = random.choice(["own", "rent", "parents"], rows, p=[0.5, 0.4, 0.1])
    log_odds = 0.06 * (debt - 40) - 0.05 * (income - 40) + (home == "rent") - 1
    bad = random.random(rows) < 1 / (1 + np.exp(-log_odds))
    income[random.random(rows) < 0.05] = np.nan
    return pd.DataFrame(
        {
            "loan": np.arange(rows).astype(str),
            "asked_at": asked.floor("s"),
            "repaid_at": (asked + pd.Timedelta(days=30)).floor("s"),
            "income": income,
            "debt": debt,
            "home": home,
            "bad": bad,
        }
    )


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Case]:
    """Makes the case of a quick boosted-trees candidate, on the loans as `planted` leaves them."""
    monkeypatch.setenv("PACELINE_HOME", str(tmp_path / "home"))

    def make(planted: Table = lambda table: table, parameters: dict[str, Any] | None = None, **changes: Any) -> Case:
        folder = tmp_path / "loans"
        folder.mkdir()
        (folder / "project.yaml").write_text(yaml.safe_dump(PROJECT | changes))
        project = load_project(folder)
        events = ibis.memtable(planted(loans()))
        windows = choose_windows(date(2024, 3, 21), project.label, project.split, date(2024, 1, 1))
        root = tmp_path / "snapshots"
        snapshot = take_snapshot(root, events, windows, project.schema, project.label, project.name)
        return _trained(project, snapshot, parameters or {"trees": 40, "minimum_leaf_rows": 100})

    return make


def _trained(project: Project, snapshot: Any, parameters: dict[str, Any]) -> Case:
    schema = fit_schema(project.schema, snapshot.table("train"))
    train, validation, test = (encoded(project, snapshot, schema, part) for part in ("train", "validation", "test"))
    spec = TrialSpec(trainer="boosted_trees", parameters=parameters)
    seed = project.training.seed
    trained = trainer.train(spec, seed, schema, train[:2], validation[:2], lambda text: None)
    return Case(
        project=project,
        snapshot=snapshot,
        schema=schema,
        graph=trained.graph,
        test=test,
        scores=score(trained.graph, test.features),
        rival=None,
        rival_scores=None,
    )


def failed(made: Case) -> dict[str, str]:
    return {gate.name: gate.reason for section in scrutinise(made) for gate in section.gates if not gate.passed}


def test_an_honest_candidate_passes_and_the_same_case_gives_the_same_numbers(case: Callable[..., Case]) -> None:
    made = case()
    sections = scrutinise(made)
    assert [section.name for section in sections] == ["references", "sanity", "robustness", "privacy"]
    assert [gate.reason for section in sections for gate in section.gates if not gate.passed] == []
    assert sections == scrutinise(made)
    by_name = {section.name: section for section in sections}
    assert by_name["privacy"].gates == ()
    assert by_name["privacy"].content["ran"] is False
    assert "not marked sensitive" in by_name["privacy"].content["reason"]
    assert by_name["sanity"].content["later"] == {"repaid_at": 1.0}


def test_loans_of_the_train_window_that_come_again_later_are_found(case: Callable[..., Case]) -> None:
    def planted(table: pd.DataFrame) -> pd.DataFrame:
        again = table[table.asked_at < "2024-02-01"].sample(100, random_state=0)
        return pd.concat([table, again.assign(asked_at=again.asked_at + pd.Timedelta(days=63))])  # the same weekday

    reasons = failed(case(lambda table: planted(table.assign(repaid_at=table.asked_at))))
    assert list(reasons) == ["duplicates"]
    assert "rows equal an earlier one" in reasons["duplicates"]


def test_a_time_after_the_event_is_a_leak_unless_it_is_planned(case: Callable[..., Case]) -> None:
    reasons = failed(case(gates={}))
    assert list(reasons) == ["known before the event"]
    assert "repaid_at lies after the event in 100.00% of the train rows" in reasons["known before the event"]


def test_a_sensitive_project_has_its_challenger_attacked_and_an_overfitted_one_is_refused(
    case: Callable[..., Case],
) -> None:
    regular = case(sensitive=True)
    assert [name for name in failed(regular) if name.startswith("membership")] == []
    assert "membership inference" in failed(_fitted_to_the_end(regular))


def _fitted_to_the_end(made: Case) -> Case:
    """The case with a model that nobody stopped: our trainer stops early, which is half of the protection."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    from pipelines.training import boosted_trees
    from pipelines.training.calibration import Calibration
    from pipelines.training.graph import GraphWriter
    from pipelines.training.plan import BoostedTrees
    from pipelines.training.rows import Rows

    train, validation = (encoded(made.project, made.snapshot, made.schema, part) for part in ("train", "validation"))
    rows = Rows(*train[:2]).followed_by(Rows(*validation[:2]))
    parameters = BoostedTrees(leaves=128, minimum_leaf_rows=1, l2=0, learning_rate=0.3)
    with threadpool_limits(1):  # as the trainer does: threads that wait for each other take minutes on a busy machine
        fitted = boosted_trees.fit(parameters, 3, made.schema, rows, 40, lambda text: None, None)
    graph = GraphWriter.finish(*fitted.write(), Calibration(1.0, 0.0))
    return Case(**{**vars(made), "graph": graph, "scores": score(graph, made.test.features)})
