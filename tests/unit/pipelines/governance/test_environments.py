"""An environment is made once for a lock, and again where it was not finished."""

from pathlib import Path

import pytest

from pipelines.governance.environments import LockError, environment_of


def test_an_environment_is_made_once_for_each_lock(tmp_path: Path) -> None:
    lock, said = tmp_path / "requirements.txt", list[str]()
    lock.write_text("# nothing\n")
    interpreter = environment_of(lock, tmp_path / "environments", said.append)
    assert interpreter.exists()
    assert "once" in said[0]
    said.clear()
    assert environment_of(lock, tmp_path / "environments", said.append) == interpreter
    assert said == []


def test_a_lock_that_cannot_be_installed_says_what_pip_said_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    lock = tmp_path / "requirements.txt"
    lock.write_text("no-such-package-of-paceline==1\n")
    for _ in range(2):
        said: list[str] = []
        with pytest.raises(LockError, match="no-such-package-of-paceline"):
            environment_of(lock, tmp_path / "environments", said.append)
        assert "once" in said[0]
