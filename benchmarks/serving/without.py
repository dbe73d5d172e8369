"""The model server without a part of what it does beside answering, to see what that part costs.

    python benchmarks/serving/without.py log|metrics [arguments of `python -m serving`]

The server has no setting for either: what an answer was must be known afterwards. What the judge counts in the slots
stays, since a rollout needs it.
"""

import sys

from serving.__main__ import main
from serving.metrics import Metrics, Totals
from serving.prediction_writer import PredictionWriter


def _nothing(*_: object) -> None:
    """Does nothing."""


def _without_log() -> None:
    PredictionWriter.append = _nothing  # type: ignore[method-assign]


def _without_metrics() -> None:
    Totals.answered = Totals.answered_together = _nothing  # type: ignore[method-assign]
    Metrics.responded = _nothing  # type: ignore[method-assign]


if __name__ == "__main__":
    {"log": _without_log, "metrics": _without_metrics}[sys.argv.pop(1)]()
    sys.exit(main())
