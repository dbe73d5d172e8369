"""`paceline capacity` against the real model server."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines.capacity.measured import MeasuredServer, read_measured, written
from pipelines.cli import app
from tests.fixtures.bundles import tiny_bundle
from tests.fixtures.capacity import measured_server
from tests.fixtures.model_servers import ModelServerProcess

PEAK = ["capacity", "flight_delay", "--peak", "2000", "--zones", "3"]


def test_a_ramp_on_the_live_server_finds_its_limit_and_sizes_for_it(
    model_servers: Callable[..., ModelServerProcess], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = model_servers()
    server.install(tiny_bundle(tmp_path / "bundles"), "1")
    monkeypatch.setenv("PACELINE_HOME", str(tmp_path / "home"))
    state = tmp_path / "home" / "serving" / "flight_delay"
    shutil.copytree(server.root / "state", state)
    saved, page = tmp_path / "measured.json", tmp_path / "page.html"
    ended = CliRunner().invoke(
        app,
        [
            *(*PEAK, "--url", server.url, "--objective-ms", "50", "--seconds", "0.4", "--first-rate", "400"),
            *("--save", str(saved), "--html", str(page)),
        ],
    )
    assert ended.exit_code == 0, ended.output
    measured = read_measured(saved)
    assert measured.p99_ms <= 50
    assert measured.saturation_per_s == max(step.rate for step in measured.steps if step.meets)
    assert not all(step.meets for step in measured.steps), "the ramp goes on until a rate fails"
    assert measured.resident_mb > 20
    assert 0.1 < measured.start_s < 60
    assert 0 < measured.cores < 4
    assert any(step.queue_rows for step in measured.steps)
    assert "resources.requests" in ended.output
    html = page.read_text()
    for title in ("The ramp: p99 by rate", "CPU by rate", "Rows that waited, by rate"):
        assert f'aria-label="{title}"' in html
    assert "<script" not in html
    assert 'src="' not in html


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    file = tmp_path / "measured.json"
    file.write_text(written(measured_server()))
    return file


def test_a_measurement_from_a_file_needs_no_server(saved: Path) -> None:
    ended = CliRunner().invoke(app, [*PEAK, "--measured", str(saved), "--json"])
    assert ended.exit_code == 0, ended.output
    told = json.loads(ended.stdout)
    assert MeasuredServer(**{**told["measured"], "steps": ()}).saturation_per_s == 1000
    assert told["sizing"]["replicas"] == 6
    assert {each["offer"] for each in told["sizing"]["costs"]} == {"aws-fargate-x86", "aws-m7g.large"}


def test_prices_of_ones_own_replace_the_repositorys(saved: Path, tmp_path: Path) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text(
        "currency: EUR\noffers:\n"
        "- {name: ours, region: attic, per_hour: 1, cpus: 4, memory_gb: 8, source: us, as_of: 2026-01-02}\n"
    )
    ended = CliRunner().invoke(app, [*PEAK, "--measured", str(saved), "--prices", str(prices)])
    assert "  ours: 2,190.00 and 2,190.00 EUR (7 replicas fit a node: 3 nodes in 3 zones × 1 × 730 h" in ended.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--objective-ms", "5"], "--objective-ms: found 5, and the measurement is for 20"),
        (["--peak", "-1"], "--peak: found -1"),
        (["--prices", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_what_does_not_fit_is_refused(saved: Path, words: list[str], message: str) -> None:
    ended = CliRunner().invoke(app, [*PEAK, "--measured", str(saved), *words])
    assert ended.exit_code == 1
    assert message in str(ended.exception)


def test_a_measurement_of_another_project_is_refused(saved: Path) -> None:
    ended = CliRunner().invoke(app, ["capacity", "credit_risk", "--peak", "10", "--measured", str(saved)])
    assert "found a measurement of flight_delay, expected one of credit_risk" in str(ended.exception)


def test_without_a_server_on_this_machine_the_start_has_to_be_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PACELINE_HOME", str(tmp_path))
    ended = CliRunner().invoke(app, PEAK)
    assert "give --start-s SECONDS" in str(ended.exception)
