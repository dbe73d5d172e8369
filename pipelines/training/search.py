"""The search: which trial has which parameters, and what is known of it, on disk and shared by many processes.

Optuna samples and prunes. Each trainer has a study of its own, since neither parameters nor steps of one say anything
of another's; all lie in one journal file, which is safe for several processes. A trial's *slot* is its number in the
search. What ended in a slot is kept with it: a search that is started again takes what has finished, tries again with
the same parameters what ended without a result, and goes on with what is left of the minutes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from pipelines.training.plan import PARAMETERS, TrainingPlan, TrialSpec, is_whole, parse_parameters
from pipelines.training.rows import Pruned
from pipelines.training.space import Dimension, Search

if TYPE_CHECKING:
    import optuna

UNHEEDED_REPORTS = 3  # the first steps rank learning rates, not models: nothing is pruned by them
STARTUP_TRIALS = 5  # of each trainer, before which parameters are drawn at random and nothing is pruned


class Slot(msgspec.Struct, frozen=True, kw_only=True):
    """A place in the search. `parameters` are the plan's own, or None where the sampler chooses."""

    number: int
    trainer: str
    parameters: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        return f"{self.trainer} {self.number}"


def slots(plan: TrainingPlan, trainers: list[str] | None = None, trials: int | None = None) -> list[Slot]:
    """The plan's own trials, and then, where there is a search, those of its trainers in turn, `trials` in all.

    With `trainers`, only theirs.

    Raises:
        ValueError: nothing is left, or more trials than the plan's own without a search.
    """
    own = [trial for trial in plan.trials if not trainers or trial.trainer in trainers]
    searched = [] if plan.search is None else [name for name in plan.search.space if not trainers or name in trainers]
    if not own and not searched:
        raise ValueError(f"trainers: found {trainers}, expected some of {', '.join(plan.trainers)}")
    wanted = trials if trials is not None else plan.search.trials if plan.search and searched else len(own)
    if wanted > len(own) and not searched:
        raise ValueError(
            f"trials: found {wanted}, but training.search is not set and the plan has {len(own)} of its own"
        )
    planned = [
        Slot(number=number, trainer=trial.trainer, parameters=trial.parameters) for number, trial in enumerate(own)
    ]
    more = [
        Slot(number=number, trainer=searched[(number - len(own)) % len(searched)]) for number in range(len(own), wanted)
    ]
    return [*planned, *more][:wanted]


def examples(plan: TrainingPlan, planned: list[Slot]) -> list[TrialSpec]:
    """What can be checked before anything trains: the plan's own trials among the slots, and of the searched trainers
    one trial with the first value of each parameter."""
    own = [
        TrialSpec(trainer=slot.trainer, parameters=slot.parameters) for slot in planned if slot.parameters is not None
    ]
    space = {} if plan.search is None else plan.search.space
    searched = dict.fromkeys(slot.trainer for slot in planned if slot.parameters is None)
    return own + [
        TrialSpec(trainer=trainer, parameters={name: next(each.ends())[1] for name, each in space[trainer].items()})
        for trainer in searched
    ]


class Attempt:
    """A trial that has begun: its parameters, and where its steps are told."""

    def __init__(self, parameters: dict[str, Any], trial: optuna.Trial, prunes: bool) -> None:
        self.parameters = parameters
        self.prunes = prunes
        self._trial = trial
        self._reports = 0

    @property
    def number(self) -> int:
        """Its number in the trainer's study."""
        return self._trial.number

    def report(self, step: int, log_loss: float) -> None:
        """Tells a step. Raises `Pruned` when the trial lags too far behind those before it."""
        self._trial.report(log_loss, step)
        self._reports += 1
        if self._reports > UNHEEDED_REPORTS and self._trial.should_prune():
            raise Pruned(f"after step {step} its log loss, {log_loss:.4f}, was behind that of the trials before it")


class Studies:
    """What a search has tried so far. `file` is made with the first trial."""

    def __init__(self, file: Path, search: Search, seed: int) -> None:
        self._file, self._search, self._seed = file, search, seed

    def begin(self, slot: Slot, minutes: float, is_kept: Callable[[Any], bool]) -> Attempt | dict[str, Any] | None:
        """A new attempt at the slot, or what came of it before (finished or pruned), or None: the minutes are used up.

        An earlier attempt that never ended was killed: it is closed, and its parameters are taken again. A finished one
        is trained again unless `is_kept` of its outcome.
        """
        study = self._study(slot)
        outcome = study.user_attrs.get(f"outcome {slot.number}")
        if outcome is not None and outcome["state"] in ("finished", "pruned") and is_kept(outcome):
            self._close(study, slot, outcome)  # it was killed between the two writes of `end`
            return dict(outcome)
        self._close(study, slot, None)
        if self.minutes_used() >= minutes:
            return None
        earlier = _attempts(study, slot)
        repeated = earlier[-1].user_attrs.get("parameters") if earlier else None
        return self._attempt(slot, slot.parameters if repeated is None else repeated)

    def end(self, slot: Slot, outcome: dict[str, Any]) -> dict[str, Any]:
        """Keeps what came of the slot's attempt with the seconds that it took, and returns it with its parameters."""
        study = self._study(slot)
        if outcome["parameters"] is None and (earlier := _attempts(study, slot)):
            outcome = {**outcome, "parameters": earlier[-1].user_attrs.get("parameters")}
        spent = study.user_attrs.get(f"seconds {slot.number}", 0.0)
        study.set_user_attr(f"seconds {slot.number}", spent + outcome["seconds"])
        study.set_user_attr(f"outcome {slot.number}", outcome)
        self._close(study, slot, outcome)
        return outcome

    def minutes_used(self) -> float:
        """The minutes of training in all trials that have ended; of those that were killed, nothing is known."""
        import optuna

        storage = self._storage()
        attributes = [
            optuna.load_study(study_name=name, storage=storage).user_attrs
            for name in optuna.get_all_study_names(storage)
        ]
        seconds = [float(value) for each in attributes for key, value in each.items() if key.startswith("seconds ")]
        return sum(seconds) / 60

    def importances(self, at_least: int = 8) -> dict[str, dict[str, float]]:
        """For each trainer with enough finished trials, how much of the log loss's variance each parameter explains.

        By functional analysis of variance (Hutter, Hoos and Leyton-Brown, 2014) of a random forest.
        """
        from optuna.importance import FanovaImportanceEvaluator, get_param_importances

        found = {}
        for trainer in self._search.space:
            study = self._study(Slot(number=0, trainer=trainer))
            values = [trial.value for trial in study.get_trials(deepcopy=False) if trial.value is not None]
            if len(values) >= at_least and min(values) < max(values):
                found[trainer] = get_param_importances(
                    study, evaluator=FanovaImportanceEvaluator(n_trees=32, seed=self._seed)
                )
        return found

    def _attempt(self, slot: Slot, fixed: dict[str, Any] | None) -> Attempt:
        dimensions = self._search.space.get(slot.trainer, {})
        spaces = {name: _distribution(slot.trainer, name, dimension) for name, dimension in dimensions.items()}
        values: dict[str, Any] = {}
        if fixed is not None:
            complete = fixed
            if slot.trainer in PARAMETERS:  # a project's own trainer knows its defaults itself
                complete = msgspec.to_builtins(parse_parameters(TrialSpec(trainer=slot.trainer, parameters=fixed)))
            values = {name: _internal(dimensions[name], complete[name]) for name in spaces if name in complete}
            spaces = {name: spaces[name] for name, value in values.items() if _contains(dimensions[name], value)}
        with _quiet():
            trial = self._study(slot, {name: values[name] for name in spaces} if fixed is not None else None).ask(
                spaces
            )
        trial.set_user_attr("slot", slot.number)
        parameters = (
            fixed
            if fixed is not None
            else {name: _external(dimensions[name], trial.params[name]) for name in dimensions}
        )
        trial.set_user_attr("parameters", parameters)
        return Attempt(parameters, trial, prunes=self._search.pruner != "none")

    def _close(self, study: optuna.Study, slot: Slot, outcome: dict[str, Any] | None) -> None:
        """Ends the slot's open attempt, if there is one: as `outcome` says, or as failed without one."""
        from optuna.trial import TrialState

        ended = "failed" if outcome is None else outcome["state"]
        state = {"finished": TrialState.COMPLETE, "pruned": TrialState.PRUNED}.get(ended, TrialState.FAIL)
        value = outcome["metrics"]["log_loss"] if outcome is not None and state is TrialState.COMPLETE else None
        for trial in _attempts(study, slot):
            if trial.state is TrialState.RUNNING:
                study.tell(trial.number, value, state=state, skip_if_finished=True)

    def _storage(self) -> optuna.storages.JournalStorage:
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        self._file.parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(str(self._file)))

    def _study(self, slot: Slot, fixed: dict[str, Any] | None = None) -> optuna.Study:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        seed = int(np.random.SeedSequence([self._seed, slot.number]).generate_state(1)[0])
        sampler: optuna.samplers.BaseSampler
        if self._search.sampler == "random":
            sampler = optuna.samplers.RandomSampler(seed=seed)
        else:
            sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS)
        with _quiet():
            if fixed:
                sampler = optuna.samplers.PartialFixedSampler(fixed, sampler)
            return optuna.create_study(
                storage=self._storage(),
                study_name=slot.trainer,
                sampler=sampler,
                pruner=self._pruner(),
                direction="minimize",
                load_if_exists=True,
            )

    def _pruner(self) -> optuna.pruners.BasePruner:
        import optuna

        if self._search.pruner == "median":
            return optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS)
        return optuna.pruners.HyperbandPruner() if self._search.pruner == "hyperband" else optuna.pruners.NopPruner()


@contextmanager
def _quiet() -> Iterator[None]:
    """Fixing parameters of a trial is a part of Optuna that is marked experimental; the lock pins its version."""
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def _attempts(study: optuna.Study, slot: Slot) -> list[optuna.trial.FrozenTrial]:
    return [trial for trial in study.get_trials(deepcopy=False) if trial.user_attrs.get("slot") == slot.number]


def _distribution(trainer: str, name: str, dimension: Dimension) -> optuna.distributions.BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if dimension.choices:
        return CategoricalDistribution([_internal(dimension, choice) for choice in dimension.choices])
    low, high = dimension.low or 0, dimension.high or 0
    if is_whole(trainer, name, dimension):
        return IntDistribution(int(low), int(high), log=dimension.log, step=int(dimension.step or 1))
    return FloatDistribution(float(low), float(high), log=dimension.log, step=dimension.step)


def _contains(dimension: Dimension, value: Any) -> bool:
    """Whether the search could have chosen `value`: only then does the sampler learn from it."""
    if dimension.choices:
        return value in [_internal(dimension, choice) for choice in dimension.choices]
    low, high = dimension.low or 0, dimension.high or 0
    steps = 0.0 if dimension.step is None else (value - low) / dimension.step
    return bool(low <= value <= high and abs(steps - round(steps)) < 1e-9)


def _internal(dimension: Dimension, value: Any) -> Any:
    """As the study keeps it: choices may be lists, which Optuna does not take, so they are written as JSON."""
    return msgspec.json.encode(value).decode() if dimension.choices else value


def _external(dimension: Dimension, value: Any) -> Any:
    return msgspec.json.decode(value) if dimension.choices else value
