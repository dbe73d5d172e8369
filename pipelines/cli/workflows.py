"""The commands that do what the DAGs do: ingests, rollouts, monitoring, and the demo."""

import asyncio
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.cli.console import AsOf, Json, ProjectName, checked_date, err, show, show_lines, this_user, until_signal

app = typer.Typer()


class Act(StrEnum):
    """What `paceline demo --with` shows beside the main job."""

    ALERT = "alert"


class GraphForm(StrEnum):
    """What `paceline lineage --graph` prints."""

    MERMAID = "mermaid"
    DOT = "dot"


def _today(as_of: str) -> str:
    """Days are UTC's, whatever the clock on the wall says."""
    return as_of or datetime.now(UTC).date().isoformat()


@app.command()
def ingest(project: ProjectName, as_json: Json = False) -> None:
    """Load the project's source into the warehouse."""
    from pipelines.tasks import ingesting

    show(ingesting.ingest(project), as_json)


@app.command()
def release(
    project: ProjectName,
    version: Annotated[str | None, typer.Option(help="The version to offer; default: the challenger.")] = None,
    note: Annotated[str | None, typer.Option(help="Needed for a version that was rolled back before.")] = None,
    by: Annotated[str | None, typer.Option(help="Who offers it. Default: the user of this machine.")] = None,
    platform: Annotated[
        str | None, typer.Option(help="local, kubernetes, envoy or kserve; default: PACELINE_PLATFORM.")
    ] = None,
    versions: Annotated[
        str | None, typer.Option(help="Several at once, as 7,8,9: at most one of them leads in the end.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Roll a challenger out: shadow, steps, promotion, or back by itself. Exit code 2 unless it was promoted."""
    if version is not None and versions is not None:
        raise typer.BadParameter("give --version or --versions")
    from pipelines.tasks import releasing

    if platform is not None:
        os.environ["PACELINE_PLATFORM"] = platform
    wanted, who = version, by or this_user()
    while True:
        if versions is not None:
            opened = releasing.open_experiment(project, [each.strip() for each in versions.split(",")], note, who)
        else:
            opened = releasing.open_rollout(project, wanted, note, who)
        if opened.offer is None:
            err.print(f"nothing to roll out: {opened.reason}")
            raise typer.Exit(2)
        if opened.waits is not None:
            err.print(f"{opened.reason}; going on with {opened.offer['rollout']}")
        with err.status("waiting for the first look") as status:
            say = status.update
            outcome = asyncio.run(releasing.roll_out(project, opened.offer, lambda look: say(_look_line(look))))  # noqa: B023
        settled = releasing.settle(project, outcome)
        if opened.waits is None:
            break
        wanted = opened.waits
    show(settled | {"told": _told(project)}, as_json)
    if settled["state"] != "promoted":
        raise typer.Exit(2)


def _told(project: str) -> dict[str, list[str]]:
    """Who was told of what the command did, and who could not be."""
    from pipelines.tasks import sending

    told = sending.tell_people(project)
    if told["failed"]:
        err.print(f"not told: {', '.join(told['failed'])}; paceline tell {project} tries again", highlight=False)
    return told


@app.command()
def tell(project: ProjectName, as_json: Json = False) -> None:
    """Send what people are still to be told, by the connections of the environment. Exit code 2 where one fails."""
    told = _told(project)
    show(told, as_json)
    if told["failed"]:
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
    by: Annotated[str, typer.Option(help="Who wants it; default: the user.")] = "",
    as_json: Json = False,
) -> None:
    """Make a kept version the champion again, at once."""
    from pipelines.tasks import releasing

    put_back = releasing.roll_back(project, version, reason, by=by or this_user())
    show(put_back | {"told": _told(project)}, as_json)


@app.command()
def watch(
    project: ProjectName,
    as_of: AsOf = "",
    days: Annotated[int, typer.Option(min=1, max=90, help="How many days of predictions before it.")] = 7,
    as_json: Json = False,
) -> None:
    """What outcomes say of a holdout; quality and drift of the live predictions, and whether a retrain is due."""
    from pipelines.tasks import reviewing, skewing, watching

    judged = _judged(project, as_of)
    observed = watching.observe(project, _today(as_of), days)
    observed["holdout"] = judged
    observed["reviews"] = reviewing.collect(project, _today(as_of), days)
    observed["skew"] = skewing.compare(project, _today(as_of), days)
    observed["report"] = watching.report(project, observed)
    observed["due"] = watching.due_retrain(project, observed)
    observed["told"] = _told(project)
    show(observed, as_json)


@app.command()
def skew(
    project: ProjectName,
    as_of: AsOf = "",
    days: Annotated[int, typer.Option(min=1, max=90, help="How many days of events before it.")] = 7,
    day: Annotated[
        str,
        typer.Option(
            metavar="DATE",
            callback=checked_date,
            help="Only look at the events of this day; the ledger and the metrics keep what they have.",
        ),
    ] = "",
    as_json: Json = False,
) -> None:
    """Recompute the features that the servers logged: by training's encoder, byte for byte, and from the source.

    Of a sample of the requests (PACELINE_SERVING_FEATURES_SHARE). Exit code 2 when a row differs: docs/skew.md says
    what to do then.
    """
    from pipelines.tasks import skewing

    today = _today(as_of)
    compared = skewing.look(project, day, today) if day else skewing.compare(project, today, days)
    show_lines(compared, as_json, skewing.skew_text(compared))
    if skewing.differing(compared):
        raise typer.Exit(2)


def _judged(project: str, as_of: str) -> dict[str, Any]:
    """A server that does not answer leaves the rest of the watch to be seen; the next one carries the verdict out."""
    from pipelines.rollout.platforms.port import PlatformError
    from pipelines.tasks import holding

    try:
        return holding.judge(project, _today(as_of))
    except PlatformError as error:
        err.print(f"the holdout could not be ended: {error}", highlight=False)
        return {"state": "unfinished", "reason": str(error)}


@app.command()
def holdout(
    project: ProjectName,
    as_of: AsOf = "",
    end: Annotated[
        str | None, typer.Option(metavar="REASON", help="End it without a verdict; why, for the ledger.")
    ] = None,
    by: Annotated[str, typer.Option(help="Who ends it; default: the user.")] = "",
    as_json: Json = False,
) -> None:
    """Judge the new champion against the old one by outcomes that have matured. Exit code 2 when it is rolled back."""
    from pipelines.tasks import holding

    if end is not None:
        show(holding.end(project, end, by or this_user()), as_json)
        return
    judged = holding.judge(project, _today(as_of))
    show(judged, as_json)
    if judged["state"] == "rollback":
        raise typer.Exit(2)


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
        show({"project": project, "url": url, "docs": f"{url}/docs"}, as_json)
        sys.stdout.flush()
    os.environ.update(environment)
    os.execv(sys.executable, [sys.executable, "-m", "serving"])


@app.command()
def replay(
    project: ProjectName,
    start: Annotated[
        str, typer.Option("--from", metavar="DATE", help="The first day to replay.", callback=checked_date)
    ],
    until: Annotated[
        str, typer.Option("--until", metavar="DATE", help="The day after the last.", callback=checked_date)
    ],
    rate: Annotated[float, typer.Option(help="Requests a second.")] = 80.0,
    url: Annotated[str | None, typer.Option(help="The model server; default: the project's.")] = None,
    answers: Annotated[Path | None, typer.Option(help="Write one JSON line for each answer to this file.")] = None,
    instead: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=WORD", help="Say this in every request; repeatable.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Send the real events of a period to the model server, in time order; Ctrl-C ends it with its summary."""
    from pipelines.tasks import replaying

    broken = _instead(instead or [])
    with _progress_line() as progress:
        summary = asyncio.run(
            until_signal(
                lambda stop: replaying.replay(project, start, until, rate, url, answers, stop, progress, broken)
            )
        )
    show(summary, as_json)


def _instead(pairs: list[str]) -> dict[str, str]:
    split = [pair.partition("=") for pair in pairs]
    if wrong := [field for field, equals, _ in split if not field or not equals]:
        raise typer.BadParameter(f"--set: found {wrong[0]!r}, expected FIELD=WORD")
    return {field: word for field, _, word in split}


@contextmanager
def _progress_line() -> Iterator[Callable[[Any], None]]:
    with err.status("reading the events") as status:
        yield lambda p: status.update(f"{p.sent:,} sent, {p.failed} failed, by version {p.by_version}")


@app.command()
def status(project: ProjectName, as_json: Json = False) -> None:
    """Who leads, what was offered and how it went, and what the last watch saw."""
    from pipelines import views

    found = views.status(project)
    show(found, as_json, lambda: views.status_text(found))


@app.command()
def lineage(
    identifier: Annotated[
        str,
        typer.Argument(
            metavar="ID",
            help="PROJECT:VERSION, PROJECT:champion, or the id of a prediction, bundle or snapshot, or its beginning.",
        ),
    ],
    project: Annotated[str | None, typer.Option(help="Default: all projects are searched.")] = None,
    graph: Annotated[GraphForm | None, typer.Option(help="Print the graph as text that other tools draw.")] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page with a drawing.")] = None,
    as_json: Json = False,
) -> None:
    """Where something came from, back to each source file by its hash, and what came of it; gaps are named."""
    from pipelines import views

    found = views.trace(identifier, project)
    if html is not None:
        views.write_trace_page(found, html)
        err.print(f"the drawing is at {html}", highlight=False)
    if graph is not None and not as_json:
        show_lines(found, as_json, views.trace_graph(found, graph.value))
    elif as_json or html is None:
        show_lines(found, as_json, views.trace_text(found))


@app.command()
def demo(
    leave: Annotated[
        bool, typer.Option("--exit", help="Stop by itself at the end; non-zero unless all went well.")
    ] = False,
    airflow_port: Annotated[int, typer.Option(help="Airflow's UI and API.")] = 8080,
    mlflow_port: Annotated[int, typer.Option(help="The registry.")] = 5000,
    server_port: Annotated[int, typer.Option(help="The model server.")] = 8500,
    rate: Annotated[float, typer.Option(help="Replayed requests a second.")] = 80.0,
    more: Annotated[Act | None, typer.Option("--with", help="alert: a field breaks, and Prometheus tells.")] = None,
    prometheus_port: Annotated[int, typer.Option(help="Prometheus, with the act alert.")] = 9090,
    alertmanager_port: Annotated[int, typer.Option(help="Alertmanager, with the act alert.")] = 9093,
    metrics_port: Annotated[int, typer.Option(help="The pipelines' metrics, with the act alert.")] = 9109,
) -> None:
    """The main job on real flights, through Airflow: train, serve, replay the summer, retrain, roll out, roll back."""
    from pipelines.demo.observability import ObservabilityPorts
    from pipelines.demo.stack import Ports
    from pipelines.demo.story import run_demo

    ports = Ports(airflow=airflow_port, mlflow=mlflow_port, server=server_port)
    observed = ObservabilityPorts(prometheus_port, alertmanager_port, metrics_port)
    raise typer.Exit(run_demo(ports, rate=rate, leave=leave, alert=None if more is None else observed))


@app.command()
def controller(
    host: Annotated[str, typer.Option(help="Where its pages listen: /livez, /readyz, /metrics.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: a free one.")] = 8600,
    lease: Annotated[
        float, typer.Option(help="Seconds after which another replica leads, when this one is gone.")
    ] = 15.0,
    renew: Annotated[float, typer.Option(help="Seconds between renewals; below half of the lease.")] = 5.0,
) -> None:
    """On Kubernetes, beside the servers: ends shares whose lease is over, and runs what the ledger has open."""
    from pipelines.tasks import controlling

    opened = controlling.open_controller(lease_s=lease, renew_s=renew)

    def say(url: str) -> None:
        err.print(f"the controller listens on {url}", highlight=False)

    asyncio.run(until_signal(lambda stop: controlling.serve(opened, stop, host, port, say)))
