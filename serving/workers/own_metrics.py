"""The metrics that only the supervisor has: how its workers are, and what was taken away for all of them."""

from serving.workers.messages import Family
from serving.workers.shared_slots import SharedSlots


def own_families(slots: SharedSlots, serving: int, restarts: int, missed_scrapes: int) -> list[Family]:
    """`serving` workers take connections, `restarts` were replaced, `missed_scrapes` had no metrics in time."""
    slots.expire()
    return [
        _family("paceline_workers", "gauge", "Workers that take connections", serving),
        _family("paceline_worker_restarts", "counter", "Workers that ended and were replaced", restarts),
        _family(
            "paceline_worker_scrapes_missed",
            "counter",
            "Times that a worker had no metrics within a second: what it said before stands for it",
            missed_scrapes,
        ),
        Family(
            name="paceline_trips",
            kind="counter",
            help="Shares that the server itself took away",
            samples=[("paceline_trips_total", {"cause": cause}, float(count)) for cause, count in slots.trips.items()],
        ),
    ]


def _family(name: str, kind: str, text: str, value: float) -> Family:
    sample = f"{name}_total" if kind == "counter" else name
    return Family(name=name, kind=kind, help=text, samples=[(sample, {}, float(value))])
