"""What one model server was measured to do: the file that `paceline capacity --save` writes and `--measured` reads."""

from itertools import pairwise
from math import isfinite
from pathlib import Path

import msgspec

FORMAT = 1
_RERUN = "measure again with `paceline capacity PROJECT --save FILE`"


class RampStep(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One rate of the ramp, in requests a second, and whether its p99 met the objective, with the reason.

    `queue_rows` is the mean number of rows that waited for their graph run, by Little's law from what the server's
    counter of waiting time gained (None where its metrics could not be read); `cpu_cores` what it used.
    """

    rate: float
    answered_rate: float
    p50_ms: float | None
    p99_ms: float | None
    failed_share: float
    meets: bool
    reason: str
    queue_rows: float | None = None
    cpu_cores: float | None = None


class MeasuredServer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One replica. `saturation_per_s` is the largest rate whose p99 latency met `objective_ms`.

    `p50_ms` and `p99_ms` are at that rate, `cpu_us_per_request` and `resident_mb` as well, summed over the server's
    processes; `start_s` is from the start of its process until it is ready.

    Raises:
        ValueError: a number that no server can have; the key, what was found and what is expected are named.
    """

    project: str
    version: str
    bundle: str
    measured: str
    machine: str
    objective_ms: float
    saturation_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us_per_request: float
    resident_mb: float
    start_s: float
    steps: tuple[RampStep, ...] = ()
    format: int = FORMAT

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ValueError(f"format: found {self.format}, this version reads {FORMAT}: {_RERUN}")
        for name, low, high in (
            ("objective_ms", 0.01, 600_000.0),
            ("saturation_per_s", 0.1, 10_000_000.0),
            ("p50_ms", 0.0, 600_000.0),
            ("p99_ms", 0.0, 600_000.0),
            ("cpu_us_per_request", 0.1, 60e6),
            ("resident_mb", 1.0, 1_000_000.0),
            ("start_s", 0.0, 3600.0),
        ):
            found = getattr(self, name)
            if not isfinite(found) or not low <= found <= high:
                raise ValueError(f"{name}: found {found:g}, expected {low:g} to {high:g}: {_RERUN}")
        if self.p50_ms > self.p99_ms:
            raise ValueError(f"p50_ms: found {self.p50_ms:g}, expected at most p99_ms, {self.p99_ms:g}: {_RERUN}")
        if self.p99_ms > self.objective_ms:
            raise ValueError(
                f"p99_ms: found {self.p99_ms:g} at saturation_per_s, expected at most objective_ms, "
                f"{self.objective_ms:g}, since saturation is the largest rate that meets it: {_RERUN}"
            )

    @property
    def cores(self) -> float:
        """Processor cores that are busy at saturation."""
        return self.saturation_per_s * self.cpu_us_per_request / 1e6

    def queue_rows_at(self, rate: float) -> float | None:
        """The queue measured at `rate`, straight between the ramp's steps; None where the ramp did not see it."""
        seen = sorted((step.rate, step.queue_rows) for step in self.steps if step.meets and step.queue_rows is not None)
        for (low, low_rows), (high, high_rows) in pairwise(seen):
            if low <= rate <= high:
                return low_rows + (high_rows - low_rows) * ((rate - low) / (high - low) if high > low else 0.0)
        return None


def read_measured(file: Path) -> MeasuredServer:
    """The measurement in `file`, JSON.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no measurement; the key is named.
    """
    try:
        return msgspec.json.decode(file.read_bytes(), type=MeasuredServer)
    except msgspec.MsgspecError as error:
        raise ValueError(f"{file}: {error}") from None


def written(measured: MeasuredServer) -> str:
    """For a file."""
    return msgspec.json.format(msgspec.json.encode(measured), indent=1).decode() + "\n"
