"""What a person may want of a rollout, and when it is refused. Pure: the same check before and in the machine."""

from pipelines.rollout.events import Command
from pipelines.rollout.state import State

_STALE = ("advance", "approve", "reject")  # what must not hit another phase than the one that was seen


def refusal(state: State, command: Command) -> str | None:
    """Why `command` is refused in `state`, with what to do instead; None where it is obeyed."""
    wanted, now = command.command, state.phase_label
    if state.is_final:
        return f"the rollout has ended: it was {state.phase.replace('_', ' ')}"
    if state.phase == "waiting":
        return "the rollout has not begun"
    if state.phase == "promoting":
        return "the challenger is being promoted: when that is done, `paceline rollback` puts the old champion back"
    if wanted in ("abort", "rollback"):
        return None
    if wanted in _STALE and command.phase is not None and command.phase != now:
        return f"the command was meant for `{command.phase}`, the rollout is in `{now}` now: look again"
    if state.phase == "loading":
        return "the challenger is being loaded: wait, or abort"
    if wanted in ("approve", "reject"):
        return None if state.phase == "approval" else f"nothing is asked in `{now}`"
    if state.phase == "approval":
        return f"the rollout waits for the {now}: approve, reject or abort"
    return _refused_on_its_way(state, command)


def _refused_on_its_way(state: State, command: Command) -> str | None:
    """Of pause, resume, share and advance in the shadow or in a step."""
    is_paused = state.paused_since_s is not None
    if command.share is not None:
        return _refused_share(state, command.share)
    if command.command == "pause":
        return "the rollout is paused already" if is_paused else None
    if command.command == "resume":
        return None if is_paused else "the rollout is not paused"
    if is_paused:
        return "the rollout is paused: resume it first"
    if state.phase == "ranking":
        return "it waits until the other challengers have come as far, or are gone: abort those that should not wait"
    memory = state.memory
    seen = 0 if memory is None else memory.phase_pairs if state.phase == "shadow" else memory.phase_requests
    if seen == 0:  # no data never advances, whoever wants it
        return f"the challenger has answered nothing in `{state.phase_label}` yet: there is nothing to go on by"
    return None


def _refused_share(state: State, share: float) -> str | None:
    """A person holds a step smaller than the plan has it, and never larger."""
    now, planned = state.phase_label, state.planned_share
    if state.phase != "step":
        return f"a share is held smaller in a step, the rollout is in `{now}`"
    if share > planned:
        return f"the plan gives `{now}` a share of {planned:g} at most: `advance` goes on to a larger one"
    if share == state.share:
        return f"a share of {share:g} is in force already"
    return f"{share:g} is the plan's own share: `resume` gives it again" if share == planned else None
