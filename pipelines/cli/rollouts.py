"""The commands that show and steer a running rollout: `paceline rollout show`, `pause`, `abort` and the like."""

from collections.abc import Callable
from typing import Annotated, Any

import typer

from pipelines.cli.console import Json, ProjectName, show, this_user

rollout = typer.Typer(no_args_is_help=True, help="A running rollout: how it stands, and what to tell it.")
Reason = Annotated[str, typer.Option(help="Why; it is kept in the ledger.")]
By = Annotated[str | None, typer.Option(help="Who says so. Default: the user of this machine.")]
Phase = Annotated[
    str | None, typer.Option(help="The phase that you saw, such as '5 %'; when it has passed, the command is refused.")
]
Rollout = Annotated[
    str | None, typer.Option("--rollout", help="Whose challenger is meant, where several are rolled out.")
]
All = Annotated[bool, typer.Option("--all", help="All challengers that are being rolled out.")]
Wait = Annotated[float, typer.Option(min=0, max=300, help="Seconds to wait for the answer of whoever runs it.")]

COMMANDS = {
    "pause": "Stay in the present phase, with the share that is in force. The judge still rolls back.",
    "resume": "Go on after a pause.",
    "advance": "Go on to the next phase now, without waiting for the judge's proof.",
    "abort": "End the rollout: all traffic to the champion. Final.",
    "rollback": "The challenger is bad: end the rollout, and remember the version as rolled back.",
    "approve": "Answer the question that the rollout waits with: go on.",
    "reject": "Answer the question that the rollout waits with: end it.",
}


@rollout.command("show")
def show_rollout(
    project: ProjectName,
    name: Annotated[
        str | None, typer.Option("--rollout", help="A past rollout; default: the running or last one.")
    ] = None,
    as_json: Json = False,
) -> None:
    """The running rollout (or the last one): plan, phase, share, evidence, questions, commands; and the past ones."""
    from pipelines import views

    found = views.rollouts(project, name)
    show(found, as_json, lambda: views.rollouts_text(found))


def _tell(
    name: str,
    project: str,
    reason: str,
    by: str | None,
    phase: str | None,
    wait: float,
    rollout: str | None,
    every: bool,
    as_json: bool,
    share: float | None = None,
) -> None:
    from pipelines.tasks import commanding

    who = by or this_user()
    if every:
        if rollout is not None or phase is not None:
            raise typer.BadParameter("--all goes without --rollout and --phase")
        told = commanding.command_all(project, name, by=who, reason=reason, wait_s=wait, share=share)
        show(told, as_json, lambda: "\n".join(map(_said, told)))
    else:
        said = commanding.command(
            project, name, by=who, reason=reason, phase=phase, wait_s=wait, rollout=rollout, share=share
        )
        told = [said]
        show(said, as_json, lambda: _said(said))
    if any(said["answer"] == "refused" for said in told):
        raise typer.Exit(2)


def _command(name: str, explained: str) -> Callable[..., None]:
    def tell(
        project: ProjectName,
        reason: Reason,
        by: By = None,
        phase: Phase = None,
        wait: Wait = 15.0,
        rollout: Rollout = None,
        every: All = False,
        as_json: Json = False,
    ) -> None:
        _tell(name, project, reason, by, phase, wait, rollout, every, as_json)

    tell.__doc__ = f"{explained} Exit code 2 when it is refused."
    return tell


for _name, _explained in COMMANDS.items():
    rollout.command(_name)(_command(_name, _explained))


@rollout.command("share")
def hold_share(
    project: ProjectName,
    share: Annotated[float, typer.Argument(help="The challenger's part of the entities: 0.05 are 5 %.")],
    reason: Reason,
    by: By = None,
    phase: Phase = None,
    wait: Wait = 15.0,
    rollout: Rollout = None,
    every: All = False,
    as_json: Json = False,
) -> None:
    """Hold the challenger at a smaller share than the plan's, and stay in this step until `resume`.

    The judge still rolls back. Exit code 2 when it is refused.
    """
    _tell("share", project, reason, by, phase, wait, rollout, every, as_json, share)


def _said(said: dict[str, Any]) -> str:
    share = f" {said['share'] * 100:g} %" if said.get("share") else ""
    told = f"{said['rollout']}: {said['command']}{share} by {said['by']}"
    if said["answer"] is None:
        return f"{told} is in the ledger (entry {said['entry']}); no answer yet, does somebody run the rollout?"
    return f"{told} was {said['answer']}" + (f": {said['why']}" if said["why"] else "")
