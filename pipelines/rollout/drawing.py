"""The state machine as a drawing, made from the table of its transitions. Pure."""

import re
import sys
from collections import defaultdict
from pathlib import Path

from pipelines.rollout.state import FINAL, TRANSITIONS


def mermaid() -> str:
    """The table as a Mermaid state diagram: an arrow for each pair of phases, with the events that lead there."""
    arrows: dict[tuple[str, str], list[str]] = defaultdict(list)
    for way in TRANSITIONS:
        arrows[way.source, way.target].append(way.event)
    lines = ["stateDiagram-v2", "    [*] --> waiting"]
    lines += [f"    {source} --> {target}: {', '.join(events)}" for (source, target), events in arrows.items()]
    lines += [f"    {phase} --> [*]" for phase in sorted(FINAL)]
    return "\n".join(lines)


def table() -> str:
    """The table in Markdown."""
    rows = [f"| {way.source} | `{way.event}` | {way.target} | {way.when} |" for way in TRANSITIONS]
    return "\n".join(["| in | event | to | when |", "| --- | --- | --- | --- |", *rows])


def redraw(text: str) -> str:
    """`text` with the drawing and the table in their places."""
    text = re.sub(r"```mermaid\n.*?```", lambda _: f"```mermaid\n{mermaid()}\n```", text, count=1, flags=re.DOTALL)
    begin, end = "<!-- transitions -->", "<!-- end of transitions -->"
    return re.sub(f"{begin}.*?{end}", lambda _: f"{begin}\n{table()}\n{end}", text, count=1, flags=re.DOTALL)


if __name__ == "__main__":  # python -m pipelines.rollout.drawing docs/rollouts.md
    for name in sys.argv[1:]:
        page = Path(name)
        page.write_text(redraw(page.read_text()))
