"""A rollout as the ledger tells it: its events, from which the state is folded, and what people read of it.

| kind | body |
| --- | --- |
| `rollout.event` | each event that changed the state, histograms shortened |
| `rollout.resumed` | somebody goes on with it, after a crash or on another host |
| `rollout.step` | the phase that was entered, with its share |
| `rollout.verdict` | how a phase ended: a `PhaseRecord`, with the numbers it rested on |
| `rollout.question` | a person is asked: what, how long, what follows without an answer, and the numbers |
| `rollout.command` | what a person wants: a `Command`, written by whoever takes it |
| `rollout.command.obeyed`, `rollout.command.refused` | what became of it, and why |
| `rollout.promoted`, `rollout.rolled_back`, `rollout.refused`, `rollout.not_chosen` | the outcome |
"""

import logging
from typing import Any

import msgspec

from contracts.slots import LATENCY_EDGES_S, SCORE_BINS
from contracts.strata import DIFFERENCE_BINS
from pipelines.ledger import Evidence, Ledger, evidence
from pipelines.rollout.events import Command, Event, Looked, Offer, Offered
from pipelines.rollout.machine import Decision, decide, fold
from pipelines.rollout.plan import Plan
from pipelines.rollout.state import FINAL, Asked, State

EVENT, COMMAND = evidence.EVENT, evidence.COMMAND
RESUMED, STEP, VERDICT, QUESTION = "rollout.resumed", "rollout.step", "rollout.verdict", "rollout.question"
OUTCOMES = tuple(f"rollout.{phase}" for phase in sorted(FINAL))
_LATENCIES = len(LATENCY_EDGES_S) + 1
_HISTOGRAMS = {
    "latency": _LATENCIES,
    "champion_latency": _LATENCIES,
    "scores": SCORE_BINS,
    "differences": DIFFERENCE_BINS,
}
_log = logging.getLogger(__name__)
_SLOTS = ("champion", "challenger", "shadowed")


class Story:
    """Reads and writes one rollout's entries. Blocking: call it in a thread."""

    def __init__(self, ledger: Ledger, offer: Offer) -> None:
        self._ledger = ledger
        self._offer = offer
        self.evidence = Evidence()  # what the state is folded from
        self._told: set[str] = set()

    def outcome(self) -> dict[str, Any] | None:
        """The outcome of a rollout that has ended, or None."""
        entries = self._ledger.entries(self._offer.project, OUTCOMES, self._offer.rollout)
        return entries[-1].body if entries else None

    def begin(self, plan: Plan, at_s: float) -> Decision:
        """The state that the ledger has, with the actions of its last event; a new rollout is offered under `plan`.

        Raises:
            ValueError: the ledger has another version under this rollout's name.
        """
        state, actions = self._resume()
        if state.offer is None:
            return self.record(state, Offered(offer=self._offer, plan=plan, at_s=at_s))
        if (state.offer.version, state.offer.bundle) != (self._offer.version, self._offer.bundle):
            raise ValueError(
                f"the rollout {self._offer.rollout} is of version {state.offer.version} (bundle "
                f"{state.offer.bundle[:12]}), offered was {self._offer.version} (bundle {self._offer.bundle[:12]}): "
                "another version needs a rollout of another name"
            )
        # before the last event's actions are carried out again: a ledger that takes nothing renews no lease
        self._ledger.append(self._offer.project, RESUMED, self._offer.rollout, {"phase": state.phase_label})
        return state, actions

    def record(self, state: State, event: Event) -> Decision:
        """Decides on `event`, appends it when it changed anything, and returns what `decide` does.

        When somebody else has appended this rollout's next event meanwhile, theirs counts and the state is folded anew.
        """
        event = trimmed(event, state)
        after, actions = decide(state, event)
        if after == state:
            return state, actions
        body = shorten(event)
        key = f"{self._offer.rollout}/event/{self.evidence.events}"
        entry = self._ledger.append(self._offer.project, EVENT, self._offer.rollout, body, key)
        if entry.body != msgspec.json.decode(msgspec.json.encode(body)):
            return self._resume()
        self.evidence = self.evidence.followed_by(entry.id, entry.body)
        return after, actions

    def next_command(self, after: int) -> tuple[int, Command] | None:
        """The first command whose entry has a number above `after`, with that number."""
        project, subject = self._offer.project, self._offer.rollout
        for entry in self._ledger.entries(project, [COMMAND], subject, after=after):
            try:
                return entry.id, msgspec.convert(entry.body, Command)
            except msgspec.ValidationError as error:  # nobody can obey it, and nothing may hang on it
                _log.error("the entry %d of %s is no command: %s", entry.id, subject, error)
        return None

    def tell(self, state: State) -> None:
        """Writes what people read: verdicts, answers to commands, the phase, and what it asks. Once each."""
        for position, record in enumerate(state.records):
            self._tell(VERDICT, str(position), msgspec.to_builtins(record))
        for answer in state.answers:
            kind = f"{COMMAND}.{'obeyed' if answer.obeyed else 'refused'}"
            self._tell(kind, str(answer.entry), msgspec.to_builtins(answer))
        if state.phase in ("shadow", "step", "ranking"):
            body = {"name": state.phase_label, "share": state.share, "version": self._version}
            self._tell(STEP, state.phase_label, {**body, "plan": state.plan.identity})
        if state.asked is not None:
            self._tell(QUESTION, state.asked.question, self._question(state, state.asked))

    def end(self, state: str, outcome: msgspec.Struct) -> dict[str, Any]:
        """Writes the outcome, and returns the one that counts: the first."""
        body = {"version": self._version, **msgspec.to_builtins(outcome)}
        key = f"{self._offer.rollout}/outcome"
        return self._ledger.append(self._offer.project, f"rollout.{state}", self._offer.rollout, body, key).body

    @property
    def _version(self) -> str:
        return self._offer.version

    def _question(self, state: State, asked: Asked) -> dict[str, Any]:
        approvals = state.plan.approvals
        return {
            "question": asked.question,
            "phase": state.phase_label,
            "version": self._version,
            "timeout_s": approvals.timeout_s,
            "on_timeout": approvals.on_timeout,
            "evidence": msgspec.to_builtins(state.records[-1]) if state.records else {},
        }

    def _resume(self) -> Decision:
        entries = self._ledger.entries(self._offer.project, [EVENT], self._offer.rollout)
        self.evidence = Evidence()
        for entry in entries:
            self.evidence = self.evidence.followed_by(entry.id, entry.body)
        return fold([lengthen(entry.body) for entry in entries])

    def _tell(self, kind: str, name: str, body: dict[str, Any]) -> None:
        key = f"{self._offer.rollout}/{kind}/{name}"
        if key not in self._told:
            self._ledger.append(self._offer.project, kind, self._offer.rollout, body, key)
            self._told.add(key)


def trimmed(event: Event, state: State) -> Event:
    """`event` without the strata that the judge has learnt from: each look brings the last two minutes of them."""
    memory = state.memory
    if not isinstance(event, Looked) or memory is None or event.observation.server != memory.server:
        return event
    strata = tuple(stratum for stratum in event.observation.strata if stratum.number > memory.stratum)
    return msgspec.structs.replace(event, observation=msgspec.structs.replace(event.observation, strata=strata))


def shorten(event: Event) -> dict[str, Any]:
    """`event` as JSON values, histograms as their non-zero counts by position: a look is kept every second."""
    body: dict[str, Any] = msgspec.to_builtins(event)
    for counts, name in _histograms(body):
        counts[name] = {str(position): count for position, count in enumerate(counts[name]) if count}
    return body


def lengthen(body: dict[str, Any]) -> Event:
    """The event that `shorten` made `body` of."""
    body = msgspec.json.decode(msgspec.json.encode(body))  # a copy that may be changed
    for counts, name in _histograms(body):
        counts[name] = [counts[name].get(str(position), 0) for position in range(_HISTOGRAMS[name])]
    event: Event = msgspec.convert(body, Event)
    return event


def _histograms(body: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    observed = body.get("observation") or {}
    found = [(observed[slot], name) for slot in _SLOTS if observed.get(slot) for name in ("latency", "scores")]
    if "champion_latency" in (shadowed := observed.get("shadowed") or {}):  # entries of earlier releases have none
        found.append((shadowed, "champion_latency"))
    pairs = observed.get("pairs") or {}
    return found + [(counts, "differences") for counts in (pairs, *pairs.get("slices", {}).values()) if counts]
