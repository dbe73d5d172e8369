"""What stays, what goes, and why."""

import pytest

from pipelines.governance.retention import (
    Decision,
    Holding,
    References,
    RetentionPolicy,
    Stored,
    claim,
    decide,
    decide_snapshots,
    decide_unregistered,
)

POLICY = RetentionPolicy(hot_versions=3, unused_days=14)


def holding(version: int, **changes: object) -> Holding:
    values = {"version": str(version), "bundle": f"b{version}", "snapshot": f"s{version}", "age_days": 100.0}
    return Holding(**{**values, **changes})  # type: ignore[arg-type]


def led(*versions: int) -> References:
    return References(reigns=tuple(map(str, versions)))


def actions(decisions: tuple[Decision, ...]) -> dict[str, str]:
    return {decision.name: decision.action for decision in decisions}


def test_the_last_versions_that_led_stay_and_the_older_ones_go() -> None:
    decided = decide(POLICY, [holding(version) for version in range(1, 7)], led(1, 2, 3, 4, 5, 6))
    assert actions(decided) == {"6": "keep", "5": "keep", "4": "keep", "3": "archive", "2": "archive", "1": "archive"}
    reasons = {decision.name: decision.reason for decision in decided}
    assert reasons["6"] == "it is the champion"
    assert "champion before" in reasons["5"]
    assert "last 3 that led" in reasons["4"]
    assert "4 versions have led since it did, with itself; 3 stay" in reasons["3"]


def test_a_version_counts_once_however_often_it_led() -> None:
    decided = decide(POLICY, [holding(version) for version in range(1, 5)], led(1, 2, 3, 4, 3, 4, 3, 4))
    assert actions(decided) == {"4": "keep", "3": "keep", "2": "keep", "1": "archive"}


@pytest.mark.parametrize(
    ("references", "reason"),
    [
        (References(reigns=("2", "3", "1")), "it is the champion"),
        (References(reigns=("2", "1", "3")), "a rollback goes back to it"),
        (References(reigns=("2", "3"), rollouts={"1": "flight_delay-v1-2"}), "the rollout flight_delay-v1-2 offers it"),
        (References(reigns=("2", "3"), predictions={"1": 4812}), "4,812 predictions refer to it"),
    ],
    ids=["champion", "previous", "an open rollout", "predictions"],
)
def test_what_somebody_must_have_at_hand_never_goes_whatever_its_age(references: References, reason: str) -> None:
    (decided,) = decide(POLICY, [holding(1, age_days=3000.0)], references)
    assert decided.action == "keep"
    assert reason in decided.reason
    assert claim("1", References(reigns=("2", "3"), predictions={"1": 0})) is None


@pytest.mark.parametrize(
    ("changes", "action"),
    [
        ({"age_days": 13.9}, "keep"),
        ({"age_days": 14.0}, "archive"),
        ({"aliases": ("challenger",)}, "keep"),
        ({"restored_days": 13.0}, "keep"),
        ({"restored_days": 15.0}, "archive"),
    ],
)
def test_a_version_that_never_led_stays_for_a_while_after_it_was_registered_or_restored(
    changes: dict[str, object], action: str
) -> None:
    (decided,) = decide(POLICY, [holding(1, **changes)], led(7, 8))
    assert decided.action == action


def test_a_young_version_that_led_and_was_followed_by_many_goes() -> None:
    decided = decide(POLICY, [holding(version, age_days=0.5) for version in range(1, 6)], led(1, 2, 3, 4, 5))
    assert actions(decided)["2"] == "archive"


def test_a_snapshot_stays_as_long_as_one_version_with_it_does() -> None:
    holdings = [holding(1, snapshot="shared"), holding(2, snapshot="alone"), holding(3, snapshot="shared")]
    decisions = decide(RetentionPolicy(hot_versions=2), holdings, led(1, 2, 3, 4))
    assert actions(decisions) == {"3": "keep", "2": "archive", "1": "archive"}
    decided = decide_snapshots(POLICY, holdings, decisions)
    assert actions(decided) == {"shared": "keep", "alone": "archive"}
    assert "version 3" in decided[1].reason


def test_what_belongs_to_no_version_is_deleted_when_it_was_not_used_for_long_and_a_snapshot_is_archived() -> None:
    def stored(kind: str, age_days: float, needed_by: str | None = None) -> Stored:
        return Stored(kind=kind, name=kind, bytes=1, age_days=age_days, needed_by=needed_by)  # type: ignore[arg-type]

    kinds = ("bundles", "artifacts", "cache", "drafts", "archive", "snapshots")
    old = decide_unregistered(POLICY, [stored(kind, 14) for kind in kinds])
    assert [decision.action for decision in old] == ["delete"] * 5 + ["archive"]
    young = decide_unregistered(POLICY, [stored(kind, 13.5) for kind in kinds])
    needed = decide_unregistered(POLICY, [stored(kind, 400, "the ledger names it") for kind in kinds])
    assert {decision.action for decision in (*young, *needed)} == {"keep"}
    assert needed[0].reason == "the ledger names it"
