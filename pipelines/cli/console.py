"""What the commands share: their usual arguments, and how a result is shown."""

import asyncio
import getpass
import json
import os
import signal
import sys
from collections.abc import Callable
from datetime import date
from typing import Annotated, Any

import typer
from rich.console import Console


def checked_date(found: str) -> str:
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
    typer.Option("--as-of", metavar="DATE", help="The date that the run pretends is today.", callback=checked_date),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON on standard output, and nothing else there.")
]
out, err = Console(), Console(stderr=True)


def this_user() -> str:
    """The name of whoever runs the command; its number in a container that has no name for it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"


def show(result: Any, as_json: bool, text: Callable[[], Any] | None = None) -> None:
    if as_json:
        sys.stdout.write(json.dumps(result, indent=2, default=str) + "\n")
    elif text is None:
        out.print_json(data=result, default=str)
    else:
        out.print(text())


def show_lines(result: Any, as_json: bool, text: str) -> None:
    if as_json:
        show(result, as_json)
    else:
        sys.stdout.write(text + "\n")  # as it is: a key that the terminal's width breaks in two cannot be copied


async def until_signal(work: Callable[[asyncio.Event], Any]) -> Any:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    return await work(stop)
