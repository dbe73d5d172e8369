import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from serving.bound_runs import BoundRuns

WIDTH, MAXIMUM_ROWS = 3, 32


@pytest.fixture(scope="module")
def session(bundles: ModuleType) -> Any:
    return onnxruntime.InferenceSession(bundles.tiny_graph(WIDTH), providers=["CPUExecutionProvider"])


def rows(number: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).uniform(-2000, 2000, (number, WIDTH)).astype(np.float32)


def plain(session: Any, features: NDArray[np.float32]) -> bytes:
    return bytes(session.run(["score"], {"features": features})[0].tobytes())


@pytest.mark.parametrize("has_device", [False, True], ids=["cpu", "device"])
def test_scores_are_those_of_plain_runs_however_the_sizes_vary(session: Any, has_device: bool) -> None:
    run = BoundRuns(session, maximum_rows=MAXIMUM_ROWS, has_device=has_device)

    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.integers(1, MAXIMUM_ROWS + 8), min_size=1, max_size=12))
    def check(sizes: list[int]) -> None:
        for seed, size in enumerate(sizes):
            features = rows(size, seed)
            assert run(features).tobytes() == plain(session, features)

    check()


@pytest.mark.parametrize("has_device", [False, True], ids=["cpu", "device"])
def test_scores_that_were_given_do_not_change_with_the_next_run(session: Any, has_device: bool) -> None:
    run = BoundRuns(session, maximum_rows=MAXIMUM_ROWS, has_device=has_device)
    features = [rows(4, seed) for seed in range(5)]
    given_scores = [run(each) for each in features]
    assert [scores.tobytes() for scores in given_scores] == [plain(session, each) for each in features]


@pytest.mark.parametrize("has_device", [False, True], ids=["cpu", "device"])
def test_two_threads_do_not_get_each_others_scores(session: Any, has_device: bool) -> None:
    run = BoundRuns(session, maximum_rows=MAXIMUM_ROWS, has_device=has_device)
    wrong: list[int] = []

    def ask(seed: int) -> None:
        features = rows(8, seed)
        expected = plain(session, features)
        wrong.extend(1 for _ in range(2000) if run(features).tobytes() != expected)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_device_sees_few_shapes(session: Any) -> None:
    seen: set[int] = set()

    class Watched:
        def run(self, outputs: list[str], feed: dict[str, NDArray[np.float32]]) -> Any:
            seen.add(len(feed["features"]))
            return session.run(outputs, feed)

        def __getattr__(self, name: str) -> Any:
            return getattr(session, name)

    run = BoundRuns(Watched(), maximum_rows=24, has_device=True)
    for size in [*range(1, 25), *range(1, 25)]:
        assert run(rows(size)).shape == (size,)
    assert seen == {1, 2, 4, 8, 16, 24}


@pytest.mark.parametrize("has_device", [False, True], ids=["cpu", "device"])
def test_rows_of_another_width_are_refused_by_the_graph(session: Any, has_device: bool) -> None:
    run = BoundRuns(session, maximum_rows=MAXIMUM_ROWS, has_device=has_device)
    run(rows(2))
    for width in (1, WIDTH + 1):
        with pytest.raises(Exception, match="features"):
            run(np.zeros((2, width), dtype=np.float32))
    assert run(rows(2)).tobytes() == plain(session, rows(2))


def test_a_graph_that_fails_once_answers_the_next_time(bundles: ModuleType, tmp_path: Path) -> None:
    class Failing:
        fails = False

        def __init__(self) -> None:
            self.session = onnxruntime.InferenceSession(bundles.tiny_graph(WIDTH), providers=["CPUExecutionProvider"])

        def __getattr__(self, name: str) -> Any:
            return getattr(self.session, name)

        def run_with_iobinding(self, binding: Any) -> None:
            if self.fails:
                raise RuntimeError("the device is gone")
            self.session.run_with_iobinding(binding)

    session = Failing()
    run = BoundRuns(session, maximum_rows=4, has_device=False)
    run(rows(2))
    session.fails = True
    with pytest.raises(RuntimeError, match="the device is gone"):
        run(rows(2, 1))
    session.fails = False
    assert run(rows(2, 1)).tobytes() == plain(session.session, rows(2, 1))
