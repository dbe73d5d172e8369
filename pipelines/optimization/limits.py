"""The slice of a project's configuration that optimisation owns: how much quality speed may cost."""

from typing import Literal

import msgspec

Name = Literal["fp32", "graph_optimised", "int8"]


class OptimizationLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A candidate is accepted when the one-sided 95 % upper bound of its loss in log loss is below these margins.

    `slice_field` names a category of the schema whose words are judged one by one (those with `minimum_slice_rows`
    validation rows), each against `slice_log_loss_margin`. `choose` is "fastest", or the name of the one candidate to
    take when it is accepted: latencies are measurements, so a reproduction names the one that the bundle's manifest
    records. A candidate replaces the graph as trained only when it saves at least the share `minimum_saving` of its
    time: less is noise.
    """

    choose: Literal["fastest", "fp32", "graph_optimised", "int8"] = "fastest"
    log_loss_margin: float = 0.002
    slice_field: str | None = None
    minimum_slice_rows: int = 500
    slice_log_loss_margin: float = 0.01
    minimum_saving: float = 0.1

    def __post_init__(self) -> None:
        for key in ("log_loss_margin", "slice_log_loss_margin"):
            if not 0 < (found := getattr(self, key)) <= 1:
                raise ValueError(f"{key}: found {found}, expected a number above 0 and at most 1")
        if self.minimum_slice_rows < 2:
            raise ValueError(f"minimum_slice_rows: found {self.minimum_slice_rows}, expected at least 2")
        if not 0 <= self.minimum_saving < 1:
            raise ValueError(f"minimum_saving: found {self.minimum_saving}, expected from 0 to below 1")
