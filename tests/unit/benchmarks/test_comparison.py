"""The comparison's medians, ratios and goals, on made-up rounds."""

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from markupsafe import escape

FOLDER = Path(__file__).parents[3] / "benchmarks" / "serving"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Imports a module of the benchmark, whose scripts find each other by their folder."""
    monkeypatch.syspath_prepend(str(FOLDER))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(FOLDER)):
            del sys.modules[name]


def numbers(rps: float, cpu_us: float, **more: float) -> dict[str, float]:
    return {"c16_rps": rps, "c64_rps": rps, "c16_cpu_us": cpu_us, **more}


def found(comparison: ModuleType) -> Any:
    rounds = [
        {
            "bare": numbers(20_000 * speed, 30 / speed),
            "paceline": numbers(10_000 * speed, 45 / speed, fixed_p99_ms=1.0, binary_rps=800.0, overload_goodput=0.95),
            "plain": numbers(1_000 * speed, 500 / speed),
            "mlserver": numbers(2_500 * speed, 400 / speed, fixed_p99_ms=3.0),
            "litserve": numbers(1_500 * speed, 900 / speed, fixed_p99_ms=5.0),
            "onnxruntime": {"binary_rps": 1_000.0},
        }
        for speed in (1.0, 0.5, 1.5)
    ]
    groups = {"bare": "floor", "paceline": "ours", "plain": "app", "mlserver": "peer", "litserve": "peer"}
    groups["no-log"] = "variant"
    return comparison.Comparison(
        rounds=rounds,
        names={key: key.title() for key in groups},
        groups=groups,
        settings=dict.fromkeys(groups, "<as it comes>"),
        environment={"date": "today", "commit": "abc", "model": "trees"},
        skipped={"no-log": "there is no such setting"},
    )


def test_ratios_are_of_one_round_so_a_slow_round_does_not_count(scripts: Any) -> None:
    comparison = scripts("comparison")
    results = found(comparison)
    assert results.median("paceline", "c16_rps") == 10_000
    assert results.ratio("c16_rps", "paceline", ["mlserver", "litserve"]) == pytest.approx(4.0)
    assert results.ratio("fixed_p99_ms", "paceline", ["mlserver", "litserve"], min) == pytest.approx(1 / 3)
    assert results.ratio("c16_rps", "paceline", ["absent"]) is None


def test_each_goal_says_whether_it_is_reached(scripts: Any) -> None:
    comparison = scripts("comparison")
    goals = {goal.title: goal for goal in comparison.goals(found(comparison))}
    assert goals["CPU a one-row request, times bare uvicorn"].reached is True
    assert goals["throughput at 16 connections, times FastAPI as tutorials write it"].found == pytest.approx(10)
    assert goals["32 rows by binary tensors, share of ONNX Runtime alone"].found == pytest.approx(0.8)
    log = goals["throughput with the prediction log on, share of without"]
    assert (log.reached, log.remark) == (None, "there is no such setting")
    assert goals["two workers, times one, single rows"].reached is None
    slow = found(comparison)
    for each in slow.rounds:
        each["paceline"]["c16_cpu_us"] *= 2
    assert comparison.goals(slow)[0].reached is False


def test_the_tables_and_the_page_have_every_server_and_every_goal(scripts: Any) -> None:
    comparison = scripts("comparison")
    results = found(comparison)
    text = comparison.markdown(results)
    html = scripts("comparison_page").page(results)
    for name in ("Bare", "Paceline", "Plain", "Mlserver", "Litserve", "ONNX Runtime alone"):
        assert f"| {name} |" in text
        assert f"<td>{name}</td>" in html
    for goal in comparison.goals(results):
        assert f"| {goal.title} | {goal.wanted} |" in text
        assert escape(goal.title) in html
    assert 'aria-label="Throughput, 16 connections"' in html
    assert "&lt;as it comes&gt;" in html
    assert "<script" not in html


def test_a_contender_that_is_not_known_is_refused_with_those_that_are(scripts: Any) -> None:
    contenders = scripts("contenders")
    assert [each.key for each in contenders.chosen("paceline,bare")] == ["bare", "paceline"]
    assert len(contenders.chosen(None)) == len(contenders.CONTENDERS)
    with pytest.raises(ValueError, match="found torchserve, expected some of bare, paceline"):
        contenders.chosen("paceline,torchserve")
    with pytest.raises(ValueError, match="found nothing"):
        contenders.chosen(" ,")


def test_every_peer_has_pinned_requirements_and_our_onnxruntime(scripts: Any) -> None:
    contenders = scripts("contenders")
    venvs = {each.venv for each in contenders.CONTENDERS if each.venv}
    assert venvs == {"fastapi", "mlserver", "bentoml", "litserve"}
    lock = (FOLDER.parents[1] / "requirements.txt").read_text()
    ours = re.search(r"^onnxruntime==([\d.]+)", lock, re.MULTILINE)
    assert ours is not None
    for venv in sorted(venvs):
        lines = (FOLDER / "peers" / venv / "requirements.txt").read_text().splitlines()
        assert [line for line in lines if not re.match(r"^[\w.-]+==\S+$", line)] == []
        assert f"onnxruntime=={ours[1]}" in lines, "the same graph runs in the same runtime"


def test_the_readme_has_the_place_that_results_are_written_to(scripts: Any) -> None:
    comparison, compare = scripts("comparison"), scripts("compare")
    readme = (FOLDER / "README.md").read_text()
    assert readme.count(compare.BEGIN) == readme.count(compare.END) == 1
    assert comparison.COLUMNS
