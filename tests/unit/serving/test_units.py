from bisect import bisect_left

import numpy as np

from contracts.slots import LATENCY_EDGES_S
from contracts.strata import UNIT_METRICS, Stratum
from serving import units
from serving.units import Gathered, OpenStratum, UnitBook


def book(**options: float) -> UnitBook:
    return UnitBook(rollout="r", champion="1", challenger="2", **options)


def answered(stratum: OpenStratum, arm: int, entities: range, milliseconds: float, score: float = 0.5) -> None:
    for entity in entities:
        stratum.add(
            arm, entity << 20, failed=False, bucket=bisect_left(LATENCY_EDGES_S, milliseconds / 1000), score=score
        )


def closed(kept: UnitBook, stratum: OpenStratum) -> Stratum:
    kept.close(stratum, float(stratum.index))
    return kept.strata[-1]


def test_latency_is_compared_with_the_champion_of_earlier_strata_only() -> None:
    kept = book()
    first = OpenStratum(index=1, phase=1, share=0.5)
    answered(first, 0, range(200), 10)
    answered(first, 1, range(200, 400), 50)
    assert closed(kept, first).challenger.rollout["slow_p95"].at_risk == 0, "nothing to compare with yet"
    second = OpenStratum(index=2, phase=1, share=0.5)
    answered(second, 0, range(100), 10)
    answered(second, 1, range(200, 300), 50)
    found = closed(kept, second)
    assert len(found.latency_cuts_s) == 3
    for metric in UNIT_METRICS[1:]:
        slow = found.challenger.rollout[metric]
        assert (slow.at_risk, slow.happened) == (100, 100)
        assert found.champion.rollout[metric].happened == 0


def test_an_answer_within_the_floor_is_never_slow() -> None:
    kept = book(latency_floor_s=0.1)
    for index in (1, 2):
        stratum = OpenStratum(index=index, phase=1, share=0.5)
        answered(stratum, 0, range(200), 1)
        answered(stratum, 1, range(200, 400), 50)
        kept.close(stratum, 0)
    assert kept.strata[-1].challenger.rollout["slow_p50"].happened == 0


def test_scores_are_counted_by_the_champions_deciles_once_an_entity_and_phase() -> None:
    kept = book()
    random = np.random.default_rng(0)
    learnt = OpenStratum(index=1, phase=0, share=0)
    for entity, score in enumerate(random.random(1000)):
        learnt.add(0, entity << 20, failed=False, bucket=5, score=float(score))
    kept.close(learnt, 0)
    assert not kept.strata, "while the challenger only shadows there is no split to report"
    for index in (2, 3):
        stratum = OpenStratum(index=index, phase=1, share=0.5)
        answered(stratum, 1, range(100), 10, score=0.97)
        found = closed(kept, stratum)
        assert np.allclose(found.score_edges, np.arange(0.1, 1, 0.1), atol=0.05)
        assert found.challenger.scores == (*(0,) * 9, 100 if index == 2 else 0)


def test_what_several_processes_gathered_is_one_stratum() -> None:
    together, one, other = Gathered(), Gathered(), Gathered()
    key = (7, 1, 0.5)
    one.answered(1, [1 << 20, 2 << 20], [0.01, 0.01], [0.1, 0.2], key)
    other.failed(1, 1 << 20, key)
    for gathered in (one, other):
        together.absorb(gathered.before(8))
    assert one.before(8) == [], "handed over once"
    (stratum,) = together.before(8)
    found = closed(book(), stratum)
    assert (found.challenger.entities, found.challenger.requests) == (2, 3)
    assert found.challenger.rollout["errors"].happened == 1


def test_of_more_entities_than_fit_a_sample_is_kept_that_no_arm_depends_on() -> None:
    random = np.random.default_rng(1)
    kept = book()
    maximum, units.MAXIMUM_ENTITIES = units.MAXIMUM_ENTITIES, 1000
    try:
        for index in range(1, 30):
            stratum = OpenStratum(index=index, phase=1, share=0.25)
            for unit in random.integers(0, 1 << 63, 400, dtype=np.uint64).tolist():
                stratum.add(int(unit < (1 << 61)), unit, failed=False, bucket=5, score=0.5)
            kept.close(stratum, 0)
    finally:
        units.MAXIMUM_ENTITIES = maximum
    found = kept.strata[-1]
    assert found.champion.entities + found.challenger.entities < 100
    new = [sum(getattr(s, arm).new for s in kept.strata) for arm in ("champion", "challenger")]
    assert abs(new[1] / sum(new) - 0.25) < 0.05
