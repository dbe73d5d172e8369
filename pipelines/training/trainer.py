"""Training one trial: fit, calibrate, fit again on all rows, write the graph, and prove that the graph is the model.

The validation rows are split by time. A first fit on the train rows is stopped by the older half; the trial's metrics
are those of the newer half, calibrated by the older: so neither stopping nor calibration flatters a trial that is then
chosen by them. The final calibration is fitted on both halves, and grafted on a second fit of as many steps that has
seen the validation rows too: the newest rows are the most like those to come (on flights, walk-forward over 2013, the
AUC of the two weeks after rises from 0.712 to 0.717).
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from contracts.input_schema import InputSchema
from pipelines.statistics import classification
from pipelines.statistics.clustered_mean import cluster_sums, clustered_mean
from pipelines.training import boosted_trees, linear, neural_net
from pipelines.training.calibration import Calibration, fit_calibration
from pipelines.training.export import check_file, limits_of
from pipelines.training.graph import GraphWriter
from pipelines.training.parity import Parity, ParityError, check_parity
from pipelines.training.plan import TrainingPlan, TrialSpec, parse_parameters
from pipelines.training.rows import OnStep, Pruned, Rows, checked

__all__ = [
    "TRAINERS",
    "DailyLoss",
    "OnStep",
    "Parity",
    "ParityError",
    "Pruned",
    "Trained",
    "Trainer",
    "TrainingPlan",
    "TrialSpec",
    "train",
]

Progress = Callable[[str], None]
Labelled = tuple[NDArray[np.float32], NDArray[Any]]  # features and labels


class Fitted(Protocol):
    """A fitted model, before calibration. `curve` is its loss by step, empty where nothing stopped it."""

    curve: list[dict[str, float]]

    @property
    def steps(self) -> int:
        """How many trees or epochs are in it."""
        ...

    def log_odds(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """The log odds of label 1, shape (rows,), by the framework that fitted it."""
        ...

    def write(self) -> tuple[GraphWriter, str]:
        """A graph that ends in the log odds (rows × 1), and the name of that tensor."""
        ...


class Trainer(Protocol):
    """Fits on `rows`, until the loss on other rows is least or for a number of steps; repeatable to the byte.

    `parameters` is the Struct of `pipelines.training.plan` that belongs to this trainer. `on_step` is called now and
    then while it fits until the loss on other rows is least; what it raises ends the fit.
    """

    def __call__(
        self,
        parameters: Any,
        seed: int,
        schema: InputSchema,
        rows: Rows,
        until: Rows | int,
        progress: Progress,
        on_step: OnStep | None,
    ) -> Fitted: ...


TRAINERS: Mapping[str, Trainer] = {
    "boosted_trees": boosted_trees.fit,
    "neural_net": neural_net.fit,
    "logistic_regression": linear.fit,
}


class DailyLoss(msgspec.Struct, frozen=True, kw_only=True):
    """The sum of the log loss over the rows of one day (since 1970): trials are compared in pairs by them."""

    day: int
    rows: int
    log_loss: float


class Trained(msgspec.Struct, frozen=True, kw_only=True):
    """One finished trial. `parameters` are complete; `seconds` is for people and never part of what is hashed."""

    trainer: str
    parameters: dict[str, Any]
    graph: bytes
    calibration: Calibration
    metrics: dict[str, float]
    daily: list[DailyLoss]
    steps: int
    curve: list[dict[str, float]]
    parity: Parity
    seconds: float


def train(
    spec: TrialSpec,
    seed: int,
    schema: InputSchema,
    train: Labelled,
    validation: Labelled,
    progress: Progress,
    on_step: OnStep | None = None,
    days: NDArray[np.int64] | None = None,
) -> Trained:
    """Trains one trial on one thread; rows of `train` and `validation` are encoded by `schema`, in time order.

    The same arguments give the same bytes of the graph, on the same kind of processor with the same libraries.
    `on_step` hears of the first fit's steps (trees or epochs) with the log loss of the rows to stop by. `days` has the
    day of each validation row, since 1970: with them the metric `log_loss_se` is the standard error of the log loss,
    days being drawn and not rows, unless all are of one day.

    Raises:
        ValueError: unfit rows (the message names the part), or unknown parameters.
        ParityError: the graph's scores differ from the model's by more than 1e-4, on real rows or on edge rows.
        ExportError: the serving runtime would not load the graph.
        Pruned: `on_step` gave the trial up.
    """
    import onnxruntime
    import sklearn.ensemble  # noqa: F401 (limits reach only libraries that are loaded; two threads cost time and sameness)
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    started = time.monotonic()
    parameters, width = parse_parameters(spec), len(schema.columns)
    rows = checked(*train, width, "train")
    older, newer = Rows(*validation).halves()
    if days is not None and days.shape != validation[1].shape:
        raise ValueError(f"validation: found {len(days)} days for {len(validation[1])} labels, expected one a row")
    older, newer = checked(*older, width, "validation, older half"), checked(*newer, width, "validation, newer half")
    with threadpool_limits(limits=1):
        fit = TRAINERS[spec.trainer]
        first = fit(parameters, seed, schema, rows, older, progress, on_step)
        older_odds, newer_odds = first.log_odds(older.features), first.log_odds(newer.features)
        newer_scores = fit_calibration(older_odds, older.labels).scores(newer_odds)
        daily = [] if days is None else _daily(newer.labels, newer_scores, days[-len(newer.labels) :])
        calibration = fit_calibration(
            np.concatenate([older_odds, newer_odds]), np.concatenate([older.labels, newer.labels])
        )
        final = fit(
            parameters, seed, schema, rows.followed_by(older).followed_by(newer), first.steps, progress, on_step
        )
        graph = GraphWriter.finish(*final.write(), calibration)
        check_file(graph, width, limits_of(onnxruntime.__version__))
        real = {"train": rows.features, "validation": np.concatenate([older.features, newer.features])}
        parity = check_parity(lambda some: calibration.scores(final.log_odds(some)), graph, real, schema)
    found = _metrics(newer.labels, newer_scores, daily)
    progress(
        f"{spec.trainer}: log loss {found['log_loss']:.4f}, AUC {found['auc']:.4f} on {len(newer.labels):,} newer "
        f"rows; the graph {parity}"
    )
    return Trained(
        trainer=spec.trainer,
        parameters=msgspec.to_builtins(parameters),
        graph=graph,
        calibration=calibration,
        metrics=found,
        daily=daily,
        steps=final.steps,
        curve=first.curve,
        parity=parity,
        seconds=time.monotonic() - started,
    )


def _daily(labels: NDArray[np.float64], scores: NDArray[np.float64], days: NDArray[np.int64]) -> list[DailyLoss]:
    found = cluster_sums(classification.log_losses(labels, scores), days)
    return [
        DailyLoss(day=day, rows=rows, log_loss=loss)
        for day, rows, loss in zip(*(values.tolist() for values in found), strict=True)
    ]


def _standard_error(daily: list[DailyLoss]) -> float | None:
    if not daily:
        return None
    return clustered_mean(np.array([day.log_loss for day in daily]), np.array([day.rows for day in daily]))[1]


def _metrics(labels: NDArray[np.float64], scores: NDArray[np.float64], daily: list[DailyLoss]) -> dict[str, float]:
    found = {
        "log_loss": classification.log_loss(labels, scores),
        "log_loss_se": _standard_error(daily),
        "auc": classification.auc(labels, scores),
        "brier": classification.brier(labels, scores),
        "calibration_error": classification.calibration_error(labels, scores),
        "average_precision": classification.average_precision(labels, scores),
    }
    return {name: value for name, value in found.items() if value is not None}
