"""What happens in a run: drawn from its seed alone, so that `--only SEED` is the same again."""

from typing import Literal, NamedTuple

import numpy as np

from benchmarks.chaos.installation import LEASE_S

Fault = Literal[
    "server killed",
    "controller killed",
    "controller killed twice",
    "server and controller killed",
    "MLflow killed",
    "ledger gone",
    "ledger locked",
    "disk full for the controller",
    "disk full for the server",
    "disk full for both",
]
FAULTS: tuple[Fault, ...] = Fault.__args__  # type: ignore[attr-defined]
Challenger = Literal["sound", "broken", "turns bad"]
Anchor = Literal["begun", "share of 100 %"]
AFTER_S_MAX, AFTER_S_MAX_BROKEN = 4.5, 1.5  # a broken challenger is out soon; a later fault would meet no rollout


class Case(NamedTuple):
    """`after_s` seconds after `anchor` the fault strikes, and lasts for `lasts_s` until what died is started again."""

    seed: int
    fault: Fault
    challenger: Challenger
    has_shadow: bool
    anchor: Anchor
    after_s: float
    lasts_s: float
    again_after_s: float  # only where there is a second kill


def draw(seed: int) -> Case:
    """Each fault in turns; half of the challengers are not to be promoted."""
    random = np.random.default_rng(seed)
    challenger: Challenger = ("sound", "broken", "sound", "turns bad")[int(random.integers(4))]  # type: ignore[assignment]
    at_the_end = challenger == "sound" and random.random() < 0.4
    most_s = 1.3 if at_the_end else AFTER_S_MAX if challenger == "sound" else AFTER_S_MAX_BROKEN
    is_short = random.random() < 0.5
    return Case(
        seed=seed,
        fault=FAULTS[seed % len(FAULTS)],
        challenger=challenger,
        has_shadow=bool(random.random() < 0.5),
        anchor="share of 100 %" if at_the_end else "begun",
        after_s=float(random.uniform(0, most_s)),
        # below the lease the share may stay, above it must fall
        lasts_s=float(random.uniform(0.1, 0.7 * LEASE_S) if is_short else random.uniform(LEASE_S + 0.7, LEASE_S + 2)),
        again_after_s=float(random.uniform(0.1, 2.5)),
    )
