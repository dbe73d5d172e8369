"""The commands from data to a judged candidate: snapshot, train, evaluate, and all of it as a retrain."""

import uuid
from datetime import date
from typing import Annotated, Any

import typer

from contracts.bundle import CARD
from pipelines.cli.console import AsOf, Json, ProjectName, err, show, show_lines, this_user

app = typer.Typer()
Trials = Annotated[
    int | None, typer.Option(min=1, help="How many in all, the plan's own first; default: as project.yaml says.")
]
Minutes = Annotated[
    float | None, typer.Option(min=0.01, help="Of training in all trials of the search; default: as project.yaml says.")
]
AcceptShifts = Annotated[
    str | None,
    typer.Option(metavar="NOTE", help="Accept data that differs from the last accepted snapshot, and say why."),
]


@app.command()
def snapshot(project: ProjectName, as_of: AsOf = "", accept_shifts: AcceptShifts = None, as_json: Json = False) -> None:
    """Take a snapshot of the labelled data as of a date, and validate it."""
    from pipelines.tasks import retraining

    windows = retraining.choose_window(project, as_of or date.today().isoformat())
    taken = retraining.validate(project, retraining.take_snapshot(project, windows), accept_shifts)
    show({"snapshot": taken, "windows": windows}, as_json)


@app.command()
def train(
    project: Annotated[
        str | None, typer.Argument(metavar="PROJECT", help="A folder in projects/; or --project.", show_default=False)
    ] = None,
    named: Annotated[str | None, typer.Option("--project", help="The project, for those who name things.")] = None,
    as_of: AsOf = "",
    snapshot: Annotated[
        str | None, typer.Option("--snapshot", help="The id that `paceline snapshot` printed; default: a new one.")
    ] = None,
    trainer: Annotated[
        list[str] | None, typer.Option("--trainer", help="Only this trainer's trials; repeatable.")
    ] = None,
    evaluate: Annotated[
        bool | None, typer.Option("--evaluate/--no-evaluate", help="Default: unless --snapshot is given.")
    ] = None,
    register: Annotated[
        bool, typer.Option("--register", help="Evaluate, and register it when every gate passes.")
    ] = False,
    accept_shifts: AcceptShifts = None,
    trials: Trials = None,
    minutes: Minutes = None,
    as_json: Json = False,
) -> None:
    """From data to a judged candidate and its model card: ingests where nothing was, takes and validates a snapshot,
    trains the project's trials, optimises the best, and evaluates it. With --snapshot it starts there, and ends with
    the candidate. Exit code 2 when a gate fails.

    Each trial is a process of its own: one that fails or is killed does not end the others. A search
    (`training.search` in project.yaml) goes on where it was interrupted when the same command is given again.
    """
    from pipelines.tasks import artifacts, optimising, preparing, retraining

    project = _one_project(project, named)
    if snapshot is not None and as_of:
        raise typer.BadParameter("--as-of is for a new snapshot: give one of it and --snapshot")
    result: dict[str, Any] = {}
    if snapshot is None:
        result = preparing.prepare(project, as_of, date.today(), accept_shifts)
        snapshot, evaluate = result["snapshot"], evaluate is not False
    planned = retraining.plan_trials(project, snapshot, trainer, trials, minutes)
    candidate = optimising.optimise(project, _best_of(project, planned))
    result |= {**candidate, "candidate": artifacts.keep_json(candidate)}
    if evaluate or register:
        result |= _evaluated(project, candidate, register=register)
    result["next"] = _next_after_training(project, result)
    show_lines(result, as_json, _training_text(project, result))
    if not result.get("passed", True):
        raise typer.Exit(2)


def _one_project(argument: str | None, option: str | None) -> str:
    named = {name for name in (argument, option) if name is not None}
    if len(named) != 1:
        problem = f"found {' and '.join(sorted(named))}" if named else "none was given"
        raise typer.BadParameter(f"{problem}, expected one project: paceline train PROJECT, or --project PROJECT")
    return named.pop()


def _evaluated(project: str, candidate: dict[str, Any], *, register: bool) -> dict[str, Any]:
    from pipelines.tasks import judging
    from pipelines.wiring import home

    evaluation = judging.evaluate(project, candidate)
    result = {key: value for key, value in evaluation.items() if key != "candidate"}
    result["model_card"] = str(home().bundles / evaluation["bundle"] / CARD)
    if register and evaluation["passed"]:
        result["registered"] = judging.register(project, evaluation)
    return result


def _next_after_training(project: str, result: dict[str, Any]) -> list[str]:
    """The commands that go on from here."""
    if not result.get("passed", True):
        return []
    if "registered" in result:
        return [f"paceline serve {project}", f"paceline release {project}"]
    return [f"paceline evaluate {project} --candidate {result['candidate']} --register"]


def _training_text(project: str, result: dict[str, Any]) -> str:
    lines = [f"as of {result['as_of']}: {result['why']}"] if "as_of" in result else []
    lines.append(f"snapshot   {result['snapshot']}")
    lines.append(f"candidate  {result['candidate']} ({result['trainer']}, {result['optimization']})")
    if gates := result.get("gates"):
        failed = [gate for gate in gates if not gate["passed"]]
        lines.append(f"gates      {len(gates) - len(failed)} of {len(gates)} passed")
        lines += [f"failed     {gate['name']}: {gate['reason']}" for gate in failed]
    if "model_card" in result:
        lines.append(f"model card {result['model_card']}")
        lines.append(f"report     {result['report']}")
    if "registered" in result:
        lines.append(f"registered version {result['registered']['version']} of {project}")
    lines += [f"next       {command}" for command in result["next"]]
    return "\n".join(lines)


def _best_of(project: str, planned: list[dict[str, Any]]) -> dict[str, Any]:
    """Runs the trials under a line that says how far they are, and returns the chosen one."""
    from pipelines.tasks import searching, trial_processes

    with err.status("starting the first trial") as status:
        outcomes = trial_processes.run_trials(project, planned, lambda now: status.update(_trials_line(now)))
    return searching.best_of(project, planned, outcomes)


def _trials_line(now: Any) -> str:
    running = f": {', '.join(now.running)}" if now.running else ""
    best = "" if now.best is None else f", best so far {now.best[0]:.4f} ({now.best[1]})"
    left = "" if now.minutes_left is None else f", {now.minutes_left:.1f} minutes left"
    return f"trial {min(now.done + 1, now.planned)} of {now.planned}{running}{best}{left}"


@app.command()
def evaluate(
    project: ProjectName,
    candidate: Annotated[str, typer.Option("--candidate", help="The id that `paceline train` printed.")],
    register: Annotated[
        bool, typer.Option("--register", help="Register it as challenger when every gate passes.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Judge a candidate by the gates, against the champion on the same held-out rows. Exit code 2 when a gate fails."""
    from pipelines.tasks import artifacts

    result = _evaluated(project, artifacts.read_json(candidate), register=register)
    show(result, as_json)
    if not result["passed"]:
        raise typer.Exit(2)


@app.command()
def retrain(
    project: ProjectName,
    as_of: AsOf = "",
    trigger: Annotated[str, typer.Option(help="schedule, drift, performance, alert or manual.")] = "manual",
    reason: Annotated[str, typer.Option(help="For the ledger.")] = "",
    insist: Annotated[
        bool, typer.Option("--insist", help="Go past what holds it back, as `--trigger manual` does.")
    ] = False,
    trials: Trials = None,
    minutes: Minutes = None,
    accept_shifts: AcceptShifts = None,
    as_json: Json = False,
) -> None:
    """The whole way from data to a registered challenger. Exit code 2 when a gate fails, or the project's policy
    (`monitoring.triggers` in project.yaml) holds the retrain back.
    """
    from pipelines.tasks import judging, optimising, retraining, triggering

    today, request = as_of or date.today().isoformat(), f"cli/{uuid.uuid4()}"
    try:
        windows = triggering.begin_retrain(
            project, today, trigger, reason, by=this_user(), request=request, insists=insist
        )
    except triggering.RetrainHeldError as held:
        err.print(str(held), highlight=False)
        raise typer.Exit(2) from None
    taken = retraining.validate(project, retraining.take_snapshot(project, windows), accept_shifts)
    planned = retraining.plan_trials(project, taken, None, trials, minutes, trigger)
    evaluation = judging.evaluate(project, optimising.optimise(project, _best_of(project, planned)))
    if not evaluation["passed"]:
        err.print(judging.why_the_champion_stays(evaluation))
        raise typer.Exit(2)
    show({**judging.register(project, evaluation), "gates": evaluation["gates"]}, as_json)
