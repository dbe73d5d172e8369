import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def _name(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[\s\[=<>;!~]", requirement, maxsplit=1)[0]).lower()


def test_the_lock_pins_all_that_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = {_name(line) for line in project["dependencies"] + project["optional-dependencies"]["dev"]}
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert [line for line in lines if not re.match(r"^[A-Za-z0-9_.-]+==[^\s;*]+(; .+)?$", line)] == []
    assert asked - {_name(line) for line in lines} == set()
