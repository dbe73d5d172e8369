"""The old champion's place after a promotion: the holdout."""

from dataclasses import dataclass

from contracts import slots
from contracts.assignment import is_held_back
from contracts.slots import SlotCounts
from serving.challenger import Slot
from serving.champion_file import Remembered, RememberedHoldout
from serving.engine import Model


def name_of(model: Model) -> Remembered:
    """What a server calls `model`, in its state file and among its workers."""
    return Remembered(version=model.version, bundle=model.bundle.id, path=str(model.bundle.path))


@dataclass(eq=False)
class Held(Slot):
    """The old champion, which `rollout` has replaced for all but `share` of the entities. No lease: it is trusted."""

    rollout: str
    share: float

    @classmethod
    def begin(cls, model: Model, rollout: str, share: float) -> "Held":
        """With counts from zero."""
        return cls(model=model, counts=SlotCounts(version=model.version), rollout=rollout, share=share)

    def answers(self, entity: str) -> bool:
        """Whether `entity` stays on the old champion."""
        return is_held_back(self.rollout, entity, self.share)

    @property
    def remembered(self) -> RememberedHoldout:
        """As the state file has it."""
        return RememberedHoldout(model=name_of(self.model), rollout=self.rollout, share=self.share)

    @property
    def seen(self) -> slots.Held:
        """As an observation shows it."""
        return slots.Held(rollout=self.rollout, share=self.share, counts=self.counts)
