"""The commands that run beside the servers, under any supervisor: what Prometheus scrapes of the pipelines."""

import signal
import threading
from typing import Annotated

import typer

from pipelines.cli.console import Json, show

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
