"""The autoscalers that are compared. `FOUND` is the one that `deploy/kubernetes` uses."""

from pipelines.capacity.autoscaler import Autoscaler, Behavior, ScalingPolicy
from pipelines.capacity.queueing import service_rate, waiting
from pipelines.capacity.simulation import Replica

FEWEST, MOST = 3, 60
FOUND_UTILISATION, FOUND_TOLERANCE = 0.6, 0.35
FOUND_UP = Behavior(
    stabilization_s=0,
    policies=(ScalingPolicy(type="Percent", value=100), ScalingPolicy(type="Pods", value=4)),
)
FOUND_DOWN = Behavior(stabilization_s=3600, policies=(ScalingPolicy(type="Percent", value=100, period_s=60),))


def queue_target(replica: Replica, utilisation: float) -> float:
    """Rows that wait at `utilisation` of saturation."""
    return waiting(utilisation * replica.saturation_per_s / service_rate(replica.saturation_per_s, replica.objective_s))


def autoscalers(replica: Replica) -> tuple[Autoscaler, ...]:
    """CPU as Kubernetes has it and as well as we could tune it, the queue with the defaults, and the one found.

    metrics-server takes 15 s by default for a CPU value; 10 s is the least that its documentation recommends.
    """
    bounds = {"fewest": FEWEST, "most": MOST}
    return (
        Autoscaler(name="CPU 65 %, defaults", signal="cpu", target=0.65, **bounds),
        _tuned_cpu(0.6),
        _tuned_cpu(0.55),  # keeps about as many replicas running as the one found, at the spike and the sawtooth
        Autoscaler(name="queue at 65 %, defaults", signal="queue", target=queue_target(replica, 0.65), **bounds),
        Autoscaler(
            name="queue at 60 %, tuned, scraped every 15 s",
            signal="queue",
            target=queue_target(replica, FOUND_UTILISATION),
            tolerance=FOUND_TOLERANCE,
            up=FOUND_UP,
            down=FOUND_DOWN,
            **bounds,
        ),
        found(replica),
    )


def _tuned_cpu(target: float) -> Autoscaler:
    return Autoscaler(
        name=f"CPU {target:.0%}, tuned".replace("%", " %"),
        signal="cpu",
        target=target,
        scrape_s=10,
        window_s=10,
        tolerance=0.05,
        up=Behavior(stabilization_s=0, policies=(ScalingPolicy(type="Percent", value=300),)),
        down=FOUND_DOWN,
        fewest=FEWEST,
        most=MOST,
    )


def found(replica: Replica) -> Autoscaler:
    """The queue at 60 % of saturation, scraped every 5 s, with a tolerance of 35 %, an hour before fewer."""
    return Autoscaler(
        name="queue at 60 %, tuned, scraped every 5 s",
        signal="queue",
        target=queue_target(replica, FOUND_UTILISATION),
        scrape_s=5,
        window_s=10,
        tolerance=FOUND_TOLERANCE,
        up=FOUND_UP,
        down=FOUND_DOWN,
        fewest=FEWEST,
        most=MOST,
    )
