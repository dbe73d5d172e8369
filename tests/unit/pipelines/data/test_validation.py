import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ibis
import msgspec
import pytest

from pipelines.data import validation
from pipelines.data.rules import Failure, ValidationRules
from pipelines.data.schema import DeclaredSchema, Label
from pipelines.data.snapshots import Snapshot
from pipelines.data.validation import Validation, ValidationError, validate, write_suite
from pipelines.projects import load_project

REPOSITORY = Path(__file__).resolve().parents[4]
CONTEXT = REPOSITORY / "great_expectations"
RULES = ValidationRules(
    minimum_train_rows=500, minimum_rows_per_day=2, label_share_minimum=0.1, label_share_maximum=0.5,
    missing_share_warning=0.06, minimum_held_out_rows=5,
)  # fmt: skip

Take = Callable[[ibis.Table], Snapshot]
AsEvents = Callable[[list[dict[str, Any]]], ibis.Table]
Check = Callable[..., Validation]
Rows = list[dict[str, Any]]


@pytest.fixture
def declared(declared: DeclaredSchema) -> DeclaredSchema:
    """With room for each of the four towns."""
    return msgspec.structs.replace(declared, vocabulary_size=4)


@pytest.fixture
def context(tmp_path: Path) -> Path:
    root = tmp_path / "great_expectations"
    root.mkdir()
    shutil.copy(CONTEXT / "great_expectations.yml", root)
    return root


@pytest.fixture
def check(take: Take, context: Path, declared: DeclaredSchema, label: Label) -> Check:
    def checked(
        events: ibis.Table,
        previous_rows: int | None = 1120,
        rules: ValidationRules = RULES,
        project: str = "deliveries",
    ) -> Validation:
        return validate(take(events), declared, label, rules, previous_rows, context, project)

    return checked


def content(suite: Path) -> list[dict[str, Any]]:
    return [{**expectation, "id": None} for expectation in json.loads(suite.read_text())["expectations"]]


def told(result: Validation) -> list[tuple[str, str | None, str]]:
    return [(failure.expectation, failure.column, failure.level) for failure in result.failures]


def test_usual_data_passes_and_has_a_page_in_the_data_docs(check: Check, events: ibis.Table, context: Path) -> None:
    result = check(events)
    assert (result.passed, result.failures) == (True, ())
    assert result.checked > 30
    page = Path(result.docs)
    assert page.is_relative_to(context / "uncommitted" / "data_docs")
    assert "distance_km" in page.read_text()
    assert page.name in (context / "uncommitted/data_docs/local_site/index.html").read_text()
    assert msgspec.json.decode(msgspec.json.encode(result), type=Validation) == result


def test_the_page_of_the_suite_links_to_the_model_card_beside_it(
    check: Check, events: ibis.Table, context: Path
) -> None:
    check(events)
    card = validation.keep_card(context, "deliveries", "<h1>A card</h1>")
    (page,) = (context / "uncommitted" / "data_docs").glob("**/expectations/deliveries.html")
    link = re.search(r'href="([^"]*model_cards[^"]*)"', page.read_text())
    assert link is not None
    assert (page.parent / link[1]).resolve() == card.resolve()
    assert card.read_text() == "<h1>A card</h1>"


def test_negative_distances_are_named_with_examples(check: Check, events: ibis.Table) -> None:
    poisoned = events.mutate(distance_km=ibis.ifelse(events.parcel % 20 == 3, -events.distance_km, events.distance_km))
    result = check(poisoned)
    assert not result.passed
    assert told(result) == [("expect_column_values_to_be_between", "distance_km", "error")]
    assert str(result.failures[0]) == (
        "error: expect_column_values_to_be_between of distance_km: found 56 of 1,120 rows, such as -8, -8, -8, "
        "expected at least 0 and at most 500"
    )


def test_a_missing_column_is_told_once_and_not_for_each_expectation_about_it(check: Check, events: ibis.Table) -> None:
    result = check(events.drop("depot", "parcel", "late"))
    assert not result.passed
    columns = ("depot", "late", "parcel")
    assert sorted(told(result)) == [("expect_column_to_exist", name, "error") for name in columns]
    assert {failure.expected for failure in result.failures} == {"a column depot", "a column late", "a column parcel"}


def test_a_tenth_of_the_rows_is_stopped(check: Check, events: ibis.Table) -> None:
    result = check(events.filter(events.parcel % 11 == 5), rules=msgspec.structs.replace(RULES, minimum_class_rows=1))
    assert told(result) == [("expect_table_row_count_to_be_between", None, "error")] * 2
    assert [(failure.found, failure.expected) for failure in result.failures] == [
        ("102", "at least 560 and at most 2,240"),
        ("76", "at least 500 where part is train"),
    ]


def test_many_more_rows_than_before_are_stopped_and_without_a_snapshot_before_they_pass(
    check: Check, events: ibis.Table
) -> None:
    assert told(check(events, previous_rows=500)) == [("expect_table_row_count_to_be_between", None, "error")]
    assert check(events, previous_rows=None).passed


def test_an_event_that_occurs_twice_is_named(check: Check, as_events: AsEvents, rows: Rows) -> None:
    result = check(as_events([*rows, rows[7]]))
    assert told(result) == [("expect_compound_columns_to_be_unique", None, "error")]
    assert result.failures[0].found.startswith("2 of 1,121 rows, such as 7 2013-01-01 03:30:00")


def test_an_unusual_share_of_the_label_is_stopped(check: Check, events: ibis.Table) -> None:
    result = check(events.mutate(late=ibis.literal(True)))
    each_part = [("both outcomes", "late", "error")] * 3
    assert told(result) == [("expect_column_mean_to_be_between", "late", "error"), *each_part]
    assert (result.failures[0].found, result.failures[0].expected) == ("1", "at least 0.1 and at most 0.5")


def test_a_word_that_the_schema_rejects_is_named(check: Check, as_events: AsEvents, rows: Rows) -> None:
    rows[40]["depot"] = "west"
    result = check(as_events(rows))
    assert told(result) == [("expect_column_values_to_be_in_set", "depot", "error")]
    assert (result.failures[0].found, result.failures[0].expected) == (
        "1 of 1,120 rows, such as west",
        "one of north, south",
    )


def test_a_warning_is_told_and_does_not_stop(check: Check, as_events: AsEvents, rows: Rows) -> None:
    for row in rows[::10]:
        row["wind_kmh"] = None
    result = check(as_events(rows))
    assert result.passed
    assert told(result) == [("expect_column_values_to_not_be_null", "wind_kmh", "warning")]
    assert result.failures[0].expected == "a value in each row, in at least 94.0% of the rows"


def test_faults_of_days_and_classes_are_told_beside_the_expectations(
    check: Check, as_events: AsEvents, rows: Rows
) -> None:
    for row in rows:
        row["late"] = None if row["leaves"].date().isoformat() == "2013-01-09" else row["late"]
    rows[40]["wind_kmh"] = float("inf")
    result = check(as_events(rows))
    assert not result.passed
    assert told(result) == [
        ("expect_column_values_to_not_be_null", "late", "error"),
        ("labels each day", "late", "error"),
        ("finite numbers", "wind_kmh", "error"),
    ]
    assert "no label at all on 2013-01-09" in str(result.failures[1])


def test_a_number_that_became_text_and_labels_that_did_are_named(check: Check, events: ibis.Table) -> None:
    result = check(events.mutate(distance_km=events.distance_km.cast("string"), late=events.late.cast("string")))
    about = {failure.column for failure in result.failures if failure.level == "error"}
    assert about == {"distance_km", "late"}
    of_type = [failure for failure in result.failures if "in_type_list" in failure.expectation]
    assert [failure.column for failure in of_type] == ["distance_km"]


def test_a_snapshot_is_compared_with_the_last_accepted_one(
    take: Take, events: ibis.Table, context: Path, declared: DeclaredSchema, label: Label
) -> None:
    def compared(found: Snapshot, rules: ValidationRules = RULES) -> Validation:
        return validate(found, declared, label, rules, None, context, "deliveries", accepted.profile, before)

    before = take(events)
    accepted = validate(before, declared, label, RULES, None, context, "deliveries")
    assert told(compared(before)) == told(accepted)
    miles = compared(take(events.mutate(distance_km=events.distance_km / 1.609)))
    assert not miles.passed
    assert set(told(miles)) - set(told(accepted)) == {
        ("same scale", "distance_km", "error"),
        ("the same past values", "distance_km", "error"),
    }
    looked_at = compared(take(events.mutate(distance_km=events.distance_km / 1.609)), RULES.accepting_shifts())
    assert looked_at.passed
    assert ("same scale", "distance_km", "warning") in told(looked_at)


def test_records_with_personal_fields_have_no_value_shown(
    take: Take, events: ibis.Table, context: Path, declared: DeclaredSchema, label: Label
) -> None:
    personal = msgspec.structs.replace(
        declared,
        fields=tuple(msgspec.structs.replace(f, personal=f.name == "distance_km") for f in declared.fields),
    )
    taken = take(events.mutate(distance_km=ibis.ifelse(events.parcel % 20 == 3, 77_123.5, events.distance_km)))
    for schema, is_shown in ((declared, True), (personal, False)):
        result = validate(taken, schema, label, RULES, None, context, "deliveries")
        (failure,) = [failure for failure in result.failures if failure.column == "distance_km"]
        assert ("such as" in failure.found) is is_shown
        written = [path.read_bytes() for path in (context / "uncommitted").rglob("*") if path.is_file()]
        assert any(b"77123.5" in content for content in written) is is_shown
        shutil.rmtree(context / "uncommitted")


def test_when_an_optional_column_is_all_gaps_only_the_error_is_told(check: Check, events: ibis.Table) -> None:
    result = check(events.mutate(wind_kmh=ibis.null("float64")))
    assert told(result) == [("expect_column_values_to_not_be_null", "wind_kmh", "error")]


def test_a_column_of_another_type_is_named(check: Check, events: ibis.Table) -> None:
    result = check(events.mutate(express=events.express.cast("string"), van=events.parcel * 0.5))
    assert sorted(told(result)) == [
        ("expect_column_values_to_be_in_type_list", "express", "error"),
        ("expect_column_values_to_be_in_type_list", "van", "error"),
    ]


def test_a_part_without_rows_is_named(check: Check, events: ibis.Table) -> None:
    result = check(events.filter(events.leaves < ibis.timestamp("2013-02-19T00:00:00")))
    assert told(result) == [
        ("expect_table_row_count_to_be_between", None, "error"),
        ("expect_column_distinct_values_to_equal_set", "part", "error"),
        ("rows each day", None, "error"),
    ]
    assert result.failures[0].expected == "at least 5 where part is test"


def test_checking_again_changes_no_file_but_the_page(check: Check, events: ibis.Table, context: Path) -> None:
    def committed() -> dict[Path, tuple[bytes, int]]:
        files = [path for path in context.rglob("*") if path.is_file() and "uncommitted" not in path.parts]
        return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}

    first = check(events)
    before = committed()
    assert {path.name for path in before} == {"great_expectations.yml", "deliveries.json"}
    assert check(events) == first
    assert committed() == before
    assert len(list((context / "uncommitted" / "validations").rglob("*.json"))) == 1
    changed = check(events, rules=msgspec.structs.replace(RULES, label_share_minimum=0.3))
    assert not changed.passed
    assert committed() != before


def test_runs_at_once_leave_a_whole_context(
    take: Take, events: ibis.Table, context: Path, declared: DeclaredSchema, label: Label
) -> None:
    settings = (context / "great_expectations.yml").read_bytes()
    usual, poisoned = take(events), take(events.mutate(distance_km=-events.distance_km))
    cases = [("first", usual), ("second", poisoned), ("third", usual), ("first", poisoned)]

    def checked(case: tuple[str, Snapshot]) -> Validation:
        return validate(case[1], declared, label, RULES, None, context, case[0])

    with ThreadPoolExecutor(len(cases)) as pool:
        results = list(pool.map(checked, cases))
    assert [result.passed for result in results] == [True, False, True, False]
    assert (context / "great_expectations.yml").read_bytes() == settings
    suites = sorted((context / "expectations").glob("*.json"))
    assert [json.loads(suite.read_text())["name"] for suite in suites] == ["first", "second", "third"]
    assert len({result.docs for result in results if Path(result.docs).exists()}) == len(cases)


def test_a_suite_that_was_deleted_is_made_again(check: Check, events: ibis.Table, context: Path) -> None:
    check(events)
    suite = context / "expectations" / "deliveries.json"
    before = content(suite)
    suite.unlink()
    assert check(events).passed
    assert content(suite) == before


def test_a_context_that_another_run_holds_is_waited_for_and_then_named(
    check: Check, events: ibis.Table, context: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validation, "_LOCK_WAIT_S", 0.0)
    with validation._context(context), pytest.raises(ValidationError, match="another validation has held"):
        check(events)
    assert check(events).passed


def test_a_folder_without_a_context_is_refused(
    take: Take, events: ibis.Table, declared: DeclaredSchema, label: Label, tmp_path: Path
) -> None:
    with pytest.raises(ValidationError, match=r"great_expectations\.yml is missing; restore it from git"):
        validate(take(events), declared, label, RULES, None, tmp_path, "deliveries")


def test_the_committed_suite_of_each_project_is_in_step_with_its_configuration(context: Path) -> None:
    names = [file.parent.name for file in sorted((REPOSITORY / "projects").glob("*/project.yaml"))]
    assert names
    for name in names:
        project = load_project(REPOSITORY / "projects" / name)
        suite = write_suite(project.schema, project.label, project.validation, context, name)
        committed = CONTEXT / "expectations" / f"{name}.json"
        assert content(committed) == content(suite), f"{committed} is out of step: validate {name} once, then commit it"


def test_the_top_level_folder_does_not_hide_the_package() -> None:
    assert not (CONTEXT / "__init__.py").exists()
    program = "import great_expectations as gx; print(gx.__file__, hasattr(gx, 'get_context'))"
    run = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert "site-packages" in run.stdout
    assert "True" in run.stdout


def test_a_failure_about_the_table_names_no_column() -> None:
    failure = Failure(expectation="rows", column=None, found="1", expected="2", level="warning")
    assert str(failure) == "warning: rows: found 1, expected 2"
