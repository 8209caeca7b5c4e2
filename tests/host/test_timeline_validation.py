"""What the host asks the nodes with a timeline when a prompt is queued: whether their text can be read."""

import pytest
from wan_conductor.nodes import NODES

WITH_A_TIMELINE = [node for node in NODES if any(one.id == "timeline" for one in node.define_schema().inputs)]


def test_the_nodes_with_a_timeline_are_the_four():
    assert [node.define_schema().display_name for node in WITH_A_TIMELINE] == [
        "Temporal Mask", "Event Schedule", "Composition Guide", "Multi Prompt Blend"
    ]


@pytest.mark.parametrize("node", WITH_A_TIMELINE, ids=lambda node: node.__name__)
def test_a_text_that_cannot_be_read_is_told_with_its_line_and_one_that_can_is_let_through(node):
    told = node.validate_inputs(timeline="0s - 1s  a | above | b\n3s - 1s  a | above | b")
    name = node.define_schema().display_name
    assert isinstance(told, str) and all(part in told for part in (f"{name}: input `timeline`", "line 2", "reversed span", "^"))
    (default,) = [one.default for one in node.define_schema().inputs if one.id == "timeline"]
    for text in (default, "", None, "1s - 2s  a | above | b"):  # None: it comes from another node, and is read when that has run
        assert node.validate_inputs(timeline=text) is True
