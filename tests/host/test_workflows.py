"""The example workflows: whole graphs; the playground's as their twins say, those for real weights run with tiny ones."""

import json
from pathlib import Path

import comfyui_version
import pytest
import splice
import tiny_files
from wan_conductor.development.hosts import NEWEST
from wan_conductor.tests.editor_graph import to_prompt
from wan_conductor.tests.templates import FOLDER

ROOT = Path(__file__).resolve().parents[2]
TWINS = sorted((ROOT / "playground" / "prompts").glob("*.json"))
NOTES = ("Note", "MarkdownNote")
WIDGETS = ("STRING", "INT", "FLOAT", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3")

FOR_REAL_WEIGHTS = sorted({path.stem for path in (ROOT / "workflows").glob("*.json")} - {path.stem for path in TWINS})
BLUEPRINTS = sorted(path.stem for path in (ROOT / "subgraphs").glob("*.json"))
FRAMES = 49  # their timelines speak of the first three seconds

each_workflow = pytest.mark.parametrize("name", [path.stem for path in TWINS])
each_real_workflow = pytest.mark.parametrize("name", FOR_REAL_WEIGHTS)
every_workflow = pytest.mark.parametrize("name", [*(path.stem for path in TWINS), *FOR_REAL_WEIGHTS])
of_the_newest_host = pytest.mark.skipif(comfyui_version.__version__ != NEWEST, reason=f"made for the files that ComfyUI {NEWEST} names")


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


@every_workflow
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


@every_workflow
def test_workflow_says_what_to_look_at_and_groups_its_nodes(name):
    graph = workflow(name)
    (note,) = [node for node in graph["nodes"] if node["type"] in NOTES]
    assert "**Look at** " in note["widgets_values"][0] and "**Try** " in note["widgets_values"][0]
    boxes = [group["bounding"] for group in graph["groups"]]
    for node in graph["nodes"]:
        (x, y), (wide, high) = node["pos"], node["size"]
        around = [left <= x and top <= y - 30 and x + wide <= left + w and y + high <= top + h for left, top, w, h in boxes]
        assert sum(around) == (0 if node is note else 1), node.get("title", node["type"])
    if (ROOT / "playground" / "prompts" / f"{name}.json").exists():
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


def test_there_is_a_workflow_for_every_kind_of_real_weights():
    assert FOR_REAL_WEIGHTS == [
        "wan2.1_i2v_14B_events",
        "wan2.1_t2v_1.3B_audio_timing",
        "wan2.1_t2v_1.3B_long_multi_prompt",
        "wan2.1_t2v_1.3B_side_by_side",
        "wan2.2_5B_composition",
        "wan2.2_i2v_14B_events",
        "wan2.2_i2v_14B_timing_4_steps",
        "wan2.2_t2v_14B_timing",
        "wan2.2_t2v_14B_timing_4_steps",
    ]


def nodes_in(graph):
    """All nodes of a workflow, those inside of subgraphs too."""
    return [*graph["nodes"], *(node for inner in graph.get("definitions", {}).get("subgraphs", []) for node in inner["nodes"])]


def blueprint(name):
    return json.loads((ROOT / "subgraphs" / f"{name}.json").read_text(encoding="utf-8"))


def models_of_the_templates():
    """file -> where the host's own templates say that it comes from, and which folder it belongs to"""
    told = {}
    for path in FOLDER.glob("*wan*.json"):
        for node in nodes_in(json.loads(path.read_text(encoding="utf-8"))):
            for model in (node.get("properties") or {}).get("models") or []:
                told.setdefault(model["name"], set()).add((model["url"].partition("?")[0], model["directory"]))
    return told


@of_the_newest_host
def test_every_model_file_can_be_downloaded_from_where_the_hosts_templates_have_it():
    told = models_of_the_templates()
    loaders = [node for name in FOR_REAL_WEIGHTS for node in nodes_in(workflow(name)) if node["type"] in tiny_files.LOADERS]
    loaders += [node for name in BLUEPRINTS for node in nodes_in(blueprint(name)) if node["type"] in tiny_files.LOADERS]
    assert len(loaders) > 30
    for node in loaders:
        (model,) = node["properties"]["models"]
        assert model["name"] == node["widgets_values"][0] and model["directory"] == tiny_files.LOADERS[node["type"]][1]
        assert (model["url"], model["directory"]) in told[model["name"]]


def runnable(graph, server):
    """The graph's prompt for a small video, with all its files in place."""
    prompt = splice.small(to_prompt(graph, server.client.get("/object_info")), FRAMES)
    for node in prompt.values():
        if node["class_type"] == "WanConductorMultiPromptBlend":
            node["inputs"].update(frames_per_window=41, overlap=4)
        elif node["class_type"] == "LoadAudio":  # which the user is to choose
            assert not node["inputs"]["audio"]
            node["inputs"]["audio"] = "music.wav"
    tiny_files.put_files(prompt, server.base)
    return prompt


def guided_at_all(report):
    """Whether a report's JSON tells of anything: the whole report, or what one method did."""
    return bool(report if isinstance(report, list) else report["steps"] or report["patches"])


@of_the_newest_host
@each_real_workflow
def test_workflow_for_real_weights_runs_with_tiny_ones_and_leaves_its_report_beside_its_video(small_server, name):
    outputs = small_server.client.run(runnable(workflow(name), small_server))["outputs"]
    files = {file["filename"] for output in outputs.values() for file in output.get("images", ())}
    folder = small_server.base / "output" / "wan_conductor"
    (video,) = [path for path in folder.glob(f"{name}_0*.mp4") if path.name in files]
    assert b"ftyp" in video.read_bytes()[:16]
    if any(node["type"].endswith("Report") for node in workflow(name)["nodes"]):
        (picture,) = [path for path in folder.glob(f"{name}_0*.png") if path.name in files]
        assert guided_at_all(json.loads(picture.with_suffix(".json").read_text(encoding="utf-8")))


@of_the_newest_host
@each_real_workflow
def test_one_switch_turns_all_guidance_off(small_server, name):
    prompt = runnable(workflow(name), small_server)
    switches = [node for node in prompt.values() if node["class_type"] == "WanConductorGuidanceSwitch"]
    if name.endswith(("side_by_side", "multi_prompt")):
        assert not switches
        return
    (switch,) = switches
    switch["inputs"]["guidance"] = False
    outputs = small_server.client.run(prompt)["outputs"]
    (number,) = [number for number, node in prompt.items() if node["class_type"].endswith("Report")]
    picture = outputs[number]["images"][0]
    report = json.loads(small_server.client.fetch({**picture, "filename": picture["filename"].replace(".png", ".json")}))
    assert not guided_at_all(report)


@of_the_newest_host
@pytest.mark.parametrize("name", BLUEPRINTS)
def test_blueprint_is_offered_and_runs_with_tiny_weights(small_server, name):
    offered = small_server.client.get("/global_subgraphs")
    (entry,) = [one for one, told in offered.items() if told["name"] == name]
    assert offered[entry]["info"]["node_pack"] == "custom_nodes.wan-conductor"
    graph = json.loads(small_server.client.get(f"/global_subgraphs/{entry}")["data"])
    prompt = runnable(graph, small_server)
    (video,) = [number for number, node in prompt.items() if node["class_type"] == "CreateVideo"]
    saved = {"video": [video, 0], "filename_prefix": "blueprint", "format": "auto", "codec": "auto"}
    prompt["save"] = {"class_type": "SaveVideo", "inputs": saved}
    file = small_server.client.run(prompt)["outputs"]["save"]["images"][0]
    assert b"ftyp" in small_server.client.fetch(file)[:16]
