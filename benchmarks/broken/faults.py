"""Challengers that are broken in one way each, and before how many requests a rollout has to notice."""

from dataclasses import dataclass, field

from contracts.faults import (
    ConstantScore,
    CrashingProcess,
    LeakingMemory,
    NanScores,
    ShiftedScores,
    SlowRuns,
    SwappedScores,
    WrongFor,
    WrongShape,
)
from contracts.slots import InjectFault


@dataclass(frozen=True, kw_only=True)
class Broken:
    """One way of being broken.

    It is to be caught in the shadow before `pairs` pairs, and where there is no shadow before the challenger has had
    `requests`; None: by nothing but a shadow, or the outcomes.
    """

    name: str
    what: str
    fault: InjectFault = field(default_factory=InjectFault)
    pairs: int
    requests: int | None


SOUND = Broken(name="none", what="the champion itself: must be promoted", pairs=0, requests=0)
BROKEN = (
    Broken(
        name="exceptions",
        what="every run fails",
        fault=InjectFault(error_share=1.0),
        pairs=500,
        requests=60,
    ),
    Broken(
        name="errors",
        what="a tenth of the runs fail",
        fault=InjectFault(error_share=0.1),
        pairs=1500,
        requests=500,
    ),
    Broken(
        name="nan",
        what="every score is NaN",
        fault=InjectFault(fault=NanScores()),
        pairs=500,
        requests=60,
    ),
    Broken(
        name="wrong shape",
        what="two scores a row",
        fault=InjectFault(fault=WrongShape()),
        pairs=500,
        requests=60,
    ),
    Broken(
        name="constant",
        what="every score is 0.5",
        fault=InjectFault(fault=ConstantScore()),
        pairs=1500,
        requests=1500,
    ),
    Broken(
        name="shifted",
        what="scores are 0.3 higher",
        fault=InjectFault(fault=ShiftedScores(by=0.3)),
        pairs=500,
        requests=1500,
    ),
    Broken(
        name="swapped",
        what="1 less the score, as with swapped labels",
        fault=InjectFault(fault=SwappedScores()),
        pairs=1500,
        requests=1500,
    ),
    Broken(
        name="wrong for one carrier",
        what="1 less the score for the carrier UA, good for all others",
        fault=InjectFault(fault=WrongFor(field="carrier", value="UA")),
        pairs=2500,
        requests=None,
    ),
    Broken(
        name="slow",
        what="each run takes 80 ms longer",
        fault=InjectFault(fault=SlowRuns(ms=80)),
        pairs=0,
        requests=600,
    ),
    Broken(
        name="slower every minute",
        what="each run takes 60 ms more with each minute",
        fault=InjectFault(fault=SlowRuns(more_each_minute_ms=60)),
        pairs=0,
        requests=4000,
    ),
    Broken(
        name="leak",
        what="each run keeps 2 MB; the plan's limit is 300 MB",
        fault=InjectFault(fault=LeakingMemory(mb_each_run=2)),
        pairs=600,
        requests=400,
    ),
    Broken(
        name="crash",
        what="the process dies in its 30th run, and is started again",
        fault=InjectFault(fault=CrashingProcess(after_runs=30)),
        pairs=200,
        requests=60,
    ),
)
