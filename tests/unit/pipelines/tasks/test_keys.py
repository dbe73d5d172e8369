import json
import multiprocessing
import re
import stat
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from contracts.access import KEY_CHARACTERS, decode_keys, digest_of
from pipelines.cli import app
from pipelines.tasks import keys

runner = CliRunner()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "access" / "keys.json"


def test_a_key_is_shown_once_and_only_its_hash_is_kept(file: Path) -> None:
    made = keys.create(file, "acme")
    assert re.fullmatch(r"pk_[0-9a-f]{12}_[A-Za-z0-9_-]{43}", made["key"])
    assert len(made["key"]) == KEY_CHARACTERS
    assert made["key"].startswith(f"pk_{made['id']}_")
    [kept] = decode_keys(file.read_bytes()).keys
    assert kept.sha256 == digest_of(made["key"].encode()).hex()
    assert made["key"].removeprefix(f"pk_{made['id']}_") not in file.read_text()
    [listed] = keys.list_keys(file)
    assert listed == {name: value for name, value in made.items() if name not in ("key", "file")}
    assert kept.sha256 not in json.dumps(listed)


def test_only_the_owner_may_read_the_file_also_after_a_change_and_nothing_else_is_left(file: Path) -> None:
    made = keys.create(file, "acme")
    file.chmod(0o644)
    keys.revoke(file, made["id"])
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert sorted(path.name for path in file.parent.iterdir()) == [".keys.json.lock", "keys.json"]


def test_a_client_may_have_several_active_keys_and_revoking_one_leaves_the_others(file: Path) -> None:
    first, second = keys.create(file, "acme"), keys.create(file, "acme")
    revoked = keys.revoke(file, first["id"])
    assert revoked["state"] == "revoked"
    assert keys.revoke(file, first["id"]) == revoked, "once more keeps the first date"
    assert [(key["id"], key["state"]) for key in keys.list_keys(file)] == [
        (first["id"], "revoked"),
        (second["id"], "active"),
    ]


def test_an_unknown_id_is_refused_and_not_repeated_since_it_may_be_a_key(file: Path) -> None:
    made = keys.create(file, "acme")
    with pytest.raises(LookupError, match="paceline keys list") as refused:
        keys.revoke(file, made["key"])
    assert made["key"] not in str(refused.value)
    assert keys.list_keys(file)[0]["state"] == "active"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"client": "two words"}, "found the client 'two words'"),
        ({"client": ""}, "found the client ''"),
        ({"scopes": ["control"]}, "found the scopes control, expected some of predict, metrics, metadata"),
        ({"scopes": []}, "found the scopes none"),
        ({"days": -1}, "found -1 days"),
        ({"days": 10**12}, "days"),
        ({"rate_per_s": 0.0}, "found 0 requests a second"),
        ({"rate_per_s": float("nan")}, "found nan requests a second"),
        ({"burst": 5}, "together with a rate"),
        ({"burst": 0, "rate_per_s": 1.0}, "found a burst of 0"),
    ],
)
def test_a_wrong_wish_is_refused_and_nothing_is_written(file: Path, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        keys.create(file, **{"client": "acme", **changes})
    assert not file.exists()


def test_a_broken_file_is_left_as_it_is(file: Path) -> None:
    file.parent.mkdir()
    file.write_text("{")
    for attempt in (lambda: keys.create(file, "acme"), lambda: keys.list_keys(file), lambda: keys.revoke(file, "a")):
        with pytest.raises(ValueError, match="is left as it is"):
            attempt()
    assert file.read_text() == "{"


def test_a_link_stays_a_link(tmp_path: Path, file: Path) -> None:
    file.parent.mkdir()
    link = tmp_path / "link.json"
    link.symlink_to(file)
    keys.create(link, "acme")
    assert link.is_symlink()
    assert len(keys.list_keys(file)) == 1


def _create_five(file: Path) -> None:
    for _ in range(5):
        keys.create(file, "acme")


def test_of_several_processes_that_create_at_once_none_loses_a_key(file: Path) -> None:
    fresh = multiprocessing.get_context("spawn")
    processes = [fresh.Process(target=keys.create, args=(file, f"client-{number}")) for number in range(3)]
    for process in processes:
        process.start()
    _create_five(file)
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert len(keys.list_keys(file)) == 8


def test_the_command_creates_lists_and_revokes_in_the_servers_file(file: Path) -> None:
    environment = {"PACELINE_SERVING_KEYS": str(file), "COLUMNS": "40"}

    def paceline(*words: str) -> str:
        ended = runner.invoke(app, ["keys", *words], env=environment)
        assert ended.exit_code == 0, ended.output
        return ended.stdout

    words = ("--scope", "predict", "--scope", "metadata", "--rate", "5", "--burst", "9", "--project", "flight_delay")
    made = json.loads(paceline("create", "acme", *words, "--json"))
    assert (made["scopes"], made["rate_per_s"], made["burst"]) == (["predict", "metadata"], 5.0, 9)
    shown = paceline("create", "other", "--days", "0")
    assert re.match(r"pk_[0-9a-f]{12}_[A-Za-z0-9_-]{43}\n", shown), "a narrow terminal does not break it"
    assert "for ever" in shown
    assert "5 a second, 9 at once" in paceline("list")
    assert json.loads(paceline("revoke", made["id"], "--json"))["state"] == "revoked"
    listed = json.loads(paceline("list", "--json"))
    assert [(key["client"], key["state"]) for key in listed] == [("acme", "revoked"), ("other", "active")]
    assert "--json" in runner.invoke(app, ["keys", "list", "--help"], env={"NO_COLOR": "1", "TERM": "dumb"}).stdout


def test_without_a_file_the_command_says_how_to_name_one() -> None:
    ended = runner.invoke(app, ["keys", "list"], env={"PACELINE_SERVING_KEYS": None, "NO_COLOR": "1", "TERM": "dumb"})
    assert ended.exit_code == 2
    assert "PACELINE_SERVING_KEYS" in ended.output
