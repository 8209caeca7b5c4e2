"""Temporal Mask, Guidance Budget and Guided KSampler as nodes: what they refuse, pass through and return."""

import comfy.cli_args
import comfy.samplers
import comfy.utils
import pytest
import tiny_wan
import torch
from comfy_execution.graph_utils import ExecutionBlocker
from guided_prompts import prompt
from wan_conductor.guidance.budget import PRESETS
from wan_conductor.host.attach import attached
from wan_conductor.host.stages import Stage, switch_step, two_experts
from wan_conductor.nodes.guidance_budget import GuidanceBudgetNode
from wan_conductor.nodes.guidance_switch import GuidanceSwitch
from wan_conductor.nodes.guided_ksampler import GuidedKSampler
from wan_conductor.nodes.temporal_mask import TIMELINE, TemporalMaskNode

import nodes

STEPS = 6
CUSTOM = {
    "start_percent": 0.0, "end_percent": 0.3, "iterations": 2, "step_size": 0.05, "growth": 1.0, "depth": 1.0,
    "memory_mode": "balanced", "patience": 0
}


@pytest.fixture(scope="module")
def high():
    return tiny_wan.load(layers=1)


@pytest.fixture(scope="module")
def low():
    return tiny_wan.load(layers=1, seed=5)


def latent(**extra):
    return {"samples": torch.zeros(1, 16, 5, 4, 4), **extra}


def mask(model, timeline="50% - end  cat", conditioning=None, **kwargs):
    return TemporalMaskNode.execute(model, conditioning or prompt(), timeline, 0.3, 10.0, **kwargs)


def guided_ksampler(model, image=None, sampler="euler", cfg=3.0, add_noise="enable", start=0, end=10000, leftover="disable", budget=None,
                    switch_at="t2v", **kwargs):
    return GuidedKSampler.execute(
        model, add_noise, 7, STEPS, cfg, sampler, "simple", prompt(), prompt("bad", seed=2), image or latent(), start, end, leftover,
        budget or {"budget": "auto"}, {"switch_at": switch_at}, **kwargs,
    ).args


def ksampler_advanced(model, image=None, sampler="euler", cfg=3.0, add_noise="enable", start=0, end=10000, leftover="disable"):
    return nodes.KSamplerAdvanced().sample(
        model, add_noise, 7, STEPS, cfg, sampler, "simple", prompt(), prompt("bad", seed=2), image or latent(), start, end, leftover
    )[0]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"sampler": "dpmpp_2m", "cfg": 1.0},
        {"sampler": "uni_pc", "leftover": "enable", "end": 4},
        {"sampler": "dpmpp_sde", "start": 2, "add_noise": "disable"},
        {"end": 3},
        {"start": 6},
        {"image": latent(batch_index=[3])},
        {"image": latent(noise_mask=torch.cat([torch.zeros(1, 2, 4, 4), torch.ones(1, 3, 4, 4)], dim=1))},
        {"image": {"samples": torch.zeros(1, 4, 5, 4, 4), "downscale_ratio_spacial": 8}},
    ],
    ids=str,
)
def test_without_guidance_guided_ksampler_is_ksampler_advanced_bit_for_bit(high, settings):
    ours, stock = guided_ksampler(high, **settings)[0], ksampler_advanced(high, **settings)
    assert torch.equal(ours.pop("samples"), stock.pop("samples"))
    assert ours.keys() == stock.keys()


@pytest.mark.parametrize("switch_at, sigma", [("t2v", 0.875), ("i2v", 0.9)])
def test_two_experts_without_guidance_are_two_ksampler_advanced_bit_for_bit(high, low, switch_at, sigma):
    sigmas = comfy.samplers.KSampler(high, STEPS, "cpu", "dpmpp_2m", "simple").sigmas
    switch = next(i for i, s in enumerate(sigmas) if s < sigma)
    assert 0 < switch < STEPS
    first = ksampler_advanced(high, sampler="dpmpp_2m", end=switch, leftover="enable")
    second = ksampler_advanced(low, first, sampler="dpmpp_2m", cfg=1.5, start=switch, add_noise="disable")
    ours = guided_ksampler(high, sampler="dpmpp_2m", model_low_noise=low, cfg_low_noise=1.5, switch_at=switch_at)[0]
    assert torch.equal(ours["samples"], second["samples"])


def test_the_low_noise_expert_stays_unguided_where_its_slice_lies_outside_the_span(high, low):
    guided_high, guided_low = mask(high, model_low_noise=low).args
    out, report = guided_ksampler(guided_high, model_low_noise=guided_low, budget={"budget": "custom", **CUSTOM})
    assert report.models == ["high noise"] and {step.model for step in report.steps} == {"high noise"}
    assert report.denoise_forwards == 2 * STEPS and report.seconds > report.guidance_seconds > 0
    sigmas = comfy.samplers.KSampler(high, STEPS, "cpu", "euler", "simple").sigmas
    switch = switch_step(sigmas, 0.875)
    first = guided_ksampler(guided_high, end=switch, leftover="enable", budget={"budget": "custom", **CUSTOM})[0]
    assert torch.equal(out["samples"], ksampler_advanced(low, first, start=switch, add_noise="disable")["samples"])


def test_the_low_noise_expert_is_guided_where_its_slice_meets_the_span(high, low):
    guided_high, guided_low = mask(high, model_low_noise=low).args
    late = {"budget": "custom", **CUSTOM, "end_percent": 1.0, "iterations": 1}
    _, report = guided_ksampler(guided_high, model_low_noise=guided_low, budget=late)
    assert [step.step for step in report.steps] == list(range(STEPS))
    assert report.models == ["high noise", "low noise"] and report.total_steps == STEPS


@pytest.mark.parametrize(
    "start, end, switch, expected",
    [
        (0, 10000, 2, [("high noise", 0, 2, True, False), ("low noise", 2, 10000, False, True)]),
        (0, 10000, 0, [("low noise", 0, 10000, True, True)]),
        (0, 2, 4, [("high noise", 0, 2, True, True)]),
        (3, 5, 2, [("low noise", 3, 5, True, True)]),
        (5, 5, 2, [("model", 5, 5, True, True)]),
    ],
)
def test_experts_share_the_steps_and_noise_is_added_and_removed_once(start, end, switch, expected):
    stages = two_experts(Stage("high", "model", 3.0, start, end, True, True), "low", 2.0, switch)
    assert [(s.name, s.start_step, s.last_step, s.add_noise, s.force_full_denoise) for s in stages] == expected
    assert all(s.model == s.name.split()[0] for s in stages if s.name != "model")


def test_progress_covers_both_experts_and_inner_iterations_in_one_bar(high, low, monkeypatch):
    shown = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, preview, node_id=None: shown.append((value, total)))
    monkeypatch.setattr(comfy.utils, "PROGRESS_THROTTLE_MIN_INTERVAL", 0.0)
    guided_high, guided_low = mask(high, model_low_noise=low).args
    guided_ksampler(guided_high, model_low_noise=guided_low, budget={"budget": "custom", **CUSTOM})
    values = [value for value, _ in shown]
    assert {total for _, total in shown} == {STEPS}
    assert values == sorted(values) and values[-1] == STEPS
    assert sum(value != int(value) for value in values) >= 2


def test_every_step_of_both_experts_previews_its_own_picture(high, low, monkeypatch):
    shown = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, preview, node_id=None: shown.append((value, preview)))
    monkeypatch.setattr(comfy.utils, "PROGRESS_THROTTLE_MIN_INTERVAL", 0.0)
    monkeypatch.setattr(comfy.cli_args.args, "preview_method", comfy.cli_args.LatentPreviewMethod.Latent2RGB)
    guided_high, guided_low = mask(high, model_low_noise=low).args
    guided_ksampler(guided_high, model_low_noise=guided_low, budget={"budget": "custom", **CUSTOM})
    pictures = {value: preview[1].tobytes() for value, preview in shown if preview is not None}
    assert list(pictures) == list(range(1, STEPS + 1))
    assert len(set(pictures.values())) == STEPS


def test_the_budget_widget_wins_over_a_guidance_budget_and_auto_takes_it(high):
    model = GuidanceBudgetNode.execute(mask(high).args[0], {"budget": "custom", **CUSTOM}).args[0]
    assert guided_ksampler(model, end=1)[1].preset == "custom"
    assert guided_ksampler(model, end=1, budget={"budget": "fast"})[1].preset == "fast"
    assert guided_ksampler(mask(high).args[0], end=1)[1].preset == "fast"


def test_the_report_tells_the_share_of_blocks_that_was_run_not_the_one_asked_for():
    deep = {"budget": "custom", **CUSTOM, "depth": 0.5}
    assert guided_ksampler(mask(tiny_wan.load(layers=3)).args[0], end=1, budget=deep)[1].steps[0].depth == pytest.approx(2 / 3)


def test_the_report_counts_seconds_as_the_timeline_does(high):
    assert guided_ksampler(mask(high).args[0], end=1)[1].fps == 16.0
    assert guided_ksampler(mask(high, fps=8.0).args[0], end=1)[1].fps == 8.0


def test_a_later_guidance_budget_replaces_an_earlier_one(high):
    model = GuidanceBudgetNode.execute(high, {"budget": "paper"}).args[0]
    model = GuidanceBudgetNode.execute(model, {"budget": "fast"}).args[0]
    assert attached(model.model_options) == (PRESETS["fast"],)


def test_without_a_second_model_the_second_output_says_what_to_connect(high):
    for output in (mask(high).args[1], mask(high, "").args[1], GuidanceBudgetNode.execute(high, {"budget": "fast"}).args[1]):
        assert isinstance(output, ExecutionBlocker) and "model_low_noise" in output.message


@pytest.mark.parametrize("timeline", ["", "# nothing yet", "50% - end  cat x0"])
def test_a_timeline_that_asks_for_nothing_returns_the_very_model(high, timeline):
    assert mask(high, timeline).args[0] is high


def test_temporal_mask_shows_what_it_found(high):
    text = mask(high, "50% - end  cat x1.5\nalways  jumps").ui.as_dict()["text"][0]
    assert "cat" in text and "50% - end x1.5" in text and "jumps" in text and "always" in text and "16 fps" in text


@pytest.mark.parametrize("kind, warned", [("i2v", True), ("i2v_2.2", True), ("t2v", False), ("5B", False)])
def test_a_timeline_that_hides_what_a_start_image_may_show_is_warned_of(kind, warned):
    text = mask(tiny_wan.load(kind, layers=1), "50% - end  cat\n0s - 1s  jumps").ui.as_dict()["text"][0]
    assert ("a start image must not show cat:" in text) == warned


def test_the_default_timeline_parses(high):
    objective = attached(mask(high, TIMELINE, prompt("a cat watches and jumps")).args[0].model_options)[0]
    assert [phrase.phrase for phrase in objective.phrases] == ["watches", "jumps", "cat"]


@pytest.mark.parametrize(
    "change, words",
    [
        ({"timeline": "5s - 2s  cat"}, "line 1"),
        ({"timeline": "always cat\n1q - 2s  jumps"}, "line 2"),
        ({"timeline": "50% - end  elephant"}, "elephant"),
        ({"conditioning": tiny_wan.conditioning()}, "Conductor Text Encode"),
        ({"occurrence": "third"}, "third"),
        ({"occurrence": "2"}, "cat"),
    ],
    ids=str,
)
def test_bad_input_is_refused_by_the_node_itself(high, change, words):
    with pytest.raises(ValueError, match=words):
        mask(high, **{"timeline": "50% - end  cat", **change})


@pytest.mark.parametrize("node", ["mask", "budget"])
def test_a_model_that_is_not_wan_is_refused_by_name(node):
    class Flux:
        model = None

    with pytest.raises(ValueError, match="Wan"):
        mask(Flux()) if node == "mask" else GuidanceBudgetNode.execute(Flux(), {"budget": "fast"})


def test_an_impossible_custom_budget_names_field_and_value(high):
    with pytest.raises(ValueError, match=r"end_percent.*0\.1"):
        GuidanceBudgetNode.execute(high, {"budget": "custom", **CUSTOM, "start_percent": 0.5, "end_percent": 0.1})


def inputs_of(inputs):
    for one in inputs:
        yield one
        for option in getattr(one, "options", None) or []:
            yield from inputs_of(getattr(option, "inputs", []))


@pytest.mark.parametrize("node", [TemporalMaskNode, GuidanceBudgetNode, GuidedKSampler])
def test_every_input_and_output_has_a_tooltip_and_the_host_accepts_the_schema(node):
    schema = node.GET_SCHEMA()
    assert schema.node_id.startswith("WanConductor") and schema.category == "Wan Conductor" and schema.search_aliases
    assert all(one.tooltip for one in [*inputs_of(schema.inputs), *schema.outputs])
    info = node.GET_NODE_INFO_V1()
    assert info["name"] == schema.node_id and "model_low_noise" in info["input"]["optional"]


def test_guided_ksampler_has_every_input_of_ksampler_advanced():
    theirs = nodes.KSamplerAdvanced.INPUT_TYPES()["required"]
    ours = {one.id for one in GuidedKSampler.GET_SCHEMA().inputs}
    assert set(theirs) <= ours


def test_guidance_switch_off_gives_the_video_without_our_nodes_and_on_the_guided_one(high):
    budget = GuidanceBudgetNode.execute(high, {"budget": "custom", **CUSTOM}).args[0]
    guided = mask(budget).args[0]
    off, on = (GuidanceSwitch.execute(guided, guidance).args[0] for guidance in (False, True))
    assert attached(off.model_options) == () and len(attached(guided.model_options)) == 2
    plain, switched_off, switched_on, edited = (ksampler_advanced(model)["samples"] for model in (high, off, on, guided))
    assert torch.equal(switched_off, plain)
    assert torch.equal(switched_on, edited) and not torch.equal(edited, plain)


def test_guidance_switch_serves_both_experts_and_blocks_an_output_that_has_none(high, low):
    pair = mask(high, model_low_noise=low).args
    assert [attached(model.model_options) for model in GuidanceSwitch.execute(pair[0], False, pair[1]).args] == [(), ()]
    assert GuidanceSwitch.execute(*pair[:1], True, pair[1]).args == pair
    assert isinstance(GuidanceSwitch.execute(high, False).args[1], ExecutionBlocker)
