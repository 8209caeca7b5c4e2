"""The timing nodes under the host's own executor: what a prompt over the API may look like, and what comes back."""

import asyncio
import sys
from types import SimpleNamespace

import execution
import pytest
import torch
from comfy_api.latest import io
from wan_conductor.nodes import NODES
from wan_conductor.nodes.timing_socket import TEMPORAL_MASK

import nodes

ON = [0.0] * 4 + [1.0] * 5  # as many as 33 frames have latents


class Sources(io.ComfyNode):
    """What other packs hand on: a list in one value, a list output, a sound, a batch of masks."""

    @classmethod
    def define_schema(cls):
        outputs = [io.Float.Output(), io.Float.Output(is_output_list=True), io.Audio.Output(), io.Mask.Output()]
        return io.Schema(node_id="TestSources", inputs=[], outputs=outputs)

    @classmethod
    def execute(cls):
        sound = {"waveform": torch.zeros(1, 2, 8000), "sample_rate": 8000}
        return io.NodeOutput(ON, ON, sound, torch.tensor(ON)[:, None, None].expand(-1, 4, 4))


class Sink(io.ComfyNode):
    got: list = []

    @classmethod
    def define_schema(cls):
        return io.Schema(node_id="TestSink", inputs=[TEMPORAL_MASK.Input("timing")], outputs=[], is_output_node=True)

    @classmethod
    def execute(cls, timing):
        Sink.got.append(timing)
        return io.NodeOutput()


FRAME_VALUES = {"range": "as is", "fit": "exact"}
PROMPT = {
    "from": {"class_type": "TestSources", "inputs": {}},
    "list": {"class_type": "WanConductorFloatsToTiming", "inputs": {"phrase": "a", "values": ["from", 0], **FRAME_VALUES}},
    "list output": {
        "class_type": "WanConductorFloatsToTiming", "inputs": {"phrase": "b", "values": ["from", 1], "length": 33, **FRAME_VALUES}
    },
    "masks": {"class_type": "WanConductorMaskToTiming", "inputs": {"phrase": "c", "masks": ["from", 3], "measure": "max", **FRAME_VALUES}},
    "curve": {"class_type": "WanConductorCurveToTiming", "inputs": {"phrase": "d", "curve": "0s 0\n13f 1", "interpolation": "step"}},
    "audio": {
        "class_type": "WanConductorAudioToTiming",
        "inputs": {
            "phrase": "e", "audio": ["from", 2], "shape": "envelope", "shape.keep": 0.6, "shape.smoothing": 0.25, "measure": "onsets",
            "threshold": 0.3, "beats": "all", "strongest": 0, "offset": 0.0, "gap": 0.1, "low_hz": 0.0, "high_hz": 0.0,
        },
    },
    "sink": {"class_type": "TestSink", "inputs": {"timing": ["audio", 0]}},
}
CHAIN = ["list", "list output", "masks", "curve", "audio"]


@pytest.fixture
def host(monkeypatch):
    """The executor with these nodes, and a server that only listens."""
    for node in (*NODES, Sources, Sink):
        monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, node.GET_SCHEMA().node_id, node)
    told = {}
    instance = SimpleNamespace(
        client_id=None, last_node_id=None, sockets_metadata={}, send_sync=lambda *_: None,
        send_progress_text=lambda text, node_id: told.__setitem__(node_id, text),
    )
    monkeypatch.setitem(sys.modules, "server", SimpleNamespace(PromptServer=SimpleNamespace(instance=instance)))
    executor = execution.PromptExecutor(instance, cache_args={"ram": 0.0, "ram_inactive": 0.0, "lru": 0})
    return SimpleNamespace(executor=executor, told=told)


def chained():
    prompt = {name: {**node, "inputs": dict(node["inputs"])} for name, node in PROMPT.items()}
    for place, name in enumerate(CHAIN):
        prompt[name]["inputs"] |= {"strength": 1.0, "fps": 16.0}
        if place:
            prompt[name]["inputs"]["timing"] = [CHAIN[place - 1], 0]
    return prompt


def test_a_prompt_that_chains_every_source_runs(host, monkeypatch):
    monkeypatch.setattr(Sink, "got", [])
    prompt = chained()
    assert asyncio.run(execution.validate_prompt("one", prompt, None))[0]
    host.executor.execute(prompt, "one", {}, ["sink"])
    (timing,) = Sink.got
    assert [timed.phrase for timed in timing.phrases] == ["a", "b", "c", "d", "e"]
    for timed in timing.phrases[:4]:
        assert timed.source.mask(9, 16.0).tolist() == ON, timed.phrase
    assert (timing.phrases[4].source.keep, timing.phrases[4].source.smoothing) == (0.6, 0.25)
    outputs = host.executor.history_result["outputs"]
    for name, phrase in zip(CHAIN, "abcde"):
        assert outputs[name]["text"][0].startswith(f"{phrase}: ") and len(outputs[name]["images"]) == 1
        assert host.told[name] == outputs[name]["text"][0]
