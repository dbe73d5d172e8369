"""Several challengers of one project at a time: each has a rollout of its own, and the ledger says which goes on alone.

Nothing but the ledger is between them: each rollout is run by the same `run_rollout`, has its own lane, lease, plan and
evidence, and asks here only in the phase `ranking`. So a crash of whoever runs them loses nothing, and two that run one
experiment at once do no harm: `experiment.chosen` is written once, and what is written first holds.

| kind | body |
| --- | --- |
| `experiment.chosen` | who goes on, the rule's reason, and the order with its numbers (`ranking.Choice`) |
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec

from pipelines.ledger import Ledger
from pipelines.rollout.events import Chosen, NotChosen, Offer
from pipelines.rollout.following import Follower
from pipelines.rollout.ranking import Contender, choose
from pipelines.rollout.state import State
from pipelines.rollout.story import OUTCOMES

CHOSEN = "experiment.chosen"
Result = TypeVar("Result")


class Word(NamedTuple):
    """Whether this one goes on, and why."""

    goes_on: bool
    reason: str

    def at(self, at_s: float) -> Chosen | NotChosen:
        """As an event of the machine, at the controller's clock in seconds."""
        return Chosen(reason=self.reason, at_s=at_s) if self.goes_on else NotChosen(reason=self.reason, at_s=at_s)


class Contest:
    """What one of the challengers of `experiment` asks the ledger while it waits to be ranked. Blocking."""

    def __init__(self, ledger: Ledger, project: str, experiment: str, contenders: Sequence[Contender]) -> None:
        self._ledger = ledger
        self._project = project
        self._experiment = experiment
        self._contenders = tuple(contenders)
        self._follower = Follower(ledger)

    def word(self, state: State) -> Word | None:
        """Whether the rollout in `state` goes on; None while that is open, or others have not left the server yet."""
        offer = _offer(state)
        if (chosen := self._chosen()) is None:
            return None
        if chosen["rollout"] != offer.rollout:
            return Word(False, chosen["reason"])
        ended = {entry.subject for entry in self._ledger.entries(self._project, OUTCOMES)}
        others = {contender.rollout for contender in self._contenders} - {offer.rollout}
        return Word(True, chosen["reason"]) if others <= ended else None

    def _chosen(self) -> dict[str, Any] | None:
        """The choice that the ledger has; made now, if it is time."""
        if entries := self._ledger.entries(self._project, (CHOSEN,), self._experiment):
            return entries[0].body
        states = [(each, self._follower.follow(self._project, each.rollout).state) for each in self._contenders]
        choice = choose(states)
        if choice is None:
            return None
        key = f"{self._experiment}/chosen"
        return self._ledger.append(self._project, CHOSEN, self._experiment, msgspec.to_builtins(choice), key).body


async def run_all(run: Callable[[Offer], Coroutine[Any, Any, Result]], offers: Sequence[Offer]) -> list[Result]:
    """Runs all rollouts of an experiment beside each other, each to its end; what came of them, in their order.

    When one of them cannot go on, none does, since they wait for each other: the leases run out, and the same offers
    again go on from the ledger. Raises what that one raised.
    """
    tasks = [asyncio.ensure_future(run(offer)) for offer in offers]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
        return [task.result() for task in tasks]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _offer(state: State) -> Offer:
    if state.offer is None:
        raise ValueError(f"a rollout in the phase {state.phase} has an offer; this state is not from decide")
    return state.offer
