"""Plants each fault alone in a retrain of flight_delay, and notes which check stops it, and where."""

import os
import re
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import msgspec
import yaml

from benchmarks.gates.fault import Fault
from pipelines.wiring import REPOSITORY

PROJECT = "flight_delay"
CHAMPION_AS_OF, AS_OF = "2013-06-03", "2013-07-01"
PARTS = ("snapshot", "validation", "training", "optimisation", "evaluation")
_SHOWN_CHARACTERS = 160
_TRIAL_ERROR = re.compile(r"failed: (\w+): (.*)")


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a retrain: the part that stopped it, what it said, and the names of the gates that failed.

    `part` is None when the candidate passed everything: then the fault has escaped. `crashed` marks an error that no
    check raised: the retrain stopped, but nobody was told why.
    """

    name: str
    stage: str
    what: str
    part: str | None
    caught_by: tuple[str, ...] = ()
    reason: str = ""
    warnings: tuple[str, ...] = ()
    crashed: bool = False
    seconds: float = 0.0


class Matrix:
    """The installation that faults are planted in: a clean champion, from which each retrain starts anew."""

    def __init__(self, folder: Path, progress: Callable[[str], None]) -> None:
        self._folder, self._progress = folder, progress
        self._base = folder / "base"
        self._sound: frozenset[str] = frozenset()  # the forms of the graph that clean retrains have accepted
        self._write_projects(folder / "projects")
        shutil.copytree(
            REPOSITORY / "great_expectations",
            folder / "expectations",
            ignore=shutil.ignore_patterns("uncommitted"),
        )
        os.environ |= {
            "PACELINE_PROJECTS": str(folder / "projects"),
            "PACELINE_EXPECTATIONS": str(folder / "expectations"),
        }
        self._at(self._base)
        self._make_champion()

    def run(self, fault: Fault | None, trainer: str = "boosted_trees") -> Outcome:
        """One retrain with `fault` planted, or a clean one of `trainer`."""
        home = self._folder / "run"
        shutil.copytree(self._base, home, symlinks=True, ignore=shutil.ignore_patterns("cache", "warehouse"))
        (home / "warehouse").symlink_to(self._base / "warehouse")
        self._at(home)
        started = time.monotonic()
        try:
            with nullcontext() if fault is None else fault.plant():
                outcome, accepted = _retrained(fault, fault.trainer if fault else trainer, self._sound)
        finally:
            shutil.rmtree(home)
            self._at(self._base)
        if fault is None:
            self._sound |= accepted
        return msgspec.structs.replace(outcome, seconds=time.monotonic() - started)

    def _at(self, home: Path) -> None:
        os.environ["PACELINE_HOME"] = str(home)

    def _write_projects(self, folder: Path) -> None:
        project = folder / PROJECT
        project.mkdir(parents=True)
        (project / "source.py").write_text("from benchmarks.gates.source import events, ingest\n")
        settings: dict[str, Any] = yaml.safe_load((REPOSITORY / "projects" / PROJECT / "project.yaml").read_text())
        settings["split"] = {"train_days": 56, "validation_days": 14, "test_days": 14, "minimum_train_days": 28}
        settings["validation"] |= {"minimum_train_rows": 3000, "minimum_rows_per_day": 150}
        settings["gates"] |= {"minimum_test_rows": 2000}
        settings["training"] = {
            "seed": 1,
            "trials": [
                {"trainer": "boosted_trees", "parameters": {"trees": 120}},
                {"trainer": "neural_net", "parameters": {"epochs": 4}},
            ],
        }
        (project / "project.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))

    def _make_champion(self) -> None:
        from pipelines.tasks import ingesting
        from pipelines.wiring import open_ledger

        ingesting.ingest(PROJECT)
        self._progress(f"a clean champion, as of {CHAMPION_AS_OF}")
        evaluation = _evaluated(CHAMPION_AS_OF, "boosted_trees")
        if not evaluation["passed"]:
            raise RuntimeError(f"the clean champion is refused: {_failed(evaluation)}")
        open_ledger().swap_champion(PROJECT, None, "1", evaluation["bundle"], "benchmark", "the clean champion")


def _evaluated(as_of: str, trainer: str, reached: Callable[[str], None] = lambda part: None) -> dict[str, Any]:
    """One retrain of one trainer; `reached` hears of each part before it starts."""
    from pipelines.tasks import judging, optimising, retraining, searching

    reached("snapshot")
    snapshot = retraining.take_snapshot(PROJECT, retraining.choose_window(PROJECT, as_of))
    reached("validation")
    retraining.validate(PROJECT, snapshot)
    reached("training")
    planned = retraining.plan_trials(PROJECT, snapshot, [trainer])
    # here, and not in processes of their own as usual, where nothing would be planted
    best = searching.best_of(PROJECT, planned, [searching.run_trial(PROJECT, trial) for trial in planned])
    reached("optimisation")
    candidate = optimising.optimise(PROJECT, best)
    reached("evaluation")
    return judging.evaluate(PROJECT, candidate)


def _retrained(fault: Fault | None, trainer: str, sound: frozenset[str]) -> tuple[Outcome, frozenset[str]]:
    """What became of it, and the forms of the graph that were accepted. `sound` are those of a clean retrain."""
    named = ("no fault", "control", f"a clean retrain of {trainer}") if fault is None else fault[:3]
    part = PARTS[0]

    def reached(name: str) -> None:
        nonlocal part
        part = name

    base = Outcome(name=named[0], stage=named[1], what=named[2], part=None)
    try:
        evaluation = _evaluated(AS_OF, trainer, reached)
    except Exception as error:  # noqa: BLE001 (whatever stops a retrain is what is looked for)
        return msgspec.structs.replace(base, part=part, **_stopped(error), warnings=_warnings()), frozenset()
    judged = _forms(evaluation)
    accepted = frozenset(form["name"] for form in judged if form["accepted"])
    if fault is not None and fault.forms:
        return _of_forms(base, [form for form in judged if form["name"] in sound & set(fault.forms)]), accepted
    failed = tuple(gate["name"] for gate in evaluation["gates"] if not gate["passed"])
    outcome = msgspec.structs.replace(
        base,
        part="evaluation" if failed else None,
        caught_by=failed,
        reason=_short(_failed(evaluation)),
        warnings=_warnings(),
    )
    return outcome, accepted


def _forms(evaluation: dict[str, Any]) -> list[dict[str, Any]]:
    """What optimisation said of each form of the graph."""
    from pipelines.tasks import artifacts

    judged: list[dict[str, Any]] = artifacts.read_json(evaluation["candidate"]["optimization_evidence"])["candidates"]
    return judged


def _of_forms(base: Outcome, broken: Sequence[dict[str, Any]]) -> Outcome:
    """Whether optimisation refused each of the broken forms, which it accepts in a clean retrain."""
    if not broken:
        reason = "a clean retrain accepts none of these forms: nothing was tested"
        return msgspec.structs.replace(base, reason=reason)
    if accepted := [candidate for candidate in broken if candidate["accepted"]]:
        reason = "; ".join(f"{candidate['name']} is accepted: {candidate['reason']}" for candidate in accepted)
        return msgspec.structs.replace(base, reason=_short(reason))
    return msgspec.structs.replace(
        base, part="optimisation", caught_by=("non-inferiority of forms",), reason=_short(broken[0]["reason"])
    )


def _stopped(error: Exception) -> dict[str, Any]:
    """Errors of checks are ValueErrors of ours, which say what was found; all others are crashes."""
    text = str(error).replace("\n", " ")
    ours = isinstance(error, ValueError | ArithmeticError | LookupError) and ":" in text and len(text) > len("key:")
    names = [type(error).__name__]
    if "champion stays. " in text:
        text = text.partition("champion stays. ")[2]
        names = list(dict.fromkeys(_expectation(part) for part in text.split("; ")))
        if found := _TRIAL_ERROR.search(text):  # what one trial raised
            names, text = [found[1]], found[2]
            ours = found[1] not in ("TypeError", "KeyError", "IndexError", "AttributeError")
    return {"caught_by": tuple(names), "reason": _short(text), "crashed": not ours}


def _expectation(failure: str) -> str:
    return failure.removeprefix("error: ").partition(": found")[0].strip()


def _warnings() -> tuple[str, ...]:
    """What validation warned of, in the last entry of the ledger."""
    from pipelines.wiring import open_ledger

    entries = open_ledger().entries(project=PROJECT, kinds=("validation",))
    if len(entries) < 2:
        return ()
    failures = entries[-1].body.get("failures", [])
    return tuple(
        f"{failure['expectation']} of {failure['column'] or 'the table'}"
        for failure in failures
        if failure["level"] == "warning"
    )


def _failed(evaluation: dict[str, Any]) -> str:
    from pipelines.tasks.judging import failed_gates

    return failed_gates(evaluation)


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"


def in_order(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Those that were stopped first, first; those that escaped, last."""
    return sorted(outcomes, key=lambda each: len(PARTS) if each.part is None else PARTS.index(each.part))
