"""The archive: folders named by their content, kept as compressed pieces, each piece once.

`objects/` has the pieces by the hash of what is in them, in zstd; `bundles/` and `snapshots/` have one index for each
folder: its files, their hashes, and the pieces that they are joined from. A Parquet file is cut where its column chunks
begin, so two snapshots that begin with the same rows share most pieces. What comes out are the bytes that went in: the
hash of every file is compared, before anything else is told to go, and again at a restore.

A piece appears whole or not at all, and an index after its pieces: killed at any point, a put is only put again.
"""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Literal

import msgspec

from contracts.durable_files import sync_folder, write_whole
from contracts.hashing import bytes_id, canonical_json, file_id

FORMAT = 1
Kind = Literal["bundles", "snapshots"]
PIECE_BYTES_MAX = 32 << 20
_LEVEL = 9


class ArchiveError(ValueError):
    """The archive does not have what is asked for, or not as it was: what was found, and what to do."""


class ArchiveRunsError(RuntimeError):
    """Another process holds the archive."""


class Piece(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """A part of a file: the SHA-256 of its bytes, and how many they are."""

    id: str
    bytes: int


class ArchivedFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A file as it was: its SHA-256, and the pieces that it is joined from."""

    id: str
    pieces: tuple[Piece, ...]


class Index(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a folder consists of."""

    format: int = FORMAT
    files: dict[str, ArchivedFile]

    @property
    def bytes(self) -> int:
        """The size of the folder when it is restored."""
        return sum(piece.bytes for file in self.files.values() for piece in file.pieces)


class Archive:
    """The archive below `root`. One process at a time puts (see `held`); reading needs no lock."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def has(self, kind: Kind, name: str) -> bool:
        """Whether the folder `name` was put whole."""
        return self._index_path(kind, name).exists()

    def names(self, kind: Kind) -> list[str]:
        """The folders that were put whole."""
        return sorted(path.stem for path in (self._root / kind).glob("*.json"))

    def put(self, kind: Kind, name: str, folder: Path) -> int:
        """Puts the files of `folder`, reads all back, and returns how many bytes were added. Safe to repeat.

        Raises:
            ArchiveError: what was read back is not what is in `folder`.
            OSError: the disk refuses; the folder is not in the archive then, and nothing else is changed.
        """
        added = self._write(kind, name, folder, again=False)
        if self.damage(kind, name) is not None:  # a piece from before, of another folder, was damaged since
            added += self._write(kind, name, folder, again=True)
        if (damage := self.damage(kind, name)) is not None:
            raise ArchiveError(f"the archive below {self._root} does not give back what was put: {damage}")
        return added

    def damage(self, kind: Kind, name: str) -> str | None:
        """What is wrong with the archived folder `name`; None when every file can be had back as it was."""
        for file_name, file in self.index(kind, name).files.items():
            digest = hashlib.sha256()
            try:
                for piece in file.pieces:
                    digest.update(self._read_piece(piece))
            except ArchiveError as error:
                return str(error)
            if digest.hexdigest() != file.id:
                return f"{file_name} would have the hash {digest.hexdigest()}, expected {file.id}"
        return None

    def index(self, kind: Kind, name: str) -> Index:
        """Raises ArchiveError when the folder is not in the archive, or of another format."""
        path = self._index_path(kind, name)
        try:
            return msgspec.json.decode(path.read_bytes(), type=Index)
        except OSError as error:
            raise ArchiveError(f"no {name} among the archived {kind} below {self._root}: {error.strerror}") from error
        except msgspec.DecodeError as error:
            raise ArchiveError(f"the index {path} cannot be read: {error}") from error

    def read(self, kind: Kind, name: str, file_name: str) -> bytes:
        """One file of the archived folder `name`, without restoring it. Raises ArchiveError."""
        files = self.index(kind, name).files
        if file_name not in files:
            raise ArchiveError(f"the archived {name} has no {file_name}; it has {', '.join(sorted(files))}")
        content = b"".join(self._read_piece(piece) for piece in files[file_name].pieces)
        if bytes_id(content) != files[file_name].id:
            raise ArchiveError(f"{file_name} of {name} has the hash {bytes_id(content)}, not {files[file_name].id}")
        return content

    def restore(self, kind: Kind, name: str, root: Path) -> Path:
        """The folder `name` below `root`, as it was; it appears whole or not at all, and stays in the archive.

        Raises:
            ArchiveError: it is not in the archive, or damaged.
            OSError: the disk refuses; nothing is left behind then.
        """
        index, final = self.index(kind, name), root / name
        if final.exists():
            return final
        root.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=root))
        try:
            for file_name, file in index.files.items():
                with (draft / file_name).open("wb") as written:
                    for piece in file.pieces:
                        written.write(self._read_piece(piece))
                    written.flush()
                    os.fsync(written.fileno())
                if (found := file_id(draft / file_name)) != file.id:
                    raise ArchiveError(f"{file_name} of {name} has the hash {found}, expected {file.id}")
            draft.chmod(0o755)
            try:
                draft.rename(final)
            except OSError:
                if not final.exists():  # another process has restored it
                    raise
            sync_folder(root)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return final

    def unused_objects(self) -> list[Path]:
        """Drafts, and pieces that no index names: a put was killed before its index. Only for who holds the archive."""
        named = {
            piece.id
            for kind in ("bundles", "snapshots")
            for path in (self._root / kind).glob("*.json")
            for file in msgspec.json.decode(path.read_bytes(), type=Index).files.values()
            for piece in file.pieces
        }
        drafts = [path for kind in ("bundles", "snapshots") for path in (self._root / kind).glob(".draft-*")]
        return sorted([*drafts, *(path for path in (self._root / "objects").glob("*/*") if path.stem not in named)])

    @contextmanager
    def held(self) -> Iterator[None]:
        """Only one puts at a time. Raises ArchiveRunsError when another does."""
        with _flock(self._root / ".archiving", wait=False):
            yield

    @contextmanager
    def removals_held(self) -> Iterator[None]:
        """No folder goes meanwhile: held for moments by who removes one, and by who is about to use one."""
        with _flock(self._root / ".removing", wait=True):
            yield

    def _write(self, kind: Kind, name: str, folder: Path, *, again: bool) -> int:
        added = 0
        files: dict[str, ArchivedFile] = {}
        for path in sorted(folder.iterdir()):
            pieces: list[Piece] = []
            with path.open("rb") as file:
                for start, end in pairwise(_cuts(path)):
                    file.seek(start)
                    content = file.read(end - start)
                    piece = Piece(bytes_id(content), len(content))
                    added += self._keep_piece(piece, content, again=again)
                    pieces.append(piece)
            files[path.name] = ArchivedFile(id=file_id(path), pieces=tuple(pieces))
        write_whole(self._index_path(kind, name), canonical_json(Index(files=files)))
        return added

    def _keep_piece(self, piece: Piece, content: bytes, *, again: bool) -> int:
        import pyarrow as pa

        path = self._piece_path(piece)
        if path.exists() and not again:
            return 0
        compressed = pa.Codec("zstd", compression_level=_LEVEL).compress(content, asbytes=True)
        write_whole(path, compressed)
        return len(compressed)

    def _read_piece(self, piece: Piece) -> bytes:
        import pyarrow as pa

        try:
            stored = self._piece_path(piece).read_bytes()
            content: bytes = pa.Codec("zstd").decompress(stored, decompressed_size=piece.bytes, asbytes=True)
        except (OSError, pa.ArrowException) as error:
            raise ArchiveError(f"the piece {self._piece_path(piece)} cannot be read: {error}") from error
        if bytes_id(content) != piece.id:
            raise ArchiveError(f"the piece {self._piece_path(piece)} is not what its name says")
        return content

    def _index_path(self, kind: Kind, name: str) -> Path:
        return self._root / kind / f"{name}.json"

    def _piece_path(self, piece: Piece) -> Path:
        return self._root / "objects" / piece.id[:2] / f"{piece.id}.zst"


def _cuts(path: Path) -> list[int]:
    """Where a file is cut, its start and end included: a Parquet file at its column chunks, any at 32 MiB."""
    size = path.stat().st_size
    cuts = {0, size}
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        metadata = pq.read_metadata(path)
        for group in range(metadata.num_row_groups):
            for column in range(metadata.num_columns):
                chunk = metadata.row_group(group).column(column)
                start = chunk.dictionary_page_offset if chunk.has_dictionary_page else chunk.data_page_offset
                cuts |= {start, start + chunk.total_compressed_size}
    bounded = sorted(cut for cut in cuts if 0 <= cut <= size)
    return sorted({*bounded, *(at for start, end in pairwise(bounded) for at in range(start, end, PIECE_BYTES_MAX))})


@contextmanager
def _flock(path: Path, *, wait: bool) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ArchiveRunsError(f"another process archives below {path.parent}") from error
        yield
