"""The approvals of a release in Airflow: which tasks there are, and what they do when a question comes and goes."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.ledger import Ledger
from pipelines.tasks import approving
from pipelines.wiring import REPOSITORY
from tests.fixtures.rollouts import ASKING, PROJECT, ROLLOUT, run_until, running

TASK_INSTANCE = "019a0000-0000-7000-8000-000000000007"


def release_of(folder: Path, approvals: dict[str, Any] | None, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The DAG `flight_delay.release` of a project with these approvals."""
    from airflow.dag_processing.dagbag import DagBag

    project = folder / "projects" / PROJECT
    shutil.copytree(REPOSITORY / "projects" / PROJECT, project)
    file = project / "project.yaml"
    configuration = yaml.safe_load(file.read_text())
    if approvals is not None:
        configuration["rollout"]["approvals"] = approvals
    file.write_text(yaml.safe_dump(configuration, sort_keys=False))
    monkeypatch.setenv("PACELINE_PROJECTS", str(folder / "projects"))
    bag = DagBag(str(REPOSITORY / "dags" / "release.py"))
    assert bag.import_errors == {}
    return bag.dags[f"{PROJECT}.release"]


def test_a_plan_that_asks_nobody_has_no_task_for_it(
    airflow_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dag = release_of(tmp_path, None, monkeypatch)
    assert [task for task in dag.task_ids if "first_step" in task or "full" in task] == []


def test_each_question_of_the_plan_is_asked_beside_the_rollout(
    airflow_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    approvals = {"before_first_step": True, "before_full": True, "timeout_s": 600, "on_timeout": "approve"}
    dag = release_of(tmp_path, approvals, monkeypatch)
    for name in ("first_step", "full"):
        wait, ask = dag.get_task(f"wait_for_{name}"), dag.get_task(f"approve_{name}")
        assert wait.upstream_task_ids == {"open_rollout"}  # and not roll_out, which goes on meanwhile
        assert ask.upstream_task_ids == {f"wait_for_{name}"}
        assert ask.downstream_task_ids == {f"answer_{name}"}
        assert (ask.options, ask.defaults) == (["Approve", "Reject"], ["Approve"])
        assert list(ask.serialized_params) == ["reason"]
        assert ask.response_timeout.total_seconds() == 600
        assert all(each.execution_timeout is not None and each.on_failure_callback for each in (wait, ask))
    assert dag.get_task("roll_out").downstream_task_ids == {"settle"}


def first_event(trigger: Any) -> Any:
    async def listen() -> Any:
        return await anext(trigger.run())

    return asyncio.run(asyncio.wait_for(listen(), 30)).payload


def recorded(monkeypatch: pytest.MonkeyPatch, **answer: Any) -> str:
    """A task instance that asks, for which Airflow has this answer; its id."""
    from airflow.sdk.api.datamodels._generated import HITLDetailResponse
    from airflow.sdk.execution_time import task_runner

    class Supervisor:
        def send(self, msg: Any) -> HITLDetailResponse:
            assert str(msg.ti_id) == TASK_INSTANCE
            return HITLDetailResponse.model_validate(answer)

    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", Supervisor(), raising=False)
    return TASK_INSTANCE


def test_the_question_comes_to_the_task_that_waits_and_its_end_to_the_one_that_asks(
    rollouts_ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    from delivery.approvals import QuestionTrigger

    with running(rollouts_ledger, ASKING, pause_at=10):
        question = first_event(QuestionTrigger(PROJECT, ROLLOUT, "first_step"))
        assert (question["question"], question["phase"]) == ("first_step", "approval of the first step")
        approving.answer(PROJECT, question, approved=False, by="ann", reason="not on a Friday")
    unanswered = recorded(monkeypatch, response_received=False, chosen_options=None, responded_at=None)
    asked = QuestionTrigger(PROJECT, ROLLOUT, "first_step", asked=unanswered)
    assert first_event(asked) == {"ended": "reject by ann: not on a Friday"}
    path, values = asked.serialize()
    assert path == "delivery.approvals.QuestionTrigger"
    assert QuestionTrigger(**values).serialize() == (path, values)


def test_an_answer_in_the_moment_before_the_task_was_deferred_is_not_lost(
    rollouts_ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    from delivery.approvals import REASON, AskPerson, QuestionTrigger

    ask = AskPerson(task_id="ask", project=PROJECT, question={}, timeout_s=60, on_timeout="reject", params=REASON)
    with running(rollouts_ledger, ASKING, pause_at=10):
        answered = recorded(
            monkeypatch,
            response_received=True,
            chosen_options=["Approve"],
            params_input={"reason": "looked at it"},
            responded_at="2026-01-01T00:00:00Z",
            responded_by_user={"id": "7", "name": "ann"},
        )
        event = first_event(QuestionTrigger(PROJECT, ROLLOUT, "first_step", asked=answered))
    assert ask.execute_complete({}, event) == {"approved": True, "by": "ann", "reason": "looked at it"}


def test_a_question_that_never_comes_or_is_over_skips_its_tasks(rollouts_ledger: Ledger) -> None:
    from airflow.sdk.exceptions import AirflowSkipException
    from delivery.approvals import REASON, AskPerson, QuestionTrigger, WaitForQuestion

    run_until(rollouts_ledger, looks=1000, plan=ASKING, error_rates={"2": 0.9})
    event = first_event(QuestionTrigger(PROJECT, ROLLOUT, "first_step"))
    wait = WaitForQuestion(task_id="wait", project=PROJECT, offer={"rollout": ROLLOUT}, question="first_step")
    with pytest.raises(AirflowSkipException, match="was rolled_back and did not ask"):
        wait.resume({}, event)
    ask = AskPerson(task_id="ask", project=PROJECT, question={}, timeout_s=60, on_timeout="reject", params=REASON)
    with pytest.raises(AirflowSkipException, match="approve by ann"):
        ask.execute_complete({}, {"ended": "approve by ann: good"})


def test_what_a_person_says_in_airflow_is_handed_on_with_their_name(rollouts_ledger: Ledger) -> None:
    from datetime import UTC, datetime

    from delivery.approvals import REASON, AskPerson

    ask = AskPerson(task_id="ask", project=PROJECT, question={}, timeout_s=60, on_timeout="reject", params=REASON)
    event = {
        "chosen_options": ["Approve"],
        "params_input": {"reason": "looked at it"},
        "responded_at": datetime(2026, 1, 1, tzinfo=UTC),
        "responded_by_user": {"id": "7", "name": "ann"},
    }
    assert ask.execute_complete({}, event) == {"approved": True, "by": "ann", "reason": "looked at it"}
