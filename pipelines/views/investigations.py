"""Investigations of rollbacks: which there are, which are open, and what is on record about one."""

from typing import Any

from pipelines.wiring import find_project, home, read_ledger


def investigations(project: str, *, only_open: bool = False) -> list[dict[str, Any]]:
    """All investigations of a project, the oldest first, each with its note where somebody has closed it."""
    from pipelines.governance.investigation import CLOSED, OPENED

    find_project(project)
    entries = read_ledger().entries(project, (OPENED, CLOSED))
    closed = {entry.subject: entry for entry in entries if entry.kind == CLOSED}
    found = [
        {
            "rollout": entry.subject,
            "opened": entry.at.isoformat(timespec="seconds"),
            **{name: entry.body[name] for name in ("version", "champion", "state", "cause", "title", "reason")},
            "affected": entry.body["affected"],
            "page": str(home().root / entry.body["page"]),
            "evidence": entry.body["evidence"],
            "closed": _closed(closed.get(entry.subject)),
        }
        for entry in entries
        if entry.kind == OPENED
    ]
    return [each for each in found if each["closed"] is None] if only_open else found


def investigation(project: str, rollout: str) -> dict[str, Any]:
    """One of them, with who was told of it and whether its page and evidence are as they were.

    Raises:
        LookupError: there is none of that rollout.
    """
    from contracts.hashing import file_id
    from pipelines.governance.investigation import EVIDENCE
    from pipelines.governance.rollback_message import SENT

    known = investigations(project)
    found = next((each for each in known if each["rollout"] == rollout), None)
    if found is None:
        there_are = ", ".join(each["rollout"] for each in known) or "none"
        raise LookupError(f"{project} has no investigation of {rollout}; there are: {there_are}")
    evidence = (home().root / found["page"]).with_name(EVIDENCE)
    state = "gone" if not evidence.is_file() else "as it was"
    if evidence.is_file() and file_id(evidence) != found["evidence"]:
        state = "altered"
    told = read_ledger().entries(project, (SENT,), rollout)
    return {
        **found,
        "files": state,
        "told": [{"at": entry.at.isoformat(timespec="seconds"), **entry.body} for entry in told],
    }


def investigations_text(found: list[dict[str, Any]]) -> str:
    """`investigations` as lines for a terminal."""
    if not found:
        return "no investigation"
    return "\n".join(
        f"{each['opened']} {each['rollout']}: version {each['version']}, "
        f"{each['title'][:1].lower()}{each['title'][1:]}; "
        + ("open" if each["closed"] is None else f"closed by {each['closed']['by']}: {each['closed']['note']}")
        for each in found
    )


def investigation_text(found: dict[str, Any]) -> str:
    """`investigation` as lines for a terminal."""
    lines = [
        f"{found['rollout']}: version {found['version']} was {found['state'].replace('_', ' ')} on {found['opened']}",
        f"  {found['title']}: {found['reason']}",
        f"  {found['affected']}",
        f"  page {found['page']} ({found['files']}), evidence {found['evidence'][:12]}",
        *(f"  told by {each['channel']} at {each['at']}" for each in found["told"]),
    ]
    closed = found["closed"]
    lines.append("  open" if closed is None else f"  closed by {closed['by']} on {closed['at']}: {closed['note']}")
    return "\n".join(lines)


def _closed(entry: Any) -> dict[str, Any] | None:
    if entry is None:
        return None
    return {"at": entry.at.isoformat(timespec="seconds"), "by": entry.body["by"], "note": entry.body["note"]}
