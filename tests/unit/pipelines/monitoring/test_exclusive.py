import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.monitoring.exclusive import HeldError, exclusively

HOLDER = """
import sys, time
from pathlib import Path
from pipelines.monitoring.exclusive import exclusively
with exclusively(Path(sys.argv[1]), "the watch of flight_delay as of 2013-08-08"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_one_is_told_who_is_at_work_and_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    lock = tmp_path / "new" / ".watch.lock"
    command = [sys.executable, "-c", HOLDER, str(lock)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        said = rf"mine cannot start: the watch of flight_delay as of 2013-08-08 \(process {holder.pid}, since 2"
        with pytest.raises(HeldError, match=said), exclusively(lock, "mine"):
            pass
        holder.kill()
        holder.wait()
        with exclusively(lock, "mine"):
            assert "mine" in lock.read_text()
    finally:
        holder.kill()
        holder.communicate()


def test_the_lock_is_free_again_after_an_error(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with pytest.raises(ZeroDivisionError), exclusively(lock, "first"):
        raise ZeroDivisionError
    with exclusively(lock, "second"), pytest.raises(HeldError, match="second"), exclusively(lock, "third"):
        pass
