"""The command `paceline`: what the DAGs do, without Airflow."""

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.logging import RichHandler
from rich.text import Text

app = typer.Typer(
    name="paceline",
    help="Continuous delivery of machine-learning models: validate, retrain, judge, and roll out without fear.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _checked_date(found: str) -> str:
    """Refuses what is no date; empty is today."""
    if found:
        try:
            date.fromisoformat(found)
        except ValueError:
            raise typer.BadParameter(f"found {found!r}, expected a date such as 2013-07-01") from None
    return found


ProjectName = Annotated[str, typer.Argument(metavar="PROJECT", help="A folder in projects/, for example flight_delay.")]
AsOf = Annotated[
    str,
    typer.Option("--as-of", metavar="DATE", help="The date that the run pretends is today.", callback=_checked_date),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON on standard output, and nothing else there.")
]
out, err = Console(), Console(stderr=True)


def main() -> None:
    """Entry point; expected failures end with one line and exit code 1."""
    logging.basicConfig(
        level=os.environ.get("PACELINE_LOG_LEVEL", "WARNING"),
        format="%(message)s",
        datefmt="%X",
        handlers=[RichHandler(console=err, show_path=False, show_level=False)],
    )
    logging.getLogger("paceline").setLevel(logging.INFO)
    try:
        app()
    except (ValueError, LookupError, PermissionError, ConnectionError, RuntimeError, OSError) as error:
        if os.environ.get("PACELINE_LOG_LEVEL") == "DEBUG":
            raise
        err.print(f"[bold red]paceline:[/] {type(error).__name__}: {error}", highlight=False)
        sys.exit(1)


def _show(result: Any, as_json: bool, text: Callable[[], Any] | None = None) -> None:
    if as_json:
        sys.stdout.write(json.dumps(result, indent=2, default=str) + "\n")
    elif text is None:
        out.print_json(data=result, default=str)
    else:
        out.print(text())


def _today(as_of: str) -> str:
    return as_of or date.today().isoformat()


@app.command()
def ingest(project: ProjectName, as_json: Json = False) -> None:
    """Load the project's source into the warehouse."""
    from pipelines.tasks import ingesting

    _show(ingesting.ingest(project), as_json)


@app.command()
def snapshot(project: ProjectName, as_of: AsOf = "", as_json: Json = False) -> None:
    """Take a snapshot of the labelled data as of a date, and validate it."""
    from pipelines.tasks import retraining

    windows = retraining.choose_window(project, _today(as_of))
    taken = retraining.validate(project, retraining.take_snapshot(project, windows))
    _show({"snapshot": taken, "windows": windows}, as_json)


@app.command()
def train(
    project: ProjectName,
    snapshot: Annotated[str, typer.Option("--snapshot", help="The id that `paceline snapshot` printed.")],
    trainer: Annotated[
        list[str] | None, typer.Option("--trainer", help="Only this trainer's trials; repeatable.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train the project's trials on a snapshot, and optimise the best; prints the candidate's id for `evaluate`."""
    from pipelines.tasks import artifacts, retraining

    trials = [retraining.train(project, trial) for trial in retraining.plan_trials(project, snapshot, trainer)]
    candidate = retraining.optimise(project, trials)
    _show({"candidate": artifacts.keep_json(candidate), **candidate}, as_json)


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
    from pipelines.tasks import artifacts, judging

    evaluation = judging.evaluate(project, artifacts.read_json(candidate))
    result = {key: value for key, value in evaluation.items() if key != "candidate"}
    if register and evaluation["passed"]:
        result["registered"] = judging.register(project, evaluation)
    _show(result, as_json)
    if not evaluation["passed"]:
        raise typer.Exit(2)


@app.command()
def retrain(
    project: ProjectName,
    as_of: AsOf = "",
    trigger: Annotated[str, typer.Option(help="schedule, drift, performance, alert or manual.")] = "manual",
    reason: Annotated[str, typer.Option(help="For the ledger.")] = "",
    as_json: Json = False,
) -> None:
    """The whole way from data to a registered challenger. Exit code 2 when a gate fails."""
    from pipelines.tasks import judging, retraining

    windows = retraining.choose_window(project, _today(as_of), trigger, reason)
    taken = retraining.validate(project, retraining.take_snapshot(project, windows))
    trials = [retraining.train(project, trial) for trial in retraining.plan_trials(project, taken)]
    evaluation = judging.evaluate(project, retraining.optimise(project, trials))
    if not evaluation["passed"]:
        err.print(f"the champion stays: {judging.failed_gates(evaluation)}")
        raise typer.Exit(2)
    _show({**judging.register(project, evaluation), "gates": evaluation["gates"]}, as_json)


@app.command()
def release(
    project: ProjectName,
    version: Annotated[str | None, typer.Option(help="The version to offer; default: the challenger.")] = None,
    note: Annotated[str | None, typer.Option(help="Needed for a version that was rolled back before.")] = None,
    as_json: Json = False,
) -> None:
    """Roll a challenger out: shadow, steps, promotion, or back by itself. Exit code 2 unless it was promoted."""
    from pipelines.tasks import releasing

    opened = releasing.open_rollout(project, version, note)
    if opened.offer is None:
        err.print(f"nothing to roll out: {opened.reason}")
        raise typer.Exit(2)
    with err.status("waiting for the first look") as status:
        outcome = asyncio.run(releasing.roll_out(project, opened.offer, lambda look: status.update(_look_line(look))))
    settled = releasing.settle(project, outcome)
    _show(settled, as_json)
    if settled["state"] != "promoted":
        raise typer.Exit(2)


def _look_line(look: Any) -> str:
    requests = look.challenger.requests if look.challenger else 0
    mode = "shadow" if look.shadow else f"{look.share:.0%} of the entities"
    return f"{look.rollout}: {mode}, {requests} requests, lease {look.lease_left_s:.0f} s"


@app.command()
def rollback(
    project: ProjectName,
    version: Annotated[str | None, typer.Option(help="The version to put back; default: the champion before.")] = None,
    reason: Annotated[str, typer.Option(help="For the ledger.")] = "rolled back by hand",
    as_json: Json = False,
) -> None:
    """Make a kept version the champion again, at once."""
    from pipelines.tasks import releasing

    _show(releasing.roll_back(project, version, reason), as_json)


@app.command()
def watch(
    project: ProjectName,
    as_of: AsOf = "",
    days: Annotated[int, typer.Option(min=1, max=90, help="How many days of predictions before it.")] = 7,
    as_json: Json = False,
) -> None:
    """Quality and drift of the live predictions, and whether a retrain is due."""
    from pipelines.tasks import watching

    observed = watching.observe(project, _today(as_of), days)
    observed["report"] = watching.report(project, observed)
    observed["due"] = watching.due_retrain(project, observed)
    _show(observed, as_json)


@app.command()
def serve(
    project: ProjectName,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="Default: the project's serving_port.")] = None,
    as_json: Json = False,
) -> None:
    """Run the model server of a project, in the foreground; with --json, where it listens is printed first."""
    from pipelines.tasks.serving import server_environment

    environment = server_environment(project, host, port)
    if as_json:
        url = f"http://{host}:{environment['PACELINE_SERVING_PORT']}"
        _show({"project": project, "url": url, "docs": f"{url}/docs"}, as_json)
        sys.stdout.flush()
    os.environ.update(environment)
    os.execv(sys.executable, [sys.executable, "-m", "serving"])


@app.command()
def replay(
    project: ProjectName,
    start: Annotated[
        str, typer.Option("--from", metavar="DATE", help="The first day to replay.", callback=_checked_date)
    ],
    until: Annotated[
        str, typer.Option("--until", metavar="DATE", help="The day after the last.", callback=_checked_date)
    ],
    rate: Annotated[float, typer.Option(help="Requests a second.")] = 80.0,
    url: Annotated[str | None, typer.Option(help="The model server; default: the project's.")] = None,
    answers: Annotated[Path | None, typer.Option(help="Write one JSON line for each answer to this file.")] = None,
    as_json: Json = False,
) -> None:
    """Send the real events of a period to the model server, in time order; Ctrl-C ends it with its summary."""
    from pipelines.tasks import replaying

    with _progress_line() as progress:
        summary = asyncio.run(
            _until_signal(lambda stop: replaying.replay(project, start, until, rate, url, answers, stop, progress))
        )
    _show(summary, as_json)


@contextmanager
def _progress_line() -> Iterator[Callable[[Any], None]]:
    with err.status("reading the events") as status:
        yield lambda p: status.update(f"{p.sent:,} sent, {p.failed} failed, by version {p.by_version}")


async def _until_signal(work: Callable[[asyncio.Event], Any]) -> Any:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    return await work(stop)


@app.command()
def status(project: ProjectName, as_json: Json = False) -> None:
    """Who leads, what was offered and how it went, and what the last watch saw."""
    from pipelines import views

    found = views.status(project)
    _show(found, as_json, lambda: views.status_text(found))


@app.command()
def lineage(
    prediction_id: Annotated[str, typer.Argument(metavar="PREDICTION_ID")],
    project: Annotated[str | None, typer.Option(help="Default: all projects are searched.")] = None,
    as_json: Json = False,
) -> None:
    """Where a prediction came from: version, bundle, snapshot, commit, parameters, lock, gates."""
    from pipelines import views

    found = views.lineage(prediction_id, project)
    _show(found, as_json, lambda: views.lineage_text(found))


keys = typer.Typer(no_args_is_help=True, help="API keys of the model server: create, list, revoke.")
app.add_typer(keys, name="keys")
KeyFilePath = Annotated[
    Path, typer.Option("--file", envvar="PACELINE_SERVING_KEYS", help="The file that the model server reads.")
]


@keys.command("create")
def create_key(
    client: Annotated[str, typer.Argument(metavar="CLIENT", help="Who gets it; an active key of theirs stays.")],
    file: KeyFilePath,
    scope: Annotated[list[str] | None, typer.Option(help="predict, metrics or metadata; repeatable.")] = None,
    days: Annotated[int, typer.Option(help="Until it expires; 0: never.")] = 365,
    rate: Annotated[float | None, typer.Option(help="Requests a second; default: the server's.")] = None,
    burst: Annotated[int | None, typer.Option(help="Requests at once; default: those of a second.")] = None,
    project: Annotated[list[str] | None, typer.Option(help="Only for this project's server; repeatable.")] = None,
    as_json: Json = False,
) -> None:
    """Make a key for a client. It is shown this once: the file has only its hash."""
    from pipelines.tasks import keys as tasks

    made = tasks.create(
        file,
        client,
        scopes=scope or ["predict"],
        days=days,
        rate_per_s=rate,
        burst=burst,
        projects=project or [],
    )
    _show_lines(made, as_json, tasks.created_text(made))


@keys.command("list")
def list_keys(file: KeyFilePath, as_json: Json = False) -> None:
    """All keys, also expired and revoked ones."""
    from pipelines.tasks import keys as tasks

    found = tasks.list_keys(file)
    _show_lines(found, as_json, tasks.listed_text(found))


@keys.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As `paceline keys list` shows it.")],
    file: KeyFilePath,
    as_json: Json = False,
) -> None:
    """End a key for ever; a running server refuses it within a second."""
    from pipelines.tasks import keys as tasks

    revoked = tasks.revoke(file, key_id)
    _show_lines(revoked, as_json, f"{revoked['id']} of {revoked['client']} is revoked since {revoked['revoked']}")


log = typer.Typer(no_args_is_help=True, help="The prediction log: compact it.")
app.add_typer(log, name="log")


@log.command("compact")
def compact_log(
    project: ProjectName,
    keep_days: Annotated[
        int | None, typer.Option(help="Keep every row this long; default: PACELINE_LOG_KEEP_DAYS, or 30.")
    ] = None,
    sample: Annotated[float, typer.Option(help="The share of the rows to keep of days before that.")] = 0.01,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    as_json: Json = False,
) -> None:
    """One Parquet file for each past day; of days beyond the retention, counts and a sample."""
    from pipelines.tasks import compacting

    with err.status("looking for segments") as status:
        done = compacting.compact(
            project, keep_days=keep_days, sample=sample, is_dry_run=dry_run, progress=status.update
        )
    _show_lines(done, as_json, compacting.compacted_text(done))


def _show_lines(result: Any, as_json: bool, text: str) -> None:
    if as_json:
        _show(result, as_json)
    else:
        sys.stdout.write(text + "\n")  # as it is: a key that the terminal's width breaks in two cannot be copied


bench = typer.Typer(no_args_is_help=True, help="Load on a model server: what it can do, what its clients would feel.")
app.add_typer(bench, name="bench")


@bench.command("serve")
def bench_serve(
    url: Annotated[str, typer.Argument(metavar="URL", help="For example http://127.0.0.1:8500.")],
    rate: Annotated[float | None, typer.Option(help="Requests a second, due whatever the answers do. [100]")] = None,
    concurrency: Annotated[
        int | None, typer.Option(help="Instead of a rate: connections that each wait for their answer.")
    ] = None,
    find_rate: Annotated[
        bool, typer.Option("--find-rate", help="Search the largest rate that meets the objective, from --rate on.")
    ] = False,
    objective_p99_ms: Annotated[float, typer.Option("--objective-p99-ms", help="For --find-rate.")] = 10.0,
    duration: Annotated[float, typer.Option(help="Seconds that count, of each load.")] = 10.0,
    warmup: Annotated[float, typer.Option(help="Seconds before them that do not.")] = 1.0,
    rows: Annotated[int, typer.Option(help="Records in each request.")] = 1,
    protocol: Annotated[str, typer.Option(help="records, open-inference or open-inference-binary.")] = "records",
    records: Annotated[
        Path | None, typer.Option(help="One record a line, JSON; default: made from the live model's schema.")
    ] = None,
    connections: Annotated[int, typer.Option(help="The most that are open.")] = 256,
    timeout: Annotated[float, typer.Option(help="Seconds that a client waits from when its request is due.")] = 5.0,
    arrivals: Annotated[str, typer.Option(help="poisson (independent clients) or fixed.")] = "poisson",
    seed: Annotated[int, typer.Option(help="Of the arrivals and the records.")] = 1,
    api_key: Annotated[
        str | None, typer.Option(envvar="PACELINE_API_KEY", help="With the scopes predict and metadata.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="For machines; - is standard output.")
    ] = None,
    html_file: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="A page with the plots.")] = None,
) -> None:
    """Send requests when they are due, count latency from then, and report. Ctrl-C ends it with what there is."""
    from pipelines.tasks import benching

    options = benching.Options(
        rate=rate,
        concurrency=concurrency,
        find_rate=find_rate,
        objective_p99_ms=objective_p99_ms,
        duration_s=duration,
        warmup_s=warmup,
        rows=rows,
        protocol=benching.protocol_of(protocol),
        connections=connections,
        timeout_s=timeout,
        arrivals=benching.arrivals_of(arrivals),
        seed=seed,
        records=records,
        api_key=api_key,
    )
    is_stdout = json_file == Path("-")
    # drawn by the load itself, twice a second: a thread that draws would take the interpreter from it in between
    with Live(console=err, auto_refresh=False, transient=True) as line, benching.event_loop() as runner:
        result = runner.run(
            _until_signal(
                lambda stop: benching.bench_serve(
                    url, options, stop=stop, on_progress=lambda text: line.update(Text(text), refresh=True)
                )
            )
        )
    benching.write_reports(result, json_file=None if is_stdout else json_file, html_file=html_file)
    if is_stdout:
        _show(benching.json_of(result), as_json=True)
    else:
        sys.stdout.write(benching.text_of(result) + "\n")
        sys.stdout.flush()
        for file in (json_file, html_file):
            if file is not None:
                err.print(f"written: {file}", highlight=False)


@app.command()
def demo(
    leave: Annotated[
        bool, typer.Option("--exit", help="Stop by itself at the end; non-zero unless all went well.")
    ] = False,
    airflow_port: Annotated[int, typer.Option(help="Airflow's UI and API.")] = 8080,
    mlflow_port: Annotated[int, typer.Option(help="The registry.")] = 5000,
    server_port: Annotated[int, typer.Option(help="The model server.")] = 8500,
    rate: Annotated[float, typer.Option(help="Replayed requests a second.")] = 80.0,
) -> None:
    """The main job on real flights, through Airflow: train, serve, replay the summer, retrain, roll out, roll back."""
    from pipelines.demo.stack import Ports
    from pipelines.demo.story import run_demo

    ports = Ports(airflow=airflow_port, mlflow=mlflow_port, server=server_port)
    raise typer.Exit(run_demo(ports, rate=rate, leave=leave))
