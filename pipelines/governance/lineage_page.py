"""A lineage for people: the drawing, the gaps, and all facts of every node, on one page that loads nothing."""

from pathlib import Path

from pipelines.governance.lineage_drawing import LANES, TONES, draw
from pipelines.governance.lineage_graph import Graph
from pipelines.pages import Card, render

_TEMPLATES = Path(__file__).parent / "templates"
_COUNTED = (("source", "Sources"), ("bundle", "Bundles"), ("version", "Versions"), ("rollout", "Rollouts"))


def lineage_page(graph: Graph) -> str:
    """The whole page."""
    root = graph.node(graph.root)
    gaps = Card("Gaps", str(len(graph.gaps)), "", "every link fits" if not graph.gaps else "see below")
    cards = [gaps._replace(tone="bad" if graph.gaps else "good", lead=True)]
    for kind, label in _COUNTED:
        found = [node for node in graph.nodes if node.kind == kind]
        lost = sum(node.state != "found" for node in found)
        cards.append(Card(label, str(len(found)), "", f"{lost} not kept or damaged" if lost else ""))
    numbered = list(enumerate(graph.nodes))
    lanes = [
        (lane.title, [(number, node) for number, node in numbered if node.kind in lane.tones])
        for lane in reversed(LANES)
    ]
    return render(
        "lineage.html",
        [_TEMPLATES],
        title=f"Lineage of {root.kind} {root.title}",
        summary=f"Project {graph.project}, {root.id}: where it came from, and what came of it.",
        cards=cards,
        gaps=graph.gaps,
        drawing=draw(graph),
        lanes=[(title, nodes) for title, nodes in lanes if nodes],
        tones=TONES,
        root=graph.root,
        footer=(
            "Lines go from what was there first to what was made of it; dashed, to what it was only compared with. "
            "Made by paceline lineage; --json gives the same graph to machines."
        ),
    )
