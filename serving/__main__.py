"""`python -m serving`: one model server on one port, until SIGTERM or SIGINT."""

import logging
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from contracts.starting import end_when_told

if TYPE_CHECKING:
    from serving.settings import Settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the server; returns the exit status."""
    # what is imported below takes most of a start, in which a stop is to be heard
    from serving.command_line import environment_of
    from serving.settings import SettingsError, read_settings

    environment = environment_of(sys.argv[1:] if arguments is None else arguments, os.environ)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        settings = read_settings(environment)
        if settings.workers == 1:
            return _serve(settings)
        from serving.workers.supervisor import supervise  # one process has no use for it, and is up sooner without

        return supervise(settings)
    except SettingsError as error:
        print(error, file=sys.stderr)  # noqa: T201  the one line that a person at the command line needs
        return 2


def _serve(settings: "Settings") -> int:
    from serving.app import ModelServer
    from serving.process import Server, configuration, listen

    config = configuration(settings, ModelServer(settings))
    listener = listen(settings)
    server = Server(config)
    server.run(sockets=[listener])
    return 0 if server.started else 1


if __name__ == "__main__":
    end_when_told()
    sys.exit(main())
