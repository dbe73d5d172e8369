"""The command that says how many model servers a peak needs."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.live import Live
from rich.text import Text

from pipelines.cli.console import Json, ProjectName, err, show_lines, until_signal

app = typer.Typer()


@app.command()
def capacity(
    project: ProjectName,
    peak: Annotated[float, typer.Option(help="The usual highest rate of a day, in requests a second.")],
    objective_ms: Annotated[
        float | None, typer.Option(help="What 99 % of the answers must keep. [20, or that of --measured]")
    ] = None,
    zones: Annotated[int, typer.Option(help="Over which replicas are spread; the loss of one is borne.")] = 3,
    trough: Annotated[
        float | None, typer.Option(help="The usual lowest rate of a day; default: replicas are never fewer.")
    ] = None,
    utilisation: Annotated[float, typer.Option(help="Of saturation, what the autoscaler aims at: 0.6 to 0.7.")] = 0.65,
    burst: Annotated[float, typer.Option(help="Times the peak that the autoscaler may go up to.")] = 3.0,
    measured: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What --save wrote, instead of a ramp on the live server.")
    ] = None,
    prices: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A price table; default: the repository's.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="The model server to load; default: the project's.")] = None,
    seconds: Annotated[float, typer.Option(help="Of each load of the ramp.")] = 5.0,
    first_rate: Annotated[float, typer.Option(help="Where the ramp begins, in requests a second.")] = 200.0,
    start_s: Annotated[
        float | None, typer.Option(help="Its start-up time; default: another one is started, and timed.")
    ] = None,
    records: Annotated[
        Path | None, typer.Option(help="One record a line, JSON; default: made from the live model's schema.")
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="PACELINE_API_KEY", help="With the scopes predict, metadata and metrics.")
    ] = None,
    save: Annotated[Path | None, typer.Option(metavar="FILE", help="Keep the measurement, for --measured.")] = None,
    html_file: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="A page with the ramp.")] = None,
    as_json: Json = False,
) -> None:
    """How many replicas a peak needs, their requests, limits, HPA targets and cost, from a ramp to the limit."""
    from pipelines.tasks import benching, sizing

    demand = sizing.Demand(peak_per_s=peak, zones=zones, trough_per_s=trough, utilisation=utilisation, burst=burst)
    table = sizing.read_prices(prices or sizing.PRICES)  # before the ramp: a wrong file is said at once
    if measured is not None:
        found = sizing.read_measured(measured)
        sizing.check_fits(found, project, objective_ms)
    else:
        objective = 20.0 if objective_ms is None else objective_ms
        with Live(console=err, auto_refresh=False, transient=True) as line, benching.event_loop() as runner:
            line.update(Text("starting another server, to time it"), refresh=True)
            started_s = sizing.measured_start(project) if start_s is None else start_s
            found = runner.run(
                until_signal(
                    lambda stop: sizing.measure_server(
                        project,
                        objective,
                        start_s=started_s,
                        url=url,
                        seconds=seconds,
                        first_rate=first_rate,
                        api_key=api_key,
                        records=records,
                        stop=stop,
                        say=lambda text: line.update(Text(text), refresh=True),
                    )
                )
            )
        if save is not None:
            sizing.save(found, save)
            err.print(f"written: {save}", highlight=False)
    sized = sizing.size(found, demand, table)
    if html_file is not None:
        sizing.write_page(found, demand, sized, html_file)
        err.print(f"written: {html_file}", highlight=False)
    show_lines(sizing.values_of(found, demand, sized), as_json, sizing.text_of(found, demand, sized))
    sys.stdout.flush()
