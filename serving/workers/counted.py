"""What the workers have counted, as the supervisor knows it; what one that ended had counted stays in the sums."""

from collections.abc import Sequence

import msgspec

from contracts.slots import Observation
from serving.workers.messages import Family
from serving.workers.totals import add_families, add_observation, counted, of_worker


class Counted:
    """The last observation and the last metrics of each worker, and the sums of those that are gone."""

    def __init__(self) -> None:
        self._seen: dict[int, Observation] = {}
        self._gone: list[Observation] = []
        self._metrics: dict[int, list[Family]] = {}
        self._gone_metrics: list[Family] = []

    def saw(self, worker: int, observation: Observation) -> None:
        """What `worker` has counted so far."""
        self._seen[worker] = observation

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

    def forget_challenger(self) -> None:
        """Counts of a challenger that is gone are not those of one that comes with the same names."""
        self._gone = [_without_challenger(each) for each in self._gone]
        self._seen = {worker: _without_challenger(each) for worker, each in self._seen.items()}

    def observation(self, own: Observation) -> Observation:
        """`own`, which has the state and no counts, with the counts of all workers."""
        for part in (*self._gone, *self._seen.values()):
            own = add_observation(own, part)
        return own

    def metrics(self, own: Sequence[Family]) -> list[Family]:
        """The metrics of all workers, and `own`. A worker that was not heard has counted at least what it last said."""
        return add_families([*self._metrics.values(), self._gone_metrics, own])


def _without_challenger(seen: Observation) -> Observation:
    return msgspec.structs.replace(seen, challenger=None, shadowed=None, pairs=None)
