"""A rollout's questions to people as tasks of Airflow's human-in-the-loop: asked, answered, and ended with them.

Both tasks are deferred beside the deferred rollout, so neither holds a worker, and neither holds the rollout up.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.providers.standard.triggers.hitl import HITLTriggerEventSuccessPayload
from airflow.sdk import BaseOperator, Param
from airflow.sdk.exceptions import AirflowSkipException
from airflow.sdk.execution_time.hitl import HITLUser, get_hitl_detail_content_detail, upsert_hitl_detail
from airflow.triggers.base import BaseTrigger, TriggerEvent
from asgiref.sync import sync_to_async

APPROVE, REJECT = "Approve", "Reject"
# what a person is asked beside yes or no; a parameter of the task, which Airflow merges with those of the DAG
REASON = {"reason": Param("", type="string", maxLength=1000, title="Why", description="Kept in the ledger.")}
_EVERY_S = 2.0
_LONGEST = timedelta(days=7)  # as long as a run of the DAG


class QuestionTrigger(BaseTrigger):
    """Waits until the rollout asks `question`, or has ended without.

    With `asked`, the task instance that asks it, it waits until that question has ended, or was answered there: an
    answer to a deferred task resumes it by itself, one that came in the moment before it was deferred does not.
    """

    def __init__(self, project: str, rollout: str, question: str, asked: str | None = None) -> None:
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

        find: Any = approving.find_question if self.asked is None else approving.find_end
        while True:
            if self.asked is not None and (said := await _said(UUID(self.asked))) is not None:
                yield TriggerEvent(said)
                return
            if (found := await asyncio.to_thread(find, self.project, self.rollout, self.question)) is not None:
                yield TriggerEvent(found if self.asked is None else {"ended": found})
                return
            await asyncio.sleep(_EVERY_S)


async def _said(asked: UUID) -> HITLTriggerEventSuccessPayload | None:
    """The answer that Airflow has recorded for the task instance `asked`, if any; as its own triggers give it."""
    found = await sync_to_async(get_hitl_detail_content_detail)(ti_id=asked)  # the supervisor's own way for triggers
    if not found.response_received or found.responded_at is None:
        return None
    user = found.responded_by_user
    return HITLTriggerEventSuccessPayload(
        chosen_options=list(found.chosen_options or []),
        params_input=found.params_input or {},
        responded_at=found.responded_at,
        responded_by_user=None if user is None else HITLUser(id=user.id, name=user.name),
    )


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
        asked = str(context["task_instance"].id)
        trigger = QuestionTrigger(self.project, question["rollout"], question["question"], asked)
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
