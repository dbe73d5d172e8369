"""What of the prediction log a rollout's outcomes are compared by."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from pipelines.rollout.controller import Offer
from pipelines.rollout.machine import State
from pipelines.rollout.plan import AlphaShares, Plan, Quality, Step
from pipelines.tasks.grading import rows_of_phase
from tests.fixtures.prediction_log import NOON_S, tiny_group, write_segment

PLAN = Plan(
    steps=(Step(share=0.5), Step(share=1.0)), alpha_shares=AlphaShares(errors=0.25, quality=0.2), quality=Quality()
)
OFFER = Offer(rollout="r", project="flight_delay", version="8", bundle="b8", path="/b8", expected_champion="7")
SHADOW = State(phase="shadow", offer=OFFER, plan=PLAN, started_s=NOON_S)
STEP = msgspec.structs.replace(SHADOW, phase="step")


def row(entity: str, slot: str, request: str, **more: Any) -> Any:
    """One request of one entity, in the rollout's step where nothing else is said."""
    version = "7" if slot == "champion" else "8"
    about = {"rollout": "r", "share": 0.5, "version": version, "slot": slot, "request_id": request, **more}
    return tiny_group(1, entities=[entity], **about)


def found(root: Path, state: State) -> set[tuple[str, str]]:
    table = rows_of_phase(root, state).table
    return set(zip(table["entity"].to_pylist(), table["slot"].to_pylist(), strict=True))


def test_in_a_step_those_are_compared_that_chance_has_given_to_either_version_at_its_share(tmp_path: Path) -> None:
    write_segment(
        tmp_path,
        row("mine", "challenger", "1"),
        row("theirs", "champion", "2"),
        row("earlier", "champion", "3", share=0.05),
        row("another's", "champion", "4", rollout="q"),
        row("pinned", "challenger", "5", uncounted="pinned"),
        row("before", "champion", "6", rollout=None, share=0.0),
        row("shadowed", "shadow", "7", share=0.0),
        row("yesterday's", "challenger", "8", served_at_s=NOON_S - 3600),
    )
    assert found(tmp_path, STEP) == {("mine", "challenger"), ("theirs", "champion")}


def test_what_the_champion_answered_in_the_challengers_place_is_not_the_champions(tmp_path: Path) -> None:
    failed = {"scores": [None], "decisions": [None], "errors": ["broken"]}
    write_segment(tmp_path, row("mine", "challenger", "1", **failed), row("mine", "champion", "1"))
    assert found(tmp_path, STEP) == {("mine", "challenger")}, "whose row has no score"


@pytest.mark.parametrize("lost", [None, "shadow", "champion"])
def test_in_the_shadow_only_what_both_have_a_score_for_is_a_pair(tmp_path: Path, lost: str | None) -> None:
    failed = {"scores": [None], "decisions": [None], "errors": ["broken"]}
    write_segment(
        tmp_path,
        row("both", "shadow", "1", share=0.0, **(failed if lost == "shadow" else {})),
        row("both", "champion", "1", rollout=None, share=0.0, **(failed if lost == "champion" else {})),
        row("alone", "champion", "2", rollout=None, share=0.0),
        row("another's", "shadow", "3", rollout="q", share=0.0),
        row("another's", "champion", "3", rollout=None, share=0.0),
    )
    assert found(tmp_path, SHADOW) == (set() if lost else {("both", "shadow"), ("both", "champion")})
