"""How much of the usual traffic a rollout's challenger has seen, from the prediction log and a frozen reference.

The reference is in the ledger (`rollout.reference`), once for each rollout: a replay, and whoever goes on with the
rollout, compares with the same.
"""

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from pipelines.ledger import Ledger
from pipelines.monitoring.traffic import SegmentedTraffic, count_traffic
from pipelines.rollout.coverage import Covered, Pattern, covered
from pipelines.rollout.machine import Offer, State
from pipelines.rollout.plan import Coverage, Plan

REFERENCE = "rollout.reference"
logger = logging.getLogger("paceline")


def coverage_reader(root: Path, ledger: Ledger) -> Callable[[State], Covered]:
    """Reads the coverage of a rollout from the prediction log at `root`; blocking, some seconds on a large log."""

    def read(state: State) -> Covered:
        offer, policy = state.offer, state.plan.coverage
        if offer is None:
            raise ValueError(f"a rollout in the phase {state.phase} has an offer; this state is not from decide")
        began = datetime.fromtimestamp(state.started_s, UTC)
        pattern = frozen_reference(root, ledger, offer, state.plan, began)
        if pattern.days < policy.minimum_days:
            words = (
                f"no reference: the prediction log has traffic of {pattern.days} days in the {policy.reference_days} "
                f"before the rollout, needed are {policy.minimum_days}"
            )
            return Covered(share=None, words=words, without_reference=True)
        until = datetime.now(UTC) + timedelta(days=1)  # all there is: clocks of servers differ
        seen = _count(root, began, until, policy, (offer.rollout, offer.version))
        return covered(seen.counts, pattern, policy.minimum_per_cell)

    return read


def frozen_reference(root: Path, ledger: Ledger, offer: Offer, plan: Plan, began: datetime) -> Pattern:
    """The usual traffic before the rollout, as the ledger has it; the first time it is read from the log."""
    if entries := ledger.entries(offer.project, (REFERENCE,), offer.rollout):
        return msgspec.convert(entries[-1].body, Pattern)
    body = msgspec.to_builtins(usual_pattern(root, plan.coverage, began))
    entry = ledger.append(offer.project, REFERENCE, offer.rollout, body, key=f"{offer.rollout}/reference")
    return msgspec.convert(entry.body, Pattern)


def usual_pattern(root: Path, policy: Coverage, until: datetime) -> Pattern:
    """The traffic of the `reference_days` before `until`, by hour of the day and segment."""
    found = _count(root, until - timedelta(days=policy.reference_days), until, policy, None)
    return Pattern.of(found.counts, found.days)


def _count(
    root: Path, start: datetime, end: datetime, policy: Coverage, of_challenger: tuple[str, str] | None
) -> SegmentedTraffic:
    found = count_traffic(
        root,
        start,
        end,
        segment=policy.segment,
        by=policy.by,
        time_zone=policy.time_zone,
        of_challenger=of_challenger,
    )
    for segment in found.damaged:
        logger.error("a segment of the prediction log cannot be read, and was left out: %s", segment)
    return found
