import json
from math import log
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom
from typer.testing import CliRunner

from contracts.assignment import unit
from contracts.slots import HardLimits
from contracts.strata import UNIT_METRICS
from pipelines.cli import app
from pipelines.rollout.plan import Plan
from pipelines.rollout.simulation.pairs import pairs_table, savings
from pipelines.rollout.simulation.peers import PEERS, ArgoRollouts, Flagger, RepeatedZTest
from pipelines.rollout.simulation.study import (
    FAILURE_RATES,
    JUDGE,
    compared_information,
    detections,
    false_alarms,
    worlds,
)
from pipelines.rollout.simulation.traffic import Traffic, World
from pipelines.rollout.simulation.trial import run_trial
from pipelines.tasks.simulating import alarms_table, detection_table

PLAN = Plan(shadow=None)


def test_each_entity_fails_once_in_a_rollout_and_once_in_a_phase() -> None:
    traffic = Traffic(World(failure_rate=0.5, entities=50), np.random.default_rng(0))
    looks = [traffic.look(2, share, HardLimits())[0] for share in (0.3,) * 5 + (0.6,) * 5]
    failed = [sum(arm.rollout["errors"].happened for arm in (s.champion, s.challenger)) for s in looks]
    assert sum(failed) == 50, "all of them, in the end"
    again = [sum(arm.phase["errors"].happened for arm in (s.champion, s.challenger)) for s in looks]
    assert sum(again[:5]) == sum(again[5:]) == 50
    assert sum(s.champion.new + s.challenger.new for s in looks) == 50
    for stratum in looks:
        for arm in (stratum.champion, stratum.challenger):
            assert all(arm.rollout[metric].at_risk <= arm.entities for metric in UNIT_METRICS)


def test_shares_are_those_of_the_entities_and_nested() -> None:
    traffic = Traffic(World(failure_rate=0.0, requests_per_s=5000, entities=2000), np.random.default_rng(1))
    seen = [traffic.look(2, share, HardLimits())[0].challenger.entities for share in (0.1, 0.5, 1.0)]
    assert seen[0] == pytest.approx(200, rel=0.25)
    assert seen[1] == pytest.approx(1000, rel=0.1)
    assert seen[2] > 1950


def test_the_same_seed_gives_the_same_rollout_and_another_another() -> None:
    world = World(failure_rate=0.02, heavy=True, failing=3, swing=6)
    assert run_trial(world, PLAN, 3, 2.0, PEERS) == run_trial(world, PLAN, 3, 2.0, PEERS)
    assert run_trial(world, PLAN, 3, 2.0) != run_trial(world, PLAN, 4, 2.0)


def test_the_proof_that_answers_are_not_slower_hardly_delays_equal_versions() -> None:
    world = World(failure_rate=0.005)
    proving = Plan(shadow=None, slow_p99_rate_margin=0.1)
    usual, proven = ([run_trial(world, plan, seed, 2.0) for seed in range(15)] for plan in (PLAN, proving))
    assert [trial.end for trial in proven] == [trial.end for trial in usual]
    assert np.median([each.seconds for each in proven]) <= 1.1 * np.median([each.seconds for each in usual])


@pytest.mark.parametrize("world", worlds(100.0)[::5], ids=str)
def test_equal_versions_are_promoted(world: World) -> None:
    ends = [run_trial(world, PLAN, seed, 2.0).end for seed in range(15)]
    rolled_back = len(ends) - ends.count("promoted")
    assert rolled_back <= binom.ppf(0.9999, 15, PLAN.alpha)


def test_worse_versions_are_rolled_back_by_failures_and_by_slowness() -> None:
    failing = run_trial(World(failure_rate=0.005, odds=50), PLAN, 1, 2.0)
    assert failing.end in ("rolled_back", "hard_limit")
    slow = run_trial(World(failure_rate=0.005, slow_odds=20), PLAN, 1, 2.0)
    assert (slow.end, slow.reason.startswith("slower than p")) == ("rolled_back", True)


def test_peers_alarm_when_and_only_when_their_rule_says_so() -> None:
    repeated, flagger, argo = RepeatedZTest(), Flagger(), ArgoRollouts()
    for _ in range(4):
        flagger.learn((0, 100), (2, 100), 10.0)
        argo.learn((0, 100), (6, 100), 10.0)
    assert (flagger.has_alarmed, argo.has_alarmed) == (False, True)
    flagger.learn((0, 100), (2, 100), 10.0)
    assert flagger.has_alarmed
    repeated.learn((1, 1000), (1, 100), 2.0)
    assert not repeated.has_alarmed
    repeated.learn((1, 1000), (8, 100), 2.0)
    assert repeated.has_alarmed


def test_the_servers_own_limit_counts_entities() -> None:
    always = World(failure_rate=0.0, entities=20, heavy=True, failing=1)
    ends = {run_trial(always, Plan(shadow=None, error_rate_margin=None), seed, 2.0).end for seed in range(5)}
    assert "hard_limit" not in ends


def test_a_comparison_needs_more_than_who_knows_both_rates_and_the_more_the_larger_the_share() -> None:
    needs = [round(log(100) / compared_information(0.02, 0.005, share)) for share in (1e-6, 0.05, 0.5)]
    assert needs == [362, 395, 956]  # who knows both needs 359: answers that are no failure tell a little, too


@pytest.mark.slow
def test_pairs_take_fewer_requests_than_two_samples_and_the_fewer_the_more_the_answers_have_in_common() -> None:
    found = savings(1)
    assert [len(row) for row in pairs_table(found)] == [7] * (1 + len(found))
    assert all(each.pairs < each.samples and each.fixed_pairs < each.fixed_samples for each in found)
    assert all(each.fixed_pairs < each.pairs for each in found), "to look at any time takes more than to look once"
    alike, noisy = found[::2], found[1::2]
    assert all(one.correlation > other.correlation for one, other in zip(alike, noisy, strict=True))
    assert all(one.saved > other.saved for one, other in zip(alike, noisy, strict=True))


@pytest.mark.slow
def test_the_command_prints_the_tables_and_the_same_seed_gives_the_same(tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text("steps: [{share: 0.5, minimum_requests: 20, minimum_s: 1}, {share: 1.0, minimum_requests: 20}]")
    words = ["simulate", "rollout", "--plan", str(plan), "--rollouts", "1"]
    one, again = (CliRunner().invoke(app, [*words, "--json"], catch_exceptions=False).stdout for _ in range(2))
    assert one == again
    told = json.loads(one)
    assert {name: len(rows) for name, rows in told.items()} == {
        "false_rollbacks": 12, "detection": 12, "experiments": 3, "pairs": 6
    }  # fmt: skip
    assert set(told["false_rollbacks"][0]["rolled_back"]) == {JUDGE, *(peer.name for peer in PEERS)}
    printed = CliRunner().invoke(app, words, catch_exceptions=False).stdout
    for title in ("Equal versions", "Versions that are worse", "Scores that shift", "Three challengers at a time"):
        assert title in printed


@pytest.mark.slow
def test_the_study_has_a_row_for_each_case_and_holds_the_level() -> None:
    alarms = false_alarms(PLAN, 60, 100.0, 2.0, 1, lambda done, of: None)
    assert len(alarms_table(alarms)) == 1 + 4 * len(FAILURE_RATES)
    total = sum(each.rolled_back[JUDGE] for each in alarms)
    assert total <= binom.ppf(0.999, 60 * len(alarms), PLAN.alpha)
    found = detections(PLAN, 30, 100.0, 2.0, 1, lambda done, of: None)
    assert len(detection_table(found)) == 13
    assert all(each.detected == each.rollouts for each in found)


def test_units_are_hashes_that_spread_evenly() -> None:
    low = [unit("r", str(entity)) & 1 for entity in range(2000)]
    assert abs(np.mean(low) - 0.5) < 0.05
