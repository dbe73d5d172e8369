"""Training one trial: fit, calibrate, fit again on all rows, write the graph, and prove that the graph is the model.

The validation rows are split by time. A first fit on the train rows is stopped by the older half; the trial's metrics
are those of the newer half, calibrated by the older: so neither stopping nor calibration flatters a trial that is then
chosen by them. The final calibration is fitted on both halves, and grafted on a second fit of as many steps that has
seen the validation rows too: the newest rows are the most like those to come (on flights, walk-forward over 2013, the
AUC of the two weeks after rises from 0.712 to 0.717).
"""

import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from contracts.input_schema import InputSchema
from pipelines.statistics import classification
from pipelines.statistics.clustered_mean import cluster_sums, clustered_mean
from pipelines.training.calibration import Calibration, fit_calibration
from pipelines.training.checkpoints import inputs_id, kept_until_the_end
from pipelines.training.export import check_file, limits_of
from pipelines.training.graph import GraphWriter
from pipelines.training.parity import Parity, ParityError, check_parity
from pipelines.training.plan import TrainingPlan, TrialSpec
from pipelines.training.rows import OnStep, Pruned, Rows, checked
from pipelines.training.trainers import TRAINERS, Progress, Trainer, TrainerError, find_trainer, naming

__all__ = [
    "TRAINERS",
    "DailyLoss",
    "OnStep",
    "Parity",
    "ParityError",
    "Pruned",
    "Trained",
    "Trainer",
    "TrainerError",
    "TrainingPlan",
    "TrialSpec",
    "train",
]

Labelled = tuple[NDArray[np.float32], NDArray[Any]]  # features and labels


class DailyLoss(msgspec.Struct, frozen=True, kw_only=True):
    """The sum of the log loss over the rows of one day (since 1970): trials are compared in pairs by them."""

    day: int
    rows: int
    log_loss: float


class Trained(msgspec.Struct, frozen=True, kw_only=True):
    """One finished trial. `parameters` are complete; `device` and `seconds` are never part of what is hashed."""

    trainer: str
    parameters: dict[str, Any]
    graph: bytes
    calibration: Calibration
    metrics: dict[str, float]
    daily: list[DailyLoss]
    steps: int
    curve: list[dict[str, float]]
    parity: Parity
    device: str
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
    folder: Path | None = None,
    checkpoints: Path | None = None,
) -> Trained:
    """Trains one trial on one thread; rows of `train` and `validation` are encoded by `schema`, in time order.

    The same arguments give the same bytes of the graph, on the same kind of processor with the same libraries.
    `on_step` hears of the first fit's steps (trees or epochs) with the log loss of the rows to stop by. `days` has the
    day of each validation row, since 1970: with them the metric `log_loss_se` is the standard error of the log loss,
    days being drawn and not rows, unless all are of one day. `folder` is the project's, where `imported` finds its
    model and a project's own trainer is. Below the folder `checkpoints` a training that is interrupted leaves its
    state; the same call goes on from there, with the same result.

    Raises:
        ValueError: unfit rows (the message names the part), or unknown parameters.
        ParityError: the graph's scores differ from the model's by more than 1e-4, on real rows or on edge rows.
        ExportError: the serving runtime would not load the graph.
        TrainerError: the trainer itself failed; the message names it.
        Pruned: `on_step` gave the trial up.
    """
    import onnxruntime
    import sklearn.ensemble  # noqa: F401 (limits reach only libraries that are loaded; two threads cost time and sameness)
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    started = time.monotonic()
    found_trainer, width = find_trainer(spec, folder), len(schema.columns)
    parameters = found_trainer.parameters
    rows = checked(*train, width, "train")
    older, newer = Rows(*validation).halves()
    if days is not None and days.shape != validation[1].shape:
        raise ValueError(f"validation: found {len(days)} days for {len(validation[1])} labels, expected one a row")
    older, newer = checked(*older, width, "validation, older half"), checked(*newer, width, "validation, newer half")
    kept = checkpoints and checkpoints / inputs_id(spec.trainer, parameters, seed, schema, *train, *validation)
    fit = found_trainer.keeping(kept)
    with threadpool_limits(limits=1), kept_until_the_end(kept), naming(spec.trainer):
        first = fit(parameters, seed, schema, rows, older, progress, on_step)
        older_odds, newer_odds = first.log_odds(older.features), first.log_odds(newer.features)
        newer_scores = fit_calibration(older_odds, older.labels).scores(newer_odds)
        daily = [] if days is None else _daily(newer.labels, newer_scores, days[-len(newer.labels) :])
        calibration = fit_calibration(
            np.concatenate([older_odds, newer_odds]), np.concatenate([older.labels, newer.labels])
        )
        final = fit(parameters, seed, schema, rows.followed_by(older).followed_by(newer), first.steps, progress, None)
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
        device=getattr(final, "device", "cpu"),  # a trainer that knows of nothing else runs on the processor
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
