"""What a person tells a running rollout: pause, resume, advance, share, abort, rollback, approve, reject.

Every front (command line, API, page, Airflow's approval) calls `command`. It checks, and writes into the ledger;
whoever runs the rollout reads it before the next look, checks again, and says there whether it was obeyed.
"""

import time
from typing import Any, get_args

from pipelines.ledger import Entry, Ledger, LedgerUnavailableError
from pipelines.rollout.commands import refusal
from pipelines.rollout.events import Command, CommandName
from pipelines.rollout.following import OBEYED, REFUSED, Follower
from pipelines.rollout.story import COMMAND
from pipelines.wiring import find_project, open_ledger

__all__ = ["COMMANDS", "CommandError", "CommandRefusedError", "LedgerUnavailableError", "command"]

COMMANDS: tuple[str, ...] = get_args(CommandName)
CHARACTERS_MAX = 1000  # of a reason
WAIT_S_MAX = 300.0
_POLL_S = 0.2


class CommandError(ValueError):
    """What was asked is no command: an unknown one, or without a name or a reason."""


class CommandRefusedError(ValueError):
    """The rollout is not in a state in which this can be asked of it; the text says why."""


def command(
    project: str,
    name: str,
    *,
    by: str,
    reason: str,
    phase: str | None = None,
    wait_s: float = 0.0,
    rollout: str | None = None,
    share: float | None = None,
) -> dict[str, Any]:
    """Tells the running rollout of `project` to `name`, and returns what was written, with the answer to it.

    Of several challengers `rollout` says whose is meant; `command_all` tells all of them.
    `phase` is the phase that whoever commands has seen: one that has passed refuses `advance`, `approve` and `reject`.
    `share`, a part of 1, is what the command of this name wants the challenger's to be; no other command has one.
    With `wait_s` the answer is waited for, for so many seconds at most; `answer` is `obeyed`, `refused`, or None when
    there was none yet.

    Raises:
        LookupError: there is no such project, no rollout of it runs, or not this one.
        CommandRefusedError: this cannot be asked of the rollout as it is now; nothing was written.
        LedgerUnavailableError: the ledger is away; whether it was written shows when it is back.
        CommandError: an unknown command, no name or no reason, a share that is none or not asked for, a wait that is
            too long, or several that it may be for.
    """
    find_project(project)
    _check(name, by, reason, wait_s)
    asked = _asked(name, by, reason, phase, share)
    ledger = open_ledger(creates=False)
    follower = Follower(ledger)
    running = follower.all_running(project)
    if not running:
        raise LookupError(f"no rollout of {project} runs, nothing to {name}: see paceline rollout show {project}")
    if rollout is None:
        if len(running) > 1:
            raise CommandError(f"{len(running)} rollouts run, name the one that is to {name}: {', '.join(running)}")
        rollout = running[0]
    if rollout not in running:
        raise LookupError(f"{rollout} does not run, nothing to {name}; running: {', '.join(running)}")
    if why := refusal(follower.follow(project, rollout).state, asked):
        raise CommandRefusedError(f"{rollout} cannot {name} now: {why}")
    body: dict[str, Any] = {"command": asked.command, "by": asked.by, "reason": asked.reason, "phase": asked.phase}
    body |= {} if asked.share is None else {"share": asked.share}
    entry = ledger.append(project, COMMAND, rollout, body)
    return {"project": project, "rollout": rollout, "entry": entry.id, **body, **_answer(ledger, entry, wait_s)}


def command_all(
    project: str, name: str, *, by: str, reason: str, wait_s: float = 0.0, share: float | None = None
) -> list[dict[str, Any]]:
    """Tells every running rollout of `project` to `name`: those of all challengers of an experiment.

    Each is told, or the list says with `refused` and `why` why that cannot be asked of it. Raises as `command`.
    """
    find_project(project)
    running = Follower(open_ledger(creates=False)).all_running(project)
    if not running:
        raise LookupError(f"no rollout of {project} runs, nothing to {name}: see paceline rollout show {project}")
    told = []
    for rollout in running:
        try:
            told.append(command(project, name, by=by, reason=reason, wait_s=wait_s, rollout=rollout, share=share))
        except CommandRefusedError as error:
            told.append({"rollout": rollout, "command": name, "by": by, "answer": "refused", "why": str(error)})
        except LookupError as error:  # ended meanwhile, perhaps by what was told to another one
            told.append({"rollout": rollout, "command": name, "by": by, "answer": "refused", "why": str(error)})
    return told


def _check(name: str, by: str, reason: str, wait_s: float) -> None:
    if name not in COMMANDS:
        raise CommandError(f"no command {name!r}; there are: {', '.join(COMMANDS)}")
    for what, text in (("by", by), ("reason", reason)):
        if not text.strip():
            raise CommandError(f"a command says {what}, for the ledger; found nothing")
        if len(text) > CHARACTERS_MAX:
            raise CommandError(f"{what} has at most {CHARACTERS_MAX} characters, found {len(text)}")
    if not 0 <= wait_s <= WAIT_S_MAX:
        raise CommandError(f"wait_s lies between 0 and {WAIT_S_MAX:g}, found {wait_s:g}")


def _asked(name: str, by: str, reason: str, phase: str | None, share: float | None) -> Command:
    try:
        return Command(command=name, by=by.strip(), reason=reason.strip(), phase=phase, share=share)  # type: ignore[arg-type]
    except ValueError as error:
        raise CommandError(str(error)) from None


def _answer(ledger: Ledger, entry: Entry, wait_s: float) -> dict[str, Any]:
    """What the controller said to `entry`, waited for at most `wait_s` seconds."""
    deadline_s = time.monotonic() + wait_s
    while True:
        for answer in ledger.entries(entry.project, (OBEYED, REFUSED), entry.subject, after=entry.id):
            if answer.body["entry"] == entry.id:
                return {"answer": "obeyed" if answer.kind == OBEYED else "refused", "why": answer.body["reason"]}
        if (left_s := deadline_s - time.monotonic()) <= 0:
            return {"answer": None, "why": None}
        time.sleep(min(_POLL_S, left_s))
