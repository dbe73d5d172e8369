"""One bundle made again from what its manifest says: `python -m pipelines.tasks.rebuilding` in a commit's own code.

`reproducing` runs it as a process, in the worktree of the commit that made a version, with a home of its own. The code
of any later commit talks to it, so what goes in and out is fixed: `Request` as JSON on standard input, one JSON line
`{"bundle": ID}` on standard output, everything else on standard error.
"""

import logging
import sys
from typing import Any

import msgspec

from contracts.bundle import Bundle
from pipelines.tasks import judging, optimising, retraining

FORMAT = 1


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What to make: the fields of a manifest that a training starts from. `parameters` has the seed, as there."""

    format: int = FORMAT
    project: str
    snapshot: str
    trainer: str
    optimization: str
    parameters: dict[str, Any]


def rebuild(request: Request) -> Bundle:
    """Trains, brings the graph into the recorded form, and writes the bundle; nothing is registered, no gate asked."""
    parameters = {name: value for name, value in request.parameters.items() if name != "seed"}
    trial = {
        "snapshot": request.snapshot,
        "trainer": request.trainer,
        "parameters": parameters,
        "seed": request.parameters["seed"],
    }
    trained = retraining.train(request.project, trial)
    return judging.build_bundle(
        request.project, optimising.optimise(request.project, trained, form=request.optimization)
    )


def main() -> None:
    """Entry point of the process."""
    logging.basicConfig(level="WARNING", format="%(message)s", stream=sys.stderr)
    logging.getLogger("paceline").setLevel(logging.INFO)
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=Request)
    if request.format != FORMAT:
        raise ValueError(f"the request has the format {request.format}, this commit knows {FORMAT}")
    sys.stdout.write(msgspec.json.encode({"bundle": rebuild(request).id}).decode() + "\n")


if __name__ == "__main__":
    main()
