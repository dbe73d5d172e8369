"""What the demo's own traffic shows, from the prediction log and from what the clients wrote down."""

from datetime import datetime
from pathlib import Path

import msgspec

from pipelines.backtest.replay import Answer
from pipelines.monitoring.predictions import predictions_table

# Two-sided: an honest split falls outside in one step of five thousand, a whole rollout in one of a thousand.
SPLIT_LEVEL = 0.0002

# of the rollout itself: after the promotion its holdout goes on under the same name
_REQUESTS = """
    SELECT request_id,
           any_value(entity) AS entity,
           bool_or(slot = 'challenger') AS challenger,
           any_value(share) AS share,
           min(served_at) AS moment
    FROM predictions
    WHERE share > 0 AND (slot = 'challenger' OR (
        slot = 'champion' AND version NOT IN (SELECT version FROM predictions WHERE slot = 'challenger')))
    GROUP BY request_id
"""


class ClientView(msgspec.Struct, frozen=True, kw_only=True):
    """The replay as its clients saw it; latencies in milliseconds from when a request was due."""

    requests: int
    failed: int
    first_error: str | None
    by_version: dict[str, int]
    latency_ms_p50: float
    latency_ms_p99: float


class StepSplit(msgspec.Struct, frozen=True, kw_only=True):
    """How many of a step's distinct entities the challenger answered, and whether that fits the configured share.

    The entity is the unit of assignment, so it is the unit of the test: exact binomial, two-sided.
    """

    share: float
    requests: int
    challenger_requests: int
    entities: int
    challenger_entities: int
    p_value: float

    @property
    def fits(self) -> bool:
        return self.p_value >= SPLIT_LEVEL


class Breakdown(msgspec.Struct, frozen=True, kw_only=True):
    """What a broken challenger did: counted in the prediction log from its first error on."""

    challenger_requests: int
    challenger_errors: int
    answered_by_champion: int
    seconds_to_last_challenger_request: float


def read_answers(path: Path) -> ClientView:
    """Reads the file that the replay wrote."""
    decoder = msgspec.json.Decoder(Answer)
    with path.open("rb") as file:
        answers = [decoder.decode(line) for line in file]
    latencies = sorted(answer.latency_ms for answer in answers) or [0.0]
    failures = [answer.error for answer in answers if answer.error is not None]
    by_version: dict[str, int] = {}
    for answer in answers:
        if answer.version is not None:
            by_version[answer.version] = by_version.get(answer.version, 0) + 1
    return ClientView(
        requests=len(answers),
        failed=len(failures),
        first_error=failures[0] if failures else None,
        by_version=by_version,
        latency_ms_p50=latencies[len(latencies) // 2],
        latency_ms_p99=latencies[int(len(latencies) * 0.99)],
    )


def step_splits(predictions: Path, rollout: str) -> list[StepSplit]:
    """The split of each step of `rollout`, in the order of the shares."""
    from scipy.stats import binomtest

    query = f"""
        SELECT share, count(*), count(*) FILTER (challenger), count(DISTINCT entity),
               count(DISTINCT entity) FILTER (challenger)
        FROM ({_REQUESTS}) GROUP BY share ORDER BY share
    """
    with predictions_table(predictions, "rollout = ?", [rollout]) as connection:
        rows = connection.execute(query).fetchall()
    return [
        StepSplit(
            share=share,
            requests=requests,
            challenger_requests=challenger_requests,
            entities=entities,
            challenger_entities=chosen,
            p_value=float(binomtest(chosen, entities, share).pvalue),
        )
        for share, requests, challenger_requests, entities, chosen in rows
    ]


def side_changes(predictions: Path, rollout: str) -> int:
    """How many entities came back from the challenger to the champion while `rollout` had a share. Must be 0."""
    query = f"""
        WITH ordered AS (
            SELECT entity, challenger,
                   lag(challenger) OVER (PARTITION BY entity ORDER BY moment, request_id) AS before
            FROM ({_REQUESTS})
        )
        SELECT count(DISTINCT entity) FROM ordered WHERE before AND NOT challenger
    """
    with predictions_table(predictions, "rollout = ?", [rollout]) as connection:
        row = connection.execute(query).fetchone()
    return int(row[0]) if row else 0


def breakdown(predictions: Path, rollout: str) -> Breakdown | None:
    """What happened from the first error of the challenger of `rollout` on; None when it never failed."""
    query = """
        WITH logged AS (
            SELECT request_id, slot, error, served_at FROM predictions
        ), broken AS (SELECT min(served_at) AS moment FROM logged WHERE slot = 'challenger' AND error IS NOT NULL)
        SELECT (SELECT moment FROM broken),
               count(*) FILTER (slot = 'challenger'),
               count(*) FILTER (slot = 'challenger' AND error IS NOT NULL),
               max(served_at) FILTER (slot = 'challenger'),
               count(DISTINCT request_id) FILTER (
                   slot = 'champion' AND request_id IN (SELECT request_id FROM logged WHERE error IS NOT NULL))
        FROM logged WHERE served_at >= (SELECT moment FROM broken)
    """
    with predictions_table(predictions, "rollout = ?", [rollout]) as connection:
        row = connection.execute(query).fetchone()
    if row is None or row[0] is None:
        return None
    first, requests, errors, last, answered = row
    return Breakdown(
        challenger_requests=requests,
        challenger_errors=errors,
        answered_by_champion=answered,
        seconds_to_last_challenger_request=(
            datetime.fromisoformat(last) - datetime.fromisoformat(first)
        ).total_seconds(),
    )


def random_prediction(predictions: Path, version: str) -> str | None:
    """The id of a prediction of `version`, picked at random."""
    chosen = "version = ? AND error IS NULL AND slot <> 'shadow'"
    with predictions_table(predictions, chosen, [version]) as connection:
        row = connection.execute("SELECT prediction_id FROM predictions ORDER BY random() LIMIT 1").fetchone()
    return None if row is None else str(row[0])
