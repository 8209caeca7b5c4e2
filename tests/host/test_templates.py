"""Drop-in proof: our nodes on the MODEL links of the host's own Wan templates, with tiny random weights under the files' real names."""

import importlib.util
import json
import os
from dataclasses import dataclass
from pathlib import Path

import comfyui_version
import pytest
import safetensors.torch
import splice
import tiny_files
import torch
from small_host import copy_small
from wan_conductor.development.client import ComfyUIClient
from wan_conductor.development.hosts import HOSTS, NEWEST
from wan_conductor.development.server import ComfyUIServer
from wan_conductor.tests.editor_graph import to_prompt
from wan_conductor.tests.server import RunningServer

pytestmark = pytest.mark.skipif(
    comfyui_version.__version__ != NEWEST, reason=f"the templates that are installed are made for ComfyUI {NEWEST}"
)

SMALL = {"width": tiny_files.SIDE, "height": tiny_files.SIDE, "length": tiny_files.FRAMES, "steps": 4}


@dataclass(frozen=True)
class Template:
    """`subject` and `event`: words of its prompt. `turbo`: with the 4-step LoRAs that it has behind a switch."""

    name: str
    subject: str
    event: str
    turbo: bool = False

    def __str__(self) -> str:
        return self.name + ("-turbo" if self.turbo else "")


TEMPLATES = [
    Template("text_to_video_wan", "fox", "moving quickly"),
    Template("image_to_video_wan", "girl", "turning around"),
    Template("wan2.1_fun_control", "women", "wierd faces"),
    Template("video_wan2_2_14B_t2v", "woman", "gentle smile"),
    Template("video_wan2_2_14B_t2v", "woman", "gentle smile", turbo=True),
    Template("video_wan2_2_14B_i2v", "dragon warrior", "stands still"),
    Template("video_wan2_2_14B_i2v", "dragon warrior", "stands still", turbo=True),
    Template("video_wan2_2_14B_flf2v", "小猫", "抬头"),
    Template("video_wan2_2_5B_ti2v", "street musician", "playing guitar"),
    Template("video_wan_vace_14B_t2v", "Nissan Skyline", "heavy motion blur"),
    Template("video_wan2_1_infinitetalk", "characters", "zooms in"),
]


def template_file(name: str) -> Path:
    spec = importlib.util.find_spec("comfyui_workflow_templates_json")
    assert spec and spec.submodule_search_locations, "the host's requirements bring comfyui_workflow_templates_json"
    return Path(spec.submodule_search_locations[0]) / "templates" / f"{name}.json"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    comfyui = Path(os.environ.get("COMFYUI_PATH") or HOSTS / NEWEST / "ComfyUI")
    folder = tmp_path_factory.mktemp("small")
    with ComfyUIServer(copy_small(comfyui, folder), folder / "base") as running:
        yield RunningServer(running.url, ComfyUIClient(running.url), running.base, running.log)


@pytest.fixture(scope="module")
def schema(server):
    return server.client.get("/object_info")


def small(prompt, turbo):
    """`prompt` for a small video in few steps; of two experts each takes half of them."""
    for node in prompt.values():
        inputs = node["inputs"]
        inputs.update({key: value for key, value in SMALL.items() if key in inputs})
        if node["class_type"] == "KSamplerAdvanced":
            half = SMALL["steps"] // 2
            inputs.update({"end_at_step": half} if inputs["add_noise"] == "enable" else {"start_at_step": half, "end_at_step": 10000})
        elif node["class_type"] == "PrimitiveBoolean" and turbo:
            inputs["value"] = True
    return prompt


@pytest.fixture(scope="module", params=TEMPLATES, ids=str)
def template(request, server, schema):
    """(the template, its prompt, the latents of its samplers)"""
    graph = json.loads(template_file(request.param.name).read_text(encoding="utf-8"))
    prompt = small(to_prompt(graph, schema), request.param.turbo)
    tiny_files.put_files(prompt, server.base)
    (plain,) = latents(server, schema, plain=prompt).values()
    return request.param, prompt, plain


def latents(server, schema, **prompts):
    """label -> the latents of that prompt's samplers"""
    saved = {}
    for label, prompt in prompts.items():
        prompts[label], saved[label] = splice.latents_only(splice.without_outputs(prompt, schema))
    outputs = server.client.run(splice.side_by_side(**prompts))["outputs"]
    files = {label: [outputs[f"{label} {name}"]["latents"][0] for name in names] for label, names in saved.items()}
    return {label: [safetensors.torch.load(server.client.fetch(file))["latent_tensor"] for file in some] for label, some in files.items()}


def same(ones, others):
    return len(ones) == len(others) and all(torch.equal(one, other) for one, other in zip(ones, others))


def test_template_runs_to_its_own_video(server, template):
    _, prompt, _ = template
    files = [file for output in server.client.run(prompt)["outputs"].values() for file in output.get("images", [])]
    videos = [file for file in files if file["filename"].endswith(".mp4")]
    assert videos and all(b"ftyp" in server.client.fetch(video)[:16] for video in videos)


# What asks for nothing, and what asks for something
NODES = {
    "WanConductorTemporalMask": ({"timeline": "50% - end  {event} x0"}, {"timeline": "50% - end  {event}"}),
    "WanConductorEventSchedule": (
        {"timeline": "{subject}:\n {event}", "strength": 0.0}, {"timeline": "{subject}:\n {event}", "end_percent": 1.0}
    ),
    "WanConductorSpectralHomeostasis": ({"tau": 0.0}, {"tau": 0.2}),
    "WanConductorCompositionGuide": (
        {"timeline": "always  {subject} | left of | {event} x0"}, {"timeline": "always  {subject} | left of | {event}"}
    ),
}


def spliced(told, prompt, schema, kind, knobs, **options):
    words = {"timeline": knobs["timeline"].format(**vars(told))} if "timeline" in knobs else {}
    return splice.spliced(prompt, schema, kind, {**knobs, **words}, **options)


@pytest.mark.parametrize("kind", NODES)
def test_a_node_that_asks_for_nothing_changes_no_bit_and_one_that_asks_does(server, schema, template, kind):
    told, prompt, plain = template
    off, on = (spliced(told, prompt, schema, kind, knobs) for knobs in NODES[kind])
    found = latents(server, schema, off=off, on=on)
    assert same(found["off"], plain)
    assert not same(found["on"], plain) and all(latent.isfinite().all() for latent in found["on"])


def test_one_window_changes_no_bit_and_two_blend_two_prompts(server, schema, template):
    told, prompt, plain = template
    kind = "WanConductorMultiPromptBlend"
    off = spliced(told, prompt, schema, kind, {"frames_per_window": tiny_files.FRAMES, "overlap": 4})
    on = spliced(told, prompt, schema, kind, {"frames_per_window": 5, "overlap": 4, "transitions": 0}, second="a red cat jumps")
    found = latents(server, schema, off=off, on=on)
    assert same(found["off"], plain)
    assert not same(found["on"], plain) and all(latent.isfinite().all() for latent in found["on"])


def test_budget_switch_and_sampler_alone_change_no_bit(server, schema, template):
    told, prompt, plain = template
    budget = splice.spliced(prompt, schema, "WanConductorGuidanceBudget", {})
    guided = spliced(told, prompt, schema, *[(kind, on) for kind, (_, on) in NODES.items()][0])
    switched = splice.spliced(guided, schema, "WanConductorGuidanceSwitch", {"guidance": False})
    found = latents(server, schema, budget=budget, switched=switched, sampler=splice.with_guided_ksampler(prompt, schema))
    assert {label: same(some, plain) for label, some in found.items()} == {"budget": True, "switched": True, "sampler": True}
