"""A lineage graph as text: a tree for the terminal, Mermaid for Markdown, DOT for Graphviz."""

from collections.abc import Callable, Iterator

from pipelines.governance.lineage_graph import Graph, Node

_LONG = "text"  # the fact with the SQL of a query: many lines, shown where there is room for them
_Step = Callable[[str], tuple[tuple[str, Node], ...]]


def render_tree(graph: Graph) -> str:
    """The root with what it was made from and what came of it, one line a node, its facts below it; then the gaps."""
    root = graph.node(graph.root)
    lines = [_line(root), *(f"  {name}: {value}" for name, value in _facts(root))]
    for title, step, says in (
        ("made from", graph.earlier, lambda relation, node: f"{relation} {_line(node)}"),
        ("led to", graph.later, lambda relation, node: f"{_line(node)} ({relation} it)"),
    ):
        if step(root.key):
            lines += ["", title, *_branches(step, root.key, says, "", {root.key})]
    if graph.gaps:
        lines += ["", "gaps", *(f"  GAP {gap}" for gap in graph.gaps)]
    return "\n".join(lines)


def render_mermaid(graph: Graph) -> str:
    """A Mermaid flowchart; arrows go the data's way, from what was there first."""
    names = {node.key: f"n{number}" for number, node in enumerate(graph.nodes)}
    lines = ["flowchart TB"]
    for node in graph.nodes:
        label = "<br/>".join(_mermaid(text) for text in (node.kind, node.title, *_marks(node)))
        lines.append(f'  {names[node.key]}["{label}"]:::{"root" if node.key == graph.root else node.state}')
    lines += [f"  {names[edge.earlier]} -->|{_mermaid(edge.relation)}| {names[edge.later]}" for edge in graph.edges]
    lines += [
        "  classDef root stroke-width:3px",
        "  classDef found stroke-width:1px",
        "  classDef gone stroke-dasharray:4 4",
        "  classDef damaged stroke-dasharray:4 4,stroke:#c2385a",
        *(f"  %% gap: {gap}" for gap in graph.gaps),
    ]
    return "\n".join(lines)


def render_dot(graph: Graph) -> str:
    """A Graphviz digraph; arrows go the data's way, from what was there first."""
    lines = ["digraph lineage {", '  rankdir=TB; node [shape=box, style=rounded, fontname="sans-serif"];']
    for node in graph.nodes:
        label = "\\n".join(_dot(text) for text in (node.kind, node.title, *_marks(node)))
        style = 'style="rounded,dashed"' if node.state != "found" else 'style="rounded"'
        width = ", penwidth=3" if node.key == graph.root else ""
        lines.append(f'  "{_dot(node.key)}" [label="{label}", {style}{width}];')
    lines += [
        f'  "{_dot(edge.earlier)}" -> "{_dot(edge.later)}" [label="{_dot(edge.relation)}"];' for edge in graph.edges
    ]
    lines += [f"  // gap: {gap}" for gap in graph.gaps]
    return "\n".join([*lines, "}"])


def _branches(step: _Step, key: str, says: Callable[[str, Node], str], indent: str, seen: set[str]) -> Iterator[str]:
    """Depth first; a node that was shown already is named again without what is behind it."""
    found = step(key)
    for position, (relation, node) in enumerate(found):
        is_last = position == len(found) - 1
        again = " …" if node.key in seen and step(node.key) else ""
        yield f"{indent}{'└─' if is_last else '├─'} {says(relation, node)}{again}"
        if node.key in seen:
            continue
        seen.add(node.key)
        inner = indent + ("   " if is_last else "│  ")
        bar = "│  " if step(node.key) else "   "
        yield from (f"{inner}{bar}{name}: {value}" for name, value in _facts(node))
        yield from _branches(step, node.key, says, inner, seen)


def _line(node: Node) -> str:
    state = {"found": "", "gone": " [not kept]", "damaged": " [DAMAGED]"}[node.state]
    name = "" if node.id in node.title or node.kind in ("version", "evaluation", "reign", "predictions") else node.id
    return " ".join(part for part in (node.kind, node.title if node.title != node.kind else "", name) if part) + state


def _facts(node: Node) -> Iterator[tuple[str, str]]:
    return ((name, value) for name, value in node.facts.items() if name != _LONG)


def _marks(node: Node) -> list[str]:
    named = [node.id[:12]] if len(node.id) == 64 else []
    return named if node.state == "found" else [*named, "not kept" if node.state == "gone" else "damaged"]


def _mermaid(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace("|", "&#124;")


def _dot(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
