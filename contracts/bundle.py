"""The bundle: an immutable, content-addressed directory that training hands to serving.

Its id is the hash of its manifest, and the manifest holds the hash of each file; times and hosts are not in it. It
appears under its id by one rename, or not at all.
"""

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import msgspec

from contracts.hashing import bytes_id, canonical_json, file_id
from contracts.input_schema import InputSchema
from contracts.providers import CPU, Provider, check_providers, with_hint

FORMAT = 1
MANIFEST, MODEL, SCHEMA, BASELINE, GOLDEN, CARD = (
    "manifest.json",
    "model.onnx",
    "schema.json",
    "baseline.json",
    "golden.json",
    "model_card.md",
)
CARD_PAGE = "model_card.html"  # the card with its plots; a bundle may go without
SIGNATURE = "signature.json"  # who vouches for it (`bundle_signature`); no part of the content


class BundleError(ValueError):
    """A bundle that must not be used: what was found, what was expected, and where."""


class ServingProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the graph is run: on what, by preference; on what it must run, or not at all; threads, and rows at once.

    `providers` are names (cpu, cuda, tensorrt, or ONNX Runtime's own) or objects with options. `maximum_batch_rows` is
    how many rows of different requests may share a run; None leaves it to the server: more on a GPU than on a CPU.
    """

    providers: tuple[str | Provider, ...] = (CPU,)
    require: str | None = None
    intra_op_threads: Annotated[int, msgspec.Meta(ge=0, le=1024)] = 1
    maximum_batch_rows: Annotated[int, msgspec.Meta(ge=1, le=65_536)] | None = None

    def __post_init__(self) -> None:
        check_providers(self.providers, self.require)


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the bundle is made of. `snapshot` and `lock` are content ids; `files` maps each name to its SHA-256."""

    format: int = FORMAT
    project: str
    trainer: str
    optimization: str
    parameters: dict[str, Any]
    snapshot: str
    lock: str
    threshold: float
    frameworks: dict[str, str]
    serving: ServingProfile = ServingProfile()
    files: dict[str, str] = {}


class NumberBaseline(msgspec.Struct, frozen=True, kw_only=True):
    """A number or timestamp part in the training rows; `counts[i]` rows lie between `edges[i]` and `edges[i + 1]`."""

    missing: int
    mean: float
    standard_deviation: float
    quartiles: tuple[float, float, float]
    edges: tuple[float, ...]
    counts: tuple[int, ...]


class CategoryBaseline(msgspec.Struct, frozen=True, kw_only=True):
    """How many training rows had each word of the vocabulary; `missing` counts missing and unseen."""

    missing: int
    counts: dict[str, int]


class Baseline(msgspec.Struct, frozen=True, kw_only=True):
    """The reference that monitors compare with: columns of the training rows, scores and quality on the test rows."""

    rows: int
    numbers: dict[str, NumberBaseline]
    categories: dict[str, CategoryBaseline]
    score_counts: tuple[int, ...]
    metrics: dict[str, float]


class Golden(msgspec.Struct, frozen=True, kw_only=True):
    """Real records with the scores that the bundle must give for them, within `tolerance`."""

    records: list[dict[str, Any]]
    scores: list[float]
    tolerance: float


@dataclass(frozen=True)
class Bundle:
    """A verified bundle on disk. The graph takes `features` (float32, rows × columns), gives `score` (float32)."""

    id: str
    path: Path
    manifest: Manifest

    @property
    def model_path(self) -> Path:
        return self.path / MODEL

    @cached_property
    def schema(self) -> InputSchema:
        return msgspec.json.decode((self.path / SCHEMA).read_bytes(), type=InputSchema)

    @cached_property
    def baseline(self) -> Baseline:
        return msgspec.json.decode((self.path / BASELINE).read_bytes(), type=Baseline)

    @cached_property
    def golden(self) -> Golden:
        return msgspec.json.decode((self.path / GOLDEN).read_bytes(), type=Golden)

    @property
    def card(self) -> str:
        return (self.path / CARD).read_text()

    @property
    def card_page(self) -> str | None:
        """The card as an HTML page with plots, where the bundle has one."""
        return (self.path / CARD_PAGE).read_text() if CARD_PAGE in self.manifest.files else None


def write_bundle(root: Path, manifest: Manifest, files: Mapping[str, bytes]) -> Bundle:
    """Writes `files` with their manifest below `root`, in a folder named by the bundle's id, and returns the bundle.

    Writing the same content again changes nothing. Raises OSError when the disk refuses; nothing is left behind then.
    """
    missing = {MODEL, SCHEMA, BASELINE, GOLDEN, CARD} - files.keys()
    if missing:
        raise BundleError(f"a bundle needs the files {', '.join(sorted(missing))}")
    hashes = {name: bytes_id(content) for name, content in sorted(files.items())}
    encoded = canonical_json(msgspec.structs.replace(manifest, files=hashes))
    bundle_id = bytes_id(encoded)
    final = root / bundle_id
    if final.exists():
        return read_bundle(final, bundle_id)
    root.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=root))
    try:
        for name, content in [*files.items(), (MANIFEST, encoded)]:
            _write_durably(draft / name, content)
        draft.chmod(0o755)
        try:
            draft.rename(final)
        except OSError:
            if not final.exists():  # another writer of the same content was first
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return read_bundle(final, bundle_id)


def read_bundle(path: Path, expected_id: str | None = None) -> Bundle:
    """The bundle at `path`, with every file's hash verified.

    Raises:
        BundleError: a file is missing, altered or surplus, or the format is another, or the id is not `expected_id`.
    """
    found_id, manifest = read_manifest(path, expected_id)
    found = {entry.name for entry in path.iterdir()} - {MANIFEST, SIGNATURE}
    if found != manifest.files.keys():
        raise BundleError(f"the bundle at {path} has the files {sorted(found)}, expected {sorted(manifest.files)}")
    for name, expected in manifest.files.items():
        if (hashed := file_id(path / name)) != expected:
            raise BundleError(f"{path / name} has the hash {hashed}, the manifest says {expected}")
    return Bundle(id=found_id, path=path, manifest=manifest)


def read_manifest(path: Path, expected_id: str | None = None) -> tuple[str, Manifest]:
    """The id of the bundle at `path` and its manifest, without looking at the other files.

    Raises:
        BundleError: there is no manifest, its format is another, or the id is not `expected_id`.
    """
    try:
        encoded = (path / MANIFEST).read_bytes()
    except OSError as error:
        raise BundleError(f"no bundle at {path}: {error.strerror}") from error
    found_id = bytes_id(encoded)
    if expected_id is not None and found_id != expected_id:
        raise BundleError(f"the bundle at {path} has the id {found_id}, expected {expected_id}")
    try:
        found_format = msgspec.json.decode(encoded, type=dict[str, Any]).get("format")
        if found_format != FORMAT:
            raise BundleError(f"the bundle at {path} has format {found_format!r}, this version reads {FORMAT}")
        return found_id, msgspec.json.decode(encoded, type=Manifest)
    except msgspec.DecodeError as error:
        raise BundleError(f"the manifest of {path} cannot be read: {with_hint(str(error))}") from error


def _write_durably(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
