"""`python -m pipelines` is the command `paceline`; of a service a stop is heard while it starts, too."""

import sys

from contracts.starting import end_when_told

SERVICES = ("controller", "metrics")


def main() -> None:
    """Runs the command line."""
    if sys.argv[1:2] and sys.argv[1] in SERVICES:
        end_when_told()
    # what is imported here takes seconds
    from pipelines.cli import main as run

    run()


if __name__ == "__main__":
    main()
