"""The trials of a retrain, each to its own end: one that fails, lags or is killed does not take the others with it."""

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contracts.hashing import content_id, file_id
from pipelines.projects import Project
from pipelines.registry.port import Trial
from pipelines.tasks import artifacts, retraining
from pipelines.wiring import REPOSITORY, find_project, home, lock_id, open_ledger

if TYPE_CHECKING:
    from pipelines.training.search import Slot, Studies

logger = logging.getLogger("paceline")
FINISHED, PRUNED, FAILED, OUT_OF_TIME, OVER_BUDGET = "finished", "pruned", "failed", "out of time", "over budget"
_ERROR_CHARACTERS = 500
# what the bytes of a graph depend on, beside the rows, the parameters and the lock
_TRAINING_CODE = ("contracts", "pipelines/training")


class SearchFailedError(RuntimeError):
    """No trial of a retrain finished; nothing is offered, and the champion stays."""


def search_id(project: Project, snapshot: str, trainers: list[str] | None = None) -> str:
    """What a search is continued by: the same project, snapshot, plan, trainers, lock and code of training.

    The budget is not in it, so a search can be given more trials or minutes and goes on.
    """
    plan = project.training
    named = {
        "project": project.name,
        "snapshot": snapshot,
        "seed": plan.seed,
        "trials": plan.trials,
        "search": plan.search and [plan.search.space, plan.search.sampler, plan.search.pruner],
        "trainers": sorted(trainers) if trainers and sorted(trainers) != list(plan.trainers) else None,
        "lock": lock_id(),
        "code": _code_id(project),
    }
    return content_id(named)


def run_trial(project: str, trial: dict[str, Any]) -> dict[str, Any]:
    """Trains a planned trial, and returns what came of it: `state`, and with it metrics and graph, or an `error`.

    A failure of the trial is an outcome; a failure of the disk is raised, since trying again may help.

    Raises:
        OSError: the disk.
    """
    from pipelines.training.rows import Pruned

    studies, slot = _studies(project, trial)
    attempt = None
    if studies is not None:
        begun = studies.begin(slot, trial["minutes"], _is_kept)
        if begun is None:
            return _ended(trial, OVER_BUDGET, f"the search's {trial['minutes']:g} minutes of training are used up", 0.0)
        if isinstance(begun, dict):
            logger.info("%s is taken from the search so far: %s", slot.name, begun["state"])
            return {**begun, "minutes": trial["minutes"]}
        attempt = begun
        trial = {**trial, "parameters": attempt.parameters}
        logger.info("%s: %s", slot.name, attempt.parameters)
    started, curve = time.monotonic(), list[dict[str, float]]()

    def on_step(step: int, log_loss: float) -> None:
        curve.append({"step": step, "validation_log_loss": log_loss})
        if attempt is not None:
            attempt.report(step, log_loss)

    try:
        trained = retraining.train(project, trial, on_step if attempt is not None and attempt.prunes else None)
        outcome = {**trained, "state": FINISHED, "seconds": round(time.monotonic() - started, 1)}
    except Pruned as reason:
        outcome = _ended(trial, PRUNED, str(reason), time.monotonic() - started, curve)
    except OSError as error:
        if studies is not None:
            studies.end(slot, _ended(trial, FAILED, _text(error), time.monotonic() - started, curve))
        raise
    except Exception as error:  # noqa: BLE001 (whatever a trainer raises ends this trial only; the outcome names it)
        outcome = _ended(trial, FAILED, _text(error), time.monotonic() - started, curve)
    if studies is not None:
        outcome = studies.end(slot, outcome)
    if outcome["state"] != FINISHED:
        logger.warning("%s %s: %s", outcome["name"], outcome["state"], outcome["error"])
    return outcome


def give_up(project: str, trial: dict[str, Any], state: str, error: str, seconds: float = 0.0) -> dict[str, Any]:
    """The outcome of a trial that was ended from outside, by a limit or a kill; its search keeps it."""
    studies, slot = _studies(project, trial)
    outcome = _ended(trial, state, error, seconds)
    if studies is not None:
        outcome = studies.end(slot, outcome)
    logger.warning("%s %s: %s", trial["name"], state, error)
    return outcome


def minutes_left(project: str, trial: dict[str, Any]) -> float | None:
    """What is left of the minutes of the trial's search, at least 0; None without a search."""
    studies, _ = _studies(project, trial)
    return None if studies is None else max(0.0, float(trial["minutes"]) - studies.minutes_used())


def best_of(project: str, trials: list[dict[str, Any]], outcomes: list[dict[str, Any]]) -> dict[str, Any]:
    """The trial that goes on, by the one-standard-error rule, with the outcomes of all that were planned.

    Raises:
        SearchFailedError: none finished; the message names each with what became of it.
    """
    from pipelines.training.selection import choose, contender

    by_number = {outcome["number"]: outcome for outcome in outcomes if outcome is not None}
    known = [
        by_number.get(trial["number"])
        or give_up(project, trial, FAILED, "its process ended without a word: it was killed, or ran out of memory")
        for trial in trials
    ]
    finished = [outcome for outcome in known if outcome["state"] == FINISHED]
    if not finished:
        listed = "; ".join(f"{outcome['name']} {outcome['state']}: {outcome['error']}" for outcome in known)
        _record(project, known, None, "no trial finished")
        raise SearchFailedError(f"no trial finished, the champion stays. {listed}")
    contenders = [contender(outcome, len(artifacts.read(outcome["graph"]))) for outcome in finished]
    choice = choose(contenders)
    chosen = finished[choice.chosen]
    distances = {
        outcome["number"]: {"behind": loss.log_loss, "behind_se": loss.standard_error, "bytes": each.bytes}
        for outcome, loss, each in zip(finished, choice.behind, contenders, strict=True)
    }
    compared = [
        {
            **outcome,
            "parameters": outcome["parameters"] or {},
            "chosen": outcome["number"] == chosen["number"],
            **distances.get(outcome["number"], {}),
        }
        for outcome in known
    ]
    _record(project, compared, chosen["name"], choice.reason)
    logger.info("%s goes on. %s", chosen["name"], choice.reason)
    studies, _ = _studies(project, chosen)
    return {
        **chosen,
        "reason": choice.reason,
        "importances": {} if studies is None else studies.importances(),
        "trials": compared,
    }


def registry_trials(candidate: dict[str, Any]) -> list[Trial]:
    """All trials of a candidate's search, as the registry keeps them."""
    return [
        Trial(
            name=trial["name"],
            parameters={"trainer": trial["trainer"], "seed": trial["seed"], **trial["parameters"]},
            metrics=trial.get("metrics", {}),
            curve=tuple(artifacts.read_json(trial["curve"])) if trial.get("curve") else (),
            chosen=trial["chosen"],
            state=trial["state"],
            error=trial.get("error"),
            seconds=trial["seconds"],
            behind=trial.get("behind"),
            behind_se=trial.get("behind_se"),
        )
        for trial in candidate["trials"]
    ]


def _studies(project: str, trial: dict[str, Any]) -> "tuple[Studies | None, Slot]":
    from pipelines.training.search import Slot, Studies

    slot = Slot(number=trial["number"], trainer=trial["trainer"], parameters=trial["parameters"])
    plan = find_project(project).training
    if "search" not in trial or plan.search is None:
        return None, slot
    return Studies(home().searches / project / f"{trial['search']}.journal", plan.search, plan.seed), slot


def _is_kept(outcome: dict[str, Any]) -> bool:
    """Whether all that a later step reads of an earlier outcome is still there, unaltered."""
    try:
        for name in ("schema", "graph", "curve"):
            if name in outcome:
                artifacts.read(outcome[name])
    except LookupError as error:
        logger.warning("%s is trained again: %s", outcome["name"], error)
        return False
    return True


def _ended(
    trial: dict[str, Any], state: str, error: str, seconds: float, curve: list[dict[str, float]] | None = None
) -> dict[str, Any]:
    ended = {**trial, "state": state, "error": error, "seconds": round(seconds, 1)}
    return {**ended, "curve": artifacts.keep_json(curve)} if curve else ended


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:_ERROR_CHARACTERS]


def _record(project: str, trials: list[dict[str, Any]], chosen: str | None, reason: str) -> None:
    kept = ("name", "state", "error", "parameters", "seconds", "behind", "behind_se", "bytes")
    body = {
        "chosen": chosen,
        "reason": reason,
        "search": trials[0].get("search"),
        "trials": [
            {key: trial[key] for key in kept if key in trial}
            | ({"log_loss": trial["metrics"]["log_loss"]} if "metrics" in trial else {})
            for trial in trials
        ],
    }
    snapshot = trials[0]["snapshot"]
    open_ledger().append(project, "search", snapshot, body, key=f"search:{snapshot}:{content_id(body)}")


def _code_id(project: Project) -> str:
    folders: list[Path] = [*(REPOSITORY / folder for folder in _TRAINING_CODE), project.folder]
    files = sorted(file for folder in folders for file in folder.glob("*.py"))
    return content_id({f"{file.parent.name}/{file.name}": file_id(file) for file in files})
