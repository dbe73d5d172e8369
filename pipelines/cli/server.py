"""The commands around a model server: its API keys, its prediction log, load on it."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.live import Live
from rich.text import Text

from pipelines.cli.console import Json, ProjectName, err, show, show_lines, until_signal

keys = typer.Typer(no_args_is_help=True, help="API keys of the model server: create, list, revoke.")
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
    show_lines(made, as_json, tasks.created_text(made))


@keys.command("list")
def list_keys(file: KeyFilePath, as_json: Json = False) -> None:
    """All keys, also expired and revoked ones."""
    from pipelines.tasks import keys as tasks

    found = tasks.list_keys(file)
    show_lines(found, as_json, tasks.listed_text(found))


@keys.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As `paceline keys list` shows it.")],
    file: KeyFilePath,
    as_json: Json = False,
) -> None:
    """End a key for ever; a running server refuses it within a second."""
    from pipelines.tasks import keys as tasks

    revoked = tasks.revoke(file, key_id)
    show_lines(revoked, as_json, f"{revoked['id']} of {revoked['client']} is revoked since {revoked['revoked']}")


log = typer.Typer(
    no_args_is_help=True, help="The prediction log: compact it, what it costs, and the deletion of one entity's rows."
)


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
    show_lines(done, as_json, compacting.compacted_text(done))


@log.command("cost")
def log_cost(
    project: ProjectName,
    rate: Annotated[float, typer.Option(help="Predictions a second.")] = 1000.0,
    keep_days: Annotated[
        int | None, typer.Option(help="Days that every row is kept; default: PACELINE_LOG_KEEP_DAYS, or 30.")
    ] = None,
    sample: Annotated[float, typer.Option(help="The share of the rows that is kept after that.")] = 0.01,
    months: Annotated[int, typer.Option(min=1, max=1200, help="How far to look ahead.")] = 12,
    price: Annotated[
        float | None,
        typer.Option(
            envvar="PACELINE_PRICE_PER_GB_MONTH",
            help="Of a GB (10⁹ bytes) for a month, in the currency of your choice.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """What the log takes on disk, and costs, at a rate: bytes a row as measured in its files, then arithmetic."""
    from pipelines.tasks import compacting

    found = compacting.cost(project, rate=rate, keep_days=keep_days, sample=sample, months=months, price=price)
    show_lines(found, as_json, compacting.cost_text(found))


@log.command("forget")
def forget_entity(
    project: ProjectName,
    entity: Annotated[str, typer.Option(help="Whose rows: the entity in clear, or as the log has it.")],
    by: Annotated[str, typer.Option(help="Who asks for it.")],
    reason: Annotated[str, typer.Option(help="Why, for the ledger: a ticket, say. Not the entity.")],
    as_json: Json = False,
) -> None:
    """Delete what was logged, told and queued of one entity, while servers write. Exit code 2 while some is left.

    No reader sees a row of it from the first moment. What a server still writes goes with the next compaction.
    """
    from pipelines.tasks import forgetting

    done = forgetting.forget(project, entity, by=by, reason=reason)
    show_lines(done, as_json, forgetting.forgotten_text(done))
    if done["state"] != "done":
        raise typer.Exit(2)


bench = typer.Typer(
    no_args_is_help=True, help="What a model server can do and its clients would feel; what a retrain costs."
)


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
            until_signal(
                lambda stop: benching.bench_serve(
                    url, options, stop=stop, on_progress=lambda text: line.update(Text(text), refresh=True)
                )
            )
        )
    benching.write_reports(result, json_file=None if is_stdout else json_file, html_file=html_file)
    if is_stdout:
        show(benching.json_of(result), as_json=True)
    else:
        sys.stdout.write(benching.text_of(result) + "\n")
        sys.stdout.flush()
        for file in (json_file, html_file):
            if file is not None:
                err.print(f"written: {file}", highlight=False)
