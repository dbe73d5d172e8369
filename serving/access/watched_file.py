"""A file that is read again when it changes, and whose last good content stays in force when it breaks."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

Content = TypeVar("Content")


class Seen(NamedTuple, Generic[Content]):
    """What a look found: the file changed, and this is in it, or this is wrong with it."""

    signature: tuple[int, ...]
    content: Content | None
    error: str = ""


class WatchedFile(Generic[Content]):
    """One file. `decode` makes its content of its bytes and its mode, and raises ValueError when they are no good."""

    def __init__(self, path: Path, decode: Callable[[bytes, int], Content], maximum_bytes: int) -> None:
        self.path = path
        self._decode = decode
        self._maximum_bytes = maximum_bytes
        self._signature: tuple[int, ...] = ()

    def look(self) -> Seen[Content] | None:
        """None where the file is the one that was accepted last, good or broken. Reads, and changes nothing here."""
        try:
            # the path is followed anew each time: Kubernetes changes a mounted secret by turning a link
            if _signature(os.stat(self.path)) == self._signature:
                return None
            with self.path.open("rb") as file:
                # of the opened file and before its bytes: one that changes meanwhile is seen again at the next look
                status = os.fstat(file.fileno())
                content = file.read(self._maximum_bytes + 1)
        except OSError as error:
            missing = (error.errno or -1,)
            return None if missing == self._signature else Seen(missing, None, f"{self.path}: {error.strerror}")
        try:
            return Seen(_signature(status), self._decode(content, status.st_mode))
        except ValueError as error:
            return Seen(_signature(status), None, f"{self.path}: {error}")

    def accept(self, seen: Seen[Content]) -> Content | None:
        """The content; from now on `look` tells of other files only."""
        self._signature = seen.signature
        return seen.content


def _signature(found: os.stat_result) -> tuple[int, ...]:
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
