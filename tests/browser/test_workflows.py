"""The example workflows open in the real editor as they were meant."""

import json

import pytest
from PIL import Image
from wan_conductor.tests.browser.page import ROOT, ComfyUIPage
from wan_conductor.tests.editor_graph import to_prompt
from wan_conductor.tests.templates import TEMPLATES, template_graph

WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
OURS = [*WORKFLOWS, *(ROOT / "subgraphs").glob("*.json")]
GRAPHS = {template.name: template_graph(template.name) for template in TEMPLATES}
GRAPHS |= {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in OURS}


@pytest.fixture(scope="module", autouse=True)
def models_in_place(server):
    """Empty files under the names of the models, as on a user's machine that has them, else the editor offers to download them; and the
    picture that ComfyUI brings."""
    Image.new("RGB", (64, 64)).save(server.base / "input" / "example.png")
    for path in WORKFLOWS:
        for node in GRAPHS[path.stem]["nodes"]:
            for model in node["properties"].get("models", ()):
                file = server.base / "models" / model["directory"] / model["name"]
                file.parent.mkdir(exist_ok=True)
                file.touch()


def test_there_are_workflows():
    assert WORKFLOWS


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_opens_with_every_node_whole(page: ComfyUIPage, path, request):
    page.load(json.loads(path.read_text(encoding="utf-8")))
    page.screenshot(request.node.callspec.id)
    broken = [node for node in page.nodes() if node["errors"] or not node["known"]]
    assert not broken and not page.overlapping()
    assert not page.errors_of_the_pack()


@pytest.mark.parametrize("path", [p for p in WORKFLOWS if (ROOT / "playground" / "prompts" / p.name).exists()], ids=lambda path: path.stem)
def test_workflow_queues_what_its_twin_in_the_playground_says(page: ComfyUIPage, path):
    page.load(json.loads(path.read_text(encoding="utf-8")))
    twin = json.loads((ROOT / "playground" / "prompts" / path.name).read_text(encoding="utf-8"))
    queued = page.prompt()
    assert {name: node["class_type"] for name, node in queued.items()} == {name: node["class_type"] for name, node in twin.items()}
    for name, node in twin.items():  # the editor also spells out optional inputs at their defaults
        assert {key: queued[name]["inputs"].get(key) for key in node["inputs"]} == node["inputs"]


@pytest.mark.parametrize("page", [False], indirect=True, ids=["classic"])
def test_the_host_tests_turn_graphs_into_the_same_prompts_as_the_editor(page: ComfyUIPage, server):
    schema = server.client.get("/object_info")
    differing = []
    for name, graph in GRAPHS.items():
        page.load(graph)
        queued, ours = page.prompt(), to_prompt(graph, schema)
        types = [{number: node["class_type"] for number, node in prompt.items()} for prompt in (queued, ours)]
        # the editor also spells out inputs that are newer than the graph, and a picture's length that is left to it
        if types[0] != types[1] or any(
            queued[number]["inputs"].get(key) != value and (key, value) != ("length", 0)
            for number, node in ours.items()
            for key, value in node["inputs"].items()
        ):
            differing.append(name)
    assert GRAPHS and not differing
