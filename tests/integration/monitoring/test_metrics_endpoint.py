"""`paceline metrics`, scraped over HTTP, on a real ledger."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipelines.monitoring.pipeline_metrics import METRICS, OWN_METRICS
from pipelines.wiring import open_ledger

ROOT = Path(__file__).parents[3]
PROJECT = "flight_delay"
WATCH: dict[str, Any] = {
    "as_of": "2013-07-02",
    "predictions": 0,
    "undated": 0,
    "segments": 0,
    "days_empty": 7,
    "damaged": [],
    "decision": {"blind": True},
}
Scrape = Callable[[], dict[tuple[str, ...], float]]


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the ledger will be: there is none yet."""
    monkeypatch.setenv("PACELINE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PACELINE_LEDGER_URL", f"sqlite:///{tmp_path}/ledger.db")
    monkeypatch.delenv("PACELINE_SCHEDULES", raising=False)
    return tmp_path / "ledger.db"


@pytest.fixture
def scrape(database: Path) -> Iterator[Scrape]:
    command = [sys.executable, "-m", "pipelines", "metrics", "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ), cwd=ROOT) as process:
        assert process.stdout is not None
        told = "".join(process.stdout.readline() for _ in range(3))
        url = json.loads(told)["url"]

        def scraped() -> dict[tuple[str, ...], float]:
            text = httpx.get(url, trust_env=False, timeout=30).raise_for_status().text
            samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
            return {
                (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
                for sample in samples
            }

        yield scraped
        process.terminate()
        assert process.wait(30) == 0


def test_a_scrape_follows_the_ledger_and_says_when_it_is_away(scrape: Scrape, database: Path) -> None:
    away = scrape()
    assert away[("paceline_ledger_up",)] == 0
    assert not any(PROJECT in key for key in away)

    ledger = open_ledger()
    ledger.swap_champion(PROJECT, None, "1", "b1", "bootstrap", "the first")
    leads = scrape()
    assert leads[("paceline_ledger_up",)] == 1
    assert leads["paceline_champion_info", "b1", PROJECT, "1"] == 1
    assert ("paceline_watch_predictions", PROJECT) not in leads
    # the schedule's watch is due although there never was one
    first_due = leads["paceline_watch_due_timestamp_seconds", PROJECT]
    assert 0 < first_due - leads["paceline_champion_since_timestamp_seconds", PROJECT] <= 86400

    written = ledger.append(PROJECT, "watch", "2013-07-02", WATCH)
    held = {"trigger": "drift", "held_by": [{"hold": "cooldown", "reason": "r"}]}
    ledger.append(PROJECT, "trigger.suppressed", "2013-07-02", held)
    seen = scrape()
    assert seen["paceline_watch_last_success_timestamp_seconds", PROJECT] == pytest.approx(written.at.timestamp())
    assert (seen["paceline_watch_predictions", PROJECT], seen["paceline_watch_blind", PROJECT]) == (0, 1)
    assert seen["paceline_retrains_suppressed_total", "cooldown", PROJECT, "drift"] == 1
    assert scrape()["paceline_watches_total", PROJECT] == 1  # an entry is counted once

    ledger.close()
    database.rename(database.with_suffix(".away"))
    gone = scrape()
    assert gone[("paceline_ledger_up",)] == 0
    assert ("paceline_watch_predictions", PROJECT) not in gone, "what is not known any more is not told"


def test_every_metric_is_on_the_page_that_lists_them_and_no_other() -> None:
    page = (ROOT / "docs" / "monitoring_metrics.md").read_text()
    rows = re.findall(r"^\| `(paceline_\w+)` \| (.*) \| .* \|$|^\| `(paceline_\w+)` \| [^|]* \|$", page, re.MULTILINE)
    told = {first or second: re.findall(r"`(\w+)`", labels) for first, labels, second in rows}
    ending = {"counter": "_total", "gauge": ""}
    declared = {metric.name + ending[metric.kind]: list(metric.labels) for metric in (*METRICS, *OWN_METRICS)}
    assert told == declared
    used = set(re.findall(r"paceline_\w+", page))
    assert used <= set(declared)
