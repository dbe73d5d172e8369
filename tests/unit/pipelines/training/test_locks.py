from importlib.metadata import version
from pathlib import Path

import pytest

from pipelines.training.locks import (
    FRAMEWORKS,
    FrameworkMismatchError,
    Mismatch,
    installed_frameworks,
    locked_frameworks,
    mismatches,
    refuse_mismatches,
)

LOCK = Path(__file__).parents[4] / "requirements.txt"


def test_the_same_versions_are_no_mismatch_whatever_the_build() -> None:
    assert mismatches({"numpy": "2.4.6", "torch": "2.13.0+cu130"}, {"torch": "2.13.0", "numpy": "2.4.6"}) == ()


def test_another_version_an_absent_and_an_unlocked_library_are_mismatches() -> None:
    found = mismatches({"numpy": "2.4.5", "onnx": "1.23.2"}, {"numpy": "2.4.6", "torch": "2.13.0"})
    assert found == (
        Mismatch("numpy", "2.4.5", "2.4.6"),
        Mismatch("onnx", "1.23.2", None),
        Mismatch("torch", None, "2.13.0"),
    )
    assert str(found[1]) == "onnx: installed 1.23.2, locked not at all"


def test_every_framework_is_installed_and_locked_here_in_one_version() -> None:
    assert installed_frameworks().keys() == FRAMEWORKS.keys()
    refuse_mismatches(LOCK)


def test_a_lock_of_another_runtime_is_refused_with_both_versions_and_the_way_out(tmp_path: Path) -> None:
    here = installed_frameworks()["onnxruntime"]
    other = tmp_path / "requirements.txt"
    other.write_text(LOCK.read_text().replace(f"=={here}", "==1.29.0"))
    with pytest.raises(
        FrameworkMismatchError,
        match=rf"onnxruntime: installed {here}, locked 1\.29\.0\. Install the lock \(pip install -r {other}\), or",
    ):
        refuse_mismatches(other)


def test_the_distribution_of_this_platform_is_read_and_names_are_as_pip_takes_them() -> None:
    lock = (
        "# the lock\nScikit_Learn==1.9.1\n--hash=sha256:0\n"
        "onnxruntime-gpu==1.31.1; python_version > '3'\nonnxruntime==1.30.0; python_version < '3'\n"
    )
    assert locked_frameworks(lock) == {"scikit-learn": "1.9.1", "onnxruntime": "1.31.1"}


@pytest.mark.parametrize("line", ["numpy>=2", "numpy==2.*", "numpy"])
def test_a_framework_without_one_exact_version_is_no_lock(line: str) -> None:
    with pytest.raises(FrameworkMismatchError, match="expected numpy==<one version>"):
        locked_frameworks(line)


def test_two_distributions_of_one_library_show_both_their_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FRAMEWORKS, "onnx", ("onnx", "numpy"))  # type: ignore[misc]
    found = installed_frameworks()["onnx"]
    assert set(found.split(" and ")) == {version("onnx"), version("numpy")}
