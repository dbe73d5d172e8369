"""`python -m pipelines` is the command `paceline`."""

from pipelines.cli import main

main()
