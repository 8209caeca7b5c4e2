"""Drop-in proof: our nodes on the MODEL links of the host's own Wan templates, with tiny random weights under the files' real names."""


import comfyui_version
import pytest
import safetensors.torch
import splice
import tiny_files
import torch
from wan_conductor.development.client import PromptFailed
from wan_conductor.development.hosts import NEWEST
from wan_conductor.tests.editor_graph import to_prompt
from wan_conductor.tests.templates import TEMPLATES, template_graph

pytestmark = pytest.mark.skipif(
    comfyui_version.__version__ != NEWEST, reason=f"the templates that are installed are made for ComfyUI {NEWEST}"
)

FRAMES = 13  # four latent frames: of three, Temporal Mask compares two, which agree with any mask half of the time


@pytest.fixture(scope="module")
def schema(small_server):
    return small_server.client.get("/object_info")


@pytest.fixture(scope="module", params=TEMPLATES, ids=str)
def template(request, small_server, schema):
    """(the template, its prompt, the latents of its samplers)"""
    prompt = splice.small(to_prompt(template_graph(request.param.name), schema), FRAMES)
    for node in prompt.values():
        if node["class_type"] == "PrimitiveBoolean":
            node["inputs"]["value"] = request.param.turbo
    tiny_files.put_files(prompt, small_server.base)
    (plain,) = latents(small_server, schema, plain=prompt).values()
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


def test_template_runs_to_its_own_video(small_server, template):
    _, prompt, _ = template
    files = [file for output in small_server.client.run(prompt)["outputs"].values() for file in output.get("images", [])]
    videos = [file for file in files if file["filename"].endswith(".mp4")]
    assert videos and all(b"ftyp" in small_server.client.fetch(video)[:16] for video in videos)


# What asks for nothing, and what asks for something
NODES = {
    "WanConductorTemporalMask": ({"timeline": "50% - end  {event} x0"}, {"timeline": "50% - end  {event}", "tau_corr": 1.0}),
    "WanConductorEventSchedule": (
        {"timeline": "{subject}:\n {event}", "strength": 0.0}, {"timeline": "{subject}:\n {event}", "end_percent": 1.0}
    ),
    "WanConductorSpectralHomeostasis": ({"tau": 0.0}, {"tau": 0.2}),
    "WanConductorCompositionGuide": (
        {"timeline": "always  {subject} | left of | {event} x0"}, {"timeline": "always  {subject} | left of | {event}"}
    ),
}


GRADIENT = ("WanConductorTemporalMask", "WanConductorCompositionGuide")


def spliced(told, prompt, schema, kind, knobs, **options):
    words = {"timeline": knobs["timeline"].format(**vars(told))} if "timeline" in knobs else {}
    return splice.spliced(prompt, schema, kind, {**knobs, **words}, **options)


def test_all_nodes_in_a_row_that_ask_for_nothing_change_no_bit(small_server, schema, template):
    """In one run: any of them that did something would show."""
    told, prompt, plain = template
    off = splice.spliced(prompt, schema, "WanConductorGuidanceBudget", {})
    for kind, (asks_nothing, _) in NODES.items():
        off = spliced(told, off, schema, kind, asks_nothing)
    assert same(latents(small_server, schema, off=off)["off"], plain)


@pytest.mark.parametrize("kind", NODES)
def test_a_node_that_asks_changes_the_video(small_server, schema, template, kind):
    told, prompt, plain = template
    on = spliced(told, prompt, schema, kind, NODES[kind][1])
    if told.patched and kind in GRADIENT:
        with pytest.raises(PromptFailed, match="no gradient can pass"):
            small_server.client.run(on)
        if kind != "WanConductorTemporalMask":
            return
        on = spliced(told, prompt, schema, kind, {**NODES[kind][1], "mode": "bias"})
    found = latents(small_server, schema, on=on)["on"]
    assert not same(found, plain) and all(latent.isfinite().all() for latent in found)


def test_one_window_changes_no_bit_and_two_blend_two_prompts(small_server, schema, template):
    told, prompt, plain = template
    kind = "WanConductorMultiPromptBlend"
    off = spliced(told, prompt, schema, kind, {"frames_per_window": FRAMES, "overlap": 4})
    two_windows = {"frames_per_window": FRAMES - 4, "overlap": FRAMES - 5, "transitions": 0}
    on = spliced(told, prompt, schema, kind, two_windows, second="a red cat jumps")
    found = latents(small_server, schema, off=off, **({} if told.patched else {"on": on}))
    assert same(found["off"], plain)
    assert told.patched or not same(found["on"], plain) and all(latent.isfinite().all() for latent in found["on"])


def test_switch_and_sampler_change_no_bit(small_server, schema, template):
    told, prompt, plain = template
    guided = spliced(told, prompt, schema, *[(kind, on) for kind, (_, on) in NODES.items()][0])
    switched = splice.spliced(guided, schema, "WanConductorGuidanceSwitch", {"guidance": False})
    prompts = {"switched": switched}
    if all(prompt[name]["class_type"].startswith("KSampler") for name in splice.samplers(prompt)):
        prompts["sampler"] = splice.with_guided_ksampler(prompt, schema)
    found = latents(small_server, schema, **prompts)
    assert {label: same(some, plain) for label, some in found.items()} == dict.fromkeys(prompts, True)
