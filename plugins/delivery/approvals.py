"""A rollout's questions to people as tasks of Airflow's human-in-the-loop: asked, answered, and ended with them.

Both tasks are deferred beside the deferred rollout, so neither holds a worker, and neither holds the rollout up.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import BaseOperator, Param
from airflow.sdk.exceptions import AirflowSkipException
from airflow.sdk.execution_time.hitl import upsert_hitl_detail
from airflow.triggers.base import BaseTrigger, TriggerEvent

APPROVE, REJECT = "Approve", "Reject"
# what a person is asked beside yes or no; a parameter of the task, which Airflow merges with those of the DAG
REASON = {"reason": Param("", type="string", maxLength=1000, title="Why", description="Kept in the ledger.")}
_EVERY_S = 2.0
_LONGEST = timedelta(days=7)  # as long as a run of the DAG


class QuestionTrigger(BaseTrigger):
    """Waits until the rollout asks `question`, or has ended without; with `asked`, until that question has ended."""

    def __init__(self, project: str, rollout: str, question: str, asked: bool = False) -> None:
        super().__init__()
        self.project = project
        self.rollout = rollout
        self.question = question
        self.asked = asked

    def serialize(self) -> tuple[str, dict[str, Any]]:
        values = {"project": self.project, "rollout": self.rollout, "question": self.question, "asked": self.asked}
        return "delivery.approvals.QuestionTrigger", values

    async def run(self) -> AsyncIterator[TriggerEvent]:
        from pipelines.tasks import approving

        find: Any = approving.find_end if self.asked else approving.find_question
        while (found := await asyncio.to_thread(find, self.project, self.rollout, self.question)) is None:
            await asyncio.sleep(_EVERY_S)
        yield TriggerEvent({"ended": found} if self.asked else found)


class WaitForQuestion(BaseOperator):
    """Defers until the rollout of `offer` asks `question`, and returns it; skipped when the rollout ends without."""

    template_fields = ("offer",)

    def __init__(self, *, project: str, offer: Any, question: str, **options: Any) -> None:
        super().__init__(**options)
        self.project = project
        self.offer = offer
        self.question = question

    def execute(self, context: Any) -> None:
        trigger = QuestionTrigger(self.project, self.offer["rollout"], self.question)
        self.defer(trigger=trigger, method_name="resume", timeout=_LONGEST)

    def resume(self, context: Any, event: dict[str, Any]) -> dict[str, Any]:
        if "ended" in event:
            raise AirflowSkipException(event["ended"])
        return {"rollout": self.offer["rollout"], **event}  # of several challengers the event has the one that asks


class AskPerson(HITLOperator):
    """Asks in Airflow's UI under Required Actions, with the comparison in the request; skipped when the question ends.

    Airflow's own state for such a task waits for a person whatever happens, and would keep the run open after the
    rollout. Deferred, it takes the person's answer as well, and the trigger ends it when the question is none any more:
    answered elsewhere, decided by the plan's default, or over with the rollout.
    """

    template_fields = ("question",)

    def __init__(self, *, project: str, question: Any, timeout_s: float, on_timeout: str, **options: Any) -> None:
        super().__init__(
            subject=f"{project}: may the challenger go on?",
            options=[APPROVE, REJECT],
            defaults=APPROVE if on_timeout == "approve" else REJECT,
            response_timeout=timedelta(seconds=timeout_s),
            **options,
        )
        self.project = project
        self.question = question

    def execute(self, context: Any) -> None:
        from pipelines.tasks import approving

        question = self.question
        upsert_hitl_detail(
            ti_id=context["task_instance"].id,
            options=self.options,
            subject=approving.question_subject(self.project, question),
            body=approving.question_text(self.project, question),
            defaults=[APPROVE if question["on_timeout"] == "approve" else REJECT],
            params=self.serialized_params,
        )
        trigger = QuestionTrigger(self.project, question["rollout"], question["question"], asked=True)
        self.defer(trigger=trigger, method_name="execute_complete", timeout=_LONGEST)

    def execute_complete(self, context: Any, event: dict[str, Any]) -> dict[str, Any]:
        if "ended" in event:
            raise AirflowSkipException(event["ended"])
        said = super().execute_complete(context, event)
        user = said["responded_by_user"]
        return {
            "approved": said["chosen_options"] == [APPROVE],
            "by": user["name"],
            "reason": said["params_input"].get("reason") or "",
        }
