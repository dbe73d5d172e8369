from typing import Any

import pytest

from pipelines.governance.exchanges import Data, Exchange, Known, exchange, snapshot_of

SNAPSHOT, BUNDLE = "5" * 64, "b" * 64
FILES = [{"path": "flights.parquet", "sha256": "a" * 64, "bytes": 3}]
ORIGINS = [{"name": "flights.csv", "sha256": "c" * 64, "bytes": 9}]
KNOWN = Known(
    ingested={"files": FILES, "origins": ORIGINS},
    taken={"files": FILES},
    snapshot={"uri": "file:///s", "columns": {"late": "bool"}, "rows": 7},
)
READ = Data(name="p.snapshot", version=SNAPSHOT, uri="file:///s", columns={"late": "bool"}, rows=7)


def named(data: tuple[Data, ...]) -> list[tuple[str, str | None]]:
    return [(each.name.removeprefix("p."), each.version) for each in data]


@pytest.mark.parametrize(
    ("workflow", "task", "result", "inputs", "outputs"),
    [
        ("ingest", "load", {"rows": {}}, [("source.flights.csv", "c" * 64)], [("warehouse.flights", "a" * 64)]),
        ("retrain", "take_snapshot", SNAPSHOT, [("warehouse.flights", "a" * 64)], [("snapshot", SNAPSHOT)]),
        ("retrain", "validate", SNAPSHOT, [("snapshot", SNAPSHOT)], []),
        ("retrain", "train", {"snapshot": SNAPSHOT, "graph": "g"}, [("snapshot", SNAPSHOT)], [("trial", "g")]),
        ("retrain", "train", {"snapshot": SNAPSHOT, "state": "failed"}, [("snapshot", SNAPSHOT)], []),
        (
            "retrain",
            "best_of",
            {"graph": "g", "trials": [{"graph": "g"}, {"graph": "h"}, {"state": "failed"}, {"graph": "g"}]},
            [("trial", "g"), ("trial", "h")],
            [("choice", "g")],
        ),
        ("retrain", "optimise", {"trained_graph": "g", "graph": "q"}, [("choice", "g")], [("candidate", "q")]),
        (
            "retrain",
            "evaluate",
            {"snapshot": SNAPSHOT, "candidate": {"graph": "q"}, "champion": "2", "bundle": BUNDLE},
            [("snapshot", SNAPSHOT), ("candidate", "q"), ("champion", "2")],
            [("bundle", BUNDLE)],
        ),
        ("retrain", "register", {"version": "3", "bundle": BUNDLE}, [("bundle", BUNDLE)], [("version", "3")]),
        ("release", "roll_out", {"version": "3", "state": "promoted"}, [("version", "3")], [("champion", "3")]),
        ("release", "roll_out", {"version": "3", "state": "rolled_back"}, [("version", "3")], []),
        ("rollback", "put_back", {"version": "2"}, [("version", "2")], [("champion", "2")]),
        ("watch", "observe", {"predictions": 4, "champion": "2"}, [("predictions", None), ("champion", "2")], []),
        ("reproduce", "make_again", {"version": "2"}, [("version", "2")], []),
        ("retrain", "choose_window", {"as_of": "2013-01-01"}, [], []),
        ("retrain", "register", None, [], []),
    ],
)
def test_each_task_says_what_it_read_and_made(
    workflow: str, task: str, result: Any, inputs: list[Any], outputs: list[Any]
) -> None:
    found = exchange("p", workflow, task, result, KNOWN)
    assert (named(found.inputs), named(found.outputs)) == (inputs, outputs)


def test_a_snapshot_has_its_place_its_columns_and_its_rows() -> None:
    assert exchange("p", "retrain", "validate", SNAPSHOT, KNOWN) == Exchange(inputs=(READ,))


def test_what_is_not_known_is_left_out() -> None:
    assert exchange("p", "retrain", "take_snapshot", SNAPSHOT, Known()) == Exchange(
        outputs=(Data(name="p.snapshot", version=SNAPSHOT),)
    )


def test_the_snapshot_of_a_result_is_found() -> None:
    assert (snapshot_of(SNAPSHOT), snapshot_of({"snapshot": SNAPSHOT})) == (SNAPSHOT, SNAPSHOT)
    assert (snapshot_of({"version": "3"}), snapshot_of([1]), snapshot_of(None)) == (None, None, None)
