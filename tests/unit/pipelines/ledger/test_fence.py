from collections.abc import Iterator
from typing import Any

import pytest

from pipelines.ledger import Evidence, Ledger
from pipelines.ledger.evidence import COMMAND, COMMAND_REFUSED, ENDS, EVENT


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    with Ledger.open(url) as opened:
        opened.swap_champion("a", None, "1", "b1", "bootstrap", "the first")
        yield opened


def gather(ledger: Ledger, rollout: str = "r2", count: int = 3) -> Evidence:
    """`count` events of `rollout`, as whoever runs it hashes them."""
    evidence = Evidence()
    for number in range(count):
        entry = ledger.append("a", EVENT, rollout, {"at_s": number / 7, "errors": number}, f"{rollout}/event/{number}")
        evidence = evidence.followed_by(entry.id, entry.body)
    return evidence


def promote(ledger: Ledger, evidence: Evidence, version: str = "2", rollout: str = "r2") -> str | None:
    return ledger.promote("a", "1", version, f"b{version}", rollout, "won", evidence)


def leads(ledger: Ledger) -> str | None:
    champion = ledger.champion("a")
    return None if champion is None else champion.version


def test_a_promotion_names_the_evidence_and_the_reign_that_it_was_gathered_against(ledger: Ledger) -> None:
    before, evidence = ledger.champion("a"), gather(ledger)
    assert before is not None
    assert promote(ledger, evidence) is None
    named = ledger.entries()[-1].body["evidence"]
    assert named == {"reign": before.since_entry, "events": 3, "sha256": evidence.sha256}
    assert leads(ledger) == "2"


def test_the_ledger_hashes_what_it_holds_as_whoever_recorded_it_does(ledger: Ledger) -> None:
    evidence = gather(ledger, count=5)
    assert ledger.evidence("a", "r2") == evidence
    assert ledger.evidence("b", "r2") == Evidence()  # another project's rollout of that name is another
    assert gather(ledger, "r3", 5).sha256 == evidence.sha256  # the same numbers, whatever entries they are in


def test_evidence_that_somebody_has_carried_on_promotes_nobody(ledger: Ledger) -> None:
    evidence = gather(ledger)
    ledger.append("a", EVENT, "r2", {"tripped": "8 errors in 20"}, "r2/event/3")
    assert "3 events" in str(promote(ledger, evidence))
    assert "the ledger holds 4 events" in str(promote(ledger, evidence))
    assert leads(ledger) == "1"


def test_evidence_of_other_numbers_promotes_nobody(ledger: Ledger) -> None:
    gather(ledger)
    forged = gather(ledger, "r3", 2).followed_by(99, {"at_s": 0, "errors": 0})
    assert "it is not the rollout's last word" in str(promote(ledger, forged))
    assert "it is not the rollout's last word" in str(promote(ledger, Evidence()))
    assert leads(ledger) == "1"


def test_evidence_against_an_earlier_reign_of_the_same_version_promotes_nobody(ledger: Ledger) -> None:
    evidence = gather(ledger)
    ledger.swap_champion("a", "1", "9", "b9", "r9", "won")
    assert "the ledger's champion is version 9, expected 1" in str(promote(ledger, evidence))
    ledger.swap_champion("a", "9", "1", "b1", "rollback", "by hand")
    assert "an earlier reign of 1" in str(promote(ledger, evidence))
    assert leads(ledger) == "1"
    later = gather(ledger, "r3")
    assert promote(ledger, later, "3", "r3") is None


def test_evidence_against_a_champion_that_was_restored_meanwhile_promotes_nobody(ledger: Ledger) -> None:
    evidence = gather(ledger)
    ledger.swap_champion("a", "1", "9", "b9", "r9", "won")
    ledger.restore_champion("a", "9", "r9", "the server refused")
    assert "an earlier reign of 1" in str(promote(ledger, evidence))


@pytest.mark.parametrize("end", ENDS)
def test_a_rollout_that_has_ended_promotes_nobody(ledger: Ledger, end: str) -> None:
    evidence = gather(ledger)
    ledger.append("a", end, "r2", {"reason": "too many errors"})
    assert promote(ledger, evidence) == "the rollout has ended already: too many errors"
    assert leads(ledger) == "1"


def command(ledger: Ledger, what: str) -> int:
    body = {"command": what, "by": "ada", "reason": "freeze", "phase": None}
    return ledger.append("a", COMMAND, "r2", body).id


@pytest.mark.parametrize("what", ["abort", "rollback"])
def test_a_rollout_that_somebody_wants_to_end_promotes_nobody_unless_that_was_refused(
    ledger: Ledger, what: str
) -> None:
    evidence = gather(ledger)
    command(ledger, "pause")  # not an end
    entry = command(ledger, what)
    assert promote(ledger, evidence) == f"{what} by ada: freeze"
    refused: dict[str, Any] = {"entry": entry, "command": what, "by": "ada", "reason": "too late", "phase": None}
    ledger.append("a", COMMAND_REFUSED, "r2", refused)
    assert promote(ledger, evidence) is None


def test_a_promotion_is_repeated_while_it_is_in_force_and_never_after(ledger: Ledger) -> None:
    evidence = gather(ledger)
    assert promote(ledger, evidence) is None
    count = len(ledger.entries())
    assert promote(ledger, evidence) is None
    ledger.append("a", EVENT, "r2", {"unreachable": True}, "r2/event/3")  # the server was silent after the swap
    assert promote(ledger, evidence) is None
    assert len(ledger.entries()) == count + 1
    ledger.swap_champion("a", "2", "1", "b1", "rollback", "by hand")
    assert "was undone" in str(promote(ledger, evidence))
    assert leads(ledger) == "1"


def test_a_rollback_by_hand_is_of_the_reign_that_its_caller_saw(ledger: Ledger) -> None:
    seen = ledger.champion("a")
    assert seen is not None
    ledger.swap_champion("a", "1", "9", "b9", "r9", "won")
    ledger.swap_champion("a", "9", "1", "b1", "back", "by hand")
    assert not ledger.swap_champion("a", "1", "7", "b7", "back-to-7", "by hand", reign=seen.since_entry)
    now = ledger.champion("a")
    assert now is not None
    assert ledger.swap_champion("a", "1", "7", "b7", "back-to-7", "by hand", reign=now.since_entry)
