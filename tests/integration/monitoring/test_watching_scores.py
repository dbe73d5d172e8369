"""`paceline watch-scores` beside a real model server: found within seconds, and goes on after both were killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType

import pytest

from pipelines.monitoring.score_memory import Kept, read_memory, write_memory
from pipelines.monitoring.score_watch import ScoreWatch
from pipelines.tasks import watching_scores
from pipelines.views.exporting import metrics_registry
from pipelines.wiring import home, open_ledger
from tests.fixtures.model_servers import ModelServerProcess
from tests.fixtures.small_installation import PROJECT, free_port, small_projects

ROOT = Path(__file__).parents[3]
WAIT_S = 60.0
FAR = {"distance": 9000.0}  # scores near 1; a usual record's are between 0.5 and 0.6
Start = Callable[[], subprocess.Popen[bytes]]


@pytest.fixture
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project that looks every fifth of a second; what is usual is known of the last five days."""
    import yaml

    projects = small_projects(tmp_path / "projects", free_port())
    file = projects / PROJECT / "project.yaml"
    configuration = yaml.safe_load(file.read_text())
    configuration["monitoring"]["scores"] = {"look_s": 0.2}
    file.write_text(yaml.safe_dump(configuration))
    monkeypatch.setenv("PACELINE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PACELINE_PROJECTS", str(projects))
    monkeypatch.delenv("PACELINE_LEDGER_URL", raising=False)
    open_ledger()
    hours = {hour: [0] * 5 + [1000] + [0] * 4 for hour in range(24)}
    today = datetime.now(UTC).date()
    days = {(today - timedelta(days=ago)).isoformat(): hours for ago in range(1, 6)}
    write_memory(home().scores(PROJECT), Kept(watch=ScoreWatch(usual=days)))
    return tmp_path


@pytest.fixture
def start(installation: Path) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    running: list[subprocess.Popen[bytes]] = []

    def started(url: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "pipelines", "watch-scores", PROJECT, "--url", url]
        running.append(subprocess.Popen(command, cwd=ROOT, env=dict(os.environ), stderr=subprocess.DEVNULL))
        return running[-1]

    yield started
    for process in running:
        if process.poll() is None:
            process.kill()
        process.wait(30)


def _wait(until: Callable[[Kept], bool]) -> Kept:
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        kept = read_memory(home().scores(PROJECT))
        if kept is not None and until(kept):
            return kept
        time.sleep(0.05)
    raise AssertionError(f"not within {WAIT_S} s: {kept}")


def test_an_alarm_is_raised_within_seconds_and_survives_restarts_of_the_server_and_of_the_watch(
    installation: Path,
    start: Callable[[str], subprocess.Popen[bytes]],
    model_servers: Callable[..., ModelServerProcess],
    bundles: ModuleType,
) -> None:
    bundle = bundles.tiny_bundle(installation / "bundles")
    server = model_servers()
    server.install(bundle, "1")
    watch = start(server.url)
    _wait(lambda kept: len(kept.servers) == 1)
    server.predict(*(bundles.tiny_record(number) for number in range(30))).raise_for_status()
    usual = _wait(lambda kept: kept.watch.scores >= 30)
    assert usual.watch.state == "quiet"

    watch.kill()
    watch.wait(30)
    server.stop()
    server = model_servers()  # the same state: its champion comes back, its counters begin anew
    watch = start(server.url)
    looked = usual.watch.looked_s or 0.0
    _wait(lambda kept: (kept.watch.looked_s or 0.0) > looked and server.url in kept.servers)
    with pytest.raises(watching_scores.ScoresAreWatchedError, match="another process watches"):
        _watch_here()

    alarmed = False
    for _ in range(60):  # a client's every look: far flights only
        server.predict(*(bundles.tiny_record(number, **FAR) for number in range(30))).raise_for_status()
        seen = (read_memory(home().scores(PROJECT)) or Kept()).watch.looked_s
        alarmed = _wait(lambda kept, seen=seen: kept.watch.looked_s != seen).watch.state == "alarm"  # type: ignore[misc]
        if alarmed:
            break
    assert alarmed
    _wait(lambda kept: not kept.untold)
    [entry] = open_ledger().entries(project=PROJECT, kinds=("scores.alarm",))
    assert "above what is usual at this hour: 0.0% to 10.0%, margin included" in entry.body["reason"]
    registry = metrics_registry()
    assert registry.get_sample_value("paceline_score_drift_alarm", {"project": PROJECT}) == 1
    assert registry.get_sample_value("paceline_score_alarms_total", {"project": PROJECT}) == 1

    watching_scores.accept_scores(PROJECT, "the far flights are here to stay", by="the test")
    accepted = _wait(lambda kept: kept.watch.state == "learning")
    assert accepted.watch.alarm is None
    watch.send_signal(signal.SIGTERM)
    assert watch.wait(30) == 0


def _watch_here() -> None:
    import asyncio

    asyncio.run(watching_scores.watch_scores(PROJECT))


def test_while_the_ledger_is_away_the_alarm_is_remembered_and_told_later(
    installation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.wiring import find_project

    project = find_project(PROJECT)
    url, far = "http://server", [0] * 9 + [1000]
    kept = read_memory(home().scores(PROJECT)) or Kept()
    now_s, counts = datetime.now(UTC).timestamp(), [0] * 10
    monkeypatch.setenv("PACELINE_LEDGER_URL", f"sqlite:///{installation}/away.db")
    for number in range(40):
        counts = [one + more for one, more in zip(counts, far, strict=True)]
        pages = {url: {"1/champion": counts}}
        kept = watching_scores.tell(project, watching_scores.looked(project, kept, pages, now_s + 0.2 * number))
    assert kept.watch.state == "alarm"
    assert [each.kind for each in kept.untold] == ["scores.alarm"]
    monkeypatch.delenv("PACELINE_LEDGER_URL")
    kept = watching_scores.tell(project, kept)
    assert kept.untold == ()
    assert len(open_ledger().entries(project=PROJECT, kinds=("scores.alarm",))) == 1


def test_a_server_that_does_not_answer_is_counted_and_no_evidence(installation: Path) -> None:
    from pipelines.wiring import find_project

    project, kept = find_project(PROJECT), read_memory(home().scores(PROJECT)) or Kept()
    now_s = datetime.now(UTC).timestamp()
    after = watching_scores.looked(project, kept, {"http://a": None, "http://b": {"1/champion": [1] * 10}}, now_s)
    assert (after.unreachable, after.watch.scores) == (1, 0)
    assert after.servers == {"http://b": {"1/champion": [1] * 10}}


def test_a_damaged_memory_is_refused_by_its_name(installation: Path) -> None:
    (home().scores(PROJECT) / "watch.json").write_text("{")
    with pytest.raises(ValueError, match=r"watch.json is damaged .*; delete it, and the watch learns anew"):
        read_memory(home().scores(PROJECT))
