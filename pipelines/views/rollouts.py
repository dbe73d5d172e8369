"""The rollouts of a project: plan, phase, share, verdicts with findings, questions, commands, outcome."""

import math
import time
from typing import TYPE_CHECKING, Any

from pipelines.views.experiments import experiment_lines, experiment_of, share_of_all
from pipelines.views.open_work import open_holdout, open_investigations, open_work_lines
from pipelines.wiring import all_projects, find_project, open_ledger, plan_of

if TYPE_CHECKING:
    from pipelines.ledger import Entry
    from pipelines.rollout.comparisons import Finding
    from pipelines.rollout.following import Point
    from pipelines.rollout.plan import Plan
    from pipelines.rollout.state import State

_PAST_MAX = 20
QUESTIONS = {
    "first_step": "may the challenger get its first live traffic?",
    "full": "may the challenger get all traffic, and lead?",
}


class RolloutWatch:
    """Answers from the ledger, and keeps what it has read, for those who ask every second. Safe to use from threads."""

    def __init__(self) -> None:
        from pipelines.rollout.following import Follower

        self._ledger = open_ledger(creates=False)
        self._follower = Follower(self._ledger)

    def overview(self) -> list[dict[str, Any]]:
        """Every project: its title, the version that leads, and the rollout that runs."""
        found = []
        for name, project in all_projects().items():
            champion = self._ledger.champion(name)
            found.append(
                {
                    "project": name,
                    "title": project.title,
                    "champion": None if champion is None else champion.version,
                    "running": self._follower.running(name),
                }
            )
        return found

    def rollouts(self, project: str, rollout: str | None = None, now_s: float | None = None) -> dict[str, Any]:
        """The rollout that runs (or `rollout`, or else the last one), told whole, and those that are past, in short.

        Raises:
            LookupError: there is no such project, or no such rollout of it.
        """
        definition, champion = find_project(project), self._ledger.champion(project)
        plan = plan_of(definition)
        past = self._past(project)
        all_running = self._follower.all_running(project)
        running = next(iter(all_running), None)
        name = rollout or running or (past[0]["rollout"] if past else None)
        told = None if name is None else self._told(project, name, time.time() if now_s is None else now_s)
        return {
            "project": project,
            "title": definition.title,
            "champion": None if champion is None else champion.version,
            "running": running,
            "all_running": all_running,
            "experiment": None if name is None else experiment_of(self._ledger, self._follower, project, name),
            "queued": self._queued(project),
            "holdout": open_holdout(self._ledger, project),
            "investigations": open_investigations(self._ledger, project),
            "plan": {"identity": plan.identity, **_plain(plan)},
            "rollout": told,
            "past": past,
        }

    def _told(self, project: str, name: str, now_s: float) -> dict[str, Any]:
        from pipelines.rollout.following import OBEYED, REFUSED
        from pipelines.rollout.story import COMMAND, OUTCOMES, QUESTION, STEP, VERDICT

        followed = self._follower.follow(project, name)
        state = followed.state
        if state.offer is None:
            raise LookupError(f"{project} has no rollout {name!r} that has begun: see paceline rollout show {project}")
        kinds = (STEP, VERDICT, *OUTCOMES, COMMAND, OBEYED, REFUSED, QUESTION)
        entries = self._ledger.entries(project=project, subject=name, kinds=kinds)
        until_s = now_s if state.ended_s is None else state.ended_s
        judgement = followed.judgement
        commands = _commands(entries)
        return {
            "rollout": name,
            "version": state.offer.version,
            "expected_champion": state.offer.expected_champion,
            "state": state.phase if state.is_final else "running",
            "phase": state.phase_label,
            "share": share_of_all(state),
            "shadowing": state.is_shadowing and not state.is_final and state.phase != "loading",
            "paused": state.paused_since_s is not None,
            "asks": state.asked is not None and not state.is_final,
            "seconds": max(0.0, until_s - state.started_s),
            "phase_seconds": state.seconds(until_s),
            "started_s": state.started_s,
            "looked_s": followed.looked_s,
            "reason": state.reason,
            "verdict": None if judgement is None else {"verdict": judgement.verdict, "reason": judgement.reason},
            "findings": [] if judgement is None else [finding_values(each) for each in judgement.findings],
            "steps": _steps(state, until_s),
            "questions": _questions(entries, commands),
            "commands": commands,
            "told": _story(entries, commands),
            "refusals": refusals(state),
            "points": [point_values(point) for point in followed.points],
            "plan": {"identity": state.plan.identity, **_plain(state.plan)},
        }

    def _queued(self, project: str) -> list[dict[str, Any]]:
        """The versions that wait for the running rollout to end, in order."""
        entries = self._ledger.entries(project, ("release.queued", "release.opened", "release.refused"))
        waiting: dict[int, dict[str, Any]] = {}
        for entry in entries:
            version, ticket = entry.body.get("version"), entry.body.get("ticket")
            if entry.kind == "release.queued":
                since = entry.at.isoformat(timespec="seconds")
                waiting[entry.id] = {"version": version, "since": since, "reason": entry.body["reason"]}
            elif entry.kind == "release.opened":
                waiting = {number: each for number, each in waiting.items() if each["version"] != version}
            else:
                waiting.pop(ticket or 0, None)
        return list(waiting.values())

    def _past(self, project: str) -> list[dict[str, Any]]:
        from pipelines.rollout.story import OUTCOMES

        ended = self._ledger.entries(project=project, kinds=OUTCOMES)[-_PAST_MAX:]
        return [
            {
                "rollout": entry.subject,
                "version": entry.body["version"],
                "state": entry.body["state"],
                "reason": entry.body["reason"],
                "seconds": entry.body["seconds"],
                "ended": entry.at.isoformat(timespec="seconds"),
            }
            for entry in reversed(ended)
        ]


def rollouts(project: str, rollout: str | None = None) -> dict[str, Any]:
    """What `RolloutWatch.rollouts` says, for who asks once."""
    return RolloutWatch().rollouts(project, rollout)


def rollouts_text(found: dict[str, Any]) -> str:
    """`rollouts` as lines for a terminal."""
    told = found["rollout"]
    leads = f"version {found['champion']} leads" if found["champion"] else "no champion yet"
    lines = [f"[bold]{found['project']}[/]: {leads}, " + ("a rollout runs" if found["running"] else "no rollout runs")]
    if told is not None:
        lines += _told_lines(told)
    if found["experiment"] is not None:
        lines += experiment_lines(found["experiment"])
    lines += [f"  version {each['version']} waits since {each['since']}: {each['reason']}" for each in found["queued"]]
    lines += open_work_lines(found["holdout"], found["investigations"])
    for past in found["past"]:
        if told is None or past["rollout"] != told["rollout"]:
            lines.append(f"  {past['ended']} {past['rollout']} was {_words(past['state'])}: {_escaped(past['reason'])}")
    return "\n".join(lines)


def refusals(state: "State") -> dict[str, str | None]:
    """Each command, and why it would be refused now, or None where it would not."""
    from typing import get_args

    from pipelines.rollout.commands import refusal
    from pipelines.rollout.events import LEAST_SHARE, Command, CommandName

    def asked(name: CommandName) -> Command:
        share = LEAST_SHARE if name == "share" else None  # where any may be held smaller, this one may
        return Command(command=name, by="somebody", reason="asks", phase=state.phase_label, share=share)

    return {name: refusal(state, asked(name)) for name in get_args(CommandName)}


def finding_values(finding: "Finding") -> dict[str, Any]:
    """A finding for machines: no limit where nothing is asked, and how near it is to its limit, from 0 to 1."""
    from pipelines.rollout.comparisons import asked_limit
    from pipelines.rollout.following import nearness

    return {
        "name": finding.name,
        "what": finding.what,
        "e_value": finding.e_value,
        "limit": asked_limit(finding.limit),
        "exceeded": finding.exceeded,
        "nearness": round(nearness(finding), 4),
    }


def point_values(point: "Point") -> dict[str, Any]:
    """A point of the curves for machines."""
    return dict(_plain(point))


def _steps(state: "State", until_s: float) -> list[dict[str, Any]]:
    """The plan's phases in order: `done`, `now`, `asked` (a person must allow it), `ahead` or `failed`."""
    from pipelines.rollout.state import label_of

    plan, found = state.plan, []
    if (shadow := plan.shadow) is not None:
        values = {"share": 0.0, "minimum": shadow.minimum_pairs, "unit": "pairs", "asks": None, "coverage": None}
        found.append(_phase(state, until_s, "shadow", shadow.minimum_s, shadow.maximum_s, values))
    for place, is_alone in _places(plan):
        step = plan.steps[place]
        question = plan.approvals.question(place, len(plan.steps))
        values = {"share": step.share, "minimum": step.minimum_requests, "unit": "requests", "asks": question}
        values["coverage"] = step.coverage
        label = label_of(step.share, is_alone=is_alone)
        phase = _phase(state, until_s, label, step.minimum_s, step.maximum_s, values)
        is_asked = state.asked is not None and not state.is_final and state.asked.step == place
        found.append({**phase, "status": "asked"} if is_asked else phase)
    return found


def _places(plan: "Plan") -> list[tuple[int, bool]]:
    """The steps by their number; of several challengers the chosen one takes the last but one again, alone."""
    found = [(place, False) for place in range(len(plan.steps))]
    return found if plan.challengers == 1 else [*found[:-1], (len(found) - 2, True), found[-1]]


def _phase(
    state: "State", until_s: float, label: str, minimum_s: float, maximum_s: float, values: dict[str, Any]
) -> dict[str, Any]:
    """One phase, with what it needs and what it has seen; `progress` is that of the slowest of these, from 0 to 1."""
    record = next((record for record in state.records if record.name == label), None)
    status, seconds, seen, reason, covered = "ahead", 0.0, 0, "", None
    if record is not None:
        status = "done" if record.verdict == "advance" else "failed"
        seconds, reason = record.seconds, record.reason
        seen = record.pairs if record.shadow else record.challenger_requests
    elif label == state.phase_label and state.memory is not None:
        status, seconds = "now", state.seconds(until_s)
        seen = state.memory.phase_pairs if state.phase == "shadow" else state.memory.phase_requests
        covered = None if state.memory.coverage is None else state.memory.coverage.share
    reached = min(1.0, seen / values["minimum"], seconds / minimum_s if minimum_s else 1.0)
    if values["coverage"] is not None:
        reached = min(reached, (covered or 0.0) / values["coverage"])
    return {
        "phase": label,
        **values,
        "status": status,
        "seconds": seconds,
        "minimum_s": minimum_s,
        "maximum_s": maximum_s,
        "seen": seen,
        "covered": covered,
        "progress": 1.0 if status == "done" else reached if status in ("now", "failed") else 0.0,
        "reason": reason,
    }


def _commands(entries: "list[Entry]") -> list[dict[str, Any]]:
    """What was asked of the rollout, in order, each with its answer if there is one."""
    from pipelines.rollout.following import OBEYED, REFUSED
    from pipelines.rollout.story import COMMAND

    answers = {entry.body["entry"]: entry for entry in entries if entry.kind in (OBEYED, REFUSED)}
    found = []
    for entry in entries:
        if entry.kind == COMMAND:
            answer = answers.get(entry.id)
            found.append(
                {
                    "entry": entry.id,
                    "at": entry.at.isoformat(timespec="seconds"),
                    **{key: entry.body.get(key) for key in ("command", "by", "reason", "phase", "share")},
                    "answer": None if answer is None else answer.kind.rpartition(".")[2],
                    "answer_reason": None if answer is None else answer.body["reason"],
                }
            )
    return found


def _questions(entries: "list[Entry]", commands: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What people were asked, each with the obeyed command that answered it."""
    from pipelines.rollout.story import QUESTION

    asked = [entry for entry in entries if entry.kind == QUESTION]
    found = []
    for place, entry in enumerate(asked):
        following = asked[place + 1].id if place + 1 < len(asked) else math.inf
        answer = next(
            (
                command
                for command in commands
                if command["command"] in ("approve", "reject")
                and command["answer"] == "obeyed"
                and entry.id < command["entry"] < following
            ),
            None,
        )
        found.append({"asked_s": entry.at.timestamp(), **entry.body, "answer": answer})
    return found


def _story(entries: "list[Entry]", commands: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What happened, the newest first: phases entered, verdicts, questions, commands with their answers, the end."""
    from pipelines.rollout.story import COMMAND, OUTCOMES, QUESTION, STEP, VERDICT

    by_entry = {command["entry"]: command for command in commands}
    found = []
    for entry in reversed(entries):
        body = entry.body
        if entry.kind == STEP:
            what, text, tone = f"{body['name']} begins", "", ""
        elif entry.kind == VERDICT:
            tone = "good" if body["verdict"] == "advance" else "bad"
            what, text = f"{body['name']}: {body['verdict']}", body["reason"]
        elif entry.kind == QUESTION:
            what, text, tone = f"a person is asked: {QUESTIONS.get(body['question'], body['question'])}", "", "warn"
        elif entry.kind == COMMAND:
            command = by_entry[entry.id]
            share = f" {command['share'] * 100:g} %" if command["share"] else ""
            what = f"{command['command']}{share} by {command['by']}: {command['answer'] or 'not answered yet'}"
            text = command["reason"] + (f" — {command['answer_reason']}" if command["answer"] == "refused" else "")
            tone = {"obeyed": "good", "refused": "bad"}.get(command["answer"] or "", "")
        elif entry.kind in OUTCOMES:
            what, text = _words(entry.kind.partition(".")[2]), body["reason"]
            tone = {"promoted": "good", "not_chosen": ""}.get(body["state"], "bad")
        else:
            continue
        found.append({"at": entry.at.isoformat(timespec="seconds"), "what": what, "text": text, "tone": tone})
    return found


def _told_lines(told: dict[str, Any]) -> list[str]:
    against = f"version {told['expected_champion']}" if told["expected_champion"] else "no champion"
    lines = [
        f"  [bold]{told['rollout']}[/]: version {told['version']} against {against}, {_words(told['state'])}, "
        f"{told['phase']}, {told['seconds']:.0f} s"
    ]
    marks = {"done": "[green]✓[/]", "now": "[bold]▶[/]", "failed": "[red]✗[/]", "asked": "[yellow]?[/]", "ahead": "·"}
    for step in told["steps"]:
        is_ahead = step["status"] in ("ahead", "asked")
        seen = "" if is_ahead else f"{step['seen']:,} of {step['minimum']:,} {step['unit']}, "
        lines.append(f"    {marks[step['status']]} {step['phase']:>7}  {seen}{step['seconds']:.0f} s")
    if told["verdict"]:
        lines.append(f"    {told['verdict']['verdict']}: {_escaped(told['verdict']['reason'])}")
    for finding in sorted(told["findings"], key=lambda each: -each["nearness"]):
        limit = "none" if finding["limit"] is None else f"{finding['limit']:,.0f}"
        tone = "red" if finding["exceeded"] else "default"
        lines.append(f"      [{tone}]{_escaped(finding['what'])}: e-value {finding['e_value']:.3g}, limit {limit}[/]")
    for question in told["questions"]:
        answer = question["answer"]
        said = "open" if answer is None else f"{answer['command']} by {answer['by']}: {answer['reason']}"
        lines.append(f"    question {question['question']} at {question['phase']}: {_escaped(said)}")
    for command in told["commands"]:
        answered = command["answer"] or "not answered yet"
        lines.append(
            f"    {command['at']} {command['command']} by {_escaped(command['by'])} ({_escaped(command['reason'])}): "
            f"{answered}"
        )
    return lines


def _words(state: str) -> str:
    return state.replace("_", " ")


def _escaped(text: str) -> str:
    """Text that rich does not take for markup."""
    return text.replace("[", "\\[")


def _plain(value: Any) -> Any:
    import msgspec

    return msgspec.json.decode(msgspec.json.encode(value))
