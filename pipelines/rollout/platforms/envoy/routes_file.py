"""The routes file: written beside and renamed over, under a lock, so that Envoy and we always see a whole one."""

import asyncio
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from pipelines.rollout.platforms.envoy.configuration import routes, split_of
from pipelines.rollout.platforms.port import PlatformUnreachableError, SlotRefusedError
from pipelines.rollout.platforms.separate.platform import StaleWriteError
from pipelines.rollout.platforms.separate.split import Split


class RoutesFile:
    """`Gateway` in a file that Envoy watches. A file that is not there yet is one where the champion has all."""

    def __init__(self, path: Path, *, entity_header: str | None = None) -> None:
        self._path = path
        self._entity_header = entity_header

    async def read(self) -> tuple[Split, str]:
        """The split, and a hash of the file."""
        return await asyncio.to_thread(self._read)

    async def write(self, split: Split, stamp: str) -> None:
        """Replaces the file by a rename. Raises StaleWriteError where it is another by now."""
        await asyncio.to_thread(self._write, split, stamp)

    def begin(self) -> None:
        """Puts a file there if none is: Envoy waits for one."""
        if not self._path.exists():
            self._write(Split(), "")

    def _read(self) -> tuple[Split, str]:
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return Split(), ""
        except OSError as error:
            raise PlatformUnreachableError(f"the routes file cannot be read: {error}") from error
        try:
            return split_of(json.loads(content)), sha256(content).hexdigest()
        except ValueError as error:
            raise SlotRefusedError(422, f"{self._path} is no JSON ({error}): move it away") from error

    def _write(self, split: Split, stamp: str) -> None:
        try:
            with locked(self._path.with_suffix(".lock")):
                _, found = self._read()
                if found != stamp:
                    raise StaleWriteError("somebody else has replaced the routes file")
                version = sha256(f"{stamp}{split}".encode()).hexdigest()[:12]
                told = json.dumps(routes(split, version, entity_header=self._entity_header)).encode()
                draft = self._path.with_name(f".{self._path.name}.{os.getpid()}")
                with draft.open("wb") as file:
                    file.write(told)
                    file.flush()
                    os.fsync(file.fileno())
                draft.replace(self._path)
        except OSError as error:
            raise PlatformUnreachableError(f"the routes file cannot be written: {error}") from error


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock of `path`, which the system releases when the process is gone. Raises OSError."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
