"""Temporal Mask under the host's own executor: what it refuses, it refuses before any branch of the prompt samples."""

import asyncio
import sys
from types import SimpleNamespace

import execution
import pytest
import tiny_wan
from comfy_api.latest import io
from guided_prompts import prompt as conditioning
from wan_conductor.guidance.mask_sources import FrameValues, TimedPhrase, Timing
from wan_conductor.host.video_length import FRAME_COUNTED, frames_of_videos, is_parked
from wan_conductor.nodes import NODES
from wan_conductor.nodes.timing_socket import TEMPORAL_MASK

import nodes

KNOBS = {"lambda_1": 0.3, "lambda_2": 10.0, "tau_corr": 0.9, "mask": "soft", "occurrence": "all", "fps": 0.0}


class Sources(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        outputs = [io.Model.Output(), io.Conditioning.Output(), TEMPORAL_MASK.Output()]
        return io.Schema(node_id="TestModel", inputs=[], outputs=outputs)

    @classmethod
    def execute(cls):
        forty = Timing((TimedPhrase("cat", FrameValues((0.0,) * 39 + (1.0,), name="Mask to Timing: input `masks`")),))
        return io.NodeOutput(tiny_wan.load(layers=1), conditioning(), forty)


class Latent(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        inputs = [io.Int.Input("length"), io.Model.Input("reference_image", optional=True)]
        return io.Schema(node_id="WanVaceToVideo", inputs=inputs, outputs=[io.Latent.Output()])

    @classmethod
    def execute(cls, length, reference_image=None):
        return io.NodeOutput({})


class Sampler(io.ComfyNode):
    ran: list[str] = []

    @classmethod
    def define_schema(cls):
        inputs = [io.Model.Input("model"), io.Latent.Input("latent_image")]
        return io.Schema(node_id="TestSampler", inputs=inputs, outputs=[io.Latent.Output()], hidden=[io.Hidden.unique_id])

    @classmethod
    def execute(cls, model, latent_image):
        Sampler.ran.append(cls.hidden.unique_id)
        return io.NodeOutput(latent_image)


class Save(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(node_id="TestSave", inputs=[io.Latent.Input("samples")], outputs=[], is_output_node=True)

    @classmethod
    def execute(cls, samples):
        return io.NodeOutput()


def plain_beside_guided(timeline, length=49, **inputs):
    """As in the workflows: the plain branch is the shorter one, so left to itself the host would run it first."""
    mask = {"model": ["source", 0], "conditioning": ["source", 1], "timeline": timeline, **KNOBS, **inputs}
    return {
        "source": {"class_type": "TestModel", "inputs": {}},
        "latent": {"class_type": "WanVaceToVideo", "inputs": {"length": length}},
        "plain": {"class_type": "TestSampler", "inputs": {"model": ["source", 0], "latent_image": ["latent", 0]}},
        "save plain": {"class_type": "TestSave", "inputs": {"samples": ["plain", 0]}},
        "mask": {"class_type": "WanConductorTemporalMask", "inputs": mask},
        "budget": {"class_type": "WanConductorGuidanceBudget", "inputs": {"model": ["mask", 0], "budget": "fast"}},
        "guided": {"class_type": "TestSampler", "inputs": {"model": ["budget", 0], "latent_image": ["latent", 0]}},
        "save guided": {"class_type": "TestSave", "inputs": {"samples": ["guided", 0]}},
    }


@pytest.fixture
def run(monkeypatch):
    """Runs a prompt; returns the error's text, or None."""
    for node in (*NODES, Sources, Latent, Sampler, Save):
        monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, node.GET_SCHEMA().node_id, node)
    instance = SimpleNamespace(
        client_id=None, last_node_id=None, sockets_metadata={}, send_sync=lambda *_: None, send_progress_text=lambda *_: None
    )
    monkeypatch.setitem(sys.modules, "server", SimpleNamespace(PromptServer=SimpleNamespace(instance=instance)))
    monkeypatch.setattr(Sampler, "ran", [])
    executor = execution.PromptExecutor(instance, cache_args={"ram": 0.0, "ram_inactive": 0.0, "lru": 0})

    def execute(prompt):
        valid, _, outputs, errors = asyncio.run(execution.validate_prompt("one", prompt, None))
        assert valid, errors
        executor.execute(prompt, "one", {}, outputs)
        return next((data["exception_message"] for event, data in executor.status_messages if event == "execution_error"), None)

    return execute


def test_a_prompt_without_fault_runs_both_branches(run):
    assert run(plain_beside_guided("2s - end  cat")) is None and sorted(Sampler.ran) == ["guided", "plain"]


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"timeline": "2s - 1s  cat"}, ["Temporal Mask: input `timeline`", "reversed span `2s - 1s`", "^"]),
        ({"timeline": "cat 1s - 2s"}, ["Temporal Mask: input `timeline`", "write `1s - 2s  cat`"]),
        ({"timeline": "1s - 2s  zebra"}, ["Temporal Mask: input `conditioning`", '"zebra" is not in the prompt', "▁cat"]),
        ({"timeline": "3.5s - 4s  cat"}, ["Temporal Mask: input `timeline`", "`3.5s - 4s`", "49 frames", "make the video longer"]),
        ({"timeline": "1s - 4s  cat"}, ["Temporal Mask: input `timeline`", "`1s - 4s`", "49 frames", "write `1s - end`"]),
        ({"timeline": "", "timing": ["source", 2]}, ["Temporal Mask: input `timing`", "40 values", "49 frames", "`fit`"]),
    ],
    ids=str,
)
def test_bad_input_is_refused_before_anything_samples(run, changes, words):
    error = run(plain_beside_guided(**changes))
    assert error and all(word in error for word in words), error
    assert Sampler.ran == []


def test_a_reference_of_vace_makes_the_latent_a_frame_longer(run):
    """WanVaceToVideo: length 49 and a reference image give 14 latent frames, 53 frames of time."""
    prompt = plain_beside_guided("3.1s - 3.3s  cat")
    prompt["latent"]["inputs"]["reference_image"] = ["source", 0]
    assert run(prompt) is None and sorted(Sampler.ran) == ["guided", "plain"]


@pytest.mark.parametrize("left", [(), ("budget", "guided")], ids=["muted", "taken off"])
def test_a_node_that_nothing_which_runs_takes_models_from_stops_nothing(run, left):
    """The save node is muted, or the link taken off: what the timeline says is not asked for."""
    prompt = plain_beside_guided("1s - 2s  zebra")
    prompt["parked"] = {"class_type": "WanConductorTemporalMask", "inputs": {**prompt["mask"]["inputs"], "model": ["mask", 0]}}
    for gone in ("save guided", *left):
        del prompt[gone]
    assert run(prompt) is None and Sampler.ran == ["plain"]


def test_a_node_is_parked_only_where_the_prompt_says_so(run):
    prompt = plain_beside_guided("")
    assert not is_parked(prompt, "mask")
    assert is_parked({name: node for name, node in prompt.items() if name != "save guided"}, "mask")
    assert not is_parked(prompt, "of an expansion") and not is_parked(None, None)


def test_a_span_that_fits_one_of_two_videos_is_not_refused_early(run):
    """Only one of them may be asked for: the editor queues the whole graph and names what is to run."""
    prompt = plain_beside_guided("3.5s - 4s  cat")
    prompt["longer"] = {"class_type": "WanVaceToVideo", "inputs": {"length": 81}}
    prompt["of longer"] = {"class_type": "TestSampler", "inputs": {"model": ["mask", 0], "latent_image": ["longer", 0]}}
    prompt["save longer"] = {"class_type": "TestSave", "inputs": {"samples": ["of longer", 0]}}
    assert frames_of_videos(prompt, "mask") == (49, 81)
    assert run(prompt) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"latent": {"class_type": "EmptyHunyuanLatentVideo", "inputs": {"length": ["number", 0]}},
         "number": {"class_type": "PrimitiveInt", "inputs": {"value": 33}}},
        {"latent": {"class_type": "WanVaceToVideo", "inputs": {"length": 29, "reference_image": ["image", 0]}}},
        {
            "latent": {"class_type": "KSampler", "inputs": {"model": ["source", 0], "latent_image": ["first", 0]}},
            "first": {"class_type": "WanImageToVideo", "inputs": {"length": 33}},
        },
        {
            "guided": {"class_type": "SamplerCustomAdvanced", "inputs": {"guider": ["guider", 0], "latent_image": ["latent", 0]}},
            "guider": {"class_type": "CFGGuider", "inputs": {"model": ["budget", 0]}},
        },
        {"second": {"class_type": "KSampler", "inputs": {"model": ["mask", 1], "latent_image": ["guided", 0]}}},
    ],
)  # fmt: skip
def test_the_length_is_that_of_the_latents_which_the_model_samples(changes):
    assert frames_of_videos({**plain_beside_guided("", length=33), **changes}, "mask") == (33,)


@pytest.mark.parametrize(
    "changes",
    [
        {"latent": {"class_type": "LatentCut", "inputs": {"samples": ["first", 0], "amount": 4}},
         "first": {"class_type": "WanImageToVideo", "inputs": {"length": 33}}},
        {"latent": {"class_type": "LoadLatent", "inputs": {"latent": "a.latent"}}},
        {"latent": {"class_type": "SecondsToVideo", "inputs": {"length": 5}}},
        {"latent": {"class_type": "WanAnimateToVideo", "inputs": {"length": 33}}},
        {"latent": {"class_type": "WanImageToVideo", "inputs": {"length": ["sum", 0]}},
         "sum": {"class_type": "Add", "inputs": {"a": 1, "b": 2}}},
        {"latent": {"class_type": "WanImageToVideo", "inputs": {"length": ["frames", 0]}},
         "frames": {"class_type": "SecondsToFrames", "inputs": {"value": 5, "fps": 16}}},
        {"budget": {"class_type": "Other", "inputs": {}}},
        {"latent": {"class_type": "KSampler", "inputs": {"model": ["source", 0], "latent_image": ["latent", 0]}}},
        {"second": {"class_type": "KSampler", "inputs": {"model": ["mask", 1], "latent_image": ["loaded", 0]}},
         "loaded": {"class_type": "LoadLatent", "inputs": {"latent": "a.latent"}}},
    ],
)  # fmt: skip
def test_a_length_that_no_number_tells_is_left_to_the_sampler(changes):
    assert frames_of_videos({**plain_beside_guided(""), **changes}, "mask") == ()


def test_a_node_called_without_a_prompt_knows_no_length():
    assert frames_of_videos(None, None) == ()


def test_every_node_whose_length_is_believed_is_one_of_the_host():
    from comfy_extras import nodes_hunyuan, nodes_wan

    assert all(hasattr(nodes_wan, name) or hasattr(nodes_hunyuan, name) for name in FRAME_COUNTED)
