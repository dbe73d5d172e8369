from pathlib import Path

import pytest

from serving.champion_file import Remembered, RememberedHoldout, State, StateError, read_state, write_state

CHAMPION = Remembered(version="7", bundle="b", path="/bundles/b")


def test_the_champion_is_remembered(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    assert read_state(folder) is None
    write_state(folder, State(champion=CHAMPION))
    write_state(folder, State(champion=CHAMPION))
    assert read_state(folder) == State(champion=CHAMPION)
    assert [path.name for path in folder.iterdir()] == ["state.json"]


def test_a_holdout_is_remembered_beside_the_champion(tmp_path: Path) -> None:
    old = RememberedHoldout(model=Remembered(version="6", bundle="a", path="/bundles/a"), rollout="r", share=0.05)
    write_state(tmp_path, State(champion=CHAMPION, holdout=old))
    assert read_state(tmp_path) == State(champion=CHAMPION, holdout=old)
    write_state(tmp_path, State(champion=CHAMPION))
    assert read_state(tmp_path) == State(champion=CHAMPION)
    assert "holdout" not in (tmp_path / "state.json").read_text()


@pytest.mark.parametrize("content", [b"", b"{}", b'{"format": 1, "champion": {"version": "7"}}'])
def test_a_damaged_state_names_its_file_and_what_to_do(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state.json").write_bytes(content)
    with pytest.raises(StateError, match=r"state\.json cannot be read.*promote a version"):
        read_state(tmp_path)


def test_a_state_of_another_format_is_refused(tmp_path: Path) -> None:
    write_state(tmp_path, State(champion=CHAMPION))
    path = tmp_path / "state.json"
    path.write_bytes(path.read_bytes().replace(b'"format":1', b'"format":2'))
    with pytest.raises(StateError, match="has format 2"):
        read_state(tmp_path)
