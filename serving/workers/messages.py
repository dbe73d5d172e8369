"""What the supervisor and its workers tell each other, over a socket pair: length-prefixed MessagePack."""

from typing import Any, Literal

import msgspec

from contracts.faults import Fault
from contracts.flags import FlagsInForce
from contracts.slots import HardLimits, Lane, LoadSlot, Observation
from serving.champion_file import Remembered, RememberedHoldout
from serving.units import OpenStratum

_LENGTH_BYTES = 4
MAXIMUM_MESSAGE_BYTES = 64 << 20

CommandName = Literal[
    "load", "share", "renew", "promote", "drop", "end_holdout", "fault", "flags", "observe", "metrics"
]


class DropChallenger(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Empty the challenger's slot if `rollout` holds it."""

    rollout: str


class ObserveSlots(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Observe the slots; of several challengers that of `rollout`."""

    rollout: str | None = None


class EndHoldout(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The champion answers all entities, if it was `rollout` that left some out."""

    rollout: str


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """A metric family as it was at a scrape: name, type, help, and samples (name, labels, value)."""

    name: str
    kind: str
    help: str
    samples: list[tuple[str, dict[str, str], float]]


class ChallengerView(msgspec.Struct, frozen=True, kw_only=True):
    """A challenger that every worker is to hold. `epoch` numbers the times that a seat was filled."""

    epoch: int
    seat: int = 0
    lane: Lane | None = None
    name: Remembered
    rollout: str | None
    hard_limits: HardLimits
    share: float
    shadow: bool
    sample: float
    lease_ends_s: float | None
    fault_share: float
    fault: Fault | None = None
    is_tripped: bool = False
    phase: int = 0
    slice_by: str | None = None


class View(msgspec.Struct, frozen=True, kw_only=True):
    """The state that every worker is to be in. `not_ready` says why there is no champion, where that is known."""

    generation: int
    champion: Remembered | None
    challengers: tuple[ChallengerView, ...]
    holdout: RememberedHoldout | None = None
    not_ready: str | None = None
    flags: FlagsInForce = FlagsInForce()

    @property
    def challenger(self) -> ChallengerView | None:
        """The first of them."""
        return self.challengers[0] if self.challengers else None


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """Why something was not done; `kind` is the error that a server of one process would have raised."""

    kind: Literal["conflict", "message", "model", "disk", "late", "failed"]
    text: str


# -- from the supervisor to a worker -----------------------------------------------------------------------------------


class Follow(msgspec.Struct, frozen=True, kw_only=True, tag="follow"):
    """Be in the state `view`; answered by Followed."""

    round: int
    view: View


class Open(msgspec.Struct, frozen=True, kw_only=True, tag="open"):
    """Take connections: you are in the state that the others are in."""


class Load(msgspec.Struct, frozen=True, kw_only=True, tag="load"):
    """Load this bundle and keep it aside; answered by Loaded."""

    round: int
    message: LoadSlot


class Look(msgspec.Struct, frozen=True, kw_only=True, tag="look"):
    """Say what you have counted; answered by Seen."""

    round: int


class Scrape(msgspec.Struct, frozen=True, kw_only=True, tag="scrape"):
    """Say your metrics; answered by Scraped."""

    round: int


class Answer(msgspec.Struct, frozen=True, kw_only=True, tag="answer"):
    """What came of the request `ask`: one of the three."""

    ask: int
    observation: Observation | None = None
    metrics: list[Family] | None = None
    refusal: Refusal | None = None


ToWorker = Follow | Open | Load | Look | Scrape | Answer

# -- from a worker to the supervisor -----------------------------------------------------------------------------------


class Ask(msgspec.Struct, frozen=True, kw_only=True, tag="ask"):
    """A control request that came to this worker; `message` is its body as MessagePack."""

    ask: int
    command: CommandName
    message: bytes


class Opened(msgspec.Struct, frozen=True, kw_only=True, tag="opened"):
    """This worker takes connections."""


class Followed(msgspec.Struct, frozen=True, kw_only=True, tag="followed"):
    """This worker is in the state `generation`, with these counts; or `refusal` says why it is not.

    `refused` is what this worker cannot hold, `rollout` whose challenger that is. `beside` has the counts of further
    challengers.
    """

    round: int
    generation: int
    observation: Observation | None = None
    beside: list[Observation] = []
    refusal: Refusal | None = None
    refused: Literal["champion", "challenger", "holdout"] = "champion"
    rollout: str | None = None


class Loaded(msgspec.Struct, frozen=True, kw_only=True, tag="loaded"):
    """The bundle is loaded and kept aside; or `refusal` says why it is not."""

    round: int
    refusal: Refusal | None = None


class Seen(msgspec.Struct, frozen=True, kw_only=True, tag="seen"):
    """What this worker has counted, and gathered in strata that are over since it last said, by epoch.

    `beside` has the counts of further challengers.
    """

    round: int
    observation: Observation
    beside: list[Observation] = []
    strata: dict[int, list[OpenStratum]] = {}


class Scraped(msgspec.Struct, frozen=True, kw_only=True, tag="scraped"):
    """The metrics of this worker."""

    round: int
    metrics: list[Family]


Reply = Followed | Loaded | Seen | Scraped
FromWorker = Ask | Opened | Reply

_encoder = msgspec.msgpack.Encoder()
decode_to_worker = msgspec.msgpack.Decoder(ToWorker).decode
decode_from_worker = msgspec.msgpack.Decoder(FromWorker).decode


def framed(message: ToWorker | FromWorker) -> bytes:
    """`message` as it goes over the socket."""
    body = _encoder.encode(message)
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body


def packed(message: Any) -> bytes:
    """The body of an Ask."""
    return _encoder.encode(message)


class Frames:
    """Cuts what a socket brings into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that `data` completes. Raises ValueError for a length that no message has."""
        self._buffer += data
        found: list[bytes] = []
        start = 0
        while len(self._buffer) - start >= _LENGTH_BYTES:
            length = int.from_bytes(self._buffer[start : start + _LENGTH_BYTES], "big")
            if length > MAXIMUM_MESSAGE_BYTES:
                raise ValueError(f"a message of {length} bytes, expected at most {MAXIMUM_MESSAGE_BYTES}")
            end = start + _LENGTH_BYTES + length
            if len(self._buffer) < end:
                break
            found.append(bytes(self._buffer[start + _LENGTH_BYTES : end]))
            start = end
        del self._buffer[:start]
        return found
