"""Two releases, a rollback and a backfill on one project, interleaved and killed at random steps."""

from collections import Counter

import pytest

from tests.fixtures.interleavings import Found, interleave, interleave_plain, memory_ledger


def play(seeds: range) -> list[Found]:
    with memory_ledger() as ledger:
        return [interleave(ledger, seed) for seed in seeds]


def assert_one_champion(found: list[Found]) -> None:
    assert {each.seed: each.problems for each in found if each.problems} == {}
    ends = Counter(end for each in found for end in each.ends.values())
    assert sum(each.kills for each in found) > len(found) / 2  # at random steps, before a call or after its effect
    assert sum(len(each.promoted) for each in found) > len(found) / 2  # and yet most have a winner
    assert ends["done"] > len(found)


def test_whatever_is_interleaved_and_killed_one_champion_is_left_and_no_stale_evidence_promotes() -> None:
    assert_one_champion(play(range(60, 180)))


@pytest.mark.slow
def test_two_thousand_interleavings_leave_one_champion() -> None:
    found = play(range(2000))
    assert_one_champion(found)
    refused = Counter(reason.split(" in entry ")[0] for each in found for reason in each.refusals)
    assert refused["the champion changed"] > 10  # stale evidence was offered, and refused


def test_a_compare_and_swap_of_the_version_alone_promotes_on_stale_evidence() -> None:
    with memory_ledger() as ledger:
        found = (interleave(ledger, seed, by_version_alone=True) for seed in range(60, 260))
        assert any("on evidence of before" in problem for each in found for problem in each.problems)


def test_the_plain_alias_loses_updates() -> None:
    found = [interleave_plain(seed) for seed in range(60)]
    assert sum(each.lost > 0 for each in found) > 10
