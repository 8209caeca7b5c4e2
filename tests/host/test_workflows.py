"""The playground's workflows and their twins: the same nodes and values, whole graphs, and a run of each in a real ComfyUI server."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TWINS = sorted((ROOT / "playground" / "prompts").glob("*.json"))
NOTES = ("Note", "MarkdownNote")
WIDGETS = ("STRING", "INT", "FLOAT", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3")

each_workflow = pytest.mark.parametrize("name", [path.stem for path in TWINS])


def workflow(name):
    return json.loads((ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8"))


def twin(name):
    return json.loads((ROOT / "playground" / "prompts" / f"{name}.json").read_text(encoding="utf-8"))


def widget_values(node, info):
    """Input -> value, in the editor's order: required inputs, then optional ones; a seed is followed by what happens to it after a run."""
    values, given = {}, iter(node.get("widgets_values", []))
    for section in ("required", "optional"):
        for name in info["input_order"].get(section, []):
            kind, *options = info["input"][section][name]
            if isinstance(kind, list) or kind in WIDGETS:
                values[name] = next(given)
                if options and options[0].get("control_after_generate"):
                    assert next(given) == "fixed"
    newer = [socket["name"] for socket in node["inputs"] if "widget" in socket and socket["name"] not in values]
    assert newer == (["bit_depth"] if node["type"] == "CreateVideo" and "bit_depth" not in values else [])  # ComfyUI 0.18.2 has none
    assert len(list(given)) == len(newer), f"{node['type']}: more values than widgets"
    return values


def default_of(info, name):
    """What the host takes for an input that a prompt leaves out."""
    kind, *options = {**info["input"].get("required", {}), **info["input"].get("optional", {})}[name]
    return options[0].get("default", kind[0] if isinstance(kind, list) else None)


def test_every_method_has_a_workflow():
    methods = ["composition_guide", "event_schedule", "multi_prompt_blend", "spectral_homeostasis", "temporal_mask"]
    assert [path.stem for path in TWINS] == methods


@each_workflow
def test_workflow_queues_what_its_twin_says(server, name):
    graph, prompt = workflow(name), twin(name)
    links = {link[0]: [str(link[1]), link[2]] for link in graph["links"]}
    schema = server.client.get("/object_info")
    nodes = {str(node["id"]): node for node in graph["nodes"] if node["type"] not in NOTES}
    assert {number: node["type"] for number, node in nodes.items()} == {number: node["class_type"] for number, node in prompt.items()}
    for number, node in nodes.items():
        said = widget_values(node, schema[node["type"]])
        said |= {socket["name"]: links[socket["link"]] for socket in node["inputs"] if socket["link"] is not None}
        assert {key: said.get(key) for key in prompt[number]["inputs"]} == prompt[number]["inputs"], node["type"]
        left_out = {key: value for key, value in said.items() if key not in prompt[number]["inputs"]}
        assert left_out == {key: default_of(schema[node["type"]], key) for key in left_out}, node["type"]
        assert node.get("title", schema[node["type"]]["display_name"]) == prompt[number]["_meta"]["title"]


@each_workflow
def test_both_ends_of_every_link_know_it(name):
    graph = workflow(name)
    nodes = {node["id"]: node for node in graph["nodes"]}
    for link, source, output, target, place, kind in graph["links"]:
        out, into = nodes[source]["outputs"][output], nodes[target]["inputs"][place]
        assert link in out["links"] and into["link"] == link
        assert out["type"] == into["type"] == kind
    held = [link for node in graph["nodes"] for socket in node["outputs"] for link in socket["links"] or []]
    held_by_inputs = [socket["link"] for node in graph["nodes"] for socket in node["inputs"] if socket["link"] is not None]
    assert sorted(held) == sorted(held_by_inputs) == sorted(link[0] for link in graph["links"])
    assert graph["last_link_id"] >= max(held) and graph["last_node_id"] == max(nodes)


@each_workflow
def test_workflow_says_what_to_look_at_and_groups_its_nodes(name):
    graph = workflow(name)
    (note,) = [node for node in graph["nodes"] if node["type"] in NOTES]
    assert "**Look at** " in note["widgets_values"][0] and "**Try** " in note["widgets_values"][0]
    boxes = [group["bounding"] for group in graph["groups"]]
    for node in graph["nodes"]:
        (x, y), (wide, high) = node["pos"], node["size"]
        around = [left <= x and top <= y - 30 and x + wide <= left + w and y + high <= top + h for left, top, w, h in boxes]
        assert sum(around) == (0 if node is note else 1), node.get("title", node["type"])
    assert {"Plain", "Guided"} < {group["title"] for group in graph["groups"]}
    assert (ROOT / "workflows" / f"{name}.jpg").read_bytes().startswith(b"\xff\xd8")


@each_workflow
def test_twin_runs_plain_beside_guided_and_its_report_is_not_empty(server, name):
    prompt = twin(name)
    for node in prompt.values():
        if "steps" in node["inputs"]:
            node["inputs"]["steps"] = 4
    outputs = server.client.run(prompt)["outputs"]
    numbers = {node["_meta"]["title"]: number for number, node in prompt.items()}
    for title in ("save plain", "save guided"):
        assert b"ftyp" in server.client.fetch(outputs[numbers[title]]["images"][0])[:16]
    for number in [number for number, node in prompt.items() if node["class_type"].endswith("Report")]:
        picture = outputs[number]["images"][0]
        assert server.client.fetch(picture).startswith(b"\x89PNG")
        assert json.loads(server.client.fetch({**picture, "filename": picture["filename"].replace(".png", ".json")}))
