"""`paceline bench serve` against the real model server."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from pipelines.benchmarking import page
from pipelines.benchmarking.results import BenchResult, Failure
from pipelines.cli import app
from pipelines.tasks import benching, keys
from tests.fixtures.bundles import tiny_bundle, tiny_record
from tests.fixtures.model_servers import ModelServerProcess
from tests.fixtures.tiny_http_servers import tiny_server


@pytest.fixture
def server(model_servers: Callable[..., ModelServerProcess], tmp_path: Path) -> ModelServerProcess:
    """With a challenger that has half of the entities."""
    started = model_servers()
    started.install(tiny_bundle(tmp_path / "bundles"), "1")
    started.load(tiny_bundle(tmp_path / "bundles", bias=0.1), "2", "r1").raise_for_status()
    started.share("r1", 0.5).raise_for_status()
    return started


def bench(url: str, **options: Any) -> BenchResult:
    fast: dict[str, Any] = {"duration_s": 0.5, "warmup_s": 0.1, "rate": 200.0, **options}
    return asyncio.run(benching.bench_serve(url, benching.Options(**fast)))


def test_a_load_at_a_rate_counts_both_slots_and_the_servers_cost(server: ModelServerProcess, tmp_path: Path) -> None:
    result = bench(server.url)
    measured = result.measured
    assert measured.counts.failed == 0
    assert {(slot.slot, slot.version) for slot in measured.slots} == {("champion", "1"), ("challenger", "2")}
    assert sum(slot.requests for slot in measured.slots) == measured.counts.answered
    assert sum(slot.share for slot in measured.slots) == pytest.approx(1)
    assert result.environment["project"] == "flight_delay"
    assert result.server_process is not None
    assert result.server_process.cpu_us_per_request > 0
    files = {"json_file": tmp_path / "out" / "a.json", "html_file": tmp_path / "out" / "a.html"}
    benching.write_reports(result, **files)
    assert msgspec.json.decode(files["json_file"].read_bytes(), type=BenchResult, strict=False) == result
    html = files["html_file"].read_text()
    for title in ("Latency by percentile", "Latency over time", "Rate by when requests were due", "Latency by slot"):
        assert f'aria-label="{title}"' in html
    assert "<script" not in html
    assert 'src="' not in html
    assert 'href="' not in html


@pytest.mark.parametrize("protocol", ["open-inference", "open-inference-binary"])
def test_the_same_rows_go_by_tensors(server: ModelServerProcess, protocol: str) -> None:
    result = bench(server.url, protocol=protocol, rows=3, concurrency=2, rate=None)
    measured = result.measured
    assert (measured.counts.failed, result.mode) == (0, "concurrency")
    assert measured.rates.rows == pytest.approx(3 * measured.rates.answered)
    assert {slot.version for slot in measured.slots} <= {"1", "2", "several"}
    assert "Rate over time" in page.bench_page(result)


def test_a_search_reports_its_steps_and_the_best(server: ModelServerProcess) -> None:
    result = bench(server.url, find_rate=True, objective_p99_ms=600_000, timeout_s=600, rate=150_000.0, duration_s=0.1)
    assert result.search is not None
    assert result.search.steps
    html = page.bench_page(result)
    assert 'aria-label="p99 by rate"' in html
    assert "largest rate with p99 <= 600000 ms: " in page.bench_text(result)


def test_records_of_a_file_are_sent(server: ModelServerProcess, tmp_path: Path) -> None:
    file = tmp_path / "records.jsonl"
    file.write_text("".join(json.dumps(tiny_record(number)) + "\n\n" for number in range(20)))
    assert bench(server.url, records=file, rows=2).measured.counts.failed == 0
    file.write_text('{"a": 1}\n[2]\n')
    with pytest.raises(ValueError, match=r"records\.jsonl:2: found b'\[2\]', expected one record as a JSON object"):
        bench(server.url, records=file)
    file.write_text('{"nonsense": 1}\n')
    with pytest.raises(ValueError, match=r"do not fit its schema.*nonsense"):
        bench(server.url, records=file)
    file.write_text("\n")
    with pytest.raises(ValueError, match="has no records"):
        bench(server.url, records=file)


def test_a_server_with_keys_wants_one_with_both_scopes(
    model_servers: Callable[..., ModelServerProcess], tmp_path: Path
) -> None:
    file = tmp_path / "keys.json"
    good = keys.create(file, "loader", scopes=["predict", "metadata"])["key"]
    half = keys.create(file, "reader", scopes=["metadata"])["key"]
    started = model_servers(keys=str(file))
    started.install(tiny_bundle(tmp_path / "bundles"), "1")
    assert bench(started.url, api_key=good).measured.statuses.keys() == {"200"}
    with pytest.raises(PermissionError, match=r"answers 401.*PACELINE_API_KEY"):
        bench(started.url)
    with pytest.raises(PermissionError, match=r"answers 403 to the first request.*scope predict"):
        bench(started.url, api_key=half)


def test_a_server_without_a_champion_says_so(model_servers: Callable[..., ModelServerProcess]) -> None:
    with pytest.raises(RuntimeError, match=r"answers 503.*no champion yet"):
        bench(model_servers().url)


def test_nobody_there_is_an_error_that_names_the_address() -> None:
    ended = CliRunner().invoke(app, ["bench", "serve", "http://127.0.0.1:9"])
    assert isinstance(ended.exception, ConnectionError)
    assert "http://127.0.0.1:9/readyz does not answer" in str(ended.exception)
    assert "paceline serve" in str(ended.exception)


def test_what_is_no_model_server_is_told() -> None:
    with tiny_server() as other, pytest.raises((RuntimeError, ConnectionError), match="readyz"):
        bench(other.url)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"rate": 5.0, "concurrency": 2}, "give it without --rate"),
        ({"rate": None, "concurrency": 2, "find_rate": True}, "give it without --rate"),
        ({"rate": 0.0}, "--rate: found 0, expected 0.1"),
        ({"rate": None, "concurrency": 5000}, "--concurrency: found 5000"),
        ({"rows": 0}, "--rows: found 0, expected 1 to 1000"),
        ({"duration_s": 0}, "--duration: found 0"),
        ({"timeout_s": float("nan")}, "--timeout: found nan"),
    ],
)
def test_an_option_out_of_its_range_is_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        benching.Options(**options)


@pytest.mark.parametrize(("option", "value"), [("--protocol", "grpc"), ("--arrivals", "never")])
def test_a_word_that_is_not_known_is_refused_with_those_that_are(option: str, value: str) -> None:
    ended = CliRunner().invoke(app, ["bench", "serve", "http://127.0.0.1:9", option, value])
    assert isinstance(ended.exception, ValueError)
    assert f"{option}: found '{value}', expected one of" in str(ended.exception)


def test_ctrl_c_ends_the_load_and_still_reports(server: ModelServerProcess, tmp_path: Path) -> None:
    words = ["bench", "serve", server.url, "--duration", "600", "--warmup", "0", "--json", "-"]
    process = subprocess.Popen([sys.executable, "-m", "pipelines", *words], stdout=subprocess.PIPE, text=True)
    try:
        while server.observe()["champion"]["requests"] < 20:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    result = json.loads(output)
    assert result["measured"]["was_stopped"] is True
    assert result["measured"]["counts"]["answered"] > 10
    assert result["measured"]["seconds"] < 600


def test_a_failing_server_is_reported_with_its_answers_as_text_and_no_markup(server: ModelServerProcess) -> None:
    result = bench(server.url)
    failure = Failure(cause="HTTP 429", status=429, requests=3, example="<script>alert(1)</script>")
    changed = msgspec.structs.replace(result, measured=msgspec.structs.replace(result.measured, failures=[failure]))
    html = page.bench_page(changed)
    assert "<script>" not in html
    assert "&lt;script&gt;alert(1)" in html
    assert "HTTP 429" in page.bench_text(changed)
