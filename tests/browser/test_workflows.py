"""The example workflows open in the real editor as they were meant."""

import json

import pytest
from wan_conductor.tests.browser.page import ROOT, ComfyUIPage

WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))


def test_there_are_workflows():
    assert WORKFLOWS


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_opens_with_every_node_whole(page: ComfyUIPage, path, request):
    page.load(json.loads(path.read_text(encoding="utf-8")))
    page.screenshot(request.node.callspec.id)
    broken = [node for node in page.nodes() if node["errors"] or not node["known"]]
    assert not broken
    assert not page.errors_of_the_pack()


@pytest.mark.parametrize("path", [p for p in WORKFLOWS if (ROOT / "playground" / "prompts" / p.name).exists()], ids=lambda path: path.stem)
def test_workflow_queues_what_its_twin_in_the_playground_says(page: ComfyUIPage, path):
    page.load(json.loads(path.read_text(encoding="utf-8")))
    twin = json.loads((ROOT / "playground" / "prompts" / path.name).read_text(encoding="utf-8"))
    queued = page.prompt()
    assert {name: node["class_type"] for name, node in queued.items()} == {name: node["class_type"] for name, node in twin.items()}
    for name, node in twin.items():  # the editor also spells out optional inputs at their defaults
        assert {key: queued[name]["inputs"].get(key) for key in node["inputs"]} == node["inputs"]
