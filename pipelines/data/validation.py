"""Has Great Expectations check a snapshot, and says what was found where something else was expected.

The suites of all projects and the data docs live in one context, the top-level folder `great_expectations/`. A suite
is written only when a project's schema or rules changed; what differs from run to run is a parameter or lies below
`uncommitted/`, which git ignores. The same snapshot writes the same page of the data docs again.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import msgspec

from pipelines.data import faults, history, shifts
from pipelines.data.expectations import Expectation, expectations, row_bounds
from pipelines.data.profile import Profile, profile
from pipelines.data.rules import Failure, Level, ValidationRules
from pipelines.data.schema import DeclaredSchema, Label
from pipelines.data.snapshots import Snapshot
from pipelines.pages import write_whole

if TYPE_CHECKING:
    import pandas as pd
    from great_expectations.core import (
        ExpectationSuite,
        ExpectationSuiteValidationResult,
        ExpectationValidationResult,
    )
    from great_expectations.core.validation_definition import ValidationDefinition
    from great_expectations.data_context import FileDataContext

_SETTINGS = "great_expectations.yml"
_DATASOURCE, _ASSET, _BATCH = "snapshots", "snapshot", "whole"
_LOCK_WAIT_S, _LOCK_RETRY_S = 300.0, 0.1
_EXAMPLES = 3
_CARDS = "model_cards"  # a folder of the data docs
_EXISTENCE = "expect_column_to_exist"
_LEVELS: dict[str, Level] = {"critical": "error", "warning": "warning"}
_SEVERITIES: dict[Level, str] = {"error": "critical", "warning": "warning"}


class ValidationError(RuntimeError):
    """The check itself could not be made: no context where one is expected, or another run holds it for too long."""


class Validation(msgspec.Struct, frozen=True, kw_only=True):
    """What came out: `passed` unless a failure is an error; `checked` expectations; `docs` is the path of the page;
    `profile` is what a later snapshot is compared with, once this one is accepted."""

    passed: bool
    failures: tuple[Failure, ...]
    checked: int
    docs: str
    profile: Profile


def validate(
    snapshot: Snapshot,
    declared: DeclaredSchema,
    label: Label,
    rules: ValidationRules,
    previous_rows: int | None,
    context_root: Path,
    project: str,
    reference: Profile | None = None,
    accepted: Snapshot | None = None,
) -> Validation:
    """Checks `snapshot`, compares it with the last accepted one, and writes its page of the data docs.

    `previous_rows` is how many rows the previous snapshot had, or would have had over as many days; `reference` is the
    profile of the last accepted one, `accepted` that snapshot itself; None without one, or where it is no longer here.
    The page has what Great Expectations checked; faults of days, classes and vocabularies, and shifts, are in the
    result alone. Runs that share a context wait for each other.

    Raises:
        ValidationError: `context_root` is no context, or it was held by another run for five minutes.
    """
    expected = expectations(declared, label, rules)
    bounds = row_bounds(snapshot.manifest.windows.whole.days, previous_rows, rules)
    frame = _frame(snapshot)
    with _context(context_root) as context:
        suite = _kept_suite(context, project, expected)
        checked = _checked(context, suite, frame, snapshot, bounds, declared)
        docs = _page(context, suite, checked)
    table, windows = snapshot.table(), snapshot.manifest.windows
    described = profile(table, windows, declared, label)
    failures = (
        *_without_implied(_failures(checked, set(frame.columns))),
        *faults.faults(table, windows, declared, label, rules),
        *(() if reference is None else shifts.shifts(described, reference, rules.shifts)),
        *(() if accepted is None else _rewritten(snapshot, accepted, declared.time, rules)),
    )
    return Validation(
        passed=all(failure.level != "error" for failure in failures),
        failures=failures,
        checked=len(checked.results),
        docs=docs,
        profile=described,
    )


def _rewritten(snapshot: Snapshot, accepted: Snapshot, time_column: str, rules: ValidationRules) -> tuple[Failure, ...]:
    found, before = ((taken.table(), taken.manifest.windows) for taken in (snapshot, accepted))
    return history.rewritten(found, before, time_column, rules.shifts)


def keep_card(context_root: Path, project: str, page: str) -> Path:
    """Puts a model card's page beside the data docs, where the page of the project's suite links to it."""
    file = context_root / "uncommitted" / "data_docs" / "local_site" / _CARDS / f"{project}.html"
    write_whole(file, page)
    return file


def is_shift(failure: Failure) -> bool:
    """Whether it is about how a snapshot differs from the last accepted one, which a person may accept."""
    return failure.expectation in {*shifts.NAMES, *history.NAMES}


def write_suite(
    declared: DeclaredSchema, label: Label, rules: ValidationRules, context_root: Path, project: str
) -> Path:
    """Brings the stored suite of `project` in step with its schema and rules, and returns its file.

    Raises:
        ValidationError: as `validate`.
    """
    with _context(context_root) as context:
        _kept_suite(context, project, expectations(declared, label, rules))
    return context_root / "expectations" / f"{project}.json"


@contextmanager
def _context(root: Path) -> Iterator[FileDataContext]:
    """The context at `root`, for this run alone: its stores are plain files that know no other writer."""
    import great_expectations as gx

    if not (root / _SETTINGS).is_file():
        raise ValidationError(f"no Great Expectations context at {root}: {_SETTINGS} is missing; restore it from git")
    lock = root / "uncommitted" / ".lock"
    lock.parent.mkdir(exist_ok=True)
    with lock.open("w") as file:
        deadline_s = time.monotonic() + _LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline_s:
                    raise ValidationError(f"another validation has held {lock} for {_LOCK_WAIT_S:.0f} s") from None
                time.sleep(_LOCK_RETRY_S)
        yield gx.get_context(mode="file", context_root_dir=root)


def _frame(snapshot: Snapshot) -> pd.DataFrame:
    """The rows as pandas' own types; the label as 0 and 1, of which a mean can be taken."""
    frame = snapshot.table().to_pandas()
    label = snapshot.manifest.label
    if label in frame and frame[label].dtype == bool:
        frame[label] = frame[label].astype("int64")
    return frame


def _kept_suite(context: FileDataContext, project: str, expected: tuple[Expectation, ...]) -> ExpectationSuite:
    """The stored suite, written again only when it says something else: each writing draws new ids."""
    import great_expectations as gx
    from great_expectations.exceptions import DataContextError

    wanted = gx.ExpectationSuite(
        name=project,
        expectations=[_built(expectation) for expectation in expected],
        notes=f"What is trained on such data: [the model card of the newest version](../{_CARDS}/{project}.html).",
    )
    try:
        stored = context.suites.get(project)
    except DataContextError:
        return context.suites.add(wanted)
    if stored.notes == wanted.notes and _content(stored) == _content(wanted):
        return stored
    return context.suites.add_or_update(wanted)


def _built(expectation: Expectation) -> Any:
    from great_expectations.expectations.registry import get_expectation_impl

    severity = _SEVERITIES[expectation.level]
    return get_expectation_impl(expectation.kind)(severity=severity, **expectation.arguments)


def _content(suite: ExpectationSuite) -> list[dict[str, Any]]:
    described = [expectation.configuration.to_json_dict() for expectation in suite.expectations]
    return [{key: value for key, value in entry.items() if key != "id"} for entry in described]


def _checked(
    context: FileDataContext,
    suite: ExpectationSuite,
    frame: pd.DataFrame,
    snapshot: Snapshot,
    bounds: dict[str, int],
    declared: DeclaredSchema,
) -> ExpectationSuiteValidationResult:
    import great_expectations as gx

    # a stored result and its page show examples of what was unexpected: not where records have personal fields
    shows_values = not any(field.personal for field in declared.fields)
    examples = {"partial_unexpected_count": _EXAMPLES} if shows_values else {"exclude_unexpected_values": True}
    as_of = snapshot.manifest.windows.as_of
    return _definition(context, suite).run(
        batch_parameters={"dataframe": frame},
        expectation_parameters=bounds,
        result_format={"result_format": "SUMMARY", **examples},
        run_id=gx.RunIdentifier(snapshot.id, datetime(as_of.year, as_of.month, as_of.day, tzinfo=UTC)),
    )


def _definition(context: FileDataContext, suite: ExpectationSuite) -> ValidationDefinition:
    """The stored pair of suite and batch; `add_or_update` would write the suite and the context's settings again."""
    import great_expectations as gx
    from great_expectations.exceptions import DataContextError

    name = f"{suite.name}-{suite.id}"  # a suite that was deleted and made again has another id
    try:
        return context.validation_definitions.get(name)
    except DataContextError:
        batch = context.data_sources.get(_DATASOURCE).get_asset(_ASSET).get_batch_definition(_BATCH)
        return context.validation_definitions.add(gx.ValidationDefinition(name=name, data=batch, suite=suite))


def _page(context: FileDataContext, suite: ExpectationSuite, checked: ExpectationSuiteValidationResult) -> str:
    """Writes the page of this run, that of its suite and the index, and returns the path of the first."""
    from great_expectations.data_context.types.resource_identifiers import (
        ExpectationSuiteIdentifier,
        ValidationResultIdentifier,
    )

    of_suite = ExpectationSuiteIdentifier(name=suite.name)
    of_run = ValidationResultIdentifier(of_suite, checked.meta["run_id"], checked.batch_id)
    context.build_data_docs(resource_identifiers=[of_run, of_suite])
    (site,) = context.get_docs_sites_urls(resource_identifier=of_run)
    return unquote(urlsplit(site["site_url"]).path)


def _failures(checked: ExpectationSuiteValidationResult, columns: set[str]) -> Iterator[Failure]:
    for result in checked.results:
        configuration = result.expectation_config
        arguments: dict[str, Any] = configuration.kwargs
        about = {arguments["column"]} if "column" in arguments else set(arguments.get("column_list", ()))
        # whatever is expected of a column that is not there fails as well: its absence is told once
        implied = not about <= columns and configuration.type != _EXISTENCE
        if result.success or implied:
            continue
        yield Failure(
            expectation=configuration.type,
            column=arguments.get("column"),
            found=_found(result, columns),
            expected=_expected(configuration.type, arguments),
            level=_LEVELS[configuration.severity.value],
        )


def _without_implied(failures: Iterable[Failure]) -> tuple[Failure, ...]:
    """Without the warnings that an error about the same column says more strongly."""
    told = tuple(failures)
    errors = {_about(failure) for failure in told if failure.level == "error"}
    return tuple(failure for failure in told if failure.level == "error" or _about(failure) not in errors)


def _about(failure: Failure) -> tuple[str, str | None]:
    return failure.expectation, failure.column


def _found(result: ExpectationValidationResult, columns: set[str]) -> str:
    details: dict[str, Any] = result.result or {}
    if result.expectation_config.type == _EXISTENCE:
        return f"only {', '.join(sorted(columns))}"
    if "element_count" in details and "unexpected_count" in details:
        share = f"{details['unexpected_count']:,} of {details['element_count']:,} rows"
        examples = [
            value for value in details.get("partial_unexpected_list", ()) if value is not None and value == value
        ]
        return share + (f", such as {', '.join(map(_shown, examples[:_EXAMPLES]))}" if examples else "")
    if "observed_value" in details:
        return _shown(details["observed_value"])
    raised = [str(entry.get("exception_message")) for entry in _exceptions(result.exception_info)]
    return "; ".join(dict.fromkeys(raised)) or "no result"


def _exceptions(info: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Great Expectations gives one exception as a mapping, and several as a mapping of mappings."""
    if not info:
        return []
    return [info] if "exception_message" in info else [entry for entry in info.values() if isinstance(entry, dict)]


def _expected(kind: str, arguments: dict[str, Any]) -> str:
    low, high = arguments.get("min_value"), arguments.get("max_value")
    if kind == _EXISTENCE:
        return f"a column {arguments['column']}"
    if kind == "expect_column_values_to_not_be_null":
        text = "a value in each row"
    elif "column_list" in arguments:
        text = f"each combination of {', '.join(arguments['column_list'])} once"
    elif "type_list" in arguments:
        text = f"values of type {' or '.join(arguments['type_list'])}"
    elif "value_set" in arguments:
        text = f"one of {', '.join(map(_shown, arguments['value_set']))}"
    elif low is not None or high is not None:
        text = " and ".join(
            f"at {which} {_shown(bound)}" for which, bound in (("least", low), ("most", high)) if bound is not None
        )
    else:
        text = "no value twice"
    if "row_condition" in arguments:
        text += f" where part is {arguments['row_condition']['parameter']}"
    mostly = arguments.get("mostly")
    return text if mostly is None or mostly == 1 else f"{text}, in at least {mostly:.1%} of the rows"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(_shown(part) for part in value.values())
    if isinstance(value, bool | str) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
