"""What a run under faults is checked for can be found: each check is given a run in which it does not hold."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from benchmarks.chaos.case import FAULTS, draw
from benchmarks.chaos.checks import findings
from benchmarks.chaos.installation import BROKEN, CHAMPION, LEASE_S, SOUND
from benchmarks.chaos.run import Answer, Seen
from pipelines.ledger import Entry
from pipelines.rollout.machine import Offer, Offered
from pipelines.rollout.plan import Plan
from pipelines.rollout.story import shorten

AT = 1_372_636_800.0


def entry(number: int, kind: str, body: dict[str, Any]) -> Entry:
    return Entry(id=number, at=datetime(2013, 7, 1, tzinfo=UTC), project="p", kind=kind, subject="r", body=body)


def refused() -> list[Entry]:
    """A rollout of the champion's own version: it is refused at once."""
    offer = Offer(rollout="r", project="p", version="1", bundle="b", path="/b", expected_champion="1")
    event = shorten(Offered(offer=offer, plan=Plan(), at_s=AT))
    return [
        entry(1, "rollout.event", event),
        entry(2, "rollout.refused", {"state": "refused"}),
        entry(3, "release.ended", {"state": "refused"}),
    ]


@pytest.fixture
def survived() -> Seen:
    entries = refused()
    return Seen(
        case=draw(1)._replace(challenger="sound"),
        started_at=AT,
        entries={each.id: each for each in entries},
        final_entries=entries,
        answers=[Answer(AT + second, AT + second + 0.01, 200, "champion", "1", "") for second in range(10)],
        lives=[(AT, AT + 2), (AT + 8, None)],
        downs=[(AT + 4, AT + 5)],
        final={
            "ledger": CHAMPION,
            "reigns": [CHAMPION],
            "server": CHAMPION,
            "remembered": CHAMPION,
            "aliases": {"champion": CHAMPION, "previous": None, "challenger": None},
            "share": 0,
            "held": None,
        },
        ledger_is_sound="ok",
    )


def change(seen: Seen, **changes: Any) -> Seen:
    return replace(seen, final={**seen.final, **changes})


def with_answer(seen: Seen, at: float, status: int, slot: str) -> Seen:
    return replace(seen, answers=[*seen.answers, Answer(AT + at, AT + at + 0.01, status, slot, "1", "closed")])


def without_entry(seen: Seen) -> Seen:
    return replace(seen, entries={**seen.entries, 4: entry(4, "rollout.step", {})})


BROKEN_PROMISES: dict[str, tuple[Callable[[Seen], Seen], str]] = {
    "two champions": (lambda seen: change(seen, server=SOUND), "not the same everywhere"),
    "an old alias": (lambda seen: change(seen, aliases={**seen.final["aliases"], "previous": "7"}), "alias previous"),
    "a share that stays": (lambda seen: change(seen, share=0.5, held="r"), "the server holds rollout r"),
    "a lost entry": (without_entry, "gone or other ones"),
    "a gap": (lambda seen: replace(seen, final_entries=[*seen.final_entries, entry(9, "x", {})]), "gaps"),
    "two ends": (
        lambda seen: replace(seen, final_entries=[*seen.final_entries, entry(4, "release.ended", {})]),
        "2 ends",
    ),
    "damage": (lambda seen: replace(seen, ledger_is_sound="row 3 missing"), "damaged"),
    "a wrong promotion": (
        lambda seen: replace(change(seen, ledger=BROKEN), case=seen.case._replace(challenger="broken")),
        "that is broken was promoted",
    ),
    "an avoidable error": (lambda seen: with_answer(seen, 6.5, 0, ""), "1 of 11 clients saw an error"),
    "a share without a controller": (
        lambda seen: with_answer(seen, 2 + LEASE_S + 1, 200, "challenger"),
        "after the controller died",
    ),
    "a run without an end": (lambda seen: replace(seen, gave_up="the run has not ended"), "has not ended"),
}


def test_a_run_that_was_survived_has_no_findings(survived: Seen) -> None:
    assert findings(survived) == []


@pytest.mark.parametrize("name", BROKEN_PROMISES)
def test_a_promise_that_is_broken_is_found(survived: Seen, name: str) -> None:
    damage, said = BROKEN_PROMISES[name]
    assert any(said in found for found in findings(damage(survived)))


def test_errors_while_the_server_was_dead_and_a_share_within_the_lease_are_no_findings(survived: Seen) -> None:
    assert findings(with_answer(survived, 4.5, 0, "")) == []
    assert findings(with_answer(survived, 2 + LEASE_S - 0.1, 200, "challenger")) == []


def test_a_seed_is_the_same_run_again_and_a_hundred_have_every_fault() -> None:
    assert draw(17) == draw(17)
    drawn = [draw(seed) for seed in range(1, 101)]
    assert {case.fault for case in drawn} == set(FAULTS)
    assert min(sum(case.challenger == kind for case in drawn) for kind in ("broken", "turns bad")) > 15
    assert sum(case.challenger == "sound" for case in drawn) > 30
