"""What rollouts leave open for people: a holdout that runs, and rollbacks that nobody has looked into yet."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.ledger import Ledger

_INVESTIGATIONS_MAX = 10


def open_holdout(ledger: "Ledger", project: str) -> dict[str, Any] | None:
    """The holdout that runs, with what the judge last said of it; None where none runs."""
    from pipelines.rollout import holdouts

    begun = holdouts.running(ledger, project)
    if begun is None:
        return None
    verdicts = ledger.entries(project, (holdouts.VERDICT,), begun.rollout)
    last = verdicts[-1].body if verdicts else None
    return {
        "rollout": begun.rollout,
        "new": begun.new,
        "old": begun.old,
        "share": begun.plan.share,
        "since": begun.since.isoformat(timespec="seconds"),
        "maximum_days": begun.plan.maximum_days,
        "on_timeout": begun.plan.on_timeout,
        "verdict": None if last is None else {"verdict": last["verdict"], "reason": last["reason"]},
    }


def open_investigations(ledger: "Ledger", project: str) -> list[dict[str, Any]]:
    """The last rollbacks that nobody has closed with a note, the newest first."""
    from pipelines.governance.investigation import CLOSED, OPENED

    entries = ledger.entries(project, (OPENED, CLOSED))
    closed = {entry.subject for entry in entries if entry.kind == CLOSED}
    found = [
        {
            "rollout": entry.subject,
            "opened": entry.at.isoformat(timespec="seconds"),
            **{name: entry.body[name] for name in ("version", "state", "title", "reason", "severity")},
        }
        for entry in reversed(entries)
        if entry.kind == OPENED and entry.subject not in closed
    ]
    return found[:_INVESTIGATIONS_MAX]


def open_work_lines(holdout: dict[str, Any] | None, investigations: list[dict[str, Any]]) -> list[str]:
    """As lines for a terminal."""
    lines = []
    if holdout is not None:
        said = "no verdict yet" if holdout["verdict"] is None else holdout["verdict"]["reason"]
        lines.append(
            f"  holdout of {holdout['rollout']}: version {holdout['old']} keeps {holdout['share']:.1%} of the entities "
            f"beside version {holdout['new']}: {said}"
        )
    for each in investigations:
        state, title = each["state"].replace("_", " "), each["title"][:1].lower() + each["title"][1:]
        lines.append(f"  open: why {each['rollout']} was {state} ({title})")
    return [line.replace("[", "\\[") for line in lines]
