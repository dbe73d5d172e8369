"""The candidates of one graph, what each costs in quality, time and memory, and which one goes into the bundle."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from contracts.bundle import ServingProfile
from contracts.providers import CUDA, TENSORRT, name_of
from pipelines.inference import Latency, measure_side_by_side, open_session, score
from pipelines.optimization.gate import (
    Contender,
    PartQuality,
    Slice,
    budgets,
    choose,
    compare_losses,
    judge,
)
from pipelines.optimization.limits import NAMES, Name, OptimizationLimits
from pipelines.optimization.operator_profile import Operator, slowest_operators
from pipelines.optimization.peak_memory import measure_peak_memory
from pipelines.optimization.recipes import Material, make
from pipelines.optimization.stable_bytes import NotApplicableError
from pipelines.statistics import classification

__all__ = ["Candidate", "Optimised", "Slice", "Target", "Validation", "optimise", "recreate"]

_LATENCY_ROWS = 4096
_BESIDE_ROWS = 256


class Validation(NamedTuple):
    """The rows that candidates are judged on: features, labels, and the day of each row (None where there is none)."""

    features: NDArray[np.float32]
    labels: NDArray[Any]
    days: NDArray[np.int64] | None


class Target(NamedTuple):
    """On what the graph will run, and the project's budget for the p99 of one row in microseconds."""

    profile: ServingProfile = ServingProfile()
    latency_us_p99_max: float = 2000.0

    @property
    def has_gpu(self) -> bool:
        return any(name_of(provider) in (CUDA, TENSORRT) for provider in self.profile.providers)


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One form of the graph; without numbers when it could not be made. `reason` says why it was accepted or not.

    `compressed_bytes` is the size after zstd, which is what zeros buy. `peak_memory_bytes` is that of a session and
    runs of the largest batch in a process of its own; about 18 MB of it are the runtime's, whatever the graph. `parts`
    are all rows and each slice, `operators` the slowest ones. `beside_difference` is how much the score of a row
    changes with the rows that share its run.
    """

    name: Name
    accepted: bool
    reason: str
    size_bytes: int | None = None
    compressed_bytes: int | None = None
    log_loss: float | None = None
    auc: float | None = None
    beside_difference: float | None = None
    peak_memory_bytes: int | None = None
    latency: tuple[Latency, ...] = ()
    parts: tuple[PartQuality, ...] = ()
    operators: tuple[Operator, ...] = ()


class Optimised(msgspec.Struct, frozen=True, kw_only=True):
    """The chosen graph and why it was chosen, all candidates, and the execution provider that they were timed on."""

    graph: bytes
    chosen: Name
    reason: str
    timed_on: str
    candidates: tuple[Candidate, ...]


def optimise(
    graph: bytes,
    sample: NDArray[np.float32],
    validation: Validation,
    slices: Sequence[Slice],
    limits: OptimizationLimits,
    target: Target,
    seed: int,
    progress: Callable[[str], None],
) -> Optimised:
    """Makes the candidates, judges each on the validation rows, and chooses among the accepted as `limits` say.

    A transform that fails makes its own candidate refused, with what went wrong, and no other. When `limits` name a
    candidate only that one is made beside fp32.

    Args:
        graph: as trained, from `features` to `score`.
        sample: training rows in time order, for the ranges of activations and for fine-tuning.
        validation: rows on which quality and latency are measured.
        slices: parts of the validation rows that are judged alone.
        seed: of the training, from which all randomness comes.

    Raises:
        ValueError: no validation rows, or another number of labels or rows of a slice.
    """
    _check(validation, slices)
    wanted = NAMES if limits.choose == "fastest" else tuple(dict.fromkeys(("fp32", limits.choose)))
    graphs, refused = _make_all(wanted, Material(graph, sample, seed, target.has_gpu), validation.features)
    sizes = [batch.rows for batch in limits.batches]
    largest = validation.features[: max(sizes)]
    memory = dict(zip(graphs, measure_peak_memory(list(graphs.values()), largest, target.profile), strict=True))
    refused |= {name: "it crashed in a process of its own" for name in graphs if memory[name] is None}
    graphs = {name: made for name, made in graphs.items() if memory[name] is not None}
    if "fp32" not in graphs:
        raise ValueError(f"the graph as trained cannot be run: {refused['fp32']}")
    rows = validation.features[:_LATENCY_ROWS]
    latencies = measure_side_by_side(list(graphs.values()), rows, sizes, profile=target.profile)
    reference = classification.log_losses(validation.labels, score(graph, validation.features))
    allowed = budgets(limits.batches, target.latency_us_p99_max)
    found: dict[Name, Candidate] = {}
    for (name, made), latency in zip(graphs.items(), latencies, strict=True):
        scores = score(made, validation.features)
        losses = classification.log_losses(validation.labels, scores)
        parts = compare_losses(losses, reference, validation.days, slices, limits)
        beside = _beside_difference(made, validation.features)
        judged = judge(parts, latency, allowed, beside, limits)
        found[name] = Candidate(
            name=name,
            accepted=judged.accepted,
            reason="as trained" if name == "fp32" and judged.accepted else judged.reason,
            size_bytes=len(made),
            compressed_bytes=_compressed(made),
            log_loss=float(losses.mean()),
            auc=classification.auc(validation.labels, scores),
            beside_difference=beside,
            peak_memory_bytes=memory[name],
            latency=latency,
            parts=parts,
            operators=slowest_operators(made, largest, target.profile),
        )
    candidates = [found.get(name) or Candidate(name=name, accepted=False, reason=refused[name]) for name in wanted]
    chosen, reason = _choose(candidates, limits, target, timed_on := _provider(graph, target.profile))
    for candidate in candidates:
        progress(_line(candidate))
    progress(f"chosen: {chosen}, {reason}")
    return Optimised(
        graph=graphs[chosen], chosen=chosen, reason=reason, timed_on=timed_on, candidates=tuple(candidates)
    )


def recreate(name: str, graph: bytes, sample: NDArray[np.float32], target: Target, seed: int) -> bytes:
    """The bytes of the candidate `name`, as `optimise` made them; nothing is measured or judged.

    Raises:
        ValueError: there is no such candidate, or it is not applicable to this graph.
    """
    known: Name | None = next((each for each in NAMES if each == name), None)
    if known is None:
        raise ValueError(f"optimization: found {name!r}, expected one of {', '.join(NAMES)}")
    return make(known, Material(graph, sample, seed, target.has_gpu))


def _check(validation: Validation, slices: Sequence[Slice]) -> None:
    rows = len(validation.labels)
    for title, found in (("features", len(validation.features)), *((part.title, len(part.rows)) for part in slices)):
        if found != rows or not rows:
            raise ValueError(f"{title}: found {found} rows for {rows} labels, expected one for each and at least one")


def _make_all(
    wanted: Sequence[Name], material: Material, features: NDArray[np.float32]
) -> tuple[dict[Name, bytes], dict[Name, str]]:
    """The candidates that could be made and run, and why the others could not."""
    graphs: dict[Name, bytes] = {}
    refused: dict[Name, str] = {}
    for name in wanted:
        try:
            made = make(name, material)
            same = next((other for other, bytes_ in graphs.items() if bytes_ == made), None)
            if same is not None:
                raise NotApplicableError(f"not applicable: it is {same}, byte for byte")
            score(made, features[:_BESIDE_ROWS])
        except NotApplicableError as error:
            refused[name] = str(error)
        except Exception as error:  # noqa: BLE001 (whatever a library raises is this candidate's end, and no other's)
            refused[name] = f"it could not be made: {type(error).__name__}: {error}"
        else:
            graphs[name] = made
    return graphs, refused


def _beside_difference(graph: bytes, features: NDArray[np.float32]) -> float:
    """By how much scores of rows in one run differ from those of the same rows alone, at most."""
    rows = features[np.linspace(0, len(features) - 1, min(_BESIDE_ROWS, len(features))).astype(int)]
    return float(np.abs(score(graph, rows) - score(graph, rows, batch_rows=1)).max())


def _compressed(graph: bytes) -> int:
    import pyarrow

    return len(pyarrow.Codec("zstd").compress(graph, asbytes=True))


def _provider(graph: bytes, profile: ServingProfile) -> str:
    return str(open_session(graph, profile).get_providers()[0])


def _choose(
    candidates: Sequence[Candidate], limits: OptimizationLimits, target: Target, timed_on: str
) -> tuple[Name, str]:
    preferred = name_of(target.profile.providers[0])
    if limits.choose == "fastest" and timed_on != preferred:
        return "fp32", f"timed on {timed_on}, which says nothing of the profile's {preferred}: fp32 serves"
    return choose([Contender(each.name, each.accepted, each.latency) for each in candidates], limits)


def _line(candidate: Candidate) -> str:
    times = ", ".join(f"{measured.us_p50:.0f} µs for {measured.rows}" for measured in candidate.latency)
    verdict = "accepted" if candidate.accepted else "refused"
    size = f"{candidate.size_bytes:,} bytes" if candidate.size_bytes is not None else ""
    numbers = "; ".join(part for part in (times, size) if part)
    return f"{candidate.name}: {verdict}: {candidate.reason}{f' ({numbers})' if numbers else ''}"
