"""The deferred part of a release: an operator that holds no worker, and the trigger that runs the controller."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

from airflow.sdk import BaseOperator
from airflow.triggers.base import BaseTrigger, TriggerEvent


class RolloutTrigger(BaseTrigger):
    """Runs the rollout of `offer` in the triggerer; after a restart, or on another one, it goes on from the ledger."""

    def __init__(self, project: str, offer: dict[str, Any]) -> None:
        super().__init__()
        self.project = project
        self.offer = offer

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return "delivery.rollout.RolloutTrigger", {"project": self.project, "offer": self.offer}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        from pipelines.tasks import releasing

        yield TriggerEvent(await releasing.roll_out(self.project, self.offer))


class RolloutOperator(BaseOperator):
    """Defers to the trigger at once, and returns how it went: `promoted`, `rolled_back` or `refused`, and why."""

    template_fields = ("offer",)

    def __init__(self, *, project: str, offer: Any, **options: Any) -> None:
        super().__init__(**options)
        self.project = project
        self.offer = offer

    def execute(self, context: Any) -> None:
        self.defer(trigger=RolloutTrigger(self.project, self.offer), method_name="resume", timeout=timedelta(days=7))

    def resume(self, context: Any, event: dict[str, Any]) -> dict[str, Any]:
        self.log.info("version %s was %s: %s", event["version"], event["state"], event["reason"])
        return event
