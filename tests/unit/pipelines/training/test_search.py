"""The search on a real study on disk, with trials that cost nothing."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import pytest

from pipelines.training.plan import TrainingPlan
from pipelines.training.rows import Pruned
from pipelines.training.search import STARTUP_TRIALS, UNHEEDED_REPORTS, Attempt, Slot, Studies, slots

SEARCH: dict[str, Any] = {
    "trials": 8,
    "minutes": 10,
    "space": {
        "boosted_trees": {"leaves": {"low": 4, "high": 64, "log": True}, "l2": {"low": 0.0, "high": 10.0}},
        "neural_net": {"hidden": {"choices": [[32], [64, 32]]}},
    },
}
OWN = [{"trainer": "boosted_trees", "parameters": {"leaves": 31}}]


def plan_of(own: list[dict[str, Any]] | None = None, **search: Any) -> TrainingPlan:
    return msgspec.convert({"seed": 7, "trials": OWN if own is None else own, "search": SEARCH | search}, TrainingPlan)


def studies_of(folder: Path, plan: TrainingPlan) -> Studies:
    assert plan.search is not None
    return Studies(folder / "search.journal", plan.search, plan.seed)


def outcome_of(
    slot: Slot, attempt: Attempt, state: str = "finished", log_loss: float = 0.5, **more: Any
) -> dict[str, Any]:
    metrics = {"metrics": {"log_loss": log_loss}} if state == "finished" else {"error": "of the test"}
    return {"number": slot.number, "parameters": attempt.parameters, "state": state, "seconds": 6.0, **metrics, **more}


def begun(studies: Studies, slot: Slot, minutes: float = 10, is_kept: Callable[[Any], bool] = bool) -> Attempt:
    attempt = studies.begin(slot, minutes, is_kept)
    assert isinstance(attempt, Attempt), attempt
    return attempt


def test_the_plans_own_trials_come_first_and_trainers_take_turns() -> None:
    planned = slots(plan_of())
    assert [slot.number for slot in planned] == list(range(8))
    assert planned[0].parameters == {"leaves": 31}
    assert [slot.trainer for slot in planned[1:]] == ["boosted_trees", "neural_net"] * 3 + ["boosted_trees"]
    assert all(slot.parameters is None for slot in planned[1:])
    assert {slot.trainer for slot in slots(plan_of(), ["neural_net"])} == {"neural_net"}
    assert slots(plan_of(), trials=12)[:8] == planned


def test_without_a_search_the_plans_own_trials_are_all() -> None:
    plan = msgspec.convert({"trials": OWN}, TrainingPlan)
    assert [slot.parameters for slot in slots(plan)] == [{"leaves": 31}]
    with pytest.raises(ValueError, match=r"found 3, but training\.search is not set and the plan has 1"):
        slots(plan, trials=3)
    with pytest.raises(ValueError, match=r"found \['oracle'\], expected some of boosted_trees"):
        slots(plan, ["oracle"])


def test_parameters_are_chosen_within_the_space_the_same_for_the_same_slot(tmp_path: Path) -> None:
    plan = plan_of()
    chosen = []
    for folder in ("one", "two"):
        studies = studies_of(tmp_path / folder, plan)
        attempts = [begun(studies, slot) for slot in slots(plan)]
        chosen.append([attempt.parameters for attempt in attempts])
    assert chosen[0] == chosen[1]
    assert chosen[0][0] == {"leaves": 31}
    trees = [found for found in chosen[0][1:] if "leaves" in found]
    assert len(trees) == 4
    assert all(isinstance(found["leaves"], int) and 4 <= found["leaves"] <= 64 for found in trees)
    assert all(isinstance(found["l2"], float) and 0 <= found["l2"] <= 10 for found in trees)
    assert len({found["l2"] for found in trees}) == 4
    assert all(found["hidden"] in ([32], [64, 32]) for found in chosen[0][1:] if "hidden" in found)


def test_what_finished_is_taken_and_not_trained_again(tmp_path: Path) -> None:
    plan = plan_of()
    slot = slots(plan)[1]
    first = studies_of(tmp_path, plan)
    outcome = outcome_of(slot, begun(first, slot))
    first.end(slot, outcome)
    again = studies_of(tmp_path, plan)
    assert again.begin(slot, 10, lambda _: True) == outcome
    repeated = begun(again, slot, is_kept=lambda _: False)  # its graph was deleted
    assert repeated.parameters == outcome["parameters"]


@pytest.mark.parametrize(("state", "is_taken"), [("pruned", True), ("failed", False), ("out of time", False)])
def test_what_was_pruned_is_over_and_what_failed_is_tried_again(tmp_path: Path, state: str, is_taken: bool) -> None:
    plan = plan_of()
    slot, studies = slots(plan)[1], studies_of(tmp_path, plan)
    attempt = begun(studies, slot)
    studies.end(slot, outcome_of(slot, attempt, state))
    again = studies.begin(slot, 10, lambda _: True)
    if is_taken:
        assert isinstance(again, dict)
        assert again["state"] == state
    else:
        assert isinstance(again, Attempt)
        assert again.parameters == attempt.parameters


def test_nothing_begins_after_the_minutes_and_more_minutes_go_on(tmp_path: Path) -> None:
    plan = plan_of()
    planned, studies = slots(plan), studies_of(tmp_path, plan)
    for slot in planned[:2]:
        studies.end(slot, outcome_of(slot, begun(studies, slot, minutes=0.2)))  # of 6 s each
    assert studies.minutes_used() == pytest.approx(0.2)
    assert studies.begin(planned[2], 0.2, bool) is None
    assert studies.begin(planned[0], 0.2, bool) is not None  # what is known costs nothing
    begun(studies, planned[2], minutes=0.3)


BEGIN_AND_WAIT = """
import json, signal, sys, msgspec
from pathlib import Path
from pipelines.training.plan import TrainingPlan
from pipelines.training.search import Studies, slots
plan = msgspec.json.decode(sys.argv[2], type=TrainingPlan)
attempt = Studies(Path(sys.argv[1]), plan.search, plan.seed).begin(slots(plan)[1], 10, bool)
print(json.dumps(attempt.parameters), flush=True)
signal.pause()
"""


def test_a_trial_whose_process_was_killed_is_begun_again_with_its_parameters(tmp_path: Path) -> None:
    slot = slots(plan_of())[1]
    command = [sys.executable, "-c", BEGIN_AND_WAIT, str(tmp_path / "search.journal"), msgspec.json.encode(plan_of())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        parameters = json.loads(process.stdout.readline())
        process.kill()
    studies = studies_of(tmp_path, plan_of())
    again = begun(studies, slot)
    assert again.parameters == parameters
    studies.end(slot, outcome_of(slot, again))
    assert isinstance(studies.begin(slot, 10, bool), dict)


def test_a_trial_that_lags_behind_the_others_is_given_up_but_not_by_its_first_steps(tmp_path: Path) -> None:
    plan = plan_of(own=[], trials=20, space={"boosted_trees": SEARCH["space"]["boosted_trees"]})
    planned, studies = slots(plan), studies_of(tmp_path, plan)
    for slot in planned[:STARTUP_TRIALS]:
        attempt = begun(studies, slot)
        for step in range(1, 8):
            attempt.report(step, 0.5)
        studies.end(slot, outcome_of(slot, attempt))
    lagging = begun(studies, planned[STARTUP_TRIALS])
    for step in range(1, UNHEEDED_REPORTS + 1):
        lagging.report(step, 0.9)
    with pytest.raises(Pruned, match=r"after step 4 its log loss, 0\.9000, was behind"):
        lagging.report(UNHEEDED_REPORTS + 1, 0.9)
    leading = begun(studies, planned[STARTUP_TRIALS + 1])
    for step in range(1, 8):
        leading.report(step, 0.4)
    without = studies_of(tmp_path / "without", plan_of(pruner="none"))
    assert not begun(without, planned[0]).prunes


def test_the_sampler_learns_and_says_what_mattered(tmp_path: Path) -> None:
    """The loss depends on l2 alone; what is tried later is nearer to the best, 2, than what was drawn at first."""
    plan = plan_of(own=[], trials=24, space={"boosted_trees": SEARCH["space"]["boosted_trees"]})
    studies, distances = studies_of(tmp_path, plan), []
    for slot in slots(plan):
        attempt = begun(studies, slot)
        distances.append(abs(attempt.parameters["l2"] - 2))
        studies.end(slot, outcome_of(slot, attempt, log_loss=0.5 + distances[-1] / 20))
    assert median(distances[-8:]) < median(distances[:8]) / 2
    importances = studies.importances()["boosted_trees"]
    assert importances["l2"] > 0.8 > 0.2 > importances["leaves"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"space": {}}, r"search\.space|space: expected at least one trainer"),
        ({"space": {"boosted_trees": {"leaves": {"low": 4}}}}, r"space\.boosted_trees\.leaves: expected low and high"),
        (
            {"space": {"boosted_trees": {"leaves": {"low": 9, "high": 4}}}},
            r"space\.boosted_trees\.leaves: found low 9 and high 4",
        ),
        (
            {"space": {"boosted_trees": {"l2": {"low": 0, "high": 4, "log": True}}}},
            r"space\.boosted_trees\.l2: found log with low 0",
        ),
        (
            {"space": {"boosted_trees": {"leaves": {"low": 4, "high": 9, "step": 7}}}},
            r"space\.boosted_trees\.leaves: found the step 7",
        ),
        (
            {"space": {"boosted_trees": {"leaves": {"choices": [4, 8], "low": 3}}}},
            r"space\.boosted_trees\.leaves: found choices beside a range",
        ),
        (
            {"space": {"boosted_trees": {"leaves": {"low": 4, "high": 5000}}}},
            r"search\.space\.boosted_trees\.leaves\.high: .*found 5000, expected from 2 to 1024",
        ),
        (
            {"space": {"boosted_trees": {"leafs": {"low": 4, "high": 9}}}},
            r"search\.space\.boosted_trees\.leafs\.low: .*did you mean 'leaves'",
        ),
        ({"space": {"oracle": {"leaves": {"low": 4, "high": 9}}}}, r"search\.space\.oracle\.leaves\.low: .*'oracle'"),
        (
            {"space": {"boosted_trees": {"leaves": {"low": 4.5, "high": 9}}}},
            r"search\.space\.boosted_trees\.leaves\.low: .*Expected `int`",
        ),
        (
            {"space": {"neural_net": {"hidden": {"choices": [[32], [0]]}}}},
            r"search\.space\.neural_net\.hidden\.choices\[1\]: .*hidden",
        ),
        ({"trials": 0}, "Expected `int` >= 1"),
    ],
)
def test_a_space_that_the_trainer_does_not_allow_is_refused_with_its_key(change: dict[str, Any], message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        plan_of(**change)


def test_a_search_has_room_for_the_plans_own_trials() -> None:
    own = [*OWN, {"trainer": "neural_net"}]
    assert plan_of(own, trials=2).search is not None
    with pytest.raises(msgspec.ValidationError, match=r"search\.trials: found 1, expected at least the plan's own 2"):
        plan_of(own, trials=1)
