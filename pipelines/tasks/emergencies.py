"""How an emergency retrain ended: written down once, so that the on-call engineer is told by the outbox."""

from pathlib import Path
from typing import Any

from pipelines.governance.emergency_message import ENDED, State
from pipelines.monitoring.alerts import FIRING, RETRAIN
from pipelines.tasks.triggering import SUPPRESSED
from pipelines.wiring import home, open_ledger

__all__ = ["conclude"]
TRIGGER = "alert"
_REASON_CHARACTERS = 1000


def conclude(
    project: str,
    run: str,
    as_of: str,
    evaluation: dict[str, Any] | None,
    registered: dict[str, Any] | None,
) -> dict[str, Any]:
    """Writes down what came of the retrain `run`, which an alert had asked for, and returns that entry's body.

    `evaluation` and `registered` are what `judging.evaluate` and `judging.register` returned, None where the run did
    not come that far: then it failed, and the reason is that of its first failure on record.
    """
    ledger = open_ledger()
    champion = ledger.champion(project)
    state: State = "challenger" if registered else "champion_stays" if evaluation else "failed"
    if registered:
        reason = f"It passed every gate: {evaluation['reason']}" if evaluation else "It passed every gate."
    elif evaluation:
        reason = f"Outcome: {evaluation['outcome']} ({evaluation['reason']}). {_failed(evaluation)}"
    else:
        held = [e for e in ledger.entries(project, (SUPPRESSED,)) if e.body["evidence"].get("request") == run]
        failures = ledger.entries(project, ("failure",), f"retrain/{run}")
        reason = f"{failures[0].body['task']}: {failures[0].body['error']}" if failures else "No failure is on record."
        if held:
            state, reason = "held_back", f"It was {held[-1].body['why']}"
    body = {
        "state": state,
        "champion": None if champion is None else champion.version,
        "version": None if registered is None else registered["version"],
        "as_of": as_of,
        "alerts": _alerts(project, run),
        "outcome": None if evaluation is None else evaluation["outcome"],
        "failed_gates": [] if evaluation is None else [g["name"] for g in evaluation["gates"] if not g["passed"]],
        "reason": reason[:_REASON_CHARACTERS],
        "page": "" if evaluation is None else _below_home(evaluation["report"]),
    }
    return ledger.append(project, ENDED, run, body, key=f"{ENDED}/{run}").body


def _failed(evaluation: dict[str, Any]) -> str:
    return "; ".join(f"{gate['name']}: {gate['reason']}" for gate in evaluation["gates"] if not gate["passed"])


def _alerts(project: str, run: str) -> list[str]:
    """The names of the alerts that asked for the run, or joined it."""
    ledger = open_ledger()
    keys = {key for entry in ledger.entries(project, (RETRAIN,), run) for key in entry.body["alerts"]}
    return sorted({e.body["alert"] for e in ledger.entries(project, (FIRING,)) if e.body["key"] in keys})


def _below_home(path: str) -> str:
    root = home().root
    return str(Path(path).relative_to(root)) if Path(path).is_relative_to(root) else path
