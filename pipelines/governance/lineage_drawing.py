"""A lineage graph as a drawing: lanes from the sources down to the predictions, cards in them, lines between."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from markupsafe import Markup, escape

from pipelines.governance.lineage_graph import Graph, Kind, Node
from pipelines.pages.plots import WIDE

_CARD_W, _CARD_H, _GAP_X, _GAP_Y = 192, 52, 16, 22
_LANE_LABEL_W, _LANE_GAP, _TOP = 104, 46, 14
_A_ROW = (WIDE - _LANE_LABEL_W + _GAP_X) // (_CARD_W + _GAP_X)
LANE_CARDS_MAX = 20
_TITLE_CHARACTERS, _NOTE_CHARACTERS = 22, 26
_SWEEPS = 4


class Lane(NamedTuple):
    """A band of the drawing; `tones` are the page's colours of its kinds."""

    title: str
    tones: Mapping[Kind, str]


LANES = (
    Lane("Sources", {"source": "t8"}),
    Lane("Warehouse", {"warehouse": "t6"}),
    Lane("Query", {"query": "t5"}),
    Lane("Data, code", {"snapshot": "t1", "commit": "t8", "lock": "t8"}),
    Lane("Bundle", {"bundle": "t2"}),
    Lane("Gates", {"evaluation": "t7"}),
    Lane("Version", {"version": "t4"}),
    Lane("Rollout", {"rollout": "t5"}),
    Lane("Reign", {"reign": "t1"}),
    Lane("Predictions", {"predictions": "t3", "prediction": "t3"}),
)
TONES = {kind: tone for lane in LANES for kind, tone in lane.tones.items()}


class Spot(NamedTuple):
    """Where a card's upper left corner is, in pixels."""

    x: float
    y: float


class Placed(NamedTuple):
    """Each node's spot by its key, each lane's title with its upper edge and how many nodes had no room, the height."""

    spots: dict[str, Spot]
    lanes: tuple[tuple[str, float, int], ...]
    height: float


def place(graph: Graph) -> Placed:
    """Lanes from the top; in each, a node lies near the nodes that it is linked with. Empty lanes are left out."""
    lanes = [(lane.title, [node.key for node in graph.nodes if node.kind in lane.tones]) for lane in LANES]
    lanes = [(title, _with_root(keys, graph.root)) for title, keys in lanes if keys]
    shown = [keys[:LANE_CARDS_MAX] for _, keys in lanes]
    neighbours: dict[str, list[str]] = {}
    for edge in graph.edges:
        neighbours.setdefault(edge.later, []).append(edge.earlier)
        neighbours.setdefault(edge.earlier, []).append(edge.later)
    spots = _spots(shown)
    for sweep in range(_SWEEPS):
        for position in range(len(shown)) if sweep % 2 == 0 else reversed(range(len(shown))):
            own = set(shown[position])
            middles = {
                key: _mean(spots[other].x for other in neighbours.get(key, ()) if other in spots and other not in own)
                for key in shown[position]
            }
            shown[position].sort(key=lambda key, at=middles: at[key])  # type: ignore[misc]
            spots = _spots(shown)
    tops = [min(spots[key].y for key in keys) for keys in shown]
    titles = tuple((title, top, len(keys) - LANE_CARDS_MAX) for (title, keys), top in zip(lanes, tops, strict=True))
    return Placed(spots, titles, max(spot.y for spot in spots.values()) + _CARD_H + _TOP)


def draw(graph: Graph) -> Markup:
    """The drawing as inline SVG; a card links to the anchor `node-<position>` of its node in `graph.nodes`."""
    placed = place(graph)
    numbers = {node.key: number for number, node in enumerate(graph.nodes)}
    parts = [
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path class="tip" d="M0 .8 7.4 4 0 7.2z"/></marker></defs>'
    ]
    for title, top, surplus in placed.lanes:
        parts.append(f'<text class="lane" x="0" y="{top + _CARD_H / 2 + 4:.0f}">{escape(title)}</text>')
        if surplus > 0:
            parts.append(f'<text class="note" x="0" y="{top + _CARD_H / 2 + 20:.0f}">{surplus} more below</text>')
    for edge in graph.edges:
        if edge.later in placed.spots and edge.earlier in placed.spots:
            says = f"{graph.node(edge.later).title} – {edge.relation} – {graph.node(edge.earlier).title}"
            parts.append(_line(placed.spots[edge.earlier], placed.spots[edge.later], says))
    parts += [
        _card(node, placed.spots[node.key], numbers[node.key], is_root=node.key == graph.root)
        for node in graph.nodes
        if node.key in placed.spots
    ]
    label = f"Lineage of {graph.node(graph.root).title}"
    return Markup(
        f'<svg class="lineage" viewBox="0 0 {WIDE} {placed.height:.0f}" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}</svg>"
    )


def note(node: Node) -> str:
    """What a card says below its title."""
    if node.state != "found":
        return "not kept any more" if node.state == "gone" else "damaged"
    if "kept" in node.facts:
        return node.facts["kept"]
    if node.kind == "version":
        return node.facts.get("aliases") or (f"as of {node.facts['as_of']}" if "as_of" in node.facts else "")
    told = {"reign": "since", "rollout": "ended", "predictions": "served", "prediction": "served"}
    if node.kind in told:
        return node.facts.get(told[node.kind], node.facts.get("opened", ""))
    if node.kind == "evaluation":
        return f"against {node.facts['against']}"
    return node.id[:16]


def _with_root(keys: list[str], root: str) -> list[str]:
    """The root first: it must have room."""
    return sorted(keys, key=lambda key: key != root)


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found) if found else WIDE / 2


def _spots(lanes: list[list[str]]) -> dict[str, Spot]:
    spots: dict[str, Spot] = {}
    y = float(_TOP)
    middle = _LANE_LABEL_W + (WIDE - _LANE_LABEL_W) / 2
    for keys in lanes:
        for start in range(0, len(keys), _A_ROW):
            row = keys[start : start + _A_ROW]
            x = middle - (len(row) * (_CARD_W + _GAP_X) - _GAP_X) / 2
            for place_in_row, key in enumerate(row):
                spots[key] = Spot(x + place_in_row * (_CARD_W + _GAP_X), y)
            y += _CARD_H + _GAP_Y
        y += _LANE_GAP - _GAP_Y
    return spots


def _line(earlier: Spot, later: Spot, says: str) -> str:
    """From the card above to the card below; the tip is at what was made later."""
    above, below = (earlier, later) if earlier.y <= later.y else (later, earlier)
    x0, y0, x1, y1 = above.x + _CARD_W / 2, above.y + _CARD_H, below.x + _CARD_W / 2, below.y
    tip = 'marker-end="url(#tip)"' if above is earlier else 'marker-start="url(#tip)" stroke-dasharray="4 4"'
    bend = max(18.0, (y1 - y0) / 2)
    path = f"M{x0:.0f} {y0:.0f}C{x0:.0f} {y0 + bend:.0f} {x1:.0f} {y1 - bend:.0f} {x1:.0f} {y1 - 2:.0f}"
    return f'<path class="link" d="{path}" {tip}><title>{escape(says)}</title></path>'


def _card(node: Node, spot: Spot, number: int, *, is_root: bool) -> str:
    classes = f"card {TONES[node.kind]} {node.state}" + (" root" if is_root else "")
    title, below = _cut(node.title, _TITLE_CHARACTERS), _cut(note(node), _NOTE_CHARACTERS)
    return (
        f'<a href="#node-{number}"><g class="{classes}" transform="translate({spot.x:.0f} {spot.y:.0f})">'
        f"<title>{escape(node.kind)} {escape(node.title)}</title>"
        f'<rect class="paper" width="{_CARD_W}" height="{_CARD_H}" rx="8"/>'
        f'<rect class="strip" x="7" y="9" width="4" height="{_CARD_H - 18}" rx="2"/>'
        f'<text class="name" x="20" y="22">{escape(title)}</text>'
        f'<text class="note" x="20" y="40">{escape(below)}</text>'
        "</g></a>"
    )


def _cut(text: str, characters: int) -> str:
    return text if len(text) <= characters else text[: characters - 1].rstrip() + "…"
