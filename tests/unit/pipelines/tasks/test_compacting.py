import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines import views
from pipelines.cli import app
from pipelines.ledger import Ledger
from pipelines.monitoring.compaction import CompactionError, CompactionRunsError, locked
from pipelines.rollout import holdouts
from pipelines.rollout.events import Offer, Offered
from pipelines.rollout.plan import Holdout, Plan
from pipelines.rollout.story import shorten
from pipelines.tasks import compacting
from pipelines.wiring import home, open_ledger
from tests.fixtures.prediction_log import tiny_group, write_segment

PROJECT = "flight_delay"
DAY_S = 86_400.0


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PACELINE_HOME", str(tmp_path))
    monkeypatch.delenv("PACELINE_LOG_KEEP_DAYS", raising=False)
    open_ledger()  # it says whether a holdout needs the rows
    return home().predictions(PROJECT)


def days_ago(days: float) -> float:
    return datetime.now(UTC).replace(hour=12).timestamp() - days * DAY_S


def test_today_is_left_alone_past_days_are_compacted_and_old_ones_reduced(root: Path) -> None:
    groups = {days: tiny_group(400, served_at_s=days_ago(days)) for days in (0, 1, 30, 31)}
    for group in groups.values():
        write_segment(root, group)
    done = compacting.compact(PROJECT, sample=0.0)
    assert [day["merged"] for day in done["compacted"]] == [1, 1, 1]
    assert [(day["rows"], day["kept"]) for day in done["reduced"]] == [(400, 0)]
    kinds = [path.name.split("-")[0] for path in sorted(root.glob("day=*/*"))]
    assert kinds[:3] == ["sampled", "compacted", "compacted"]
    assert sorted(root.glob("day=*/*"))[3].suffix == ".arrows"
    with pytest.raises(LookupError, match="was reduced after 30 days to 0 of 400 rows"):
        views.lineage(groups[31].prediction_ids[0], PROJECT)
    with pytest.raises(LookupError, match="a row appears about a second later"):
        views.lineage("0123", PROJECT)
    again = compacting.compact(PROJECT, sample=0.0)
    assert (again["compacted"], again["reduced"]) == ([], [])
    assert "nothing to do" in compacting.compacted_text(again)


def test_what_a_running_holdout_is_judged_by_is_kept(root: Path) -> None:
    for days in (40, 50):
        write_segment(root, tiny_group(40, served_at_s=days_ago(days)))
    promoted_at = datetime.fromtimestamp(days_ago(45), UTC)
    with Ledger.open(f"sqlite:///{home().root / 'ledger.db'}", clock=lambda: promoted_at) as ledger:
        ledger.swap_champion(PROJECT, None, "1", "b1", "bootstrap", "the first")
        offer = Offer(rollout="r1", project=PROJECT, version="2", bundle="b2", path="/b2", expected_champion="1")
        offered = Offered(offer=offer, plan=Plan(holdout=Holdout()), at_s=0.0)
        ledger.append(PROJECT, "rollout.event", "r1", shorten(offered))
        ledger.swap_champion(PROJECT, "1", "2", "b2", "r1", "won")
        ledger.append(PROJECT, "rollout.promoted", "r1", {"version": "2"})
        reduced = compacting.compact(PROJECT, sample=0.0)["reduced"]
        assert [day["day"] for day in reduced] == [datetime.fromtimestamp(days_ago(50), UTC).date().isoformat()]
        begun = holdouts.unfinished(ledger, PROJECT)
        assert begun is not None
        holdouts.end(ledger, begun, "keep", "no worse", "judge")
    assert len(compacting.compact(PROJECT, sample=0.0)["reduced"]) == 1


def test_an_earlier_today_does_less_and_a_later_one_no_more(root: Path) -> None:
    for days in (0, 2):
        write_segment(root, tiny_group(1, served_at_s=days_ago(days)))
    earlier = datetime.fromtimestamp(days_ago(2), UTC).date().isoformat()
    assert compacting.compact(PROJECT, today=earlier)["compacted"] == []
    done = compacting.compact(PROJECT, today="2999-01-01")
    assert [day["day"] for day in done["compacted"]] == [earlier]
    assert done["reduced"] == []


def test_less_than_thirty_days_and_a_sample_that_is_no_share_are_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="at least 30 days, found 29"):
        compacting.compact(PROJECT, keep_days=29)
    with pytest.raises(ValueError, match="from 0 to 1, found 2"):
        compacting.compact(PROJECT, sample=2)
    monkeypatch.setenv("PACELINE_LOG_KEEP_DAYS", "a month")
    with pytest.raises(ValueError, match="PACELINE_LOG_KEEP_DAYS is 'a month'"):
        compacting.compact(PROJECT)
    monkeypatch.setenv("PACELINE_LOG_KEEP_DAYS", "90")
    assert compacting.compact(PROJECT)["keep_days"] == 90


def test_the_command_says_what_it_would_do_and_does_it(root: Path) -> None:
    write_segment(root, tiny_group(3, served_at_s=days_ago(2)))
    runner = CliRunner()
    dry = runner.invoke(app, ["log", "compact", PROJECT, "--dry-run"])
    assert "1 files would become one of 3 rows" in dry.stdout
    assert len(list(root.glob("day=*/*.arrows"))) == 1
    done = runner.invoke(app, ["log", "compact", PROJECT, "--json"])
    assert json.loads(done.stdout)["compacted"][0]["merged"] == 1
    assert "nothing to do" in runner.invoke(app, ["log", "compact", PROJECT]).stdout


def test_a_second_compaction_at_the_same_time_is_refused(root: Path) -> None:
    with locked(root), pytest.raises(CompactionRunsError, match="let it finish"):
        compacting.compact(PROJECT)


def test_a_damaged_file_is_named_in_the_summary(root: Path) -> None:
    write_segment(root, tiny_group(3, served_at_s=days_ago(2)))
    [path] = root.glob("day=*/*.arrows")
    path.with_name("old.parquet").write_bytes(b"PAR1")
    done = compacting.compact(PROJECT)
    assert "old.parquet is damaged and stays" in compacting.compacted_text(done)


def test_a_day_that_the_disk_refuses_is_an_error_after_the_others_are_done(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.monitoring import compaction

    for days in (4, 3, 2):
        write_segment(root, tiny_group(2, served_at_s=days_ago(days)))
    middle = sorted(root.glob("day=*"))[1]
    whole = compaction.sync

    def full(path: Path) -> None:
        if path.parent == middle:
            raise OSError(28, "No space left on device")
        whole(path)

    monkeypatch.setattr(compaction, "sync", full)
    with pytest.raises(CompactionError, match=f"{middle.name[4:]}: .*No space left"):
        compacting.compact(PROJECT)
    assert [path.suffix for path in sorted(root.glob("day=*/*"))] == [".parquet", ".arrows", ".parquet"]
