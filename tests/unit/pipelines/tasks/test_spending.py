"""Energy is counted where the processor counts it, and else said to be an estimate."""

import time
from pathlib import Path

import pytest

from pipelines.tasks.spending import spending


def _work() -> None:
    until = time.process_time() + 0.05
    while time.process_time() < until:
        pass


def _counter(folder: Path, name: str, microjoules: int) -> None:
    (folder / name).mkdir(exist_ok=True)
    (folder / name / "energy_uj").write_text(f"{microjoules}\n")


def test_without_counters_energy_is_estimated_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACELINE_WATTS_PER_CORE", "20")
    monkeypatch.setenv("PACELINE_PRICE_PER_CPU_HOUR", "0.05")
    with spending(tmp_path) as spent:
        _work()
    assert spent["cpu_s"] >= 0.05
    assert spent["energy_kwh"] == pytest.approx(spent["cpu_s"] * 20 / 3.6e6)
    assert spent["cost"] == pytest.approx(spent["cpu_s"] / 3600 * 0.05)
    assert spent["method"].startswith("estimated: 20 W a core")


def test_the_counters_of_the_packages_are_shared_out_by_processor_time(tmp_path: Path) -> None:
    _counter(tmp_path, "intel-rapl:0", 1_000_000)
    _counter(tmp_path, "intel-rapl:0:0", 500_000)  # a part of the package
    with spending(tmp_path) as spent:
        _work()
        _counter(tmp_path, "intel-rapl:0", 8_200_000)
        _counter(tmp_path, "intel-rapl:0:0", 900_000)
    assert 0 < spent["energy_kwh"] <= 7.2 / 3.6e6
    assert spent["method"].startswith("counted by the processor")
    assert spent["cost"] is None


def test_a_counter_that_overflowed_is_not_believed(tmp_path: Path) -> None:
    _counter(tmp_path, "intel-rapl:0", 8_000_000)
    with spending(tmp_path) as spent:
        _work()
        _counter(tmp_path, "intel-rapl:0", 5)
    assert spent["method"].startswith("estimated")


def test_what_work_took_is_known_also_when_it_failed(tmp_path: Path) -> None:
    found: list[dict[str, float]] = []

    def fail() -> None:
        with spending(tmp_path) as spent:
            found.append(spent)
            _work()
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail()
    assert found[0]["cpu_s"] >= 0.05


@pytest.mark.parametrize("found", ["many", "0", "-1", "inf"])
def test_a_price_that_is_no_price_is_refused(found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACELINE_PRICE_PER_CPU_HOUR", found)
    with pytest.raises(ValueError, match=f"PACELINE_PRICE_PER_CPU_HOUR: found '{found}'"), spending():
        pass
