"""Multi Prompt Blend in set-ups of other nodes: guiders, split schedules, VACE, the 5B's start image, several kinds of guidance."""

from dataclasses import replace

import comfy.sample
import pytest
import tiny_wan
import torch
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_custom_sampler import (
    BasicGuider,
    BasicScheduler,
    CFGGuider,
    DisableNoise,
    DualCFGGuider,
    KSamplerSelect,
    RandomNoise,
    SamplerCustomAdvanced,
    SplitSigmas,
)
from guided_prompts import prompt, temporal_mask
from wan_conductor.guidance.blend import MultiPromptBlend
from wan_conductor.guidance.events import EventSchedule
from wan_conductor.guidance.kv_sharing import KVSharing
from wan_conductor.guidance.objective import PhraseRef
from wan_conductor.guidance.timeline import parse_timeline
from wan_conductor.host.attach import attach
from wan_conductor.host.blend_prompts import window_conditioning

MASKED = MultiPromptBlend(3, 1, (1, 1), sharing=KVSharing(0.0, 1.0, phrase=PhraseRef("cat")))  # three windows: 0-2, 2-4, 4-6
NOISE = tiny_wan.latent_like(MASKED.latent_frames, 4, 4)


def positive(**extra):
    prompts = [prompt("a red cat jumps", seed=3), prompt("a red cat sits", seed=4)]
    return [[rows, {**keys, **extra}] for rows, keys in window_conditioning(prompts, MASKED)]


def negative(**extra):
    ((rows, keys),) = prompt("bad", seed=2)
    return [[rows, {**keys, **extra}]]


@pytest.fixture(scope="module")
def model():
    return tiny_wan.load(layers=2)


def custom(guider, sigmas, noise, latent):
    return SamplerCustomAdvanced.execute(noise, guider, KSamplerSelect.execute("euler").args[0], sigmas, latent).args[0]


def test_sampler_custom_advanced_runs_under_every_guider_and_in_two_parts(model):
    blended, latent = attach(model, MASKED), {"samples": torch.zeros_like(NOISE)}
    sigmas, noise = BasicScheduler.execute(blended, "simple", 4, 1.0).args[0], RandomNoise.execute(5).args[0]
    guider = CFGGuider.execute(blended, positive(), negative(), 3.0).args[0]
    whole = custom(guider, sigmas, noise, latent)["samples"]
    high, low = SplitSigmas.execute(sigmas, 2).args
    rest = custom(guider, low, DisableNoise.execute().args[0], custom(guider, high, noise, latent))["samples"]
    assert torch.allclose(rest, whole, atol=1e-5 * whole.abs().max())
    alone = custom(BasicGuider.execute(blended, positive()).args[0], sigmas, noise, latent)["samples"]
    stock = tiny_wan.sample(blended, positive(), negative(), comfy.sample.prepare_noise(latent["samples"], 5), steps=4, cfg=1.0)
    assert torch.allclose(alone, stock, atol=1e-5 * stock.abs().max())
    dual = DualCFGGuider.execute(blended, positive(), negative(), negative(), 3.0, 2.0, "regular").args[0]
    assert custom(dual, sigmas, noise, latent)["samples"].isfinite().all()


def test_control_frames_of_vace_are_cut_to_the_window():
    model, seen = tiny_wan.load("vace", layers=2), []

    def note(executor, *args, **kwargs):
        seen.append(kwargs["vace_context"][0, 0, :32].clone())
        return executor(*args, **kwargs)

    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "note", note)
    frames = tiny_wan.latent_like(MASKED.latent_frames, 4, 4, channels=32)
    control = {"vace_frames": [frames], "vace_mask": [torch.ones(1, 64, *frames.shape[2:])], "vace_strength": [1.0]}
    tiny_wan.sample(attach(model, replace(MASKED, sharing=None)), positive(**control), negative(**control), NOISE, steps=1, cfg=3.0)
    expected = torch.cat([model.model.process_latent_in(part) for part in frames.split(16, dim=1)], dim=1)[0]
    assert [found.shape[1] for found in seen] == [3, 3, 3]
    assert all(torch.allclose(found, expected[:, start : start + 3], atol=1e-5) for found, start in zip(seen, (0, 2, 4)))


def test_the_start_image_in_the_5b_s_latent_stays():
    model = tiny_wan.load("5B", layers=1)
    noise = tiny_wan.latent_like(MASKED.latent_frames, 4, 4, channels=48)
    image, mask = torch.randn(noise.shape, generator=torch.Generator().manual_seed(1)), torch.ones(1, 1, *noise.shape[2:])
    mask[:, :, :1] = 0
    out = comfy.sample.sample(
        attach(model, MASKED), noise, 2, 3.0, "euler", "simple", positive(), negative(), image, noise_mask=mask, seed=1, disable_pbar=True
    )
    assert torch.allclose(out[:, :, 0], image[:, :, 0], atol=1e-5) and not torch.allclose(out[:, :, 1:], image[:, :, 1:], atol=0.1)


def test_a_temporal_mask_and_an_event_schedule_act_together_in_windows(model):
    events = EventSchedule(parse_timeline("cat:\n 0% - 50% jumps\n 50% - end sits"), end_percent=1.0, blocks="all")
    noise = tiny_wan.latent_like(MASKED.latent_frames, 4, 4, batch=2)

    def run(*guidance):
        guided = model
        for one in guidance:
            guided = attach(guided, one)
        return tiny_wan.sample(attach(guided, MASKED), positive(), negative(), noise, steps=4, cfg=3.0)

    mask = temporal_mask("50% - end  jumps")
    plain, of_mask, of_events, of_both = run(), run(mask), run(events), run(mask, events)
    for one, other in ((plain, of_mask), (plain, of_events), (of_mask, of_both), (of_events, of_both)):
        assert (one - other).norm() > 0.02 * plain.norm()


@pytest.mark.parametrize("kind", ["i2v", "i2v_2.2"])
def test_a_batch_from_one_start_image_is_its_videos_one_by_one(kind):
    model = tiny_wan.load(kind, layers=1)
    noise = tiny_wan.latent_like(MASKED.latent_frames, 4, 4, batch=2)
    image = tiny_wan.image_extras(noise[:1])
    both, first = (
        tiny_wan.sample(attach(model, MASKED), positive(**image), negative(**image), part, steps=2, cfg=3.0) for part in (noise, noise[:1])
    )
    assert torch.allclose(both[:1], first, atol=1e-5 * first.abs().max()) and not torch.allclose(both[1:], first, atol=0.1)
