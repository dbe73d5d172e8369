"""The slice of a project's configuration that optimisation owns: how much quality speed may cost."""

from typing import Annotated, Literal, get_args

import msgspec

Name = Literal[
    "fp32",
    "graph_optimised",
    "int8_static_minmax",
    "int8_static_entropy",
    "int8_static_percentile",
    "int8_per_tensor",
    "int8_dynamic",
    "fp16",
    "pruned_units_25",
    "pruned_units_50",
    "pruned_units_50_int8",
    "pruned_weights_50",
    "trees_75",
    "trees_50",
]
NAMES: tuple[Name, ...] = get_args(Name)


class BatchSize(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How many rows share a run, how much this size counts where candidates are compared, and its budget at p99.

    For one row the project's own budget (`gates.latency_us_p99_max`) holds as well.
    """

    rows: Annotated[int, msgspec.Meta(ge=1, le=65_536)]
    weight: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 1.0
    latency_us_p99_max: Annotated[float, msgspec.Meta(gt=0)] | None = None


class OptimizationLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a candidate may lose against the graph as trained, and how the one that serves is chosen.

    A candidate is accepted when the one-sided upper bounds of its loss in log loss are below these margins, all at once
    with a confidence of 95 %: over all rows below `log_loss_margin`, and on each slice below `slice_log_loss_margin`.
    Slices are the words of the categories in `slice_fields` with at least `minimum_slice_rows` validation rows.
    `beside_difference_max` is how much the score of a row may change with the rows that share its run.

    `batches` are the sizes at which latency is measured. The fastest by the weighted medians is taken if it saves at
    least the share `minimum_saving` of the time of the graph as trained: less is noise. `choose` is "fastest", or the
    name of the one candidate to take when it is accepted; a project that wants no optimisation says "fp32".
    """

    choose: Literal["fastest"] | Name = "fastest"
    log_loss_margin: float = 0.002
    slice_fields: tuple[str, ...] = ()
    minimum_slice_rows: int = 500
    slice_log_loss_margin: float = 0.01
    beside_difference_max: float = 1e-4
    minimum_saving: float = 0.1
    batches: tuple[BatchSize, ...] = (
        BatchSize(rows=1, weight=3),
        BatchSize(rows=8, weight=2),
        BatchSize(rows=32, weight=2),
        BatchSize(rows=128, weight=1),
    )

    def __post_init__(self) -> None:
        for key in ("log_loss_margin", "slice_log_loss_margin", "beside_difference_max"):
            if not 0 < (found := getattr(self, key)) <= 1:
                raise ValueError(f"{key}: found {found}, expected a number above 0 and at most 1")
        if self.minimum_slice_rows < 2:
            raise ValueError(f"minimum_slice_rows: found {self.minimum_slice_rows}, expected at least 2")
        if not 0 <= self.minimum_saving < 1:
            raise ValueError(f"minimum_saving: found {self.minimum_saving}, expected from 0 to below 1")
        if len(set(self.slice_fields)) != len(self.slice_fields):
            raise ValueError(f"slice_fields: {', '.join(self.slice_fields)} names one twice")
        sizes = [batch.rows for batch in self.batches]
        if 1 not in sizes or len(set(sizes)) != len(sizes):
            raise ValueError(f"batches: found rows {sizes}, expected different ones with 1 among them: a gate is on it")
        if not sum(batch.weight for batch in self.batches) > 0:
            raise ValueError("batches: all weights are 0, expected one above 0 to compare candidates by")
