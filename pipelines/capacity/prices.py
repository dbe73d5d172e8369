"""What replicas cost a month, from a price table: YAML with the source and the date of each price."""

from datetime import date
from math import ceil, floor
from pathlib import Path
from typing import Annotated

import msgspec

PRICES = Path(__file__).parent / "prices.yaml"
NODE_USABLE = 0.9  # of a node's processors and memory; the rest is the system's, the kubelet's and the daemon sets'
Text = Annotated[str, msgspec.Meta(min_length=1)]
Price = Annotated[float, msgspec.Meta(gt=0, le=1000)]


class Offer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A price by the hour: of a core and a gigabyte, or of a node with so many of both.

    Raises:
        ValueError: it is neither, or both.
    """

    name: Text
    region: Text
    source: Text
    as_of: date
    per_cpu_hour: Price | None = None
    per_gb_hour: Price | None = None
    per_hour: Price | None = None
    cpus: Annotated[float, msgspec.Meta(gt=0, le=1024)] | None = None
    memory_gb: Annotated[float, msgspec.Meta(gt=0, le=65_536)] | None = None

    def __post_init__(self) -> None:
        by_resource = (self.per_cpu_hour, self.per_gb_hour)
        by_node = (self.per_hour, self.cpus, self.memory_gb)
        is_clear = (None not in by_resource) != (None not in by_node)
        chosen, other = (by_resource, by_node) if None not in by_resource else (by_node, by_resource)
        if not is_clear or None in chosen or any(each is not None for each in other):
            raise ValueError(
                f"{self.name}: expected either per_cpu_hour and per_gb_hour, or per_hour with cpus and memory_gb"
            )


class Prices(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A price table."""

    currency: Text
    offers: Annotated[tuple[Offer, ...], msgspec.Meta(min_length=1)]
    hours_per_month: Annotated[float, msgspec.Meta(ge=1, le=744)] = 730.0


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """A month with all replicas of the peak, and one with the fewest; `nodes` where the offer is of nodes."""

    offer: str
    currency: str
    at_peak: float
    at_least: float
    nodes: int | None
    how: str
    source: str
    as_of: date


def read_prices(file: Path = PRICES) -> Prices:
    """The table in `file`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no price table; the key is named.
    """
    try:
        return msgspec.yaml.decode(file.read_bytes(), type=Prices)
    except msgspec.MsgspecError as error:
        raise ValueError(f"{file}: {error}; pipelines/capacity/prices.yaml shows the keys") from None


def cost(
    prices: Prices, offer: Offer, *, replicas: int, fewest: int, zones: int, cores: float, memory_mib: int
) -> Cost | None:
    """What `replicas` cost a month by `offer`; None where a node of it is too small for one of them."""
    gigabytes, hours = memory_mib * 1024**2 / 1e9, prices.hours_per_month
    nodes = None
    if offer.per_cpu_hour is not None and offer.per_gb_hour is not None:
        each = cores * offer.per_cpu_hour + gigabytes * offer.per_gb_hour
        at_peak, at_least = (count * each * hours for count in (replicas, fewest))
        how = (
            f"{replicas} × ({cores:g} cores × {offer.per_cpu_hour:g} + {gigabytes:.2f} GB × {offer.per_gb_hour:g}) "
            f"× {hours:g} h"
        )
    else:
        per_node = _fit(offer, cores, gigabytes)
        if per_node == 0:
            return None
        nodes, few = (zones * ceil(ceil(count / zones) / per_node) for count in (replicas, fewest))
        at_peak, at_least = (count * (offer.per_hour or 0.0) * hours for count in (nodes, few))
        how = f"{per_node} replicas fit a node: {nodes} nodes in {zones} zones × {offer.per_hour:g} × {hours:g} h"
    return Cost(
        offer=offer.name,
        currency=prices.currency,
        at_peak=at_peak,
        at_least=at_least,
        nodes=nodes,
        how=how,
        source=offer.source,
        as_of=offer.as_of,
    )


def _fit(offer: Offer, cores: float, gigabytes: float) -> int:
    by_cores = (offer.cpus or 0.0) * NODE_USABLE / cores
    by_memory = (offer.memory_gb or 0.0) * NODE_USABLE / gigabytes
    return floor(min(by_cores, by_memory) + 1e-9)
