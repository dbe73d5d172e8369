"""Unusual predictions, flagged by the real writer, with their neighbours in a snapshot of real flights."""

import csv
import json
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from contracts.bundle import Bundle
from contracts.encoder import Encoder
from pipelines.cli import app
from pipelines.tasks import forgetting, reviewing
from pipelines.wiring import home, open_ledger
from tests.fixtures.browsers import PageBrowser
from tests.fixtures.prediction_log import tiny_group, write_segment
from tests.fixtures.watched_flights import PROJECT, SCHEMA, flights, serve

AS_OF = "2013-03-13"


def _serve_unusual(bundle: Bundle, *changes: dict[str, Any], scores: list[float]) -> list[str]:
    """One real flight for each of `changes`, by which it is unusual; flagged by the writer against the baseline."""
    usual = [each for each in flights(date(2013, 3, 12), date(2013, 3, 13)) if each["carrier"] == "UA"]
    records = [
        {**usual[place], "distance": 300.0, "passenger": "Grace", **change} for place, change in enumerate(changes)
    ]
    group = tiny_group(
        len(records),
        schema=SCHEMA,
        bundle=bundle.id,
        baseline=bundle.baseline,
        features=Encoder(SCHEMA).encode_rows(records),
        records=records,
        entities=[record["tailnum"] for record in records],
        scores=scores,
        decisions=[score > 0.6 for score in scores],
        request_id="unusual",
    )
    write_segment(home().predictions(PROJECT), group)
    return list(group.prediction_ids)


def _run(*arguments: str) -> Any:
    found = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return json.loads(found.stdout)


@pytest.fixture
def unusual(trained: Bundle) -> list[str]:
    serve(flights(date(2013, 3, 12), date(2013, 3, 13)))
    return _serve_unusual(
        trained, {"distance": 9000.0}, {"carrier": "=ZZ"}, {"distance": 320.0}, {}, scores=[0.55, 0.55, 0.9999, 0.55]
    )


def test_the_queue_has_what_was_flagged_with_reason_masked_inputs_and_neighbours(unusual: list[str]) -> None:
    collected = _run("review", "collect", PROJECT, "--as-of", AS_OF)
    assert (collected["unusual"], collected["added"], collected["left_out"]) == (3, 3, 0)
    assert _run("review", "collect", PROJECT, "--as-of", AS_OF)["added"] == 0
    rows = {row["prediction_id"]: row for row in _run("review", "list", PROJECT)}
    far, strange, sure = (rows[each] for each in unusual[:3])
    assert far["reason"] == "distance is 9000.0, far outside of training, which has 100 to 400"
    assert strange["reason"] == "carrier is '=ZZ', a word that no training row had, which has 3 other words"
    assert sure["reason"] == "the score 0.9999 is beyond all that the version gave on its test rows"
    for row in (far, strange, sure):
        assert row["inputs"]["passenger"].startswith("masked:")
        distances = [each["distance"] for each in row["neighbours"]]
        assert len(distances) == 5
        assert distances == sorted(distances)
        assert {each["record"]["passenger"] for each in row["neighbours"]} == {"masked"}
        assert {each["label"] for each in row["neighbours"]} <= {0, 1}
    assert "UA" in {each["record"]["carrier"] for each in sure["neighbours"]}
    assert max(abs(each["record"]["distance"] - 320) for each in sure["neighbours"]) < 400
    assert all(each["record"]["distance"] > 4000 for each in far["neighbours"]), "to Honolulu"
    kept = b"".join(path.read_bytes() for path in home().reviews(PROJECT).rglob("*") if path.is_file())
    assert b"Grace" not in kept
    assert b"Ada" not in kept


def test_a_label_goes_into_the_outcomes_and_the_ledger(unusual: list[str]) -> None:
    reviewing.collect(PROJECT, AS_OF)
    done = _run("review", "label", PROJECT, unusual[0], "1", "--by", "mia", "--reason", "the crew says so")
    assert (done["value"], done["by"]) == (1, "mia")
    (entry,) = open_ledger().entries(PROJECT, ("review.labelled",))
    assert (entry.subject, entry.body["reason"]) == (unusual[0], "the crew says so")
    told = _run("outcomes", "show", PROJECT, unusual[0])["told"]
    assert [(each["value"], each["source"]) for each in told] == [(1, "review by mia")]
    listed = {row["prediction_id"]: row["label"] for row in reviewing.list_queue(PROJECT)}
    assert [listed[each] for each in unusual[:3]] == [1, None, None]
    assert unusual[0] not in {row["prediction_id"] for row in reviewing.list_queue(PROJECT, only_open=True)}


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        ({"value": "2"}, ValueError, "a label is 0 or 1, found '2'"),
        ({"by": " "}, ValueError, "who labels it and why"),
        ({"reason": ""}, ValueError, "who labels it and why"),
        ({"prediction_id": "no-such-id"}, LookupError, "no prediction no-such-id"),
    ],
)
def test_a_label_that_nobody_gives_or_of_nothing_is_refused(
    unusual: list[str], wrong: dict[str, str], error: type[Exception], says: str
) -> None:
    said = {"prediction_id": unusual[0], "value": "1", "by": "mia", "reason": "seen"} | wrong
    with pytest.raises(error, match=says):
        reviewing.label(PROJECT, **said)
    assert open_ledger().entries(PROJECT, ("review.labelled", "outcomes.added")) == []


def test_the_queue_is_exported_and_a_text_of_a_client_is_no_formula(unusual: list[str], tmp_path: Path) -> None:
    reviewing.collect(PROJECT, AS_OF)
    assert _run("review", "export", PROJECT, str(tmp_path / "queue.csv"))["rows"] == 3
    with (tmp_path / "queue.csv").open(newline="") as file:
        rows = {row["prediction_id"]: row for row in csv.DictReader(file)}
    assert rows[unusual[1]]["input.carrier"] == "'=ZZ"
    assert rows[unusual[0]]["input.distance"] == "9000.0"
    assert float(rows[unusual[0]]["neighbour1.distance"]) > 0
    assert reviewing.export(PROJECT, tmp_path / "queue.parquet") == 3
    table = pq.read_table(tmp_path / "queue.parquet")
    assert set(table["input.carrier"].to_pylist()) == {"UA", "=ZZ"}
    with pytest.raises(ValueError, match=r"ends with '\.xlsx'"):
        reviewing.export(PROJECT, tmp_path / "queue.xlsx")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_opens_without_a_complaint_and_fits(
    browser: PageBrowser, unusual: list[str], tmp_path: Path, dark: bool
) -> None:
    reviewing.collect(PROJECT, AS_OF)
    reviewing.label(PROJECT, unusual[0], "1", by="mia", reason="the crew says so")
    seen = browser.look(reviewing.write_page(PROJECT).as_uri(), dark=dark, picture=tmp_path / "page.png")
    assert seen.complaints == []
    assert (seen.wide, seen.beyond, seen.cut, seen.scrolled) == (0, [], [], [])


def test_the_page_shows_each_prediction_beside_its_neighbours_and_no_person(unusual: list[str]) -> None:
    reviewing.collect(PROJECT, AS_OF)
    reviewing.label(PROJECT, unusual[2], "0", by="mia", reason="landed early")
    page = reviewing.write_page(PROJECT).read_text()
    assert all(each in page for each in unusual[:3])
    assert "far outside of training" in page
    assert "Neighbour 5" in page
    assert "0 by mia" in page
    assert "Grace" not in page
    assert "Ada " not in page


def test_a_flood_of_one_kind_hides_no_other_and_what_is_left_out_is_counted(trained: Bundle) -> None:
    flood: list[dict[str, Any]] = [{"distance": 9000.0}] * 20
    ids = _serve_unusual(trained, *flood, {"carrier": "ZZ"}, scores=[0.55] * 21)
    collected = reviewing.collect(PROJECT, AS_OF, at_most=5)
    assert (collected["unusual"], collected["added"], collected["left_out"]) == (21, 5, 16)
    assert ids[-1] in {row["prediction_id"] for row in reviewing.list_queue(PROJECT)}
    assert reviewing.collect(PROJECT, AS_OF, at_most=100)["added"] == 16


def test_without_the_snapshot_a_row_comes_without_neighbours_and_says_so(trained: Bundle) -> None:
    _serve_unusual(trained, {"distance": 9000.0}, scores=[0.55])
    (home().snapshots / trained.manifest.snapshot).rename(home().root / "elsewhere")
    assert reviewing.collect(PROJECT, AS_OF)["added"] == 1
    (row,) = reviewing.list_queue(PROJECT)
    assert row["neighbours"] == []
    assert "no neighbours: no snapshot at" in row["note"]
    assert "no neighbours" in reviewing.listed_text([row])


def test_who_is_forgotten_leaves_the_queue_and_its_page_too(unusual: list[str]) -> None:
    reviewing.collect(PROJECT, AS_OF)
    page = reviewing.write_page(PROJECT)
    gone, *_ = reviewing.list_queue(PROJECT)
    done = forgetting.forget(PROJECT, gone["entity"], by="dpo", reason="request 17")
    assert done["reviewed"] >= 1
    assert not page.exists()
    assert gone["prediction_id"] not in {row["prediction_id"] for row in reviewing.list_queue(PROJECT)}
