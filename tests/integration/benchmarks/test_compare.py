"""`benchmarks/serving/compare.py` with real servers, interrupted after its first round."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_an_interrupted_comparison_keeps_its_finished_round_and_leaves_no_server(tmp_path: Path) -> None:
    words = ["--only", "bare,paceline,no-metrics", "--rounds", "1000", "--seconds", "0.2", "--output", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "benchmarks" / "serving" / "compare.py"), *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    told = []
    try:
        assert process.stderr is not None
        for line in process.stderr:
            told.append(line)
            if "round 1 of 1000 done" in line:
                process.send_signal(signal.SIGINT)
                break
        output, rest = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, "".join(told) + rest
    assert "1 finished rounds are kept" in rest
    results = json.loads((tmp_path / "results.json").read_text())
    (only,) = results["rounds"]
    assert only["paceline"]["c16_rps"] > 0
    assert 0 < only["paceline"]["first_answer_s"] < 60
    assert only["onnxruntime"]["binary_rps"] > only["paceline"]["binary_rps"]
    assert "| Paceline |" in output
    assert "Throughput, 16 connections" in (tmp_path / "report.html").read_text()
    assert output == (tmp_path / "report.md").read_text()
    running = [
        each
        for each in Path("/proc").glob("[0-9]*/environ")
        if os.access(each, os.R_OK) and str(tmp_path).encode() in _bytes(each)
    ]
    assert running == []


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has ended meanwhile
        return b""
