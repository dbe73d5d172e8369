"""Walk-forward: how good the models would have been, had the project been retrained all along its history.

At the start of each period a model is trained on all labels that were known then, and judged on the events of the
period, which it cannot have seen. Beside each stands the first model, never retrained: the difference is what
retraining is worth.
"""

from collections.abc import Callable, Sequence
from datetime import date, timedelta
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from contracts.encoder import Encoder
from contracts.input_schema import InputSchema
from pipelines.data.schema import DeclaredSchema, Label, fit_schema
from pipelines.data.windows import SplitRule, Window, choose_windows
from pipelines.inference import score
from pipelines.statistics.classification import auc, log_loss
from pipelines.training.plan import TrialSpec
from pipelines.training.trainer import train

MINIMUM_DAYS_TO_TRAIN = 28


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """How good a model was on the events of a period; `auc` is None when all of them ended alike."""

    auc: float | None
    log_loss: float


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One retrain: what it was trained on, and how good it and the first model were in the period after it."""

    start: date
    end: date
    train_rows: int
    rows: int
    label_share: float
    retrained: Quality
    first: Quality
    model_steps: int
    seconds: float


class WalkForward(msgspec.Struct, frozen=True, kw_only=True):
    """All periods, and the means over them, each period counting alike."""

    project: str
    trainer: str
    parameters: dict[str, Any]
    steps: tuple[Step, ...]

    @property
    def retrained(self) -> Quality:
        """The means of the retrained models."""
        return _means([step.retrained for step in self.steps])

    @property
    def first(self) -> Quality:
        """The means of the model that was never retrained."""
        return _means([step.first for step in self.steps])


class History(NamedTuple):
    """The labelled events in the order of time: an Arrow table, the day of each row, its label."""

    table: Any
    days: NDArray[np.datetime64]
    labels: NDArray[np.float64]

    def rows(self, window: Window) -> NDArray[np.int64]:
        """The positions of the rows of a window."""
        first, end = np.searchsorted(self.days, np.array([window.start, window.end], dtype="datetime64[D]"))
        return np.arange(first, end)


def periods(start: date, until: date, every_days: int) -> list[Window]:
    """The whole periods of `every_days` from `start` that end before or on `until`.

    >>> [str(period) for period in periods(date(2013, 3, 1), date(2013, 3, 31), 14)]
    ['2013-03-01 to 2013-03-14', '2013-03-15 to 2013-03-28']

    Raises:
        ValueError: not one period fits.
    """
    if every_days < 1:
        raise ValueError(f"every: found {every_days} days, expected at least 1")
    length = timedelta(days=every_days)
    count = (until - start).days // every_days
    if count < 1:
        raise ValueError(f"no period of {every_days} days fits between {start} and {until}: take a longer time")
    return [Window(start + number * length, start + (number + 1) * length) for number in range(count)]


def walk_forward(
    project: str,
    history: History,
    declared: DeclaredSchema,
    label: Label,
    spec: TrialSpec,
    seed: int,
    chosen: Sequence[Window],
    validation_days: int,
    on_step: Callable[[Step], None],
) -> WalkForward:
    """Trains at the start of each of the `chosen` periods, and scores the period.

    Labels are late here too: a model of a period sees the days before its start less the label's delay.

    Raises:
        NotEnoughHistoryError: fewer than 28 days are left to train on before the first period.
        ValueError: a period has no events.
    """
    first: tuple[bytes, InputSchema] | None = None
    steps = []
    earliest: date = history.days[0].astype(date)
    for period in chosen:
        rows = history.rows(period)
        if not len(rows):
            raise ValueError(f"{project} has no labelled events from {period}: end the replay before it")
        train_rows, validation_rows = _known(period.start, history, label, validation_days, earliest)
        schema = fit_schema(declared, history.table.take(train_rows))
        trained = train(
            spec,
            seed,
            schema,
            (_encoded(history, schema, train_rows), history.labels[train_rows]),
            (_encoded(history, schema, validation_rows), history.labels[validation_rows]),
            lambda _: None,
        )
        first = first or (trained.graph, schema)
        step = Step(
            start=period.start,
            end=period.end,
            train_rows=len(train_rows) + len(validation_rows),
            rows=len(rows),
            label_share=float(history.labels[rows].mean()),
            retrained=_quality(trained.graph, schema, history, rows),
            first=_quality(*first, history, rows),
            model_steps=trained.steps,
            seconds=trained.seconds,
        )
        on_step(step)
        steps.append(step)
    return WalkForward(project=project, trainer=spec.trainer, parameters=dict(spec.parameters), steps=tuple(steps))


def _known(
    start: date, history: History, label: Label, validation_days: int, earliest: date
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows to train on and to validate on, of those whose labels are known at the start of the day `start`."""
    rule = SplitRule(
        train_days=36_500, validation_days=validation_days, test_days=1, minimum_train_days=MINIMUM_DAYS_TO_TRAIN
    )
    # no day is held out here, since the period itself is the test: the rule's one test day is the first unknown one
    windows = choose_windows(start + timedelta(days=1), label, rule, earliest)
    return history.rows(windows.train), history.rows(windows.validation)


def _encoded(history: History, schema: InputSchema, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    names = [field.name for field in schema.fields]
    return Encoder(schema).encode_rows(history.table.select(names).take(rows).to_pylist())


def _quality(graph: bytes, schema: InputSchema, history: History, rows: NDArray[np.int64]) -> Quality:
    scores, labels = score(graph, _encoded(history, schema, rows)), history.labels[rows]
    return Quality(auc=auc(labels, scores), log_loss=log_loss(labels, scores))


def _means(found: Sequence[Quality]) -> Quality:
    ranked = [quality.auc for quality in found if quality.auc is not None]
    return Quality(
        auc=float(np.mean(ranked)) if ranked else None, log_loss=float(np.mean([quality.log_loss for quality in found]))
    )
