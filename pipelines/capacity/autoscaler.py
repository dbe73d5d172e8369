"""The Horizontal Pod Autoscaler, version 2, as Kubernetes documents it. Pure: it is told the time and the metrics.

Source: https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/ (algorithm details, configurable
scaling behavior); where that is silent, what `pkg/controller/podautoscaler` does: how many replicas there were when the
period of a policy began follow from the changes within it.

- desired = ceil(current × metric / target), skipped while the ratio is within the tolerance of 1;
- pods whose CPU is not known yet count as 0 % when the others ask for more, as 100 % when they ask for fewer, and
  nothing is done where that turns the direction;
- the safest recommendation of the stabilisation window is taken: the least for more replicas, the most for fewer;
- policies then limit the change; the most permissive one counts (`selectPolicy: Max`).
"""

from collections import deque
from dataclasses import dataclass, field
from math import ceil
from typing import Annotated, Literal

import msgspec

Signal = Literal["queue", "cpu"]
TOLERANCE = 0.1
SYNC_S = 15


class ScalingPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """At most so many pods, or so many percent of those at its beginning, in `period_s`."""

    type: Literal["Pods", "Percent"]
    value: Annotated[int, msgspec.Meta(ge=1, le=10_000)]
    period_s: Annotated[int, msgspec.Meta(ge=1, le=1800)] = 15


class Behavior(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How fast one direction may go."""

    stabilization_s: Annotated[int, msgspec.Meta(ge=0, le=3600)]
    policies: tuple[ScalingPolicy, ...]


# the defaults of autoscaling/v2
SCALE_UP = Behavior(
    stabilization_s=0,
    policies=(ScalingPolicy(type="Percent", value=100), ScalingPolicy(type="Pods", value=4)),
)
SCALE_DOWN = Behavior(stabilization_s=300, policies=(ScalingPolicy(type="Percent", value=100),))


class Autoscaler(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The settings of one HPA.

    `target` is the utilisation of the request (0.65: 65 %) where the signal is `cpu`, and waiting rows for each replica
    where it is `queue`. A value is seen when it is scraped, every `scrape_s`, as the mean of the `window_s` before.
    """

    name: str
    signal: Signal
    target: Annotated[float, msgspec.Meta(gt=0)]
    fewest: Annotated[int, msgspec.Meta(ge=1)]
    most: Annotated[int, msgspec.Meta(ge=1)]
    scrape_s: Annotated[int, msgspec.Meta(ge=1)] = 15
    window_s: Annotated[int, msgspec.Meta(ge=1)] = 15
    sync_s: Annotated[int, msgspec.Meta(ge=1)] = SYNC_S
    tolerance: Annotated[float, msgspec.Meta(ge=0, lt=1)] = TOLERANCE
    up: Behavior = SCALE_UP
    down: Behavior = SCALE_DOWN

    def __post_init__(self) -> None:
        if self.most < self.fewest:
            raise ValueError(f"{self.name}: found most {self.most}, expected at least fewest, {self.fewest}")


@dataclass(frozen=True)
class Seen:
    """What the HPA reads: the replicas that the Deployment has, how many of them have a value, and the values' sum."""

    replicas: int
    known: int
    total: float


@dataclass
class Controller:
    """One HPA over time; `replicas` is what it has asked for last."""

    settings: Autoscaler
    replicas: int
    _recommended: deque[tuple[float, int]] = field(default_factory=deque)
    _changes: deque[tuple[float, int]] = field(default_factory=deque)

    def sync(self, now_s: float, seen: Seen) -> int:
        """One round; returns the replicas that it asks for from now on."""
        settings = self.settings
        wanted = min(max(_desired(settings, seen, self.replicas), settings.fewest), settings.most)
        stable = self._stabilised(now_s, wanted)
        limited = min(max(self._limited(now_s, stable), settings.fewest), settings.most)
        if limited != self.replicas:
            self._changes.append((now_s, limited - self.replicas))
            self.replicas = limited
        return self.replicas

    def _stabilised(self, now_s: float, wanted: int) -> int:
        up_s, down_s = self.settings.up.stabilization_s, self.settings.down.stabilization_s
        self._recommended.append((now_s, wanted))
        while self._recommended and self._recommended[0][0] < now_s - max(up_s, down_s):
            self._recommended.popleft()
        least = min(count for at_s, count in self._recommended if at_s >= now_s - up_s)
        most = max(count for at_s, count in self._recommended if at_s >= now_s - down_s)
        # what is there stays where it lies between the two
        return min(max(self.replicas, least), most)

    def _limited(self, now_s: float, wanted: int) -> int:
        while self._changes and self._changes[0][0] < now_s - 1800:
            self._changes.popleft()
        if wanted > self.replicas:
            return min(wanted, max(self._allowed(now_s, policy, +1) for policy in self.settings.up.policies))
        if wanted < self.replicas:
            return max(wanted, min(self._allowed(now_s, policy, -1) for policy in self.settings.down.policies))
        return wanted

    def _allowed(self, now_s: float, policy: ScalingPolicy, sign: int) -> int:
        moved = sum(by for at_s, by in self._changes if at_s > now_s - policy.period_s and by * sign > 0)
        began = self.replicas - moved
        if policy.type == "Pods":
            return began + sign * policy.value
        if sign > 0:
            return ceil(began * (1 + policy.value / 100) - 1e-9)
        return int(began * (1 - policy.value / 100))


def _desired(settings: Autoscaler, seen: Seen, current: int) -> int:
    if seen.known == 0 or seen.replicas == 0:
        return current
    if settings.signal == "queue":  # an external metric: the sum against a value for each replica
        ratio = seen.total / (settings.target * seen.replicas)
        return current if abs(ratio - 1) <= settings.tolerance else ceil(seen.total / settings.target - 1e-9)
    ratio = seen.total / (seen.known * settings.target)
    unknown = seen.replicas - seen.known
    if unknown == 0:
        return current if abs(ratio - 1) <= settings.tolerance else ceil(ratio * seen.known - 1e-9)
    assumed = 0.0 if ratio > 1 else settings.target
    careful = (seen.total + unknown * assumed) / (seen.replicas * settings.target)
    is_turned = (ratio > 1) != (careful > 1)
    if is_turned or abs(ratio - 1) <= settings.tolerance or abs(careful - 1) <= settings.tolerance:
        return current
    return ceil(careful * seen.replicas - 1e-9)
