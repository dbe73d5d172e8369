"""How right versions were: losses of the predictions in the log, by the outcomes that warehouse and store know."""

import logging
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from contracts.assignment import unit
from contracts.bundle import read_bundle
from pipelines.ledger import Ledger
from pipelines.monitoring.outcomes import OUTCOME
from pipelines.monitoring.predictions import EVENT_TIME, PredictionLog, query_predictions, select_columns
from pipelines.projects import Project
from pipelines.rollout.holdout import losses
from pipelines.rollout.machine import State
from pipelines.rollout.plan import Holdout, Quality
from pipelines.rollout.quality import Graded, graded
from pipelines.tasks import labelling
from pipelines.wiring import home

logger = logging.getLogger("paceline")

_COLUMNS = select_columns("prediction_id", "request_id", "event_time", "slot", "entity", "score", "inputs")
_CLOCKS_DIFFER = timedelta(minutes=1)
_SAME_ROW = "OVER (PARTITION BY request_id, entity, event_time)"
# what chance has given to either version at this share; without rows that the champion answered in the other's place
_IN_STEP = f"""WHERE served_at >= ? AND rollout = ? AND share = ? AND slot IN ('champion', 'challenger')
    AND uncounted IS NULL AND {EVENT_TIME} IS NOT NULL
    QUALIFY slot = 'challenger' OR NOT bool_or(slot = 'challenger') {_SAME_ROW}"""
# what both versions have a score for
_IN_SHADOW = f"""WHERE served_at >= ? AND ((slot = 'shadow' AND rollout = ?) OR (slot = 'champion' AND rollout IS NULL))
    AND uncounted IS NULL AND score IS NOT NULL AND {EVENT_TIME} IS NOT NULL
    QUALIFY count(DISTINCT slot) {_SAME_ROW} = 2"""


def outcome_reader(found: Project, ledger: Ledger) -> Callable[[State], Graded]:
    """Reads what is known of a rollout's phase; blocking, some seconds on a large log.

    Only of a project whose label has no delay: so all that is known by now is due, in every time zone.
    """

    def read(state: State) -> Graded:
        offer, policy = state.offer, state.plan.quality
        if offer is None or policy is None:
            raise ValueError(f"a rollout in the phase {state.phase} does not ask for outcomes")
        slots = ("shadow", "champion") if state.is_shadowing else ("challenger", "champion")
        log = rows_of_phase(home().predictions(found.name), state)
        for segment in log.damaged:
            logger.error("a segment of the prediction log cannot be read, and was left out: %s", segment)
        if log.table.num_rows == 0:
            return Graded(share=state.share)
        first = min(datetime.fromisoformat(text).date() for text in log.table["event_time"].to_pylist())
        table = labelled(found, ledger, log.table, first, datetime.now(UTC).date() + timedelta(days=2))
        mine, theirs = (by_entity(table.filter(pc.equal(table["slot"], slot)), policy) for slot in slots)
        if state.is_shadowing:
            both = mine.join(theirs, "entity", join_type="inner", right_suffix="_champion")
            pair = (both["loss_mean"].to_numpy(), both["loss_mean_champion"].to_numpy())
            return graded(policy, state.share, *pair, in_pairs=True)
        sides = (in_chance_order(side, offer.rollout)["loss_mean"].to_numpy() for side in (mine, theirs))
        return graded(policy, state.share, *sides, in_pairs=False)

    return read


def labelled(found: Project, ledger: Ledger, rows: pa.Table, first: date, as_of: date) -> pa.Table:
    """`rows` of the log, of events from `first` on, with the outcomes known at `as_of`; the schema is the champion's.

    Raises:
        LookupError: the project has no champion.
    """
    champion = ledger.champion(found.name)
    if champion is None:
        raise LookupError(f"{found.name} has no champion")
    schema = read_bundle(home().bundles / champion.bundle, champion.bundle).schema
    return labelling.label(found, schema, rows, first, as_of).table


def by_entity(table: pa.Table, policy: Holdout | Quality) -> pa.Table:
    """`entity` and `loss_mean`, from 0 to 1, over the labelled rows that have a score and an outcome."""
    known = table.filter(pc.and_(pc.is_valid(table[OUTCOME]), pc.is_valid(table["score"])))
    scores, outcomes = (known[name].cast(pa.float64()).to_numpy() for name in ("score", OUTCOME))
    each = pa.table({"entity": known["entity"], "loss": losses(scores, outcomes, policy)})
    return each.group_by("entity").aggregate([("loss", "mean")])


def in_chance_order(table: pa.Table, salt: str) -> pa.Table:
    """The rows of a table by `entity` in an order by chance that is always the same: batches of them are compared."""
    names = table["entity"].to_pylist()
    return table.take(np.argsort(np.array([unit(salt, name) for name in names], dtype=np.uint64)))


def rows_of_phase(root: Path, state: State) -> PredictionLog:
    """The rows of the log that the phase compares, in the slots of both versions; with events that have a time."""
    assert state.offer is not None
    began = (datetime.fromtimestamp(state.started_s, UTC) - _CLOCKS_DIFFER).replace(tzinfo=None).isoformat()
    rest = _IN_SHADOW if state.is_shadowing else _IN_STEP
    parameters = [began, state.offer.rollout, *([] if state.is_shadowing else [state.share])]
    return query_predictions(root, _COLUMNS, rest, parameters, lambda day: day >= began[:10])
