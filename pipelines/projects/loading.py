"""Reads `project.yaml`, and refuses it with the file, the key, what was found and what is allowed."""

from __future__ import annotations

import difflib
import re
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import yaml  # type: ignore[import-untyped]
from msgspec import inspect

from pipelines.projects.definition import Project, ProjectFile
from pipelines.training.plan import file_of, is_own

FILE = "project.yaml"
_WITH_PATH = re.compile(r"(?P<problem>.*) - at `\$\.?(?P<path>.*)`", re.DOTALL)
_STEP = re.compile(r"\[(\d+)\]|([^.\[\]]+)")
_SHOWN_CHARACTERS = 80


class ProjectError(ValueError):
    """A configuration that is refused: `file`, `key` (dotted), and `problem` with what was found and is allowed."""

    def __init__(self, file: Path, key: str, problem: str) -> None:
        self.file, self.key, self.problem = file, key, problem
        super().__init__(f"{file}: {f'{key}: ' if key else ''}{problem}")


def load_projects(root: Path) -> dict[str, Project]:
    """All projects below `root` by name, sorted: each folder with a `project.yaml` is one.

    Raises:
        ProjectError: one of them is wrong, or two serve on the same port.
    """
    projects = {file.parent.name: load_project(file.parent) for file in sorted(root.glob(f"*/{FILE}"))}
    by_port: dict[int, Project] = {}
    for project in projects.values():
        first = by_port.setdefault(project.serving_port, project)
        if first is not project:
            problem = f"found {project.serving_port}, which {first.name} serves on already; choose another"
            raise ProjectError(project.file, "serving_port", problem)
    return projects


def load_project(folder: Path) -> Project:
    """The project in `folder`.

    Raises:
        ProjectError: there is no such file, it is no YAML, or a key is unknown, missing or has a wrong value.
    """
    file = folder / FILE
    raw = _read(file)
    _refuse_unknown_keys(file, raw, _allowed(), "")
    raw = _with_plans(raw)
    try:
        parsed = msgspec.convert(raw, ProjectFile)
    except msgspec.ValidationError as error:
        raise _explained(file, raw, str(error)) from error
    if parsed.name != folder.resolve().name:
        problem = f"found {parsed.name!r}, expected the name of its folder, {folder.resolve().name!r}"
        raise ProjectError(file, "name", problem)
    _refuse_trials_without_their_files(file, parsed)
    values = {name: getattr(parsed, name) for name in parsed.__struct_fields__}
    return Project(**values, folder=folder)


def _with_plans(raw: dict[str, Any]) -> dict[str, Any]:
    """Each plan of `rollout_on` whole: `rollout`, changed by what the file says of that platform."""
    if not isinstance(changes := raw.get("rollout_on"), dict):
        return raw
    usual = raw.get("rollout", {})
    return raw | {"rollout_on": {platform: _merged(usual, change) for platform, change in changes.items()}}


def _merged(value: Any, change: Any) -> Any:
    """Mappings are changed key by key, all else is replaced."""
    if not isinstance(value, dict) or not isinstance(change, dict):
        return change
    return value | {key: _merged(value.get(key), new) for key, new in change.items()}


def _refuse_trials_without_their_files(file: Path, project: ProjectFile) -> None:
    """A trainer or a model in the project's folder is there, and a model from elsewhere fits the schema.

    Whether the code is a trainer, and the model the one with that hash, is seen before the first trial trains.
    """
    of_column = {column: field for field in project.schema.fields for column in field.columns}
    for position, trial in enumerate(project.training.trials):
        key = f"training.trials[{position}]"
        if is_own(trial.trainer) and not (file.parent / file_of(trial.trainer)).is_file():
            problem = f"no file {file.parent / file_of(trial.trainer)}; write it (docs/trainers.md), or name another"
            raise ProjectError(file, f"{key}.trainer", problem)
        if trial.trainer != "imported":
            continue
        path, columns = trial.parameters["path"], trial.parameters["columns"]
        if not (file.parent / path).is_file():
            raise ProjectError(file, f"{key}.parameters.path", f"no file {file.parent / path}")
        if absent := [column for column in columns if column not in of_column]:
            problem = f"{', '.join(absent)} is not among {', '.join(of_column)}"
            raise ProjectError(file, f"{key}.parameters.columns", problem)
        for column in columns:
            if of_column[column].kind == "category" and not of_column[column].vocabulary:
                problem = (
                    f"{column} has an open vocabulary: every retrain would give its words other codes than the model "
                    "knows; declare the vocabulary in the schema"
                )
                raise ProjectError(file, f"{key}.parameters.columns", problem)


@cache
def _allowed() -> inspect.Type:
    return inspect.type_info(ProjectFile)


def _read(file: Path) -> dict[str, Any]:
    try:
        root = yaml.compose(file.read_text(), Loader=yaml.CSafeLoader)
        _refuse_repeated_keys(file, root)
        raw = yaml.load(file.read_text(), Loader=yaml.CSafeLoader)
    except OSError as error:
        raise ProjectError(file, "", f"cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ProjectError(file, "", f"is no YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ProjectError(file, "", f"found {_shown(raw)}, expected keys such as name, schema and training")
    return raw


def _refuse_repeated_keys(file: Path, node: yaml.Node | None) -> None:
    """YAML lets the last of two equal keys win, silently."""
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.value in seen:
                raise ProjectError(file, str(key.value), f"found twice, in lines {seen[key.value]} and {line}")
            seen[key.value] = line
            _refuse_repeated_keys(file, value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_repeated_keys(file, item)


def _refuse_unknown_keys(file: Path, raw: object, expected: inspect.Type, path: str) -> None:
    """msgspec names one unknown key without saying which are allowed; this walk does both, and suggests the nearest."""
    if isinstance(raw, list) and isinstance(expected, inspect.VarTupleType):
        for position, item in enumerate(raw):
            _refuse_unknown_keys(file, item, expected.item_type, f"{path}[{position}]")
    if isinstance(raw, dict) and isinstance(expected, inspect.DictType):
        for key, value in raw.items():
            _refuse_unknown_keys(file, value, expected.value_type, f"{path}.{key}")
    fields = _fields(expected)
    if not isinstance(raw, dict) or not fields:
        return
    for key, value in raw.items():
        where = f"{path}.{key}" if path else str(key)
        if key not in fields:
            nearest = difflib.get_close_matches(str(key), fields, n=1)
            hint = f", did you mean {nearest[0]}?" if nearest else ";"
            raise ProjectError(file, where, f"no such key{hint} allowed are {', '.join(fields)}")
        _refuse_unknown_keys(file, value, fields[key], where)


def _fields(expected: inspect.Type) -> dict[str, inspect.Type]:
    """The keys of a mapping that becomes a Struct, or one of several by its tag; none for anything else."""
    options = expected.types if isinstance(expected, inspect.UnionType) else (expected,)
    fields: dict[str, inspect.Type] = {}
    for option in options:
        if isinstance(option, inspect.StructType):
            if option.tag_field is not None:
                fields[option.tag_field] = inspect.StrType()
            fields.update({field.encode_name: field.type for field in option.fields})
    return fields


def _explained(file: Path, raw: object, message: str) -> ProjectError:
    """msgspec's message with what was found, or that of a Struct's own check, which starts with the key."""
    matched = _WITH_PATH.fullmatch(message)
    path, problem = (matched["path"], matched["problem"]) if matched else ("", message)
    expected = _type_at(path)
    if problem.startswith("Invalid enum value") and isinstance(expected, inspect.LiteralType):
        problem = f"Expected one of {', '.join(map(str, expected.values))}"
    if problem.startswith("Expected"):
        return ProjectError(file, path, f"found {_shown(_at(raw, path))}, e{problem[1:]}")
    if problem.startswith("Object missing required field"):
        return ProjectError(file, path, problem.replace("Object missing required field", "missing the key"))
    key, separator, rest = problem.partition(": ")
    if separator and key.partition(".")[0] in _fields(expected):
        return ProjectError(file, f"{path}.{key}" if path else key, rest)
    return ProjectError(file, path, problem)


def _type_at(path: str) -> inspect.Type:
    """What the configuration expects at `path`, as far as that is a Struct's field or an item of a list."""
    expected = _allowed()
    for position, name in _STEP.findall(path):
        if name and name in (fields := _fields(expected)):
            expected = fields[name]
        elif position and isinstance(expected, inspect.VarTupleType):
            expected = expected.item_type
    return expected


def _at(raw: object, path: str) -> object:
    """The value at `path`; where the path does not name one (an entry of a mapping), the last value on the way."""
    value = raw
    for position, name in _STEP.findall(path):
        if isinstance(value, list) and position and int(position) < len(value):
            value = value[int(position)]
        elif isinstance(value, dict) and name in value:
            value = value[name]
        else:
            return value
    return value


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 3] + "..."
