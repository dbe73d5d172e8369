"""A stop that comes while a service starts, before its event loop hears signals: the model server, the controller.

Nothing was accepted yet, so there is nothing to finish: the process ends at once. Without this, a SIGTERM in the first
seconds is lost where the service is process 1 of a container (the kernel takes no default action there), and whoever
sent it waits for the whole grace period.
"""

import os
import signal
import sys

STOPS = (signal.SIGTERM, signal.SIGINT)


def end_when_told() -> None:
    """From here on a stop ends the process with status 0, until somebody else handles it; also one that is pending."""
    for number in STOPS:
        signal.signal(number, _end)
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)  # docker/serve and docker/run block them until here


def _end(number: int, frame: object) -> None:
    # no exception: an import swallows those that are raised in the callbacks of its locks
    os.write(2, f"{signal.Signals(number).name} before it was up: it ends\n".encode())
    os._exit(0)
