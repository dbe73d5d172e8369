import re
import xml.etree.ElementTree as ET

import pytest

from pipelines.governance.lineage_drawing import LANE_CARDS_MAX, draw, place
from pipelines.governance.lineage_graph import KINDS, Graph, GraphBuilder, Node, natural, short
from pipelines.governance.lineage_page import lineage_page
from pipelines.governance.lineage_text import render_dot, render_mermaid, render_tree

SNAPSHOT = "5" * 64


def graph(versions: int = 2, gaps: tuple[str, ...] = ()) -> Graph:
    builder = GraphBuilder()
    source = builder.add(Node(kind="source", id="a" * 64, title='loans "new" <1>.csv'))
    snapshot = builder.add(
        Node(kind="snapshot", id=SNAPSHOT, title="as of 2013-07-01", facts={"rows": "12", "text": "SELECT 1"})
    )
    builder.link(snapshot, source, "made from")
    bundle = builder.add(Node(kind="bundle", id="b" * 64, title="trees", state="gone"))
    builder.link(bundle, snapshot, "trained on")
    for number in range(versions, 0, -1):
        version = builder.add(Node(kind="version", id=f"p:{number}", title=f"p {number}"))
        builder.link(version, bundle, "points at")
    builder.link("version:p:1", "version:nobody", "compared with")
    return builder.build("p", bundle, gaps)


def test_nodes_lie_in_the_order_of_the_datas_way_and_numbers_count_as_numbers() -> None:
    found = graph(11)
    assert [node.title for node in found.of_kind("version")] == [f"p {number}" for number in range(1, 12)]
    kinds = [KINDS.index(node.kind) for node in found.nodes]
    assert kinds == sorted(kinds)
    assert sorted(["v10", "v9", "v"], key=natural) == ["v", "v9", "v10"]


def test_an_edge_to_a_node_that_nobody_added_is_left_out() -> None:
    assert {edge.relation for edge in graph().edges} == {"made from", "trained on", "points at"}
    with pytest.raises(KeyError):
        graph().node("version:nobody")


def test_the_fuller_of_two_descriptions_of_a_node_stays() -> None:
    builder = GraphBuilder()
    for facts in ({}, {"a": "1"}, {}):
        builder.add(Node(kind="version", id="p:1", title="p 1", facts=facts))
    assert builder.build("p", "version:p:1", ()).nodes[0].facts == {"a": "1"}


def test_only_content_ids_are_shortened() -> None:
    assert short("a" * 64) == "a" * 12
    assert short("flight_delay-v2-1") == "flight_delay-v2-1"


def test_the_tree_goes_back_and_on_and_ends_with_the_gaps() -> None:
    assert render_tree(graph(gaps=("the bundle is gone",))) == (
        f"bundle trees {'b' * 64} [not kept]\n"
        "\n"
        "made from\n"
        f"└─ trained on snapshot as of 2013-07-01 {SNAPSHOT}\n"
        "   │  rows: 12\n"
        f'   └─ made from source loans "new" <1>.csv {"a" * 64}\n'
        "\n"
        "led to\n"
        "├─ version p 1 (points at it)\n"
        "└─ version p 2 (points at it)\n"
        "\n"
        "gaps\n"
        "  GAP the bundle is gone"
    )


def test_mermaid_has_every_node_and_edge_and_escapes_what_it_must() -> None:
    text = render_mermaid(graph(gaps=("one",)))
    assert len(re.findall(r"^  n\d+\[", text, re.MULTILINE)) == 5
    assert len(re.findall(r"-->", text)) == 4
    assert "loans &quot;new&quot; &lt;1>.csv" in text
    assert "not kept" in text
    assert "%% gap: one" in text
    assert text.count(":::root") == 1


def test_dot_has_every_node_and_edge_and_escapes_what_it_must() -> None:
    text = render_dot(graph(gaps=("one",)))
    assert text.count(" -> ") == 4
    assert 'loans \\"new\\" <1>.csv' in text
    assert text.count("penwidth=3") == 1
    assert text.startswith("digraph lineage {")
    assert text.endswith("}")


def test_cards_lie_within_the_drawing_and_do_not_overlap() -> None:
    placed = place(graph(12))
    assert len(placed.spots) == 15
    spots = sorted(placed.spots.values())
    for position, one in enumerate(spots):
        assert 100 <= one.x <= 1140 - 192
        assert 0 <= one.y <= placed.height - 52
        for other in spots[position + 1 :]:
            assert abs(one.x - other.x) >= 192 or abs(one.y - other.y) >= 52


def test_what_was_made_from_something_lies_below_it() -> None:
    found = graph(3)
    placed = place(found)
    for edge in found.edges:
        assert placed.spots[edge.earlier].y < placed.spots[edge.later].y


def test_the_drawing_is_xml_with_a_card_for_each_node_and_a_line_for_each_edge() -> None:
    found = graph()
    drawn = ET.fromstring(str(draw(found)))
    cards = [each for each in drawn.iter("g") if "card" in (each.get("class") or "")]
    assert len(cards) == len(found.nodes)
    assert [each.get("class") for each in cards if "root" in (each.get("class") or "")] == ["card t2 gone root"]
    assert len([each for each in drawn.iter("path") if each.get("class") == "link"]) == len(found.edges)


def test_a_lane_with_too_many_cards_says_how_many_more_there_are() -> None:
    found = graph(LANE_CARDS_MAX + 7)
    assert "7 more below" in draw(found)
    assert len(place(found).spots) == LANE_CARDS_MAX + 3
    assert all(node.title in lineage_page(found) for node in found.nodes if node.kind == "version")


def test_the_page_shows_gaps_facts_and_the_text_of_queries_and_escapes_them() -> None:
    page = lineage_page(graph(gaps=("the bundle <b> is gone",)))
    assert "the bundle &lt;b&gt; is gone" in page
    assert "<pre>SELECT 1</pre>" in page
    assert SNAPSHOT in page
    assert "http" not in page.replace("http-equiv", "")
