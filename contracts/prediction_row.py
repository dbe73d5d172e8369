"""The row that the model server logs for each prediction, and monitoring reads.

Rows lie in `<root>/day=YYYY-MM-DD/`, by the UTC day on which the prediction was served: in segments, which are Arrow
IPC streams (`.arrows`, one record batch for each commit), until a past day's are compacted into one Parquet file.
Whoever writes a segment holds it by an exclusive `flock`, and ends it with Arrow's end-of-stream mark when it is whole;
a segment without that mark that nobody holds is a crashed writer's, whose last batch may be torn. Names that start with
a dot are not to be read.
"""

import zlib

import msgspec

END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"  # of Arrow's IPC format
API_VERSION = "1.0.0"
LOGGED_WITHIN_S = 1.0  # of its answer, unless the disk is slow: servers commit each half second
SYNTHETIC = "synthetic"  # `uncounted` of rows that no monitoring looks at


class PredictionRow(msgspec.Struct, frozen=True, kw_only=True):
    """One prediction. `event_time` is the record's own time, `served_at` the server's, both ISO 8601.

    `inputs` is the record as JSON, personal fields masked. A challenger's error that the champion answered is a row of
    slot `challenger` with `error` set and no score, beside the champion's row with the same `request_id`. `client` is
    who got the prediction (None: a server without keys, or a shadow's row, which nobody got). `unusual` has the flags
    of an unusual prediction, joined by commas: `extreme_score`, `outside_baseline:<field>`, `unseen_category:<field>`.
    Slot `holdout` is the old champion after a promotion; `rollout` and `share` are then the holdout's, also on the
    champion's rows, but for rows that one of them answers in the other's place: no chance has assigned those, they have
    none. `cached`: the score is that of an identical row some seconds before, and the judge does not count the answer.
    `uncounted` is why a row says nothing in a comparison of versions, which are not given by chance then: `denied` and
    `pinned` by the feature flags, `by_version` by the request's path; `synthetic` by a header of who only tries the
    server: monitoring leaves these out as well. `features` is the row as it was encoded for this version, float32 in
    little-endian order, of a sample of the requests (`is_sampled`); the columns of personal fields are NaN in it.
    """

    prediction_id: str
    request_id: str
    served_at: str
    event_time: str
    project: str
    version: str
    bundle: str
    slot: str  # champion | challenger | shadow | holdout
    rollout: str | None
    share: float
    entity: str
    score: float | None
    decision: bool | None
    latency_us: int
    error: str | None
    inputs: str
    client: str | None = None
    unusual: str | None = None
    cached: bool | None = None
    uncounted: str | None = None
    features: bytes | None = None


def is_sampled(request_id: str, share: float) -> bool:
    """Whether the rows of a request are among the `share` that is logged with its features: by its id, hence always.

    >>> is_sampled("019b", 1.0), is_sampled("019b", 0.0)
    (True, False)
    """
    return zlib.crc32(request_id.encode(errors="backslashreplace")) < share * 2**32
