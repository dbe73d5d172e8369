"""The slice of a project's configuration that training owns: which trials to run, with which parameters."""

import difflib
import re
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from pipelines.training.space import Dimension, Search

AnyStruct = TypeVar("AnyStruct", bound=msgspec.Struct)
_SHA256 = re.compile("[0-9a-f]{64}")
_PYTHON_FILE = re.compile(r"\w+\.py")


def _within(parameters: msgspec.Struct, key: str, low: float, high: float) -> None:
    found = getattr(parameters, key)
    if not low <= found <= high:
        raise ValueError(f"{key}: found {found}, expected from {low:g} to {high:g}")


class BoostedTrees(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Parameters of the trainer `boosted_trees`: gradient boosting on histograms, stopped early.

    A tree has at most `leaves` leaves of at least `minimum_leaf_rows` rows; each split sees
    `column_share` of the columns.
    """

    trees: int = 300
    learning_rate: float = 0.06
    leaves: int = 31
    minimum_leaf_rows: int = 200
    l2: float = 5.0
    column_share: float = 0.3
    patience: int = 15

    def __post_init__(self) -> None:
        _within(self, "trees", 1, 5000)
        _within(self, "learning_rate", 1e-4, 1)
        _within(self, "leaves", 2, 1024)
        _within(self, "minimum_leaf_rows", 1, 1_000_000)
        _within(self, "l2", 0, 1e6)
        _within(self, "column_share", 0.01, 1)
        _within(self, "patience", 1, 1000)


class NeuralNet(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Parameters of the trainer `neural_net`: embeddings of vocabularies beside scaled numbers, then hidden layers.

    `unseen_share` of the codes are hidden from the net in training, so that it learns what to say of unseen words.
    `device` auto trains on a GPU in mixed precision where there is one; on cpu the same input gives the same bytes.
    """

    hidden: tuple[int, ...] = (128, 64)
    embedding_width: int = 8
    learning_rate: float = 0.001
    weight_decay: float = 0.01
    dropout: float = 0.1
    unseen_share: float = 0.02
    batch_rows: int = 1024
    epochs: int = 12
    patience: int = 3
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self) -> None:
        if not 1 <= len(self.hidden) <= 8 or not all(1 <= width <= 4096 for width in self.hidden):
            raise ValueError(f"hidden: found {self.hidden}, expected 1 to 8 layers of 1 to 4096 units")
        _within(self, "embedding_width", 1, 256)
        _within(self, "learning_rate", 1e-6, 1)
        _within(self, "weight_decay", 0, 10)
        _within(self, "dropout", 0, 0.9)
        _within(self, "unseen_share", 0, 0.5)
        _within(self, "batch_rows", 2, 1_000_000)
        _within(self, "epochs", 1, 1000)
        _within(self, "patience", 1, 1000)


class LogisticRegression(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Parameters of the trainer `logistic_regression`. A smaller `c` draws the weights more towards 0 (L2).

    `balanced` gives both classes the same weight while fitting; the scores stay probabilities.
    """

    c: float = 1.0
    balanced: bool = False
    maximum_iterations: int = 1000

    def __post_init__(self) -> None:
        _within(self, "c", 1e-6, 1e6)
        _within(self, "maximum_iterations", 1, 100_000)


class Imported(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Parameters of the trainer `imported`: an ONNX model made elsewhere, which is calibrated and not trained again.

    `path` is its file, below the project's folder, and `sha256` the hash of that file: it is what the bundle records.
    `columns` are its inputs by the names of the encoded columns, in its order. `input` and `output` name its tensors,
    and may be left out where it has only one; `column` is the column of the output that belongs to label 1. `gives`
    says whether that is a probability or log odds.
    """

    path: str
    sha256: str
    columns: tuple[str, ...]
    input: str | None = None
    output: str | None = None
    column: int | None = None
    gives: Literal["probability", "log_odds"] = "probability"

    def __post_init__(self) -> None:
        parts = PurePosixPath(self.path).parts
        if not parts or ".." in parts or PurePosixPath(self.path).is_absolute():
            raise ValueError(f"path: found {self.path!r}, expected a file below the project's folder")
        if not _SHA256.fullmatch(self.sha256):
            raise ValueError(f"sha256: found {self.sha256!r}, expected 64 hexadecimal digits (sha256sum {self.path})")
        if not self.columns:
            raise ValueError("columns: found none, expected the model's inputs by the names of encoded columns")
        if self.column is not None:
            _within(self, "column", 0, 1_000_000)


Parameters = BoostedTrees | NeuralNet | LogisticRegression | Imported
PARAMETERS: dict[str, type[Parameters]] = {
    "boosted_trees": BoostedTrees,
    "neural_net": NeuralNet,
    "logistic_regression": LogisticRegression,
    "imported": Imported,
}
OWN, OWN_FILE = "own", "trainer.py"


def is_own(trainer: str) -> bool:
    """Whether a trainer is the project's own: `own` (its `trainer.py`), or the name of another Python file."""
    return trainer == OWN or _PYTHON_FILE.fullmatch(trainer) is not None


def file_of(trainer: str) -> str:
    """The file that the trainer's name in project.yaml means: `own` is `trainer.py`, others name theirs."""
    return OWN_FILE if trainer == OWN else trainer


class TrialSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One trial: a trainer by its name, and its parameters (those not given keep the trainer's defaults).

    The parameters of a project's own trainer are checked when its file is loaded, before anything trains.

    Raises:
        ValueError: no such trainer, no such parameter, or a value out of its bounds.
    """

    trainer: str
    parameters: dict[str, Any] = {}

    def __post_init__(self) -> None:
        if self.trainer in PARAMETERS:
            parse_parameters(self)
        elif not is_own(self.trainer):
            raise ValueError(
                f"trainer: found {self.trainer!r}, expected one of {', '.join(PARAMETERS)}, or {OWN} "
                "(or a Python file's name) for one in the project's folder"
            )


def parse_parameters(spec: TrialSpec) -> Parameters:
    """The complete parameters of a trial, defaults filled in.

    Raises:
        ValueError: no such parameter (the message lists those there are), or a value of another type or out of bounds.
    """
    return parse_with(spec, PARAMETERS[spec.trainer])


def parse_with(spec: TrialSpec, wanted: type[AnyStruct]) -> AnyStruct:
    """The complete parameters of a trial, by the Struct of its trainer.

    Raises:
        ValueError: no such parameter (the message lists those there are), or a value of another type or out of bounds.
    """
    known = wanted.__struct_fields__
    for name in spec.parameters:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            expected = f"some of {', '.join(known)}" if known else "none"
            raise ValueError(f"parameters of {spec.trainer}: no {name!r}, expected {expected}{hint}")
    try:
        return msgspec.convert(spec.parameters, wanted)
    except msgspec.ValidationError as error:
        raise ValueError(f"parameters of {spec.trainer}: {error}") from error


class EmergencySearch(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What an urgent retrain tries: less of the plan, so that it is ready sooner. It has no gates of its own.

    Only trials of `trainers` (all of them by default), at most `trials` in all and `minutes` of training.
    """

    trainers: tuple[str, ...] = ()
    trials: Annotated[int, msgspec.Meta(ge=1, le=1000)] | None = None
    minutes: Annotated[float, msgspec.Meta(gt=0, le=10_000)] | None = None


class TrainingPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The trials of a retrain, and the seed that all their randomness comes from.

    With `search`, more trials follow whose parameters are searched for. A trial that takes longer than `trial_minutes`
    is ended, and the others go on. `emergency` is what an urgent retrain makes of the plan.

    Raises:
        ValueError: no trials, two equal ones, a seed outside 0 … 2³² - 1, a search that the trainers do not allow, or
            an emergency that tries more than the plan.
    """

    seed: int = 0
    trials: tuple[TrialSpec, ...] = (TrialSpec(trainer="boosted_trees"), TrialSpec(trainer="neural_net"))
    trial_minutes: Annotated[float, msgspec.Meta(gt=0, le=1440)] = 120
    search: Search | None = None
    emergency: EmergencySearch = EmergencySearch()

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 1 << 32:
            raise ValueError(f"seed: found {self.seed}, expected a whole number from 0 to {(1 << 32) - 1}")
        if not self.trials and self.search is None:
            raise ValueError("trials: found none, expected at least one trial, or a search")
        if any(trial in self.trials[:position] for position, trial in enumerate(self.trials)):
            raise ValueError("trials: two are the same; each must differ in its trainer or its parameters")
        _check_emergency(self)
        if self.search is None:
            return
        if self.search.trials < len(self.trials):
            raise ValueError(
                f"search.trials: found {self.search.trials}, expected at least the plan's own {len(self.trials)}"
            )
        for trainer, dimensions in self.search.space.items():
            for name, dimension in dimensions.items():
                _check_dimension(trainer, name, dimension)

    @property
    def trainers(self) -> tuple[str, ...]:
        """The names of all trainers that a retrain may use, sorted."""
        searched = () if self.search is None else self.search.space
        return tuple(sorted({trial.trainer for trial in self.trials} | set(searched)))


def _check_emergency(plan: TrainingPlan) -> None:
    emergency, search = plan.emergency, plan.search
    if unknown := set(emergency.trainers) - set(plan.trainers):
        raise ValueError(f"emergency.trainers: {', '.join(sorted(unknown))} is not among {', '.join(plan.trainers)}")
    trials = len(plan.trials) if search is None else search.trials
    if emergency.trials is not None and emergency.trials > trials:
        raise ValueError(f"emergency.trials: found {emergency.trials}, expected at most the plan's {trials}")
    if emergency.minutes is not None and (search is None or emergency.minutes > search.minutes):
        allowed = "no minutes without a search" if search is None else f"at most the search's {search.minutes:g}"
        raise ValueError(f"emergency.minutes: found {emergency.minutes:g}, expected {allowed}")


def is_whole(trainer: str, parameter: str, dimension: Dimension) -> bool | None:
    """Whether the parameter is a whole number or any; None where it is no number.

    Of a project's own trainer that is as the range is written.
    """
    if trainer not in PARAMETERS:
        return all(isinstance(value, int | None) for value in (dimension.low, dimension.high, dimension.step))
    kinds = {field.name: field.type for field in msgspec.inspect.type_info(PARAMETERS[trainer]).fields}  # type: ignore[attr-defined]
    if isinstance(kinds[parameter], msgspec.inspect.IntType):
        return True
    return False if isinstance(kinds[parameter], msgspec.inspect.FloatType) else None


def _check_dimension(trainer: str, name: str, dimension: Dimension) -> None:
    where = f"search.space.{trainer}.{name}"
    for key, value in dimension.ends():
        try:
            TrialSpec(trainer=trainer, parameters={name: value})
        except ValueError as error:
            raise ValueError(f"{where}.{key}: {error}") from error
    if not dimension.choices and (whole := is_whole(trainer, name, dimension)) is not False:
        if whole is None:
            raise ValueError(f"{where}: found a range, but the parameter is no number; expected choices")
        if not isinstance(dimension.step, int | None):
            raise ValueError(f"{where}.step: found {dimension.step:g}, expected a whole number")
