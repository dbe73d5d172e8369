"""The commands that run beside the servers, under any supervisor: what Prometheus scrapes of the pipelines."""

import asyncio
import signal
import threading
from typing import Annotated, Any

import typer

from pipelines.cli.console import Json, ProjectName, err, show, this_user, until_signal

app = typer.Typer()
METRICS_PORT = 9109


@app.command()
def metrics(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = METRICS_PORT,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    as_json: Json = False,
) -> None:
    """Serve the pipelines' metrics of all projects to Prometheus at /metrics, from the ledger; until a signal."""
    from prometheus_client import start_http_server

    from pipelines.views.exporting import metrics_registry

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    server, thread = start_http_server(port, addr=host, registry=metrics_registry())
    url = f"http://{host}:{server.server_port}/metrics"
    show({"url": url}, as_json, lambda: f"the metrics of the pipelines are at {url}")
    typer.get_text_stream("stdout").flush()
    stop.wait()
    server.shutdown()
    thread.join()


@app.command("watch-scores")
def watch_scores(
    project: ProjectName,
    url: Annotated[
        list[str] | None, typer.Option("--url", help="A model server; repeatable. Default: the project's.")
    ] = None,
    accept: Annotated[
        str | None, typer.Option(metavar="REASON", help="Say that the scores are right as they are now, and end.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Watch the shares of the live scores, minute by minute, and raise an alarm when they leave what is usual at this
    hour; until a signal. `paceline metrics` shows what it sees.
    """
    from pipelines.tasks import watching_scores

    if accept is not None:
        show(watching_scores.accept_scores(project, accept, this_user()), as_json)
        return
    with err.status("waiting for the first look") as status:
        kept = asyncio.run(
            until_signal(
                lambda stop: watching_scores.watch_scores(
                    project, url or (), stop, lambda now: status.update(_scores_line(now))
                )
            )
        )
    show({"state": kept.watch.state, "looked_s": kept.watch.looked_s, "scores": kept.watch.scores}, as_json)


def _scores_line(kept: Any) -> str:
    watch = kept.watch
    said = watch.alarm.reason if watch.alarm else f"{watch.scores:,} scores in the last hour"
    return f"{watch.state}: {said}" + (f"; {kept.unreachable} servers do not answer" if kept.unreachable else "")


@app.command()
def observability(
    project: ProjectName,
    server_port: Annotated[int | None, typer.Option(help="The model server; default: the project's port.")] = None,
    airflow_port: Annotated[int, typer.Option(help="Airflow's API, whose webhook is called.")] = 8080,
    prometheus_port: Annotated[int, typer.Option(help="Prometheus' page.")] = 9090,
    alertmanager_port: Annotated[int, typer.Option(help="Alertmanager's page.")] = 9093,
    metrics_port: Annotated[int, typer.Option(help="The pipelines' metrics.")] = 9109,
    quicken: Annotated[float, typer.Option(min=1, help="Divide all windows and waits of the rules by this.")] = 1,
) -> None:
    """Start Prometheus and Alertmanager on loopback, with the rules of deploy/observability, until Ctrl-C."""
    import time

    from pipelines.demo import observability as beside
    from pipelines.demo.supervisor import BusyPortError, ProcessFailedError, Supervisor, check_ports
    from pipelines.wiring import find_project, home

    server = server_port or find_project(project).serving_port
    ports = beside.ObservabilityPorts(prometheus_port, alertmanager_port, metrics_port)
    try:
        check_ports({"prometheus": prometheus_port, "alertmanager": alertmanager_port, "metrics": metrics_port})
        started = list(beside.programs(project, server, airflow_port, ports, quicken))
        with Supervisor(home().logs) as supervisor:
            for program in started:
                supervisor.start(program)
            for program in started:
                supervisor.wait_ready(program.name)
            err.print(f"alerts are at http://127.0.0.1:{prometheus_port}/alerts, who is told at", highlight=False)
            err.print(f"http://127.0.0.1:{alertmanager_port}; Ctrl-C stops both", highlight=False)
            while True:
                supervisor.check()
                time.sleep(1)
    except (BusyPortError, ProcessFailedError, beside.MissingProgramError) as error:
        err.print(str(error), highlight=False, markup=False)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        return
