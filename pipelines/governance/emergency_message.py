"""What the on-call engineer is told of an emergency retrain: a challenger, or a champion that stays. Pure.

The texts are data and no templates, as those of a rollback are.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pipelines.governance.rollback_message import Message

ENDED = "emergency.ended"
State = Literal["challenger", "champion_stays", "held_back", "failed"]
_SUBJECT_CHARACTERS = 200
_FACTS = ("state", "champion", "version", "as_of", "alerts", "outcome", "failed_gates")


def message(
    project: str, title: str, run: str, ended: Mapping[str, Any], *, page: str, pages_url: str | None
) -> Message:
    """The message for the run that `ended` is the ledger's entry of; `page` is the report of its evaluation.

    A champion that stays, or a retrain that broke, wakes somebody: nothing will get better by itself. A challenger does
    not: its rollout begins, and tells of its own end.
    """
    state: State = ended["state"]
    alerts = ", ".join(ended["alerts"]) or "no alert on record"
    link = page if pages_url is None else f"{pages_url.rstrip('/')}/{ended['page'].removeprefix('reports/')}"
    champion = "no version" if ended["champion"] is None else f"version {ended['champion']}"
    what = {
        "challenger": f"the emergency retrain registered version {ended['version']}; its rollout begins.",
        "champion_stays": f"the emergency retrain found nothing better: the champion stays, {champion}.",
        "held_back": f"the emergency retrain was held back: the champion stays, {champion}.",
        "failed": f"the emergency retrain broke and offers nothing: the champion stays, {champion}.",
    }[state]
    short = {
        "challenger": f"the emergency retrain offers version {ended['version']}",
        "champion_stays": "the champion stays after an emergency retrain",
        "held_back": "no emergency retrain, and the champion stays",
        "failed": "the emergency retrain failed, and the champion stays",
    }[state]
    return Message(
        event="paceline.emergency",
        subject=f"[{project}] {short}: {alerts}"[:_SUBJECT_CHARACTERS],
        what=f"{title}: {what}",
        why=f"Asked for by {alerts}, as of {ended['as_of']}. {ended['reason']}",
        affected=f"Clients get the answers of {champion}. What the alert found is as it was.",
        link=link if ended["page"] else f"{project}.retrain {run} in Airflow",
        next=_next(project, run, state, ended["alerts"], ended["failed_gates"]),
        severity="notice" if state == "challenger" else "page",
        facts={"project": project, "run": run, **{name: ended[name] for name in _FACTS}},
    )


def _next(project: str, run: str, state: State, alerts: Sequence[str], failed_gates: Sequence[str]) -> tuple[str, ...]:
    pages = tuple(f"Follow docs/runbook/{alert}.md." for alert in alerts)
    if state == "challenger":
        return (f"Watch its rollout: paceline rollout show {project}", *pages)
    if state == "failed":
        return (f"Read the log of {project}.retrain {run} in Airflow, and clear the task that failed.", *pages)
    gates = (f"Read why it lost: {', '.join(failed_gates)}.",) if failed_gates else ()
    if state == "held_back":
        return (f"If it is needed all the same: paceline retrain {project} --trigger alert --insist", *pages)
    older = f"If an older version was sound: paceline rollback {project} --version N --reason …"
    return (*gates, *pages, older)
