"""Some of the runs of `make chaos`: real processes, each kind of fault that takes something else away."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from benchmarks.chaos.case import draw
from benchmarks.chaos.checks import findings
from benchmarks.chaos.installation import install
from benchmarks.chaos.run import Seen, run_case

SEEDS = {
    "controller killed": 1,
    "ledger gone": 25,
    "disk full for both": 49,
    "server killed": 60,
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Seen]]:
    template = install(tmp_path_factory.mktemp("chaos") / "template")
    with ThreadPoolExecutor(2) as pool:
        started = {fault: pool.submit(run_case, draw(seed), template) for fault, seed in SEEDS.items()}
        yield {fault: run.result() for fault, run in started.items()}


@pytest.mark.parametrize("fault", SEEDS)
def test_a_rollout_survives(runs: dict[str, Seen], fault: str) -> None:
    seen = runs[fault]
    told = "\n".join(f"{at - seen.started_at:7.2f} s  {text}" for at, text in sorted(seen.timeline))
    assert seen.case.fault == fault
    assert seen.struck_at is not None
    assert len(seen.answers) > 100
    assert findings(seen) == [], told
