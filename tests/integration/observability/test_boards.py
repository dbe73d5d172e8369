"""Grafana's boards: as they are written in code, asking for what is exported."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.observability.boards import BOARDS, drawn
from pipelines.observability.panels import Board
from tests.fixtures.prometheus import OBSERVABILITY, program, rules, run, selectors

each_board = pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)


def panels(board: Board) -> list[dict[str, Any]]:
    return [panel for panel in json.loads(drawn(board))["panels"] if panel["type"] != "row"]


@each_board
def test_the_written_board_is_that_of_the_code(board: Board) -> None:
    file = OBSERVABILITY / "dashboards" / f"{board.uid}.json"
    assert file.read_text() == drawn(board), f"run: python -m pipelines.observability.boards {file.parent}"


def test_there_is_no_board_that_the_code_does_not_have() -> None:
    written = {file.stem for file in (OBSERVABILITY / "dashboards").glob("*.json")}
    assert written == {"paceline-serving", "paceline-versions", "paceline-data", "paceline-pipelines"}
    assert written == {board.uid for board in BOARDS}


@each_board
def test_promtool_reads_every_expression(board: Board, tmp_path: Path) -> None:
    asked = [target["expr"] for panel in panels(board) for target in panel["targets"]]
    file = tmp_path / "board.yml"
    recorded = [{"record": f"panel:{number}", "expr": expression} for number, expression in enumerate(asked)]
    file.write_text(yaml.safe_dump({"groups": [{"name": "board", "rules": recorded}]}))
    checked = run(program("promtool"), "check", "rules", file)
    assert checked.returncode == 0, checked.stdout
    file.write_text(yaml.safe_dump({"groups": [{"name": "board", "rules": [{"record": "a", "expr": "rate(x"}]}]}))
    assert run(program("promtool"), "check", "rules", file).returncode != 0


@each_board
def test_every_panel_asks_for_what_is_exported(board: Board, exported: dict[str, set[str]]) -> None:
    known = exported | {rule["record"]: {"project", "version", "slot", "instance", "job"} for rule in rules("record")}
    for panel in panels(board):
        for target in panel["targets"]:
            for metric, labels in selectors(target["expr"]):
                assert metric in known, f"{panel['title']} asks for {metric}, which nobody exports"
                assert labels <= known[metric], f"{panel['title']} asks {metric} for {labels - known[metric]}"


@each_board
def test_panels_have_numbers_of_their_own_and_a_place_where_no_other_is(board: Board) -> None:
    built = json.loads(drawn(board))["panels"]
    assert len({panel["id"] for panel in built}) == len(built)
    cells = [
        (x, y)
        for panel in built
        for place in [panel["gridPos"]]
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert all(panel["description"] for panel in panels(board))


def test_champion_and_challenger_are_side_by_side() -> None:
    versions = next(board for board in BOARDS if board.uid == "paceline-versions")
    built = panels(versions)
    pairs = [(left, right) for left, right in zip(built[::2], built[1::2], strict=True) if "champion" in left["title"]]
    assert len(pairs) == 5
    for left, right in pairs:
        assert left["gridPos"]["y"] == right["gridPos"]["y"]
        assert left["gridPos"]["x"] < right["gridPos"]["x"]
        said = [target["expr"] for target in left["targets"]]
        assert [text.replace('"champion"', '"challenger"') for text in said] == [t["expr"] for t in right["targets"]]
