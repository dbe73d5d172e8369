"""What the workers have counted, as the supervisor knows it; what one that ended had counted stays in the sums."""

from collections.abc import Sequence

import msgspec

from contracts.slots import Observation
from serving.workers.messages import Family
from serving.workers.totals import add_families, add_observation, counted, of_worker


class Counted:
    """The last observation and the last metrics of each worker, and the sums of those that are gone."""

    def __init__(self) -> None:
        self._seen: dict[int, list[Observation]] = {}
        self._gone: list[list[Observation]] = []
        self._metrics: dict[int, list[Family]] = {}
        self._gone_metrics: list[Family] = []

    def saw(self, worker: int, observation: Observation, beside: Sequence[Observation] = ()) -> None:
        """What `worker` has counted so far, an observation for each challenger."""
        self._seen[worker] = [observation, *beside]

    def scraped(self, worker: int, metrics: Sequence[Family]) -> None:
        """The metrics of `worker` so far."""
        self._metrics[worker] = of_worker(metrics, worker)

    def left(self, worker: int) -> None:
        """`worker` has ended."""
        if (seen := self._seen.pop(worker, None)) is not None:
            self._gone.append(seen)
        if (metrics := self._metrics.pop(worker, None)) is not None:
            self._gone_metrics = add_families([self._gone_metrics, counted(metrics)])

    def promoted(self) -> None:
        """Another champion: the counts of both slots begin anew."""
        self._seen.clear()
        self._gone.clear()

    def forget_challenger(self, rollout: str | None) -> None:
        """Counts of a challenger that is gone are not those of one that comes with the same names."""
        self._gone = [_without(rollout, each) for each in self._gone]
        self._seen = {worker: _without(rollout, each) for worker, each in self._seen.items()}

    def observation(self, own: Observation) -> Observation:
        """`own`, which has the state and no counts, with the counts of all workers."""
        for parts in (*self._gone, *self._seen.values()):
            mine = next((each for each in parts if each.rollout == own.rollout), parts[0])
            own = add_observation(own, mine)
        return own

    def metrics(self, own: Sequence[Family]) -> list[Family]:
        """The metrics of all workers, and `own`. A worker that was not heard has counted at least what it last said."""
        return add_families([*self._metrics.values(), self._gone_metrics, own])


def _without(rollout: str | None, seen: Sequence[Observation]) -> list[Observation]:
    return [
        msgspec.structs.replace(each, challenger=None, shadowed=None, pairs=None) if each.rollout == rollout else each
        for each in seen
    ]
