"""What routes ask before they tell about the model: is there one, and which versions are loaded?"""

from collections.abc import Callable

from serving.admission import RequestRefusedError
from serving.challenger import Slot
from serving.slots import Slots


class ReadySlots:
    """The slots, as far as health and metadata ask; `reason` says why the server is not ready, or None when it is."""

    def __init__(self, project: str, slots: Slots, reason: Callable[[], str | None]) -> None:
        self.project = project
        self._slots = slots
        self._reason = reason

    def champion(self) -> Slot:
        """The champion. Raises RequestRefusedError: 503, there is none."""
        why = self._reason()
        if why is not None or self._slots.champion is None:
            raise RequestRefusedError(503, why or "there is no champion yet: load a bundle and promote it")
        return self._slots.champion

    def loaded(self, version: str) -> Slot:
        """The slot that has `version`. Raises RequestRefusedError: 404, none has."""
        for slot in self._loaded():
            if slot.model.version == version:
                return slot
        found = ", ".join(self.versions()) or "none"
        raise RequestRefusedError(404, f"version {version!r} is not loaded; loaded: {found}")

    def versions(self) -> list[str]:
        """The champion's version first, then the challenger's and a holdout's where there is one."""
        return [slot.model.version for slot in self._loaded()]

    def require_project(self, name: str) -> str:
        """`name`, which is the project. Raises RequestRefusedError: 404, it is another."""
        if name != self.project:
            raise RequestRefusedError(404, f"there is no model {name!r}; this server has {self.project!r}")
        return name

    def _loaded(self) -> list[Slot]:
        return [slot for _, slot in self._slots.by_name()]
