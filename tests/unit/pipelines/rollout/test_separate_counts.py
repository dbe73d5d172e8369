import msgspec
import pytest

from contracts.slots import HardLimits
from pipelines.rollout.platforms.separate.counts import BUCKETS, Counting, ServerCounts, hard_limit
from pipelines.rollout.platforms.separate.exposition import counts_of_text
from tests.fixtures.running_cluster import exposition


def counted(server: str, version: str, requests: int, errors: int = 0, slow: int = 0) -> ServerCounts:
    latency = [0] * BUCKETS
    latency[3], latency[9] = requests - errors - slow, slow
    scores = ((requests - errors), *[0] * 9)
    return ServerCounts(
        server=server, version=version, requests=requests, errors=errors, latency=tuple(latency), scores=scores
    )


def looked(counting: Counting, *found: ServerCounts, at_s: float, **more: object) -> None:
    options = {"share": 0.5, "phase": 1, "is_settled": True, **more}
    counting.look(found, at_s, **options)  # type: ignore[arg-type]


def test_counts_from_before_the_first_look_are_nobodys_and_a_server_that_begins_anew_is_counted_from_nothing() -> None:
    counting = Counting("r", "1", "2")
    looked(counting, counted("a", "1", 1000), counted("b", "2", 50), at_s=0)
    assert counting.slot("1").requests == 0
    looked(counting, counted("a", "1", 1100), counted("b", "2", 10), counted("c", "2", 7), at_s=1)
    assert (counting.slot("1").requests, counting.slot("2").requests) == (100, 17)
    looked(counting, counted("b", "2", 12), at_s=2)  # a did not answer this time
    looked(counting, counted("a", "1", 1300), counted("b", "2", 12), at_s=3)
    assert (counting.slot("1").requests, counting.slot("2").requests) == (300, 19)


def test_a_stratum_is_only_of_time_in_which_the_share_was_in_force() -> None:
    counting = Counting("r", "1", "2")
    for second, is_settled in enumerate([True, False, True, True]):
        looked(
            counting,
            counted("a", "1", 100 * second),
            counted("b", "2", 90 * second, second),
            at_s=second,
            is_settled=is_settled,
        )
    assert [(each.number, each.champion.requests, each.challenger.requests) for each in counting.strata] == [
        (1, 100, 90),
        (2, 100, 90),
    ]
    assert counting.strata[0].challenger.rollout["errors"].happened == 1


def test_slow_is_above_the_champions_earlier_quantile_on_both_sides() -> None:
    counting = Counting("r", "1", "2")
    for second in range(5):
        looked(
            counting,
            counted("a", "1", 300 * second, 0, 3 * second),
            counted("b", "2", 300 * second, 0, 200 * second),
            at_s=second,
        )
    last = counting.strata[-1]
    assert last.champion.rollout["slow_p95"].happened == 3
    assert last.challenger.rollout["slow_p95"].happened == 200
    assert "slow_p95" not in counting.strata[0].champion.rollout, "there was no earlier quantile yet"


def test_what_the_champion_answered_in_the_challengers_place_counts_for_neither() -> None:
    counting = Counting("r", "1", "2", is_retried=True)
    looked(counting, counted("a", "1", 0), counted("b", "2", 0), at_s=0)
    looked(counting, counted("a", "1", 130), counted("b", "2", 100, 30), at_s=1)
    assert (counting.slot("1").requests, counting.slot("2").requests) == (100, 100)


def test_copies_are_counted_apart() -> None:
    counting = Counting("r", "1", "2")
    looked(counting, counted("a", "1", 0), counted("b", "2", 0), at_s=0, share=0.0, is_shadow=True)
    looked(counting, counted("a", "1", 100, 2), counted("b", "2", 100, 9), at_s=1, share=0.0, is_shadow=True)
    assert counting.slot("2").requests == 0
    assert (counting.shadowed().pairs, counting.shadowed().errors) == (91, 9)
    assert (counting.pairs().challenger_only["errors"], counting.pairs().champion_only["errors"]) == (9, 2)


@pytest.mark.parametrize(
    ("recent", "trips"), [((20, 8), True), ((20, 7), False), ((1000, 399), False), ((1000, 400), True), ((0, 0), False)]
)
def test_hard_limits_ask_for_both_a_number_and_a_rate(recent: tuple[int, int], trips: bool) -> None:
    assert (hard_limit(HardLimits(errors=8, window=20), recent) is not None) == trips


def test_what_a_server_writes_is_read_back() -> None:
    found = counted("pod-1", "2", 500, 20, 30)
    assert counts_of_text("pod-1", exposition(found)) == (found,)
    other = msgspec.structs.replace(found, version="1")
    both = counts_of_text("pod-1", [*exposition(found), *exposition(other)])
    assert both == (found, other)
