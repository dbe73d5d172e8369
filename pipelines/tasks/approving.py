"""Questions that a running rollout puts to a person: found in the ledger, told as text, answered by a command.

While it waits the rollout goes on to be judged, and may be rolled back. A question ends with an answer, from wherever
it comes, with the plan's default when its time is over, or with the rollout.
"""

import logging
from datetime import timedelta
from typing import Any

from pipelines.ledger import Entry, Ledger, LedgerUnavailableError
from pipelines.rollout.comparisons import asked_limit
from pipelines.rollout.following import ENDED, OBEYED, OPENED
from pipelines.rollout.story import OUTCOMES, QUESTION, STEP
from pipelines.tasks import commanding
from pipelines.wiring import open_ledger

logger = logging.getLogger("paceline")

_SUBJECTS = {
    "first_step": "may version {version} get its first live traffic?",
    "full": "may version {version} get all traffic, and lead?",
}
_ANSWERS = ("approve", "reject")


def find_question(project: str, rollout: str, question: str) -> dict[str, Any] | None:
    """The question once it is asked, with its entry's number; `{"ended": why}` when the rollout ends without.

    None until then, and while the ledger does not answer.
    """
    try:
        ledger = open_ledger()
        for each in (rollout, *_challengers(ledger, project, rollout)):
            asked = _asked(ledger, project, each, question)
            if asked is not None:
                until = asked.at + timedelta(seconds=asked.body["timeout_s"])
                return {
                    "rollout": each, "entry": asked.id, "until": until.isoformat(timespec="minutes"), **asked.body
                }  # fmt: skip
        ended = ledger.entries(project, (*OUTCOMES, ENDED), rollout)
    except LedgerUnavailableError as error:
        logger.warning("no answer whether %s asks something: %s", rollout, error)
        return None
    return {"ended": f"{rollout} was {ended[0].body['state']} and did not ask"} if ended else None


def _challengers(ledger: Ledger, project: str, experiment: str) -> list[str]:
    """The rollouts of an experiment; none where it is the name of a rollout."""
    opened = ledger.entries(project, (OPENED,))
    return [entry.subject for entry in opened if (entry.body.get("experiment") or {}).get("name") == experiment]


def find_end(project: str, rollout: str, question: str) -> str | None:
    """How a question has ended: an answer, the plan's default, the rollout's end; None while it is open."""
    try:
        ledger = open_ledger()
        asked = _asked(ledger, project, rollout, question)
        if asked is None:
            return None
        later = ledger.entries(project, (OBEYED, STEP, *OUTCOMES, ENDED), rollout, after=asked.id)
    except LedgerUnavailableError as error:
        logger.warning("no answer whether the question of %s is open: %s", rollout, error)
        return None
    for entry in later:
        if entry.kind != OBEYED:
            return _went_on(entry, asked)
        if entry.body["command"] in _ANSWERS:
            return f"{entry.body['command']} by {entry.body['by']}: {entry.body['reason']}"
    return None


def question_subject(project: str, question: dict[str, Any]) -> str:
    """The question in one line."""
    return f"{project}: " + _SUBJECTS[question["question"]].format(version=question["version"])


def question_text(project: str, question: dict[str, Any]) -> str:
    """The comparison that the answer rests on, as Markdown: the last phase, its evidence, and the gates before."""
    evidence = question["evidence"]
    parts = []
    if evidence:
        parts.append(f"**{evidence['name']}** went on: {evidence['reason']}.")
    parts.append(
        f"Without an answer until {question['until']} the plan says **{question['on_timeout']}**. Meanwhile the judge "
        "goes on, and rolls a worse version back by itself."
    )
    if evidence:
        parts.append(_evidence_table(evidence))
    if gates := _gates(project, question["version"]):
        parts.append("Gates before any traffic:\n\n" + gates)
    return "\n\n".join(parts)


def answer(
    project: str, question: dict[str, Any], *, approved: bool, by: str, reason: str, wait_s: float = 30.0
) -> dict[str, Any]:
    """Writes a person's answer to `question` as a command, and returns what became of it.

    An answer that came too late is no error: `answer` is `refused`, and `why` says what was so.
    """
    name = "approve" if approved else "reject"
    try:
        return commanding.command(
            project,
            name,
            by=by,
            reason=reason.strip() or "no reason given",
            phase=question["phase"],
            wait_s=wait_s,
            rollout=question.get("rollout"),
        )
    except (commanding.CommandRefusedError, LookupError) as error:
        logger.warning("the answer of %s came too late: %s", by, error)
        return {"project": project, "command": name, "by": by, "answer": "refused", "why": str(error)}


def _asked(ledger: Ledger, project: str, rollout: str, question: str) -> Entry | None:
    asked = ledger.entries(project, (QUESTION,), rollout)
    return next((entry for entry in asked if entry.body["question"] == question), None)


def _went_on(entry: Entry, asked: Entry) -> str:
    if entry.kind == STEP:
        return f"nobody answered in {asked.body['timeout_s']:g} s: the plan approved, and {entry.body['name']} began"
    return f"the rollout ended meanwhile, {entry.body['state']}: {entry.body['reason']}"


def _evidence_table(evidence: dict[str, Any]) -> str:
    rows = ["| compared | so far | e-value | limit |", "| --- | --- | ---: | ---: |"]
    for finding in evidence["findings"]:
        asked = asked_limit(finding["limit"])
        limit = "none" if asked is None else f"{asked:,.0f}"
        rows.append(f"| {finding['name']} | {_cell(finding['what'])} | {finding['e_value']:.3g} | {limit} |")
    return "\n".join(rows)


def _gates(project: str, version: str) -> str:
    ledger = open_ledger()
    registered = ledger.entries(project, ("registered",), version)
    judged = ledger.entries(project, ("gates",), registered[-1].body["bundle"]) if registered else []
    if not judged:
        return ""
    rows = ["| gate | found |", "| --- | --- |"]
    rows += [f"| {gate['name']} | {_cell(gate['reason'])} |" for gate in judged[-1].body["gates"]]
    return "\n".join(rows)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
