"""The rules, with Prometheus' own tools and the metrics that servers and pipelines really export."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.wiring import REPOSITORY
from tests.fixtures.prometheus import OBSERVABILITY, RULE_FILES, program, rules, run, selectors

RUNBOOK = REPOSITORY / "docs" / "runbook"
ALERTS = {str(rule["alert"]): rule for rule in rules("alert")}
TESTS = sorted((OBSERVABILITY / "tests").glob("*.test.yml"))
OWNERS = {"serving", "models", "data", "platform"}
each_alert = pytest.mark.parametrize("name", ALERTS)


@pytest.mark.parametrize("file", RULE_FILES, ids=lambda file: file.name)
def test_promtool_accepts_the_rules(file: Path) -> None:
    checked = run(program("promtool"), "check", "rules", file)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.name)
def test_each_alert_fires_and_is_quiet_as_promtool_computes_it(file: Path) -> None:
    tested = run(program("promtool"), "test", "rules", file)
    assert tested.returncode == 0, tested.stdout


def test_promtool_and_amtool_accept_the_configurations() -> None:
    prometheus = run(program("promtool"), "check", "config", OBSERVABILITY / "prometheus.yml")
    assert prometheus.returncode == 0, prometheus.stdout
    alertmanager = run(program("amtool"), "check-config", OBSERVABILITY / "alertmanager.yml")
    assert alertmanager.returncode == 0, alertmanager.stdout


def test_prometheus_reads_every_file_of_rules() -> None:
    configured = yaml.safe_load((OBSERVABILITY / "prometheus.yml").read_text())["rule_files"]
    assert sorted(configured) == [file.name for file in RULE_FILES]


@each_alert
def test_an_alert_has_a_test_of_it_firing_and_one_of_it_quiet(name: str) -> None:
    expected = [
        bool(asked["exp_alerts"])
        for file in TESTS
        for test in yaml.safe_load(file.read_text())["tests"]
        for asked in test["alert_rule_test"]
        if asked["alertname"] == name
    ]
    # the watchdog is never quiet: that is what it is for
    assert set(expected) == ({True} if name == "PacelineWatchdog" else {True, False})


@each_alert
def test_an_alert_has_a_severity_an_owner_and_a_page_that_say_the_same(name: str) -> None:
    rule = ALERTS[name]
    labels, notes = rule["labels"], rule["annotations"]
    assert labels["severity"] in {"page", "ticket"} or (name, labels["severity"]) == ("PacelineWatchdog", "none")
    assert labels["owner"] in OWNERS
    assert notes["summary"].endswith(".")
    assert notes["action"].endswith(".")
    assert notes["runbook"] == f"docs/runbook/{name}.md"
    page = (REPOSITORY / notes["runbook"]).read_text()
    assert page.startswith(f"# {name}\n\nseverity **{labels['severity']}** · owner **{labels['owner']}**")
    assert ("starts an emergency retrain" in page) == (labels.get("retrain") == "emergency")
    assert " ".join(notes["summary"].split()) in " ".join(page.split())
    assert [line for line in page.splitlines() if line.startswith("## ")] == [
        "## What it means",
        "## Look at",
        "## Do",
    ]
    row = f"| [{name}]({name}.md) | {labels['severity']} | {labels['owner']} |"
    assert row in (RUNBOOK / "README.md").read_text()


def test_there_is_no_page_without_its_alert() -> None:
    assert {page.stem for page in RUNBOOK.glob("*.md")} - {"README"} == set(ALERTS)


def test_the_commands_of_the_pages_and_of_the_alerts_exist() -> None:
    from typer.main import get_command

    from pipelines.cli import app

    told = [page.read_text() for page in RUNBOOK.glob("*.md")] + [r["annotations"]["action"] for r in ALERTS.values()]
    named = {tuple(words.split()) for text in told for words in re.findall(r"`paceline ((?:[a-z]+ ?)+)", text)}
    assert len(named) > 10
    root: Any = get_command(app)
    for words in named:
        command = root
        for word in words:
            if not hasattr(command, "commands"):
                break
            assert word in command.commands, f"there is no `paceline {' '.join(words)}`"
            command = command.commands[word]


def test_an_alert_that_a_page_or_an_inhibition_names_exists() -> None:
    for page in RUNBOOK.glob("*.md"):
        named = set(re.findall(r"\bPaceline[A-Z]\w+", page.read_text()))
        assert named <= set(ALERTS), page.name
    configured = yaml.safe_load((OBSERVABILITY / "alertmanager.yml").read_text())
    for rule in configured["inhibit_rules"]:
        for matcher in (*rule["source_matchers"], *rule["target_matchers"]):
            pattern = re.fullmatch(r'alertname=~?"(.+)"', matcher)
            assert pattern is not None, matcher
            assert [name for name in ALERTS if re.fullmatch(pattern[1], name)], f"{matcher} is no alert"


@pytest.mark.parametrize(
    ("labels", "receivers"),
    [
        (["severity=page", "owner=serving"], "pages"),
        (["severity=page", "owner=platform"], "pages"),
        (["severity=page", "owner=models"], "pages-of-models"),
        (["severity=page", "owner=data", "retrain=emergency", "project=p"], "emergency-retrain,pages-of-data"),
        (["severity=ticket", "owner=data"], "tickets"),
        (["severity=none", "owner=platform", "alertname=PacelineWatchdog"], "dead-mans-switch"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_alert_reaches_its_owner_by_its_severity(labels: list[str], receivers: str) -> None:
    options = ("--config.file", OBSERVABILITY / "alertmanager.yml", "--verify.receivers", receivers)
    routed = run(program("amtool"), "config", "routes", "test", *options, *labels)
    assert routed.returncode == 0, routed.stdout
    assert routed.stdout.splitlines()[-1] == receivers or receivers in routed.stdout.splitlines()


def test_every_rule_asks_for_metrics_and_labels_that_are_exported(exported: dict[str, set[str]]) -> None:
    known = dict(exported)
    for rule in rules("record"):  # what a rule records has the labels that it groups by, or those of what it reads
        known[rule["record"]] = {"project", "version", "slot", "instance", "job"}
    for rule in (*rules("record"), *rules("alert")):
        name = rule.get("record") or rule["alert"]
        asked = list(selectors(rule["expr"]))
        assert asked or name == "PacelineWatchdog", name
        for metric, labels in asked:
            assert metric in known, f"{name} asks for {metric}, which nobody exports"
            assert labels <= known[metric], f"{name} asks {metric} for {labels - known[metric]}"


def test_an_expression_of_something_that_nobody_exports_is_noticed(exported: dict[str, set[str]]) -> None:
    ((metric, labels),) = selectors('rate(paceline_predictions_total{slott="champion"}[5m]) > 3')
    assert metric in exported
    assert not labels <= exported[metric]
    assert "paceline_prediction_total" not in exported
