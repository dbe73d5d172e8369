"""Python files of a project's folder, loaded by their path: a project is no package, and several have a `source.py`."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def load_code(path: Path, name: str) -> ModuleType:
    """Runs the file at `path` as a module called `name`, which is unique to the project and the file.

    Raises:
        FileNotFoundError: there is no such file, or it is no Python file.
    """
    spec = importlib.util.spec_from_file_location(name, path) if path.is_file() else None
    if spec is None or spec.loader is None:
        raise FileNotFoundError(f"no file {path}; write it, or name another")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up by its name
    spec.loader.exec_module(module)
    return module
