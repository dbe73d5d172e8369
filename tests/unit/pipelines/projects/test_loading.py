import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from contracts.providers import Cuda, TensorRT
from pipelines.projects import Project, ProjectError, load_project, load_projects

REPOSITORY = Path(__file__).resolve().parents[4]
FLIGHT_DELAY = REPOSITORY / "projects" / "flight_delay"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return shutil.copytree(FLIGHT_DELAY, tmp_path / "projects" / "flight_delay")


def change(folder: Path, path: str, value: Any) -> None:
    """Sets the value at the dotted `path` of the configuration; positions in lists are numbers."""
    file = folder / "project.yaml"
    raw = yaml.safe_load(file.read_text())
    inner: Any = raw
    *way, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    for step in way:
        inner = inner[step]
    inner[last] = value
    file.write_text(yaml.safe_dump(raw))


def refusal(folder: Path) -> ProjectError:
    with pytest.raises(ProjectError) as caught:
        load_project(folder)
    assert caught.value.file == folder / "project.yaml"
    assert str(caught.value).startswith(f"{folder / 'project.yaml'}: ")
    return caught.value


def test_every_project_of_the_repository_loads() -> None:
    projects = load_projects(REPOSITORY / "projects")
    assert "flight_delay" in projects
    for name, project in projects.items():
        assert project.name == name
        assert project.folder == REPOSITORY / "projects" / name
        assert callable(project.source().ingest)


def test_a_misspelt_key_is_refused_with_the_nearest_one_and_all_that_are_allowed(folder: Path) -> None:
    change(folder, "split.validation_day", 7)
    error = refusal(folder)
    assert error.key == "split.validation_day"
    assert error.problem == (
        "no such key, did you mean validation_days? "
        "allowed are train_days, validation_days, test_days, minimum_train_days"
    )


@pytest.mark.parametrize(
    ("path", "key", "problem"),
    [
        ("shadow_traffic", "shadow_traffic", "no such key; allowed are name, title, description, owner, source, label"),
        ("rollout.steps.1.requests", "rollout.steps[1].requests", "no such key, did you mean minimum_requests?"),
        ("rollout.shadow.pairs", "rollout.shadow.pairs", "allowed are minimum_pairs, minimum_s"),
        ("schema.fields.3.words", "schema.fields[3].words", "allowed are name, kind, required"),
        ("emergency_split.days", "emergency_split.days", "allowed are train_days"),
        ("monitoring.drift.psi_min", "monitoring.drift.psi_min", "did you mean psi_minimum?"),
        ("training.trials.0.params", "training.trials[0].params", "allowed are trainer, parameters"),
    ],
)
def test_an_unknown_key_is_refused_at_any_depth(folder: Path, path: str, key: str, problem: str) -> None:
    change(folder, path, 1)
    error = refusal(folder)
    assert error.key == key
    assert problem in error.problem


@pytest.mark.parametrize(
    ("path", "value", "key", "problem"),
    [
        ("split.train_days", "a year", "split.train_days", "found 'a year', expected `int`"),
        ("label.delay_days", -1, "label.delay_days", "found -1, expected `int` >= 0"),
        ("decision_threshold", 1.5, "decision_threshold", "found 1.5, expected `float` < 1"),
        ("serving_port", 80, "serving_port", "found 80, expected `int` >= 1024"),
        ("schema.fields.1.kind", "word", "schema.fields[1].kind", "found 'word', expected one of boolean, category"),
        ("schema.fields.5.parts", ["year"], "schema.fields[5].parts[0]", "expected one of day_of_week, day_of_year"),
        ("schema.key", [], "schema.key", "found [], expected `array` of length >= 1"),
        ("validation.label_share_minimum", 2, "validation.label_share_minimum", "found 2, expected `float` <= 1"),
        ("source", "../elsewhere.py", "source", "found '../elsewhere.py', expected `str` matching regex"),
        ("name", "Flight delay", "name", "found 'Flight delay', expected `str` matching regex"),
        ("owner", "", "owner", "found '', expected `str` of length >= 1"),
        ("schema.time", "when", "schema.time", "'when' is not among the fields tailnum, carrier"),
        ("schema.fields.5.malformed", "missing", "schema.time", "what event a row is of: malformed must be reject"),
        ("schema.fields.6.nan", "never", "schema.fields[6].nan", "found 'never', expected one of missing, reject"),
        ("split.minimum_train_days", 400, "split.minimum_train_days", "400 is above train_days, 365"),
        ("rollout.steps.4.share", 0.9, "rollout", "the last of steps has share 1.0, found 0.9"),
        ("training.trials.0.trainer", "oracle", "training.trials[0].trainer", "found 'oracle', expected one of"),
        ("schedules.retrain", "weekly", "schedules.retrain", "found 'weekly', expected five cron fields"),
        ("schedules.watch", "0 5 * * * *", "schedules.watch", "found '0 5 * * * *', expected five cron fields"),
        ("label.column", "seats", "label.column", "'seats' is also a field; what is predicted is no input"),
        (
            "optimization.slice_fields",
            ["seats"],
            "optimization.slice_fields",
            "found 'seats', expected categories: carrier",
        ),
        (
            "gates.sanity.known_after",
            ["seats"],
            "gates.sanity.known_after",
            "seats is known only after the event, and a field of the schema",
        ),
        ("gates.sanity.planned", ["seats"], "gates.sanity.planned", "seats is no timestamp among scheduled"),
        ("gates.sanity.single_feature_auc_max", 0.4, "gates.sanity.single_feature_auc_max", "expected a number above"),
        ("sensitive", "perhaps", "sensitive", "found 'perhaps', expected `bool`"),
        ("validation.missing_shares", {"wings": 0.1}, "validation.missing_shares", "wings is not among tailnum"),
        ("monitoring.drift.ignored", ["wings"], "monitoring.drift.ignored", "wings is not among tailnum"),
        ("monitoring.drift.sources", {"sky": ["wings"]}, "monitoring.drift.sources", "wings is not among tailnum"),
        ("monitoring.drift.false_alarms_per_year", 0, "monitoring.drift", "false_alarms_per_year is above 0"),
        ("rollout.coverage.segment", "tailnum", "rollout.coverage.segment", "found 'tailnum', expected a category"),
        ("rollout.coverage.by", "night", "rollout.coverage.by", "found 'night', expected one of"),
        ("slices.fields", ["wings"], "slices.fields", "wings is not among tailnum"),
        ("fairness", {"groups": [{"field": "wings"}]}, "fairness.groups", "wings is not among tailnum"),
        ("fairness", {"groups": [{"field": "seats"}]}, "fairness.groups", "seats is a number; a number needs edges"),
        ("fairness", {"groups": [{"field": "scheduled"}]}, "fairness.groups", "scheduled is a timestamp"),
        ("fairness", {"groups": [{"field": "origin", "edges": [1]}]}, "fairness.groups", "edges belong to numbers"),
        ("costs.false_positive", 0, "costs.false_positive", "found 0.0, expected a cost above 0"),
        ("gates.better_in", ["luck"], "gates.better_in[0]", "found 'luck', expected one of auc"),
        ("name", "flight_delays", "name", "found 'flight_delays', expected the name of its folder, 'flight_delay'"),
    ],
)
def test_a_wrong_value_is_refused_with_its_key_and_what_was_found(
    folder: Path, path: str, value: object, key: str, problem: str
) -> None:
    change(folder, path, value)
    error = refusal(folder)
    assert error.key == key
    assert problem in error.problem


def test_a_plan_that_compares_by_outcomes_is_for_a_label_without_delay(folder: Path) -> None:
    change(folder, "rollout.alpha_shares", {"errors": 0.25, "quality": 0.2})
    change(folder, "rollout.quality", {"every_s": 60})
    assert "quality: the first outcome is known after 1 days (label.delay_days)" in str(refusal(folder))


def test_a_missing_key_is_named(folder: Path) -> None:
    file = folder / "project.yaml"
    file.write_text("".join(line for line in file.read_text().splitlines(True) if not line.startswith("owner:")))
    assert refusal(folder).problem == "missing the key `owner`"


def test_a_key_that_occurs_twice_is_refused_with_both_lines(folder: Path) -> None:
    file = folder / "project.yaml"
    lines = file.read_text().splitlines()
    first = lines.index("serving_port: 8500") + 1
    file.write_text("\n".join([*lines, "serving_port: 8600"]))
    error = refusal(folder)
    assert (error.key, error.problem) == ("serving_port", f"found twice, in lines {first} and {len(lines) + 1}")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("name: [", "is no YAML"),
        ("- a\n- b\n", "found ['a', 'b'], expected keys such as name"),
        ("", "found None, expected keys such as name"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(folder: Path, text: str, problem: str) -> None:
    (folder / "project.yaml").write_text(text)
    assert problem in refusal(folder).problem


def test_a_folder_without_a_configuration_is_refused_alone_and_skipped_among_others(folder: Path) -> None:
    empty = folder.parent / "notes"
    empty.mkdir()
    assert "cannot be read: No such file" in refusal(empty).problem
    assert list(load_projects(folder.parent)) == ["flight_delay"]


def test_two_projects_on_one_port_are_refused(folder: Path) -> None:
    second = shutil.copytree(folder, folder.parent / "second")
    change(second, "name", "second")
    with pytest.raises(ProjectError, match="serving_port: found 8500, which flight_delay serves on already"):
        load_projects(folder.parent)
    change(second, "serving_port", 8501)
    assert list(load_projects(folder.parent)) == ["flight_delay", "second"]


def test_source_code_is_loaded_from_the_folder_and_checked(folder: Path) -> None:
    project = load_project(folder)
    (folder / "source.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Row:\n    value: int\n"
        "def ingest(warehouse, progress):\n    progress('here')\n    return {'rows': Row(3).value}\n"
    )
    with pytest.raises(TypeError, match=r"source\.py must define events"):
        project.source()
    with (folder / "source.py").open("a") as file:
        file.write("def events(connection, warehouse):\n    return connection\n")
    told: list[str] = []
    assert project.source().ingest(folder, told.append) == {"rows": 3}
    assert told == ["here"]
    (folder / "source.py").unlink()
    with pytest.raises(FileNotFoundError, match=r"project\.yaml: source: no file .*source\.py"):
        project.source()


def test_loading_imports_nothing_heavy() -> None:
    heavy = ("pandas", "ibis", "duckdb", "great_expectations", "mlflow", "torch", "sklearn", "onnxruntime", "evidently")
    program = (
        "import sys; from pathlib import Path; from pipelines.projects import load_projects; "
        f"load_projects(Path({str(FLIGHT_DELAY.parent)!r})); print([name for name in {heavy} if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_the_demonstration_rolls_out_in_five_growing_steps() -> None:
    project: Project = load_project(FLIGHT_DELAY)
    assert [step.share for step in project.rollout.steps] == [0.05, 0.1, 0.25, 0.5, 1.0]
    assert (project.schedules.retrain, project.schedules.watch) == ("0 3 * * 1", "0 5 * * *")
    assert [trial.trainer for trial in project.training.trials] == ["boosted_trees", "neural_net"]


def test_a_plan_on_another_platform_says_only_what_differs_there(folder: Path) -> None:
    change(folder, "rollout_on", {"kubernetes": {"lease_s": 20, "shadow": {"slice_by": None}, "holdout": None}})
    project = load_project(folder)
    usual, there = project.rollout, project.plan_on("kubernetes")
    assert usual.shadow is not None
    assert there.shadow is not None
    assert (there.lease_s, there.holdout, there.shadow.slice_by) == (20, None, None)
    assert (there.steps, there.shadow.minimum_pairs) == (usual.steps, usual.shadow.minimum_pairs)
    assert project.plan_on("envoy") == project.plan_on("local") == usual


@pytest.mark.parametrize(
    ("on", "key", "problem"),
    [
        ({"kubernetes": {"lease": 20}}, "rollout_on.kubernetes.lease", "did you mean lease_s"),
        ({"kubernetes": {"lease_s": "long"}}, "rollout_on", "found"),
        ({"nomad": {}}, "rollout_on", "nomad"),
        ({"envoy": {"challengers": 2}}, "rollout_on.envoy.challengers", "leave it out"),
        ({"envoy": {"coverage": {"segment": "tailnum"}}}, "rollout_on.envoy.coverage.segment", "a category or boolean"),
    ],
)
def test_a_wrong_plan_of_another_platform_is_refused_with_its_key(
    folder: Path, on: dict[str, Any], key: str, problem: str
) -> None:
    change(folder, "rollout_on", on)
    with pytest.raises(ProjectError) as refused:
        load_project(folder)
    assert key in str(refused.value)
    assert problem in str(refused.value)


def test_a_project_says_on_what_its_model_is_served(folder: Path) -> None:
    providers = [{"name": "tensorrt", "trt_fp16_enable": True}, {"name": "cuda", "gpu_mem_limit": 1 << 30}, "cpu"]
    change(folder, "serving", {"providers": providers, "require": "cuda", "maximum_batch_rows": 1024})
    profile = load_project(folder).serving
    assert profile.providers == (TensorRT(trt_fp16_enable=True), Cuda(gpu_mem_limit=1 << 30), "cpu")
    assert (profile.require, profile.maximum_batch_rows) == ("cuda", 1024)


@pytest.mark.parametrize(
    ("provider", "problem"),
    [
        (
            {"name": "cuda", "gpu_mem_limt": 1 << 30},
            "serving.providers[0].gpu_mem_limt: no such key, did you mean gpu_mem_limit?",
        ),
        ({"name": "cuda", "trt_fp16_enable": True}, "unknown field `trt_fp16_enable`"),
        ({"name": "cuda", "gpu_mem_limit": 5}, "67108864"),
        ("cudda", "did you mean cuda?"),
    ],
)
def test_a_provider_with_a_wrong_option_is_refused(folder: Path, provider: Any, problem: str) -> None:
    change(folder, "serving", {"providers": [provider]})
    assert problem in str(refusal(folder))


IMPORTED = {"path": "models/m.onnx", "sha256": "0" * 64, "columns": ["seats", "origin"]}


@pytest.mark.parametrize(
    ("trial", "key", "problem"),
    [
        ({"trainer": "own"}, "trainer", "no file .*/trainer.py; write it .docs/trainers.md., or name another"),
        ({"trainer": "forest.py"}, "trainer", "no file .*/forest.py"),
        ({"trainer": "imported", "parameters": IMPORTED}, "parameters.path", "no file .*/models/m.onnx"),
    ],
)
def test_a_trial_whose_file_is_not_in_the_folder_is_refused(
    folder: Path, trial: dict[str, Any], key: str, problem: str
) -> None:
    change(folder, "training.trials", [{"trainer": "boosted_trees"}, trial])
    error = refusal(folder)
    assert error.key == f"training.trials[1].{key}"
    assert re.match(problem, error.problem)


def test_a_model_made_elsewhere_needs_columns_of_the_schema_with_closed_vocabularies(folder: Path) -> None:
    (folder / "models").mkdir()
    (folder / "models" / "m.onnx").write_bytes(b"a model")
    for columns, problem in (
        (["seats", "gust"], "gust is not among carrier, origin, .*scheduled.minute_of_day"),
        (["seats", "dest"], "dest has an open vocabulary: every retrain would give its words other codes"),
    ):
        change(folder, "training.trials", [{"trainer": "imported", "parameters": IMPORTED | {"columns": columns}}])
        error = refusal(folder)
        assert error.key == "training.trials[0].parameters.columns"
        assert re.match(problem, error.problem)
    change(folder, "training.trials", [{"trainer": "imported", "parameters": IMPORTED}])
    assert load_project(folder).training.trials[0].trainer == "imported"


def test_a_project_with_a_trainer_of_its_own_loads_without_running_it(folder: Path) -> None:
    (folder / "trainer.py").write_text("raise RuntimeError('run')")
    change(folder, "training.trials", [{"trainer": "own", "parameters": {"anything": 1}}])
    assert load_project(folder).training.trials[0].parameters == {"anything": 1}


def test_a_holdout_lasts_longer_than_the_first_outcome_takes(folder: Path) -> None:
    change(folder, "label.delay_days", 14)
    refused = refusal(folder)
    assert refused.key == "rollout.holdout"
    assert "maximum_days is 14, and the first outcome is known after 14 days" in str(refused)
