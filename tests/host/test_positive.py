"""Whose prompt: positive entries and rows, for every guider and every order of a batched call."""

import uuid

import comfy.samplers
import comfy_extras.nodes_custom_sampler as custom
import comfy_extras.nodes_model_advanced as model_advanced
import pytest
import tiny_wan
import torch
from comfy_extras.nodes_perpneg import PerpNegGuider
from guided_prompts import prompt, temporal_mask
from wan_conductor.guidance.budget import GuidanceBudget
from wan_conductor.guidance.report import GuidanceReport
from wan_conductor.host.attach import attach
from wan_conductor.host.positive import entries_at, positive_entries, positive_rows
from wan_conductor.host.run import LINK_KEY, SamplerLink

import nodes

A, B, C = (uuid.uuid4() for _ in range(3))
NOISE = {"frames": 5, "height": 4, "width": 4}


@pytest.mark.parametrize(
    "chunks, rows, expected",
    [
        ([B, A], 2, [False, True]),
        ([A, B], 2, [True, False]),
        ([A], 1, [True]),
        ([B], 1, [False]),
        ([B, C, A], 6, [False, False, True, True, True, True]),
    ],
)
def test_positive_rows_go_by_uuid_in_any_order_alone_or_batched(chunks, rows, expected):
    assert positive_rows({"uuids": chunks, "cond_or_uncond": [0] * len(chunks)}, {A, C}, rows).tolist() == expected


@pytest.mark.parametrize("cfg", [3.0, 1.0])
def test_positive_rows_of_the_hosts_own_calls_are_those_of_the_positive_prompt(cfg):
    """Known by their text: the positive prompt's context differs from the negative's."""
    model, found = tiny_wan.load(layers=1), []
    positive, negative = prompt(), prompt("bad", seed=2)

    def watch(executor, x, t, context, *args, **kwargs):
        options = kwargs.get("transformer_options") or args[-1]
        of_text = [torch.allclose(row, expected, atol=1e-3) for row in context]
        found.append((positive_rows(options, uuids, x.shape[0]).tolist(), of_text))
        return executor(x, t, context, *args, **kwargs)

    def remember(executor, *args, **kwargs):
        uuids.update(entry["uuid"] for entry in positive_entries(executor.class_obj))
        return executor(*args, **kwargs)

    uuids: set = set()
    expected = positive[0][0][0]
    model.add_wrapper_with_key("diffusion_model", "watch", watch)
    model.add_wrapper_with_key("outer_sample", "remember", remember)
    tiny_wan.sample(model, positive, negative, tiny_wan.latent_like(batch=2, **NOISE), steps=1, cfg=cfg)
    (by_uuid, by_text), = found
    assert by_uuid == by_text and sum(by_uuid) == 2


def test_an_entry_counts_only_within_its_timestep_range():
    whole, early, late = {"n": 0}, {"timestep_start": 1.0, "timestep_end": 0.9}, {"timestep_start": 0.9, "timestep_end": 0.0}
    assert entries_at([whole, early, late], 0.95) == [whole, early]
    assert entries_at([whole, early, late], 0.5) == [whole, late]


def test_a_guider_without_positive_is_refused_by_name():
    class Odd:
        conds = {"first": [1]}

    with pytest.raises(ValueError, match=r"Odd.*positive.*first"):
        positive_entries(Odd())


def guided_model():
    model = attach(attach(tiny_wan.load(layers=1), temporal_mask()), GuidanceBudget(end_percent=0.5, iterations=2, step_size=0.05))
    report = GuidanceReport(fps=16.0, latent_frames=5)
    model.model_options["transformer_options"][LINK_KEY] = SamplerLink(report, progress=lambda done: None)
    return model, report


def guiders(model):
    positive, negative = prompt(), prompt("bad", seed=2)
    return {
        "basic": custom.BasicGuider.execute(model, positive),
        "cfg": custom.CFGGuider.execute(model, positive, negative, 3.0),
        "dual": custom.DualCFGGuider.execute(model, positive, prompt("other", seed=3), negative, 3.0, 2.0, "regular"),
        "perp": PerpNegGuider.execute(model, positive, negative, prompt("empty", seed=4), 3.0, 1.0),
    }


@pytest.mark.parametrize("name", ["basic", "cfg", "dual", "perp"])
def test_every_guider_of_the_host_that_names_its_positive_prompt_is_guided_by_it(name):
    model, report = guided_model()
    guider = guiders(model)[name].args[0]
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", 4)
    latent = {"samples": torch.zeros(1, 16, 5, 4, 4)}
    custom.SamplerCustomAdvanced.execute(custom.Noise_RandomNoise(1), guider, comfy.samplers.sampler_object("euler"), sigmas, latent)
    loops = [step.loop.iterations for step in report.steps]
    assert [step.step for step in report.steps] == [0, 1]
    first = loops[0][0].objectives[0].traces["correlation"][0][0]
    last = loops[-1][-1].objectives[0].traces["correlation"][0][0]
    assert last > first


def test_a_step_whose_prompt_is_out_of_its_timestep_range_is_skipped_with_a_reason():
    model, report = guided_model()
    cat = nodes.ConditioningSetTimestepRange().set_range(prompt(), 0.0, 0.2)[0]
    rest = nodes.ConditioningSetTimestepRange().set_range(prompt("a dog sleeps", seed=3), 0.2, 1.0)[0]
    tiny_wan.sample(model, nodes.ConditioningCombine().combine(cat, rest)[0], prompt("bad", seed=2), tiny_wan.latent_like(**NOISE), steps=4)
    assert [step.step for step in report.steps] == [0]
    assert [(skipped.step, "cat" in skipped.reason) for skipped in report.skipped] == [(1, True)]


def test_a_shift_set_after_guidance_moves_the_guided_sigmas_along():
    model, report = guided_model()
    shifted = model_advanced.ModelSamplingSD3().patch(model, shift=3.0)[0]
    tiny_wan.sample(shifted, prompt(), prompt("bad", seed=2), tiny_wan.latent_like(**NOISE), steps=4)
    assert [step.step for step in report.steps] == [0, 1]
    assert report.steps[1].sigma == pytest.approx(3 * 0.75 / (1 + 2 * 0.75), abs=1e-3)


def test_the_tokens_survive_set_mask_and_a_combine():
    model, report = guided_model()
    masked = nodes.ConditioningSetMask().append(prompt(), torch.ones(1, 4, 4), "default", 0.8)[0]
    both = nodes.ConditioningCombine().combine(masked, prompt("a dog sleeps", seed=3))[0]
    tiny_wan.sample(model, both, prompt("bad", seed=2), tiny_wan.latent_like(**NOISE), steps=4)
    assert [step.step for step in report.steps] == [0, 1]
