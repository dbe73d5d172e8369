from pathlib import Path

import pytest

from serving.champion_file import Remembered, StateError, read_champion, write_champion

CHAMPION = Remembered(version="7", bundle="b", path="/bundles/b")


def test_the_champion_is_remembered(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    assert read_champion(folder) is None
    write_champion(folder, CHAMPION)
    write_champion(folder, CHAMPION)
    assert read_champion(folder) == CHAMPION
    assert [path.name for path in folder.iterdir()] == ["state.json"]


@pytest.mark.parametrize("content", [b"", b"{}", b'{"format": 1, "champion": {"version": "7"}}'])
def test_a_damaged_state_names_its_file_and_what_to_do(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state.json").write_bytes(content)
    with pytest.raises(StateError, match=r"state\.json cannot be read.*promote a version"):
        read_champion(tmp_path)


def test_a_state_of_another_format_is_refused(tmp_path: Path) -> None:
    write_champion(tmp_path, CHAMPION)
    path = tmp_path / "state.json"
    path.write_bytes(path.read_bytes().replace(b'"format":1', b'"format":2'))
    with pytest.raises(StateError, match="has format 2"):
        read_champion(tmp_path)
