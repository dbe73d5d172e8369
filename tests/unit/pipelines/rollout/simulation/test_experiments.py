from pipelines.rollout.plan import Plan, Step
from pipelines.rollout.simulation.experiments import BACK, experiments, experiments_table, run_experiment

PLAN = Plan(
    shadow=None,
    steps=tuple(Step(share=share, minimum_requests=100, minimum_s=10) for share in (0.2, 0.5, 1.0)),
    error_rate_margin=None,
)


def test_three_equal_challengers_one_leads_and_none_is_rolled_back() -> None:
    ends = [run_experiment(PLAN, 0, 6.0, 300.0, 2.0, seed) for seed in range(30)]
    assert sum(any(end in BACK for end in each) for each in ends) <= 1, "the level of the experiment is 1 %"
    assert all(sorted(each) == ["not_chosen", "not_chosen", "promoted"] for each in ends if not set(each) & set(BACK))


def test_one_bad_one_among_three_goes_and_the_others_go_on() -> None:
    ends = [run_experiment(PLAN, 1, 1.0, 300.0, 2.0, seed) for seed in range(15)]
    assert all(each[0] in BACK for each in ends)
    assert sum(each[1:] == ["not_chosen", "promoted"] for each in ends) >= 14


def test_the_table_has_each_kind() -> None:
    found = experiments(PLAN, 2, 300.0, 2.0, 5)
    assert [each.bad for each in found] == [0, 0, 1]
    rows = experiments_table(found)
    assert [len(row) for row in rows] == [7] * 4
    assert rows[3][0] == "2 equal, 1 that fails at 5%"
