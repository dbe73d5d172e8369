"""The row that the model server logs for each prediction, and monitoring reads.

Segments are Parquet files in `<root>/day=YYYY-MM-DD/`, by the UTC day on which the prediction was served.
"""

import msgspec

API_VERSION = "1.0.0"


class PredictionRow(msgspec.Struct, frozen=True, kw_only=True):
    """One prediction. `event_time` is the record's own time, `served_at` the server's, both ISO 8601.

    `inputs` is the record as JSON, personal fields masked. A challenger's error that the champion answered is a row of
    slot `challenger` with `error` set and no score, beside the champion's row with the same `request_id`.
    """

    prediction_id: str
    request_id: str
    served_at: str
    event_time: str
    project: str
    version: str
    bundle: str
    slot: str  # champion | challenger | shadow
    rollout: str | None
    share: float
    entity: str
    score: float | None
    decision: bool | None
    latency_us: int
    error: str | None
    inputs: str
