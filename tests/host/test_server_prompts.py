"""The demo's prompt and its ways to go wrong, queued over HTTP in a real ComfyUI server."""

import json
from pathlib import Path

import pytest
from wan_conductor.development.client import PromptFailed, PromptRejected

PROMPTS = Path(__file__).resolve().parents[2] / "playground" / "prompts"


@pytest.fixture
def prompt():
    """The demo's prompt with few steps: node title -> node, for changing it."""
    nodes = json.loads((PROMPTS / "temporal_mask.json").read_text(encoding="utf-8"))
    by_title = {node["_meta"]["title"]: node for node in nodes.values()}
    by_title["plain"]["inputs"]["steps"] = by_title["guided"]["inputs"]["steps"] = 4
    return nodes, by_title


def failure(server, nodes) -> PromptFailed:
    with pytest.raises(PromptFailed) as caught:
        server.client.run(nodes)
    return caught.value


def test_the_demos_prompt_runs_to_its_files(server, prompt):
    nodes, by_title = prompt
    names = {node["_meta"]["title"]: name for name, node in nodes.items()}
    seen = []
    outputs = server.client.run(nodes, lambda message: seen.append(message["type"]))["outputs"]
    assert "progress_state" in seen or "progress" in seen
    for title in ("save plain", "save guided"):
        video = server.client.fetch(outputs[names[title]]["images"][0])
        assert b"ftyp" in video[:16]
    picture = outputs[names["Timing Report"]]["images"][0]
    assert server.client.fetch(picture).startswith(b"\x89PNG")
    report = json.loads(server.client.fetch({**picture, "filename": picture["filename"].replace(".png", ".json")}))
    assert report["steps"] and report["steps"][0]["phrases"] == [["yellow circle"]]


def test_a_phrase_that_the_prompt_lacks_is_named_with_the_nearest_words(server, prompt):
    nodes, by_title = prompt
    by_title["Temporal Mask"]["inputs"]["timeline"] = "0s - 1s  yellow circel"
    error = failure(server, nodes)
    assert error.details["node_type"] == "WanConductorTemporalMask"
    for part in ("Temporal Mask", "yellow circel", "circle", "▁yellow"):
        assert part in error.details["exception_message"]


def test_a_line_that_is_no_timeline_is_shown_at_its_node_when_it_is_queued(server, prompt):
    nodes, by_title = prompt
    by_title["Temporal Mask"]["inputs"]["timeline"] = "0s - 1s  yellow circle\n3s - 1s  yellow"
    with pytest.raises(PromptRejected) as caught:
        server.client.run(nodes)
    ((name, told),) = caught.value.reply["node_errors"].items()
    assert nodes[name]["class_type"] == "WanConductorTemporalMask"
    (error,) = told["errors"]
    assert error["extra_info"]["input_name"] == "timeline"
    assert all(part in error["details"] for part in ("Temporal Mask", "line 2", "3s - 1s  yellow", "^"))


def test_a_text_from_another_node_is_read_when_that_has_run(server, prompt):
    nodes, by_title = prompt
    nodes["text"] = {"class_type": "PrimitiveStringMultiline", "inputs": {"value": "3s - 1s  yellow"}}
    by_title["Temporal Mask"]["inputs"]["timeline"] = ["text", 0]
    error = failure(server, nodes)
    assert error.details["node_type"] == "WanConductorTemporalMask" and "reversed span" in error.details["exception_message"]


def test_a_prompt_from_the_stock_text_encoder_names_the_node_that_is_needed(server, prompt):
    nodes, by_title = prompt
    by_title["prompt"]["class_type"] = "CLIPTextEncode"
    message = failure(server, nodes).details["exception_message"]
    assert "Temporal Mask" in message and "Conductor Text Encode" in message


def test_nothing_guided_samples_after_an_error(server, prompt):
    nodes, by_title = prompt
    by_title["Temporal Mask"]["inputs"]["timeline"] = "0s - 1s  nothing"
    ran = []
    with pytest.raises(PromptFailed):
        server.client.run(nodes, lambda message: ran.append(message["data"].get("node")))
    assert ran and not {name for name in ran if name and nodes[name]["class_type"] == "WanConductorGuidedKSampler"}


def test_a_value_out_of_range_is_refused_before_anything_runs(server, prompt):
    nodes, by_title = prompt
    by_title["guided"]["inputs"]["steps"] = 0
    with pytest.raises(PromptRejected) as caught:
        server.client.run(nodes)
    (errors,) = [node["errors"] for node in caught.value.reply["node_errors"].values()]
    assert errors[0]["extra_info"]["input_name"] == "steps" and errors[0]["extra_info"]["received_value"] == 0
