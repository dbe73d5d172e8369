import gc
import subprocess
import sys

_SETTLE_TWICE = """
import gc, weakref
from serving.garbage import settle

class Node:
    pass

def cycle():
    node = Node()
    node.itself = node
    return weakref.ref(node)

before = cycle()
settle()
assert before() is None, "what the start left behind is collected"
kept = gc.get_freeze_count()
assert kept > 1000, kept
frozen_cycle = Node()
frozen_cycle.itself = frozen_cycle
settle()
later = weakref.ref(frozen_cycle)
del frozen_cycle
gc.collect()
assert later() is not None, "the frozen are not looked at"
settle()
assert later() is None, "a bundle that was replaced goes with the next settling"

import pyarrow
print(pyarrow.default_memory_pool().backend_name)
"""


def test_what_the_start_leaves_is_frozen_and_freed_when_it_settles_again() -> None:
    finished = subprocess.run(
        [sys.executable, "-c", _SETTLE_TWICE], capture_output=True, text=True, timeout=60, check=False
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.strip() == "system"
    assert gc.get_freeze_count() == 0, "this process is left alone"
