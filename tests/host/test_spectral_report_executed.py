"""Spectral Report under the host's own executor: one video, and lists of videos against lists of plain ones."""

import asyncio
import json
import sys
from types import SimpleNamespace

import execution
import pytest
import tiny_wan
import torch
from comfy_api.latest import io
from guided_prompts import prompt as words
from wan_conductor.nodes import NODES

import nodes

STEPS, LAYERS = 2, 2


class Wan(io.ComfyNode):
    """Everything a sampler needs, and three seeds one after the other."""

    @classmethod
    def define_schema(cls):
        outputs = [io.Model.Output(), io.Conditioning.Output(), io.Latent.Output(), io.Int.Output(is_output_list=True)]
        return io.Schema(node_id="TestWan", inputs=[], outputs=outputs)

    @classmethod
    def execute(cls):
        return io.NodeOutput(tiny_wan.load(layers=LAYERS), words(), {"samples": torch.zeros(1, 16, 3, 4, 4)}, [1, 2, 3])


@pytest.fixture
def executor(monkeypatch):
    for node in (*NODES, Wan):
        monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, node.GET_SCHEMA().node_id, node)
    instance = SimpleNamespace(
        client_id=None, last_node_id=None, sockets_metadata={}, send_sync=lambda *_: None, send_progress_text=lambda *_: None
    )
    monkeypatch.setitem(sys.modules, "server", SimpleNamespace(PromptServer=SimpleNamespace(instance=instance)))
    return execution.PromptExecutor(instance, cache_args={"ram": 0.0, "ram_inactive": 0.0, "lru": 0})


def graph(seed, figure, plain=True):
    made = {"wan": {"class_type": "TestWan", "inputs": {}}}
    for name, tau in (("guided", 1.0), ("plain", 0.0)):
        made[f"{name} model"] = {
            "class_type": "WanConductorSpectralHomeostasis",
            "inputs": {
                "model": ["wan", 0], "tau": tau, "per_head": False, "operator": "slices", "positions": 256, "queries": 8, "dead_zone": 0.0,
                "gamma_limit": 0.0, "start_percent": 0.0, "end_percent": 1.0,
            },
        }
        made[name] = {
            "class_type": "WanConductorGuidedKSampler",
            "inputs": {
                "model": [f"{name} model", 0], "add_noise": "enable", "noise_seed": seed, "steps": STEPS, "cfg": 3.0,
                "sampler_name": "euler", "scheduler": "simple", "positive": ["wan", 1], "negative": ["wan", 1],
                "latent_image": ["wan", 2], "start_at_step": 0, "end_at_step": 10000, "return_with_leftover_noise": "disable",
                "budget": "auto", "switch_at": "t2v", "cfg_low_noise": 0.0,
            },
        }
    inputs = {"report": ["guided", 1], "figure": figure, "save_prefix": ""} | ({"plain": ["plain", 1]} if plain else {})
    made["report"] = {"class_type": "WanConductorSpectralReport", "inputs": inputs}
    made["numbers"] = {"class_type": "PreviewAny", "inputs": {"source": ["report", 1]}}
    return made


@pytest.mark.parametrize(
    "seed, figure, plain, pictures, videos",
    [(1, "overview", False, 1, 1), (["wan", 3], "maps", False, 3, 3), (["wan", 3], "videos", True, 1, 3)],
)
def test_reports_come_one_by_one_or_as_lists(executor, monkeypatch, seed, figure, plain, pictures, videos):
    from comfy_extras import nodes_preview_any

    monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, "PreviewAny", nodes_preview_any.PreviewAny)
    made = graph(seed, figure, plain)
    valid = asyncio.run(execution.validate_prompt("one", made, None))
    assert valid[0], valid
    executor.execute(made, "one", {}, ["report", "numbers"])
    assert executor.success, executor.status_messages[-1]
    outputs = executor.history_result["outputs"]
    assert len(outputs["report"]["images"]) == pictures
    numbers = json.loads(outputs["numbers"]["text"][0])
    assert len(numbers["runs"]["model"]) == videos
    # a call is one of LAYERS x STEPS x CFG rows of one video
    assert {run["summary"]["calls"] for run in numbers["runs"]["model"]} == {LAYERS * STEPS * 2}
    if plain:
        assert {test["n"] for test in numbers["paired"]["model"].values()} == {videos}
