"""The candidates of one graph, what each costs in quality and time, and which one goes into the bundle."""

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipelines.inference import Latency, measure_side_by_side, score
from pipelines.optimization.limits import Name, OptimizationLimits
from pipelines.optimization.transforms import NotApplicableError, optimise_graph, quantise
from pipelines.statistics.classification import log_losses

__all__ = ["Candidate", "Optimised", "OptimizationLimits", "choose", "judge_losses", "optimise"]

ONE_SIDED_95 = 1.6448536269514722  # the 95 % quantile of the normal distribution
_LATENCY_ROWS = 4096

Floats = NDArray[np.float64]


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One form of the graph; without size, latency and log loss when it could not be made. `reason` has the numbers."""

    name: Name
    accepted: bool
    reason: str
    size_bytes: int | None = None
    log_loss: float | None = None
    latency: tuple[Latency, ...] = ()


class Optimised(msgspec.Struct, frozen=True, kw_only=True):
    """The chosen graph, and all candidates with why each was accepted or not."""

    graph: bytes
    chosen: Name
    candidates: tuple[Candidate, ...]


def optimise(
    graph: bytes,
    sample: NDArray[np.float32],
    validation: tuple[NDArray[np.float32], NDArray[Any]],
    slices: NDArray[Any] | None,
    limits: OptimizationLimits,
    progress: Callable[[str], None],
) -> Optimised:
    """Makes the candidates, judges each on the validation rows, and chooses among the accepted as `limits` say.

    Args:
        graph: as trained, from `features` to `score`.
        sample: training rows, from which quantisation takes the ranges of activations.
        validation: features and labels on which quality and latency are measured.
        slices: the code of each validation row's slice (NaN belongs to none), or None.

    Raises:
        ValueError: no validation rows, or another number of labels or slices than rows.
    """
    features, labels = validation
    if slices is not None and len(slices) != len(labels):
        raise ValueError(f"found {len(slices)} slices for {len(labels)} validation rows, expected one for each")
    graphs: dict[Name, bytes] = {"fp32": graph}
    refused: dict[Name, str] = {}
    transforms: dict[Name, Callable[[], bytes]] = {
        "graph_optimised": lambda: optimise_graph(graph),
        "int8": lambda: quantise(graph, sample),
    }
    for name, transform in transforms.items():
        try:
            graphs[name] = transform()
        except NotApplicableError as error:
            refused[name] = str(error)
    latencies = measure_side_by_side(list(graphs.values()), features[:_LATENCY_ROWS])
    reference = log_losses(labels, score(graph, features))
    candidates = []
    for (name, made), latency in zip(graphs.items(), latencies, strict=True):
        losses = reference if name == "fp32" else log_losses(labels, score(made, features))
        accepted, reason = (True, "as trained") if name == "fp32" else judge_losses(losses - reference, slices, limits)
        candidates.append(
            Candidate(
                name=name,
                accepted=accepted,
                reason=reason,
                size_bytes=len(made),
                log_loss=float(losses.mean()),
                latency=latency,
            )
        )
    candidates += [Candidate(name=name, accepted=False, reason=reason) for name, reason in refused.items()]
    chosen = choose(candidates, limits)
    for candidate in candidates:
        progress(_line(candidate, chosen))
    return Optimised(graph=graphs[chosen], chosen=chosen, candidates=tuple(candidates))


def judge_losses(differences: Floats, slices: NDArray[Any] | None, limits: OptimizationLimits) -> tuple[bool, str]:
    """Whether a candidate loses little enough, and the numbers of the worst part of the rows.

    `differences` are the candidate's log losses minus those of the graph as trained, row by row. The bound is the
    normal one of a paired mean: mean + 1.645 · standard error; a slice is judged alone, with its own margin.
    """
    parts = [("all rows", differences, limits.log_loss_margin)]
    if slices is not None:
        codes = np.asarray(slices, dtype=np.float64)
        for code in np.unique(codes[~np.isnan(codes)]).tolist():
            of_slice = differences[codes == code]
            if len(of_slice) >= limits.minimum_slice_rows:
                parts.append((f"{limits.slice_field or 'slice'} {code:g}", of_slice, limits.slice_log_loss_margin))
    judged = [(_upper_bound(values), len(values), title, margin) for title, values, margin in parts]
    bound, rows, title, margin = max(judged, key=lambda part: part[0] - part[3])
    accepted = bound <= margin
    return accepted, (
        f"log loss at most {bound:+.5f} {'<=' if accepted else '>'} margin {margin:g} on {title} (n = {rows:,}), "
        f"the worst of {len(judged)} parts"
    )


def _upper_bound(differences: Floats) -> float:
    spread = float(differences.std(ddof=1)) if len(differences) > 1 else 0.0
    return float(differences.mean()) + ONE_SIDED_95 * spread / float(np.sqrt(len(differences)))


def choose(candidates: list[Candidate], limits: OptimizationLimits) -> Name:
    """The accepted candidate that `limits` name or that is fastest; the graph as trained where nothing saves enough."""
    accepted = {candidate.name: candidate for candidate in candidates if candidate.accepted}
    if limits.choose != "fastest":
        return limits.choose if limits.choose in accepted else "fp32"
    fastest = min(accepted.values(), key=_relative_time(accepted["fp32"]))
    saved = 1 - _relative_time(accepted["fp32"])(fastest)
    return fastest.name if saved >= limits.minimum_saving else "fp32"


def _relative_time(reference: Candidate) -> Callable[[Candidate], float]:
    """The mean over batch sizes of a candidate's median time as a share of the reference's."""

    def share(candidate: Candidate) -> float:
        pairs = zip(candidate.latency, reference.latency, strict=True)
        return float(np.mean([ours.us_p50 / theirs.us_p50 for ours, theirs in pairs]))

    return share


def _line(candidate: Candidate, chosen: Name) -> str:
    taken = ", chosen" if candidate.name == chosen else ""
    times = ", ".join(f"{measured.us_p50:.0f} µs for {measured.rows}" for measured in candidate.latency)
    verdict = "accepted" if candidate.accepted else "refused"
    return f"{candidate.name}: {verdict}{taken}: {candidate.reason}{f' ({times})' if times else ''}"
