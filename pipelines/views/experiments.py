"""Several challengers of one project at a time, as people see them side by side."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.ledger import Ledger
    from pipelines.rollout.following import Follower
    from pipelines.rollout.state import State


def experiment_of(ledger: "Ledger", follower: "Follower", project: str, rollout: str) -> dict[str, Any] | None:
    """The experiment that `rollout` is a part of: all its challengers, and the choice once there is one; else None.

    Shares are of all entities, that of the champion is what the challengers leave.
    """
    from pipelines.rollout.experiment import CHOSEN
    from pipelines.rollout.following import OPENED

    opened = ledger.entries(project, (OPENED,), rollout)
    experiment = (opened[-1].body.get("experiment") or None) if opened else None
    if experiment is None:
        return None
    chosen = ledger.entries(project, (CHOSEN,), experiment["name"])
    challengers = [_challenger(follower, project, each, rollout) for each in experiment["challengers"]]
    return {
        "name": experiment["name"],
        "champion": experiment["challengers"][0]["expected_champion"],
        "champion_share": max(0.0, 1 - sum(each["share"] for each in challengers)),
        "challengers": challengers,
        "chosen": None if not chosen else {name: chosen[0].body[name] for name in ("version", "reason", "order")},
    }


def _challenger(follower: "Follower", project: str, offer: dict[str, Any], shown: str) -> dict[str, Any]:
    from pipelines.rollout.following import nearness

    followed = follower.follow(project, offer["rollout"])
    state, judgement = followed.state, followed.judgement
    errors = None if state.memory is None else state.memory.errors
    findings = () if judgement is None else judgement.findings
    worst = max(((nearness(each), each.name) for each in findings), default=None)
    if state.tripped is not None:  # at once, by the server: the judge need not have looked
        worst = (1.0, "hard limit")
    return {
        "rollout": offer["rollout"],
        "version": offer["version"],
        "state": state.phase if state.is_final else "running",
        "phase": state.phase_label,
        "share": share_of_all(state),
        "entities": 0 if errors is None else errors.n,
        "failed": 0 if errors is None else errors.happened,
        "worst": None if worst is None else {"name": worst[1], "nearness": round(worst[0], 4)},
        "reason": state.reason,
        "is_shown": offer["rollout"] == shown,
    }


def share_of_all(state: "State") -> float:
    """The share of all entities, also where the challenger has its share of a lane."""
    if state.phase in ("promoting", "promoted"):
        return 1.0
    if state.is_final or state.phase == "waiting":
        return 0.0
    return state.share if state.lane is None else state.share / state.lane.of


def experiment_lines(found: dict[str, Any]) -> list[str]:
    """As lines for a terminal."""
    lines = [f"  experiment [bold]{found['name']}[/], {len(found['challengers'])} challengers:"]
    for each in found["challengers"]:
        mark = "▶" if each["is_shown"] else " "
        now = each["phase"] if each["state"] == "running" else each["state"].replace("_", " ")
        lines.append(
            f"   {mark} version {each['version']}  {now}, {each['share']:.1%} of the entities, "
            f"failures {each['failed']:,} of {each['entities']:,}  {each['rollout']}"
        )
    if found["chosen"] is not None:
        lines.append(f"    chosen: {found['chosen']['reason']}".replace("[", "\\["))
    return lines
