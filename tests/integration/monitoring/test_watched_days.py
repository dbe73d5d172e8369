"""Watches of real flights: days around a change of the clocks, clocks that are wrong, damage, and two at once."""

import subprocess
import sys
import time
from collections import Counter
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipelines.monitoring.pipeline_metrics import Leading, Record, samples_of
from pipelines.tasks import assessing, labelling, watching
from pipelines.wiring import home, open_ledger
from tests.fixtures.browsers import PageBrowser
from tests.fixtures.watched_flights import PROJECT, flights, serve

SPRING, AUTUMN = date(2013, 3, 10), date(2013, 11, 3)
WATCH = [sys.executable, "-m", "pipelines", "watch", PROJECT, "--as-of", "2013-03-13", "--days", "2", "--json"]


def _by_day(observed: dict[str, Any]) -> dict[str, int]:
    parts = observed["quality_parts"]
    return {part["day"]: part["rows"] for part in parts if part["day"] is not None and part["field"] is None}


@pytest.mark.parametrize("change", [SPRING, AUTUMN])
@pytest.mark.parametrize("skew_h", [0, 30, -30])
def test_no_row_moves_to_another_day_when_the_clocks_change_or_a_servers_clock_is_wrong(
    watched: Path, monkeypatch: pytest.MonkeyPatch, change: date, skew_h: int
) -> None:
    records = flights(change - timedelta(days=1), change + timedelta(days=2))
    serve(records, skew=timedelta(hours=skew_h))
    expected = Counter(record["scheduled"][:10] for record in records)
    assert len(expected) == 3
    as_of = (change + timedelta(days=3)).isoformat()
    found = []
    for zone in ("America/New_York", "Pacific/Auckland"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        found.append(watching.observe(PROJECT, as_of, 4))
    monkeypatch.undo()
    time.tzset()
    assert [_by_day(each) for each in found] == [expected, expected]
    coverages = [each["coverage"] for each in found]
    assert [each["due"] for each in coverages] == [expected.total()] * 2
    assert [each["labelled"] for each in coverages] == [expected.total()] * 2, (
        "every flight in the warehouse has landed"
    )


def test_a_damaged_segment_is_skipped_named_and_counted_and_the_rest_is_read(watched: Path) -> None:
    serve(flights(date(2013, 3, 11), date(2013, 3, 13)))
    whole = watching.observe(PROJECT, "2013-03-13", 2)
    broken = sorted(watched.glob("day=*/*.arrows"))[0]
    content = bytearray(broken.read_bytes())
    frame = content.index(b"\x28\xb5\x2f\xfd")  # of zstd
    content[frame : frame + 4] = b"\0\0\0\0"
    broken.write_bytes(content)
    partial = watching.observe(PROJECT, "2013-03-13", 2)
    assert whole["damaged"] == []
    assert [each["path"] for each in partial["damaged"]] == [broken.relative_to(watched).as_posix()]
    assert 0 < partial["predictions"] < whole["predictions"]
    record = Record()
    for entry in open_ledger().entries(PROJECT, ("watch",)):
        record.add(entry)
    samples = {sample.name: sample.value for sample in samples_of(PROJECT, record, Leading(), None)}
    assert samples["paceline_watch_damaged_segments"] == 1
    assert samples["paceline_watch_label_coverage_ratio"] == 1


def test_of_two_watches_at_once_one_works_and_a_killed_one_is_in_nobodys_way(watched: Path) -> None:
    serve(flights(date(2013, 3, 11), date(2013, 3, 12)))
    hold = (
        "import sys, pipelines.tasks.watching as w\n"
        "w._observe = lambda *_: (print('at work', flush=True), sys.stdin.read())\n"
        f"w.observe({PROJECT!r}, '2013-03-13')"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        try:
            assert first.stdout is not None
            assert first.stdout.readline() == "at work\n"
            second = subprocess.run(WATCH, capture_output=True, text=True, timeout=120, check=False)
            said = " ".join(second.stderr.split())
            assert second.returncode == 1
            assert f"the watch of {PROJECT} as of 2013-03-13 (process {first.pid}, since" in said
            assert open_ledger().entries(PROJECT, ("watch",)) == []
        finally:
            first.kill()
    assert watching.observe(PROJECT, "2013-03-13", 2)["predictions"] > 0


def test_quality_is_told_by_version_slot_slice_and_day_and_what_is_not_known_is_said(watched: Path) -> None:
    records = flights(date(2013, 3, 9), date(2013, 3, 13))
    serve(records)
    serve(records[::3], version="8", slot="shadow")
    assessed = assessing.assess(PROJECT, "2013-03-13", 4)
    daily = {(part.day, part.version): part for part in assessed.parts if part.field is None}
    assert {key: part.maturity for key, part in daily.items()} == {
        (f"2013-03-{day:02}", version): "not_due" if day == 12 else "known"
        for day in (9, 10, 11, 12)
        for version in ("7", "8")
    }
    known = daily["2013-03-10", "7"]
    assert known.log_loss is not None
    assert known.log_loss.low is not None
    assert known.log_loss.low < known.log_loss.value < (known.log_loss.high or 0)
    assert daily["2013-03-12", "7"].log_loss is None
    slices = [part for part in assessed.parts if part.field == "carrier" and part.day is None and part.version == "7"]
    assert sum(part.rows for part in slices) == len(records)
    assert {part.value for part in slices} > {"AA", "UA"}
    both = [part for part in assessed.parts if part.field == "carrier" and part.day == "2013-03-12"]
    assert all(part.maturity == "not_due" and part.log_loss is None for part in both)
    page = assessing.write_page(assessed).read_text()
    assert page.count('class="unknown"') > 5
    assert "2013-03-12: version 7, champion: not known yet: no outcome is due" in page
    text = assessing.assessed_text(assessed)
    assert "2013-03-12 version 7, champion: 0 of 0 due; not known yet" in text


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_of_quality_opens_without_a_complaint_and_fits(
    browser: PageBrowser, watched: Path, tmp_path: Path, dark: bool
) -> None:
    records = flights(date(2013, 3, 9), date(2013, 3, 13))
    serve(records)
    serve(records[::3], version="8", slot="shadow")
    page = assessing.write_page(assessing.assess(PROJECT, "2013-03-13", 4))
    seen = browser.look(page.as_uri(), dark=dark, picture=tmp_path / "page.png")
    assert seen.complaints == []
    assert (seen.wide, seen.beyond, seen.cut, seen.scrolled) == (0, [], [], [])
    assert seen.drawings
    assert [each for each in seen.drawings if min(each.width, each.height) < 60 or not each.shown] == []
    assert [each for each in seen.drawings if not each.name] == []  # said to those who do not see it


def test_what_is_told_later_corrects_the_warehouse_in_the_watches_after_it_and_in_none_before(watched: Path) -> None:
    records = flights(date(2013, 3, 11), date(2013, 3, 12))
    ids = serve(records)
    before = watching.observe(PROJECT, "2013-03-13", 2)
    correction = {"prediction_id": ids[0], "known_at": "2013-03-13T06:00:00Z"}
    share = before["quality"][0]["positive_share"]
    for value in (0, 1):  # one of them says otherwise than the warehouse
        labelling.add_rows(PROJECT, [correction | {"value": value}], "the airline")
    assert watching.observe(PROJECT, "2013-03-13", 2)["quality"][0]["positive_share"] == share
    after = watching.observe(PROJECT, "2013-03-14", 3)
    assert after["coverage"]["corrected"] == 1
    assert after["coverage"]["labelled"] == before["coverage"]["labelled"]
    last = labelling.history(PROJECT, ids[0])["told"][-1]["value"]
    labelling.add_rows(PROJECT, [correction | {"value": 1 - last, "known_at": "2013-03-13T07:00:00Z"}], "the airline")
    other = watching.observe(PROJECT, "2013-03-14", 3)
    assert abs(other["quality"][0]["positive_share"] - after["quality"][0]["positive_share"]) == pytest.approx(
        1 / len(records)
    )
    assert home().outcomes(PROJECT).exists()
