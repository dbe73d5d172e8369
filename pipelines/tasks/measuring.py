"""The measured sections of an evaluation: quality, slices, fairness and latency, each with its gates."""

import msgspec
import numpy as np

from contracts.bundle import Baseline
from pipelines.evaluation.comparison import Comparison
from pipelines.tasks.cases import Case, Section
from pipelines.tasks.groupings import fairness_groupings, slice_groupings


def compared_section(case: Case) -> tuple[Comparison, Section]:
    """All metrics of both versions; the comparison is returned apart, since the outcome rests on it."""
    from pipelines.evaluation import comparison, gates

    compared = comparison.compare(
        case.scores,
        case.rival_scores,
        case.test.labels,
        case.test.days,
        case.project.decision_threshold,
        case.project.training.seed,
        resamples=case.project.gates.resamples,
        costs=case.project.costs,
    )
    found = gates.quality_gates(compared.comparison, case.project.gates)
    return compared.comparison, Section("comparison", msgspec.to_builtins(compared), found)


def sliced_section(case: Case, baseline: Baseline) -> Section:
    """Slices declared and found; numbers are cut at the edges of `baseline`."""
    from pipelines.evaluation import slices

    groupings = slice_groupings(case.project, case.snapshot, case.schema, case.test.features, baseline)
    rival = None if case.rival_scores is None else case.rival_scores.astype(np.float64)
    rows = slices.SliceRows(case.test.labels, case.test.days, case.scores.astype(np.float64), rival)
    found = slices.measure_slices(rows, *groupings, case.project.slices)
    return Section("slices", msgspec.to_builtins(found), slices.slice_gates(found, case.project.slices))


def fair_section(case: Case) -> Section:
    """The decisions between the declared groups."""
    from pipelines.evaluation import fairness

    limits = case.project.fairness
    found = fairness.measure_fairness(
        case.test.labels,
        case.scores.astype(np.float64),
        case.test.days,
        fairness_groupings(case.project, case.snapshot),
        case.project.decision_threshold,
        limits,
        case.project.training.seed,
        case.project.gates.resamples,
    )
    return Section("fairness", msgspec.to_builtins(found), fairness.fairness_gates(found, limits))


def timed_section(case: Case) -> Section:
    """The latency of the graph, beside the champion's."""
    from pipelines.evaluation import gates
    from pipelines.evaluation.latency import compare_latency

    measured = compare_latency((case.graph, case.test.features), case.rival, case.project.training.seed)
    return Section("latency", msgspec.to_builtins(measured), gates.latency_gates(measured, case.project.gates))
