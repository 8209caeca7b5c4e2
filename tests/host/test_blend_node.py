"""Multi Prompt Blend as a node: what it makes of its inputs, shows and refuses, in both experts and under the host's own executor."""

import asyncio
import json
import sys
from types import SimpleNamespace

import comfy.sample
import execution
import folder_paths
import pytest
import tiny_wan
import torch
from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker
from guided_prompts import prompt
from tiny_umt5 import tiny_clip
from wan_conductor.guidance.blend import MultiPromptBlend
from wan_conductor.guidance.kv_sharing import KVSharing
from wan_conductor.guidance.objective import PhraseRef
from wan_conductor.guidance.report import GuidanceReport
from wan_conductor.host.attach import attached
from wan_conductor.host.blend_prompts import WINDOW_KEY
from wan_conductor.host.tokens import check_conditioning
from wan_conductor.nodes import NODES
from wan_conductor.nodes.blend_report import BlendReport
from wan_conductor.nodes.guided_ksampler import GuidedKSampler
from wan_conductor.nodes.multi_prompt_blend import MultiPromptBlendNode

import nodes

SIZE = {"width": 32, "height": 32, "frames_per_window": 9, "overlap": 4}
KNOBS = {**SIZE, "transitions": 1, "kv_sharing": "plain"}
TWO = {"prompt0": prompt("a red cat jumps", seed=3), "prompt1": prompt("a red cat sits", seed=4)}


@pytest.fixture(scope="module")
def model():
    return tiny_wan.load(layers=2)


@pytest.fixture(scope="module")
def low():
    return tiny_wan.load(layers=2, seed=5)


def blend(model, timeline="", prompts=TWO, **knobs):
    return MultiPromptBlendNode.execute(model, timeline, prompts=prompts, **{**KNOBS, **knobs})


def attached_to(output, place=0):
    (found,) = attached(output.args[place].model_options)
    return found


def text_of(output):
    return output.ui.as_dict()["text"][0]


def test_knobs_reach_the_method_and_the_node_s_defaults_are_the_methods(model):
    assert attached_to(blend(model, kv_last_blocks=1 / 6)) == MultiPromptBlend(3, 1, (1, 1))
    defaults = {one.id: one.default for one in MultiPromptBlendNode.GET_SCHEMA().inputs if hasattr(one, "default")}
    named = {"kv_start_percent": "start_percent", "kv_end_percent": "end_percent", "threshold": "threshold", "kv_memory": "memory"}
    assert {name: defaults[name] for name in named} == {name: getattr(KVSharing(), field) for name, field in named.items()}
    assert KVSharing(last_blocks=defaults["kv_last_blocks"]).blocks(30) == KVSharing().blocks(30)
    method = MultiPromptBlend(3, 1, (1, 1))
    assert all(defaults[name] == getattr(method, name) for name in ("plan", "mode", "transitions", "retain_first_frame"))
    knobs = {
        "kv_sharing": "masked", "object": " cat ", "threshold": 0.5, "kv_start_percent": 0.1, "kv_end_percent": 0.6, "kv_last_blocks": 0.5,
        "kv_memory": "cpu", "plan": "faithful", "transitions": 2, "retain_first_frame": False,
    }
    sharing = KVSharing(0.1, 0.6, 0.5, PhraseRef("cat"), 0.5, "cpu")
    assert attached_to(blend(model, **knobs)) == MultiPromptBlend(3, 1, (1, 1), 2, sharing, "faithful", "blend", False)
    for off in ({"kv_sharing": "off"}, {"kv_end_percent": 0.04}, {"kv_last_blocks": 0.0}):
        assert attached_to(blend(model, **off)).sharing is None


def test_it_says_and_offers_the_latent_that_its_prompts_need(model):
    output = blend(model)
    latent, length = output.args[3]["samples"], output.args[4]
    assert latent.shape == (1, 16, 7, 4, 4) and not latent.any() and length == 25
    assert text_of(output).splitlines() == [
        "latent: 7 latent frames (25 frames, 1.56s)", "3 windows, 3 passes a step", "prompt 1: 0s - 0.81s", "prompt 2: 0.81s - 1.56s",
    ]
    assert "4 passes in a step that shares, 3 in others" in text_of(blend(model, plan="faithful"))
    swap = blend(model, mode="word swap")
    assert swap.args[3]["samples"].shape == (2, 16, 3, 4, 4) and swap.args[4] == 9
    assert text_of(swap) == "latent: 2 videos of 3 latent frames (9 frames, 0.56s), one for each prompt"
    five = blend(tiny_wan.load("5B", layers=1))
    assert five.args[3]["samples"].shape == (1, 48, 7, 2, 2) and "1.04s" in text_of(five)


def test_the_conditioning_has_an_entry_for_each_window_whose_words_can_be_found(model):
    positive = blend(model).args[2]
    first, last = (rows for ((rows, _),) in TWO.values())
    assert [entry[1][WINDOW_KEY] for entry in positive] == [0, 1, 2]
    for (rows, _), expected in zip(positive, (first, (first + last) / 2, last)):
        assert torch.allclose(rows, expected)
    jumps, sits = check_conditioning(positive, ["jumps", "sits"], "test")
    assert jumps.count("3") == 2 and sits.count("3") == 1  # half way the earlier prompt's words


def test_prompts_in_the_timeline_are_encoded_and_last_as_long_as_they_say(model):
    clip = tiny_clip()
    output = blend(model, "0s - 1s  a red cat jumps\n1s - 4s  a red cat sleeps", prompts=None, clip=clip)
    found = attached_to(output)
    assert found.repeats == (1, 5) and len(output.args[2]) == 7
    assert torch.equal(output.args[2][0][0], clip.encode_from_tokens_scheduled(clip.tokenize("a red cat jumps"))[0][0])
    assert "prompt 2: 0.81s - 3.56s" in text_of(output)
    listed = blend(model, "a cat | a dog | a car", prompts={}, clip=clip)
    assert attached_to(listed).repeats == (1, 1, 1) and "read as:\na cat\na dog\na car" in text_of(listed)
    single = blend(model, "a cat", prompts=None, clip=clip)
    assert single.args[4] == 9 and len(single.args[2]) == 1


def test_both_experts_carry_one_blend_and_without_a_second_the_output_says_what_to_connect(model, low):
    pair = blend(model, model_low_noise=low)
    assert attached_to(pair, 0) is attached_to(pair, 1)
    alone = blend(model)
    assert isinstance(alone.args[1], ExecutionBlocker) and "model_low_noise" in alone.args[1].message


@pytest.mark.parametrize(
    "change, words",
    [
        ({"prompts": None}, "0 prompts are connected and 0 written"),
        ({"timeline": "a cat"}, "2 prompts are connected and 1 written"),
        ({"prompts": None, "timeline": "a cat"}, "clip"),
        ({"prompts": None, "timeline": "cat:\n sits"}, "timeline.*header"),
        ({"frames_per_window": 10}, "frames_per_window.*10.*4n"),
        ({"overlap": 6}, "overlap.*6.*4"),
        ({"overlap": 12}, "overlap.*12.*9"),
        ({"kv_sharing": "masked"}, "object.*empty"),
        ({"kv_sharing": "masked", "object": "dog"}, "object.*dog"),
        ({"kv_sharing": "masked", "object": "cat", "prompts": {"prompt0": tiny_wan.conditioning()}}, "prompt 1.*Conductor Text Encode"),
        ({"kv_start_percent": 0.6, "kv_end_percent": 0.7, "kv_last_blocks": 2.0}, "kv_last_blocks"),
        ({"kv_start_percent": 0.6, "kv_end_percent": 0.5}, "kv_end_percent. = 0.5.*kv_start_percent. = 0.6"),
        ({"prompts": {"prompt0": TWO["prompt0"] + TWO["prompt1"]}}, "prompt 1 = 2 conditionings"),
        ({"prompts": {"prompt0": TWO["prompt0"]}, "mode": "word swap"}, "two prompts"),
        ({"prompts": {**TWO, "prompt2": [[torch.zeros(1, 77, 768), {}]]}}, "prompt 3 = text of width 768.*4096.*text encoder"),
        ({"prompts": {**TWO, "prompt2": [[TWO["prompt1"][0][0].expand(2, -1, -1), {}]]}}, "prompt 3 = a batch of 2 rows.*prompt 1 has 1"),
        ({"prompts": {"prompt0": [[None, {}]]}}, "prompt 1 = .*no text"),
    ],
)
def test_clear_errors_name_the_node_and_the_input(model, change, words):
    with pytest.raises(ValueError, match=f"(?s)Multi Prompt Blend: .*{words}"):
        blend(model, **change)


def test_a_model_that_is_no_wan_and_one_that_is_blended_already_are_refused(model):
    with pytest.raises(ValueError, match="Multi Prompt Blend.*not a Wan"):
        blend(object())
    with pytest.raises(ValueError, match="Multi Prompt Blend: input `model` = .*blended already"):
        blend(blend(model).args[0])


def test_guided_ksampler_runs_both_experts_and_reports(model, low):
    high, low_noise, positive, latent, _ = blend(model, model_low_noise=low).args
    out, report = GuidedKSampler.execute(
        high, "enable", 7, 6, 3.0, "euler", "simple", positive, prompt("bad", seed=2), latent, 0, 10000, "disable", {"budget": "auto"},
        {"switch_at": "t2v"}, model_low_noise=low_noise,
    ).args
    assert out["samples"].shape == latent["samples"].shape and out["samples"].isfinite().all()
    of_high, of_low = report.patches
    assert (of_high.name, of_high.model, of_low.model) == ("Multi Prompt Blend", "high noise", "low noise")
    assert [*of_high.steps, *of_low.steps] == list(range(6))
    measured = [of_high.measured, of_low.measured]
    assert sum(one["passes"] for one in measured) == 3 * 6 and {one["windows"] for one in measured} == {3}
    assert 1 <= sum(one["shared_steps"] for one in measured) <= 4
    assert report.denoise_forwards == 2 * 3 * 6
    assert GuidanceReport.from_json(report.to_json()).patches == report.patches
    drawn = BlendReport.execute(report)
    assert len(drawn.args[0]) == 2 and [one["model"] for one in json.loads(drawn.args[1])] == ["high noise", "low noise"]
    noise = comfy.sample.prepare_noise(latent["samples"], 7)
    stock = tiny_wan.sample(high, positive, prompt("bad", seed=2), noise, steps=6, cfg=3.0)
    one, _ = GuidedKSampler.execute(
        high, "enable", 7, 6, 3.0, "euler", "simple", positive, prompt("bad", seed=2), latent, 0, 10000, "disable", {"budget": "auto"},
        {"switch_at": "t2v"},
    ).args
    assert torch.allclose(one["samples"], stock)


def test_blend_report_saves_beside_its_picture_and_says_why_there_is_none(model, monkeypatch, tmp_path):
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    nothing = GuidanceReport(16.0, 3)
    assert BlendReport.execute(nothing).args[0].shape == (1, 450, 700, 3) and json.loads(BlendReport.execute(nothing).args[1]) == []
    swap = blend(model, mode="word swap")
    _, report = GuidedKSampler.execute(
        swap.args[0], "enable", 7, 2, 3.0, "euler", "simple", swap.args[2], prompt("bad", seed=2), swap.args[3], 0, 10000, "disable",
        {"budget": "auto"}, {"switch_at": "t2v"},
    ).args
    (patch,) = json.loads(BlendReport.execute(report, "wan/blend").args[1])
    assert patch["measured"]["windows"] == 2 and patch["measured"]["unlike"] == [[], []]
    assert sorted(path.suffix for path in (tmp_path / "wan").iterdir()) == [".json", ".png"]


def test_each_video_of_a_word_swap_keeps_its_own_leftover_noise_through_both_experts(model, low):
    """With a noise mask the second expert is given noise that holds what the first one left in each video."""
    pair = blend(model, mode="word swap", kv_sharing="off", model_low_noise=low).args
    samples = tiny_wan.latent_like(3, 4, 4, batch=2)

    def sampled(**mask):
        return GuidedKSampler.execute(
            pair[0], "enable", 7, 4, 3.0, "euler", "simple", pair[2], prompt("bad", seed=2), {"samples": samples, **mask}, 0, 10000,
            "disable", {"budget": "auto"}, {"switch_at": "t2v"}, model_low_noise=pair[1],
        ).args[0]["samples"]

    plain = sampled()
    assert (sampled(noise_mask=torch.ones(2, 1, 3, 4, 4)) - plain).norm() < 1e-4 * plain.norm()


@pytest.mark.parametrize("unblended, name", [(0, "`model` ="), (1, "`model_low_noise` =")])
def test_an_expert_that_was_left_without_the_blend_is_refused_by_guided_ksampler(model, low, unblended, name):
    output = blend(model, model_low_noise=low)
    pair = [*output.args[:2]]
    pair[unblended] = (model, low)[unblended]
    with pytest.raises(ValueError, match=f"Multi Prompt Blend: input {name} a model that is not blended"):
        GuidedKSampler.execute(
            pair[0], "enable", 7, 4, 3.0, "euler", "simple", output.args[2], prompt("bad", seed=2), output.args[3], 0, 10000, "disable",
            {"budget": "auto"}, {"switch_at": "t2v"}, model_low_noise=pair[1],
        )


def test_a_prompt_that_others_drown_everywhere_is_said_so(monkeypatch):
    from wan_conductor.nodes import multi_prompt_blend

    monkeypatch.setattr(multi_prompt_blend, "prompt_weights", lambda blend: torch.tensor([[1.0, 1, 0], [0, 0, 0], [0, 0, 1]]))
    text = multi_prompt_blend.describe(MultiPromptBlend(3, 2, (1, 1, 1), 0), 16.0)
    assert text.splitlines()[2:] == [
        "prompt 1: 0s - 0.31s", "prompt 2: never the strongest; lower `overlap`, or give it more time", "prompt 3: 0.31s - 0.56s",
    ]


class Given(io.ComfyNode):
    """A model and two prompts, as loaders would make them."""

    model = None

    @classmethod
    def define_schema(cls):
        outputs = [io.Model.Output(), io.Conditioning.Output(), io.Conditioning.Output()]
        return io.Schema(node_id="TestGiven", inputs=[], outputs=outputs)

    @classmethod
    def execute(cls):
        return io.NodeOutput(Given.model, *TWO.values())


class Sink(io.ComfyNode):
    got: list = []

    @classmethod
    def define_schema(cls):
        inputs = [io.Latent.Input("latent"), io.Int.Input("length", force_input=True)]
        return io.Schema(node_id="TestSink", inputs=inputs, outputs=[], is_output_node=True)

    @classmethod
    def execute(cls, latent, length):
        Sink.got.append((latent["samples"], length))
        return io.NodeOutput()


def test_an_api_prompt_that_connects_prompts_runs_to_a_sampled_latent(model, monkeypatch):
    """The growing list, the outputs and a stock KSampler, through the host's validation and executor."""
    for node in (*NODES, Given, Sink):
        monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, node.GET_SCHEMA().node_id, node)
    told = {}
    instance = SimpleNamespace(
        client_id=None, last_node_id=None, sockets_metadata={}, last_prompt_id=None, send_sync=lambda *_: None,
        send_progress_text=lambda text, node_id: told.__setitem__(node_id, text),
    )
    monkeypatch.setitem(sys.modules, "server", SimpleNamespace(PromptServer=SimpleNamespace(instance=instance)))
    monkeypatch.setattr(Given, "model", model)
    monkeypatch.setattr(Sink, "got", [])
    graph = {
        "given": {"class_type": "TestGiven", "inputs": {}},
        "blend": {
            "class_type": "WanConductorMultiPromptBlend",
            "inputs": {
                "model": ["given", 0], "prompts.prompt0": ["given", 1], "prompts.prompt1": ["given", 2], "timeline": "", "object": "",
                "mode": "blend", "plan": "fast", "threshold": 0.3, "kv_start_percent": 0.04, "kv_end_percent": 0.5,
                "kv_last_blocks": 0.167, "kv_memory": "gpu", "retain_first_frame": True, "fps": 0.0, **KNOBS,
            },
        },
        "sample": {
            "class_type": "KSampler",
            "inputs": {
                "model": ["blend", 0], "positive": ["blend", 2], "negative": ["given", 1], "latent_image": ["blend", 3], "seed": 1,
                "steps": 2, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0,
            },
        },
        "sink": {"class_type": "TestSink", "inputs": {"latent": ["sample", 0], "length": ["blend", 4]}},
    }
    executor = execution.PromptExecutor(instance, cache_args={"ram": 0.0, "ram_inactive": 0.0, "lru": 0})
    valid = asyncio.run(execution.validate_prompt("one", graph, None))
    assert valid[0], valid
    executor.execute(graph, "one", {}, ["sink"])
    ((samples, length),) = Sink.got
    assert samples.shape == (1, 16, 7, 4, 4) and samples.any() and length == 25
    assert told["blend"].startswith("latent: 7 latent frames")
    for extra in ("prompts.prompt0", "prompts.prompt1"):
        del graph["blend"]["inputs"][extra]  # no prompt at all: the node's own sentence, not the host's
    assert asyncio.run(execution.validate_prompt("two", graph, None))[0]
