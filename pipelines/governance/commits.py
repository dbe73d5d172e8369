"""A commit checked out beside the clone, for as long as it is needed: a git worktree in a temporary folder."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_GIT_S = 300


class CommitError(LookupError):
    """A commit that cannot be checked out: what was found, and what to do."""


@contextmanager
def checked_out(clone: Path, commit: str, below: Path) -> Iterator[Path]:
    """A folder below `below` with the files of `commit`; it is gone afterwards, and so is git's note of it.

    Raises:
        CommitError: there is no git, `clone` is no clone, or it does not have the commit.
    """
    if shutil.which("git") is None:
        raise CommitError("there is no git on this machine: install it, the code of a version is in its commit")
    if _git(clone, "rev-parse", "--show-toplevel").returncode:
        raise CommitError(
            f"{clone} is no git clone, so the commit {commit} cannot be had: run this from a clone, or name one by "
            "PACELINE_REPOSITORY"
        )
    if _git(clone, "cat-file", "-e", f"{commit}^{{commit}}").returncode:
        raise CommitError(f"the clone {clone} does not have the commit {commit}: fetch it (git fetch origin {commit})")
    _git(clone, "worktree", "prune")  # what a killed run left
    below.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="commit-", dir=below))
    try:
        # a hook of the clone has no say in what the commit's files are
        added = _git(clone, "-c", "core.hooksPath=/dev/null", "worktree", "add", "--detach", str(folder), commit)
        if added.returncode:
            raise CommitError(f"git could not check {commit} out: {added.stderr.strip()}")
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _git(clone, "worktree", "prune")


def _git(clone: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["git", "-C", str(clone), *arguments], capture_output=True, text=True, check=False, timeout=_GIT_S
    )
