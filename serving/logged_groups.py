"""What the event loop hands to the prediction log: rows that were answered together, by column."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from msgspec import Struct
from msgspec.structs import astuple
from numpy.typing import NDArray

from contracts.bundle import Baseline
from contracts.input_schema import InputSchema


class OfRequests(NamedTuple):
    """What rows of several requests do not share; parallel to the rows."""

    request_ids: Sequence[str]
    clients: Sequence[str | None]
    latencies_us: Sequence[int]


class LoggedGroup(Struct, gc=False, eq=False, kw_only=True):
    """Rows of one request that one slot answered; the sequences are parallel. `served_at_s` is since the epoch.

    Rows of several requests, one of each, that one run scored, are a group as well: then `each` has what is every
    request's own, and `request_id` is that of the first.

    `features` are the rows as encoded for that version (float32, rows × columns), `baseline` its bundle's: without both
    of them inputs, without the latter also scores are not looked at for what is unusual. `client` is who got the rows,
    `cached` whether another request's run gave their scores, `uncounted` why no comparison of versions has them,
    `size_bytes` the size of the request's body, for the bound on what waits.
    """

    served_at_s: float
    request_id: str
    schema: InputSchema
    version: str
    bundle: str
    slot: str
    rollout: str | None
    share: float
    latency_us: int
    records: Sequence[Mapping[str, Any]]
    entities: Sequence[str]
    prediction_ids: Sequence[str]
    scores: Sequence[float | None]
    decisions: Sequence[bool | None]
    errors: Sequence[str | None]
    features: NDArray[np.float32] | None = None
    baseline: Baseline | None = None
    client: str | None = None
    cached: bool = False
    uncounted: str | None = None
    size_bytes: int = 0
    each: OfRequests | None = None


def by_attribute(groups: Sequence[LoggedGroup]) -> dict[str, tuple[Any, ...]]:
    """For each attribute those of all `groups`."""
    return dict(zip(LoggedGroup.__struct_fields__, zip(*map(astuple, groups), strict=True), strict=True))


def has_features(group: LoggedGroup) -> bool:
    """Whether each of its rows is there as it was encoded."""
    return group.features is not None and len(group.features) == len(group.records)
