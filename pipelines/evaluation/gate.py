"""One check before any traffic: what every part of the evaluation hands to the judgement."""

from typing import Literal

import msgspec

Area = Literal["quality", "sanity", "slices", "fairness", "robustness", "privacy", "latency"]

Against = Literal["limit", "champion"]


class Gate(msgspec.Struct, frozen=True, kw_only=True):
    """One check, whether it passed, and the numbers of both sides.

    `area` is where the report shows it, `against` whether it compares with the champion or with a fixed limit.
    """

    name: str
    passed: bool
    reason: str
    area: Area = "quality"
    against: Against = "limit"
