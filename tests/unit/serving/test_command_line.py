from importlib.metadata import version

import pytest

from serving.command_line import EXPLAINED, environment_of
from serving.settings import PREFIX, SETTINGS, SettingsError, read_settings

NEEDED = {f"{PREFIX}PROJECT": "p", f"{PREFIX}STATE": "s", f"{PREFIX}PREDICTIONS": "l"}


def test_the_help_explains_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert set(EXPLAINED) == set(SETTINGS)
    with pytest.raises(SystemExit) as ended:
        environment_of(["--help"], {})
    assert ended.value.code == 0
    told = capsys.readouterr().out
    for name in SETTINGS:
        assert f"\n  {PREFIX}{name} " in told
    assert max(map(len, told.splitlines())) <= 120


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        environment_of(["--version"], {})
    assert capsys.readouterr().out == f"paceline {version('paceline')}\n"


def test_workers_of_the_command_line_stand_before_those_of_the_environment() -> None:
    assert read_settings(NEEDED).workers == 1
    given = {**NEEDED, f"{PREFIX}WORKERS": "3"}
    assert read_settings(given).workers == 3
    assert read_settings(environment_of([], given)).workers == 3
    assert read_settings(environment_of(["--workers", "2"], given)).workers == 2


@pytest.mark.parametrize("wrong", ["0", "65", "two", "-1", "1.5"])
def test_a_number_of_workers_that_cannot_be_is_refused(wrong: str) -> None:
    with pytest.raises(SettingsError, match=r"WORKERS is .*, expected a whole number from 1 to 64"):
        read_settings(environment_of([f"--workers={wrong}"], NEEDED))


def test_what_is_no_option_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        environment_of(["--worker", "2"], {})
    assert ended.value.code == 2
    assert "--worker" in capsys.readouterr().err
