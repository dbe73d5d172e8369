"""One real retrain of a small installation, judged beside a real champion."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from contracts.bundle import CARD_PAGE, Bundle, read_bundle
from tests.fixtures.small_installation import PROJECT, copy_of_expectations, free_port, small_projects, small_warehouse

QUICK_TRIALS = (
    {"trainer": "boosted_trees", "parameters": {"trees": 40}},
    {"trainer": "logistic_regression", "parameters": {}},
)


class Retrained(NamedTuple):
    """A home with a registered `champion`, and the evaluation and bundle of a challenger, judged beside it."""

    home: Path
    champion: str
    evaluation: dict[str, Any]
    bundle: Bundle

    @property
    def report(self) -> Path:
        return Path(self.evaluation["report"])

    @property
    def card(self) -> Path:
        return self.bundle.path / CARD_PAGE


@pytest.fixture(scope="module")
def retrained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Retrained]:
    """Trees that were judged beside a champion that is a logistic regression; the environment points at them."""
    from pipelines.tasks import judging, retraining, searching
    from pipelines.wiring import home, open_ledger

    folder = tmp_path_factory.mktemp("pages")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PACELINE_HOME", str(folder / "home"))
        patch.setenv("PACELINE_PROJECTS", str(_quick_projects(folder / "projects")))
        patch.setenv("PACELINE_EXPECTATIONS", str(copy_of_expectations(folder / "great_expectations")))
        small_warehouse()
        snapshot = retraining.take_snapshot(PROJECT, retraining.choose_window(PROJECT, "2013-04-01"))
        planned = retraining.plan_trials(PROJECT, snapshot)
        trees, linear = (searching.run_trial(PROJECT, trial) for trial in planned)
        first = _judged(planned[1:], [linear], form="fp32")
        led = judging.register(PROJECT, first)
        assert open_ledger().swap_champion(PROJECT, None, led["version"], led["bundle"], "test", "the first")
        evaluation = _judged(planned[:1], [trees])
        bundle = read_bundle(home().bundles / evaluation["bundle"], evaluation["bundle"])
        yield Retrained(folder / "home", led["version"], evaluation, bundle)


def _quick_projects(folder: Path) -> Path:
    small_projects(folder, free_port())
    file = folder / PROJECT / "project.yaml"
    configuration = yaml.safe_load(file.read_text())
    configuration["training"] = {"seed": 1, "trials": list(QUICK_TRIALS)}
    file.write_text(yaml.safe_dump(configuration, sort_keys=False))
    return folder


def _judged(planned: list[dict[str, Any]], outcomes: list[dict[str, Any]], form: str | None = None) -> dict[str, Any]:
    """The evaluation of the best; with `form` the graph is that one, and no other is measured."""
    from pipelines.tasks import judging, optimising, searching

    return judging.evaluate(PROJECT, optimising.optimise(PROJECT, searching.best_of(PROJECT, planned, outcomes), form))
