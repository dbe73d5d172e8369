"""Python environments made from a dependency lock, kept by the lock's hash: what a commit was trained with."""

import fcntl
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from contracts.hashing import file_id

_COMPLETE = ".complete"  # an environment without it was not finished, and is made again
_PIP = ("--disable-pip-version-check", "--no-input", "--progress-bar=off")


class LockError(RuntimeError):
    """A lock that cannot be installed: what pip said."""


def environment_of(lock: Path, below: Path, progress: Callable[[str], None], python: str | None = None) -> Path:
    """The interpreter of an environment with what `lock` (a requirements file) pins, made unless it is there already.

    It lies below `below`, in a folder named by the lock's hash. `python` is the interpreter that it is made from.

    Raises:
        LockError: it cannot be installed; the next call starts again.
    """
    folder = below / file_id(lock)
    interpreter = folder / "bin" / "python"
    below.mkdir(parents=True, exist_ok=True)
    with (below / f".{folder.name}").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # whoever comes second finds it finished
        if (folder / _COMPLETE).exists():
            (folder / _COMPLETE).touch()  # what is used is not cleaned up as forgotten
            return interpreter
        shutil.rmtree(folder, ignore_errors=True)
        progress(f"an environment for the lock {folder.name[:12]} is made, once; this takes minutes")
        _run([python or sys.executable, "-m", "venv", str(folder)], progress)
        _run([str(interpreter), "-m", "pip", "install", *_PIP, "--requirement", str(lock)], progress)
        (folder / _COMPLETE).touch()
    return interpreter


def _run(command: list[str], progress: Callable[[str], None]) -> None:
    said: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                said.append(line.rstrip())
                progress(said[-1][:120])
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        last = "; ".join(line for line in said if line)[-1000:]
        raise LockError(f"{' '.join(command[1:4])} ended with {process.returncode}: {last}")
