import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.tasks.asking import verdicts


def look(t: float, share: float = 0.05, errors: int = 0, n: int = 100, **more: Any) -> str:
    each = round((1 - share) / share)
    champion = {"n": each * n, "errors": 2, "slow": 5 * each}
    challenger = {"n": n, "errors": errors, "slow": 5}
    return json.dumps({"t": t, "share": share, "champion": champion, "challenger": {**challenger, **more}})


def asked(*lines: str, plan: Path | None = None) -> Iterator[dict[str, Any]]:
    return (json.loads(line) for line in verdicts(plan, lines))


def test_each_look_gets_one_verdict_with_its_evidence() -> None:
    first, second, third = asked(look(5), "", look(11), look(12, errors=20))
    assert (first["verdict"], first["reason"]) == ("wait", "100 of 200 requests in 5.0 s")
    assert second["verdict"] == "advance"
    assert third["verdict"] == "rollback"
    assert third["reason"].startswith("errors for 20 of 300")
    assert [finding["name"] for finding in third["findings"]][:2] == ["split", "errors"]


def test_the_command_reads_looks_and_writes_verdicts(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text('{"alpha": 0.001}')
    looks = f"{look(5)}\n\n{look(12, errors=20)}\n".encode() + b"\xff\n"
    found = CliRunner().invoke(app, ["judge", "--plan", str(plan)], input=looks)
    first, second = map(json.loads, found.stdout.splitlines())
    assert (first["verdict"], second["verdict"]) == ("wait", "rollback")
    assert first["findings"][0]["limit"] == 10 / 0.001
    assert str(found.exception).startswith("line 4 is no look that can be judged: JSON is malformed")


def test_a_verdict_is_written_before_the_next_look_is_read() -> None:
    read: list[int] = []

    def lines() -> Iterator[str]:
        for number in (1, 2):
            read.append(number)
            yield look(number)

    found = verdicts(None, lines())
    next(found)
    assert read == [1]


def test_a_share_says_in_which_step_of_the_plan_a_look_is(tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text("shadow: null\nsteps: [{share: 0.5, minimum_requests: 10, minimum_s: 1}, {share: 1.0}]\n")
    (found,) = asked(look(2, share=0.5, n=300), plan=plan)
    assert found["verdict"] == "advance"
    with pytest.raises(ValueError, match=r"line 1 is no look .* share is 0.05, the plan has steps of 0.5, 1"):
        list(asked(look(2), plan=plan))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1 is no look that can be judged: Input data was truncated"),
        (look(1, slw=3), "unknown field `slw` - at `\\$.challenger`"),
        (look(1, errors=200), "errors is at most n, found 200 of 100"),
        (look(1, n=10**9), "Expected `int` <= 10000000 - at `\\$.champion.n`"),
        (look(1, scores=[1, 2]), "scores has 10 counts, found 2"),
        (look(-1), "at `\\$.t`"),
    ],
)
def test_a_line_that_is_no_look_is_named_with_what_was_found(line: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(asked(line))


def test_time_and_share_do_not_go_back() -> None:
    with pytest.raises(ValueError, match=r"line 2 .* found t 3 and share 0.05 after 4 and 0.05"):
        list(asked(look(4), look(3)))
    with pytest.raises(ValueError, match=r"line 2 .* share 0.05 after 4 and 0.1"):
        list(asked(look(4, share=0.1), look(5)))


def test_a_file_without_a_plan_is_named(tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text("alfa: 0.1\n")
    with pytest.raises(ValueError, match=r"plan.yaml is no plan of a rollout: .*`alfa`"):
        list(asked(look(1), plan=plan))


def test_slow_answers_that_no_look_counts_are_no_proof_that_there_were_none(tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text("slow_p99_rate_margin: 0.1")
    silent, given = look(11, n=300), look(12, n=300, slow_p99=3)
    assert [each["verdict"] for each in asked(silent, given, plan=plan)] == ["wait", "advance"]
    (found,) = asked(silent, plan=plan)
    assert "answers slower than p99 at most 100.00% above the champion's > 10.00%: not shown yet" in found["reason"]
    (found,) = asked(silent)
    assert found["verdict"] == "advance", "the usual plan does not ask"


def test_a_plan_that_asks_for_coverage_takes_it_from_the_looks(tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text("{steps: [{share: 0.05, coverage: 0.8}, {share: 1}]}")

    def covering(t: float, coverage: float) -> str:
        return json.dumps({**json.loads(look(t, n=300)), "coverage": coverage})

    lacking, unsaid, enough = asked(covering(11, 0.4), look(12), covering(13, 0.85), plan=plan)
    assert [each["verdict"] for each in (lacking, unsaid, enough)] == ["wait", "wait", "advance"]
    assert "covers 0.40 of the usual traffic, asked 0.80" in unsaid["reason"]


def test_a_plan_that_compares_by_outcomes_takes_the_losses_from_the_looks(tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text("{quality: {margin: 0.1}, alpha_shares: {errors: 0.4, quality: 0.05}, shadow: null}")

    def judging(t: float, *losses: float) -> str:
        outcomes = {"champion": [0.2, 0.1] * 100, "challenger": list(losses) * 100}
        return json.dumps({**json.loads(look(t, n=300)), "outcomes": outcomes})

    unsaid, equal = asked(look(11, n=300), judging(12, 0.1, 0.2), plan=plan)
    assert [each["verdict"] for each in (unsaid, equal)] == ["wait", "advance"]
    assert "outcomes: none was read yet" in unsaid["reason"]
    (worse,) = asked(judging(12, 0.7, 0.8), plan=plan)
    assert worse["verdict"] == "rollback"
    assert worse["reason"].startswith("mean Brier score of an entity 0.7500 (n = 200) against 0.1500 (n = 200), worse")
