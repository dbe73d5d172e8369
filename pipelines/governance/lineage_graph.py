"""Lineage as data: a graph whose edges point from what was made later to what it was made from.

The kinds, in the order of the data's way:

| kind | id | is |
| --- | --- | --- |
| `source` | SHA-256 | a file or query outside of Paceline, from which an ingest filled the warehouse |
| `warehouse` | SHA-256 | a file of the warehouse |
| `query` | SHA-256 | the SQL that a snapshot was extracted by |
| `snapshot` | content id | the labelled events of a window |
| `commit`, `lock` | hash | the code, and the versions of its dependencies |
| `bundle` | content id | what training handed to serving |
| `evaluation` | the bundle and the time | the gates of a bundle, with whom they compared it |
| `version` | `project:number` | a registered version |
| `rollout` | its name | a version's way to the lead |
| `reign` | its number | a time in which a version led |
| `predictions` | `version slot` | how many predictions a version made |
| `prediction` | its id | one of them |
"""

import re
from collections.abc import Iterable
from typing import Literal, get_args

import msgspec

Kind = Literal[
    "source",
    "warehouse",
    "query",
    "snapshot",
    "commit",
    "lock",
    "bundle",
    "evaluation",
    "version",
    "rollout",
    "reign",
    "predictions",
    "prediction",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
State = Literal["found", "gone", "damaged"]


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """One thing. `facts` are shown in their order; `state` says whether it is still there, as its name promises."""

    kind: Kind
    id: str
    title: str
    facts: dict[str, str] = {}
    state: State = "found"

    @property
    def key(self) -> str:
        """Unique in a graph."""
        return f"{self.kind}:{self.id}"


class Edge(msgspec.Struct, frozen=True, kw_only=True):
    """`later` was made from `earlier`, or came about by it; both are keys of nodes, `relation` reads between them."""

    later: str
    earlier: str
    relation: str


class Graph(msgspec.Struct, frozen=True, kw_only=True):
    """What is known around `root`, back to where it came from and on to what came of it.

    `gaps` has what is missing or contradicts: it is empty when every link was found and fits the next one.
    """

    project: str
    root: str
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    gaps: tuple[str, ...] = ()

    def node(self, key: str) -> Node:
        """Raises KeyError when there is none."""
        for node in self.nodes:
            if node.key == key:
                return node
        raise KeyError(key)

    def of_kind(self, kind: Kind) -> tuple[Node, ...]:
        return tuple(node for node in self.nodes if node.kind == kind)

    def earlier(self, key: str) -> tuple[tuple[str, Node], ...]:
        """What the node was made from, with the relation."""
        return tuple((edge.relation, self.node(edge.earlier)) for edge in self.edges if edge.later == key)

    def later(self, key: str) -> tuple[tuple[str, Node], ...]:
        """What came of the node, with the relation."""
        return tuple((edge.relation, self.node(edge.later)) for edge in self.edges if edge.earlier == key)


class GraphBuilder:
    """Collects nodes and edges in any order; `build` sorts them by the data's way."""

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {}
        self._edges: set[Edge] = set()

    def add(self, node: Node) -> str:
        """Returns the node's key. A node that is there already stays, unless the new one knows more facts."""
        known = self._nodes.get(node.key)
        if known is None or len(node.facts) > len(known.facts):
            self._nodes[node.key] = node
        return node.key

    def link(self, later: str, earlier: str, relation: str) -> None:
        self._edges.add(Edge(later=later, earlier=earlier, relation=relation))

    def build(self, project: str, root: str, gaps: Iterable[str]) -> Graph:
        """Edges to nodes that nobody added are left out: what is around the root has its limits."""
        nodes = sorted(self._nodes.values(), key=_place)
        order = {node.key: position for position, node in enumerate(nodes)}
        known = [edge for edge in self._edges if edge.later in order and edge.earlier in order]
        edges = sorted(known, key=lambda edge: (order[edge.later], order[edge.earlier], edge.relation))
        return Graph(
            project=project,
            root=root,
            nodes=tuple(nodes),
            edges=tuple(edges),
            gaps=tuple(dict.fromkeys(gaps)),
        )


def _place(node: Node) -> tuple[int, tuple[tuple[int, str], ...], str]:
    """By the data's way; among equals by number or time, where the id is no hash."""
    return KINDS.index(node.kind), natural(node.title if len(node.id) == 64 else node.id), node.id


def natural(text: str) -> tuple[tuple[int, str], ...]:
    """A key that sorts version 10 after version 9."""
    return tuple((int(piece), "") if piece.isdecimal() else (-1, piece) for piece in re.split(r"(\d+)", text))


def short(name: str) -> str:
    """A content id as far as people read it; other names as they are."""
    return name[:12] if len(name) == 64 and all(sign in "0123456789abcdef" for sign in name) else name
