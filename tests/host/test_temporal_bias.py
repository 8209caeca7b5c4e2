"""Temporal Mask's bias mode inside real Wan models: the dense formula on the right rows and frames, and stock bits everywhere else."""

import comfy.context_windows
import comfy.samplers
import pytest
import tiny_wan
import torch
from guided_prompts import prompt, temporal_mask
from observer import heads_apart, observed
from wan_conductor.guidance.budget import GuidanceBudget
from wan_conductor.guidance.events import EventSchedule
from wan_conductor.guidance.patch import AttentionSite
from wan_conductor.guidance.report import GuidanceReport
from wan_conductor.guidance.temporal_bias import TemporalBias
from wan_conductor.guidance.timeline import parse_timeline
from wan_conductor.host.attach import attach, attached
from wan_conductor.nodes.guided_ksampler import GuidedKSampler
from wan_conductor.nodes.temporal_mask import TemporalMaskNode
from wan_conductor.nodes.timing_report import TimingReport
from wan_conductor.tests.unit.bias_reference import dense

import nodes

STEPS = 5
TEXT = "a red cat jumps"  # rows 0 to 3, then </s>
# 50 % of the 17 pixel frames of 5 latents is 8.5: soft, latent 2 (frames 5 to 8) is covered by 7/8
TIMELINE = "0% - 50%  red cat\nalways  jumps x0.5\n"
CAT, JUMPS = [3.0, 3.0, 3.0 * 0.75, -3.0, -3.0], 1.5
TEXT_SITES = (AttentionSite(0, "text"), AttentionSite(1, "text"))


def bias(timeline=TIMELINE, strength=3.0, depth=1.0, **knobs):
    return TemporalBias(temporal_mask(timeline), strength, depth, **knobs)


def bias_of_row(frames=(0, 1, 2, 3, 4)):
    return lambda j, t: CAT[frames[j]] if t in (1, 2) else JUMPS if t == 3 else 0.0


def latent(channels=16, batch=1):
    return tiny_wan.latent_like(frames=5, height=8, width=6, channels=channels, batch=batch)


def sample(model, sampler="euler", cfg=3.0, positive=None, noise=None, negative=None, steps=STEPS):
    noise = latent() if noise is None else noise
    return tiny_wan.sample(model, positive or prompt(TEXT), negative or prompt("bad", seed=2), noise, steps=steps, cfg=cfg, sampler=sampler)


def assert_led(after, plain, rows, frames=(0, 1, 2, 3, 4), offset=0):
    """The video tokens of `rows` have the formula's output; every other row and token has its own bits."""
    video = slice(offset, offset + len(frames) * 12)
    q, k, v = (heads_apart(x[rows]) for x in (plain.q, plain.k, plain.v))
    expected = dense(q[:, video], k, v, 12, bias_of_row(frames))
    torch.testing.assert_close(after.result[rows][:, video].double(), expected, rtol=1e-4, atol=1e-4)
    assert (expected - plain.result[rows][:, video].double()).abs().amax(-1).min() > 1e-3
    others = after.result.clone()
    others[rows, video] = plain.result[rows, video]
    assert torch.equal(others, plain.result)


@pytest.fixture(scope="module")
def model():
    return tiny_wan.load(layers=2)


def positive_of(kind, noise):
    (context, keys), = prompt(TEXT)
    extras = tiny_wan.image_extras(noise) if kind == "i2v" else {"reference_latents": [latent()[:, :, :1]]} if kind == "ref_conv" else {}
    return [[context, {**keys, **extras}]]


@pytest.mark.parametrize("kind", ["t2v", "i2v", "vace", "ref_conv"])
def test_every_kind_of_wan_at_cfg_1_gets_the_formula_in_every_main_block_and_its_own_bits_elsewhere(kind):
    noise = latent()
    guided, after, before = observed(tiny_wan.load(kind, layers=2), bias())
    sample(guided, cfg=1.0, noise=noise, positive=positive_of(kind, noise))
    calls = len(after) // STEPS
    led = []
    for done, plain in zip(after[:calls], before[:calls], strict=True):
        if done.site in TEXT_SITES:
            assert_led(done, plain, [0], offset=12 if kind == "ref_conv" else 0)
            led.append(done.site)
        else:
            assert torch.equal(done.result, plain.result)
    assert sorted(led, key=str) == sorted(TEXT_SITES, key=str)


@pytest.mark.parametrize("rows", [24, 23], ids=["CFG in one call", "CFG in two calls"])
def test_negative_rows_keep_their_bits_however_the_host_batches_them(model, rows):
    guided, after, before = observed(model, bias())
    sample(guided, negative=prompt("bad", rows=rows, seed=2), noise=latent(batch=2))
    led = 0
    for done, plain in zip(after[: len(after) // STEPS], before):
        positive = [row for told in done.call.prompts for row in told.rows.nonzero().flatten().tolist()]
        assert len(done.q) == (4 if rows == 24 else 2)
        if done.site in TEXT_SITES and positive:
            assert len(positive) == 2
            assert_led(done, plain, positive)
            led += 1
        else:
            assert torch.equal(done.result, plain.result)
    assert led == 2


def changed_sigmas(after, before):
    changed = [seen.call.sigma for seen, plain in zip(after, before) if not torch.equal(seen.result, plain.result)]
    return sorted(set(changed), reverse=True)


@pytest.mark.parametrize("steps, span, led", [(5, (0.0, 0.4), [0, 1]), (5, (0.4, 0.8), [2, 3]), (4, (0.0, 0.2), [0])], ids=str)
def test_it_acts_in_its_part_of_the_schedule_and_in_one_of_four_steps(model, steps, span, led):
    guided, after, before = observed(model, bias(start_percent=span[0], end_percent=span[1]))
    sample(guided, cfg=1.0, steps=steps)
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", steps).tolist()
    assert changed_sigmas(after, before) == pytest.approx([sigmas[step] for step in led])


def test_inside_context_windows_words_keep_their_time_in_the_video(model):
    guided, after, before = observed(model, bias())
    guided.model_options["context_handler"] = comfy.context_windows.IndexListContextHandler(
        context_schedule=comfy.context_windows.get_matching_context_schedule("standard_static"),
        fuse_method=comfy.context_windows.get_matching_fuse_method("pyramid"), context_length=3, context_overlap=1, dim=2,
    )
    sample(guided, cfg=1.0)
    checked = set()
    for done, plain in zip(after, before):
        if done.site in TEXT_SITES and done.call.progress < 0.1:
            assert_led(done, plain, [0], frames=done.call.frames)
            checked |= set(done.call.frames)
    assert checked == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(
    "off", [bias(strength=0.0), bias(""), bias("always cat x0"), bias(end_percent=0.0)], ids=["strength 0", "empty", "x0", "no span"]
)
def test_off_is_the_stock_sampler_bit_for_bit(model, off):
    assert torch.equal(sample(attach(model, off)), sample(model))


def test_a_video_of_one_latent_frame_is_left_alone(model):
    noise = tiny_wan.latent_like(frames=1)
    assert torch.equal(sample(attach(model, bias()), noise=noise), sample(model, noise=noise))


def guided_ksampler(model, cfg, **low):
    """The report of one run."""
    empty = {"samples": torch.zeros(1, 16, 5, 4, 4)}
    return GuidedKSampler.execute(
        model, "enable", 7, STEPS, cfg, "euler", "simple", prompt(TEXT), prompt("bad", seed=2), empty, 0, 10000, "disable",
        {"budget": "auto"}, {"switch_at": "t2v"}, **low,
    ).args[1]


def mask_node(model, mode, timeline=TIMELINE, low=None, **knobs):
    return TemporalMaskNode.execute(model, prompt(TEXT), timeline, 0.3, 10.0, mode=mode, model_low_noise=low, **knobs).args


def test_the_modes_attach_what_they_say_to_both_experts(model):
    mask = temporal_mask(TIMELINE, timing=attached(mask_node(model, "gradient")[0].model_options)[0].timing)
    expected = {"gradient": (mask,), "bias": (TemporalBias(mask),), "both": (mask, TemporalBias(mask))}
    for mode, guidance in expected.items():
        for expert in mask_node(model, mode, low=model):
            assert attached(expert.model_options) == guidance
    assert mask_node(model, "bias", bias_strength=0.0)[0] is model
    assert len(attached(mask_node(model, "both", bias_strength=0.0)[0].model_options)) == 1
    with pytest.raises(ValueError, match="Temporal Mask: `mode` = 'soft'"):
        mask_node(model, "soft")


def test_bias_mode_leads_whichever_expert_its_span_meets_and_asks_for_no_gradient(model):
    high, low = mask_node(model, "bias", low=tiny_wan.load(layers=2, seed=5), bias_end=1.0)
    report = guided_ksampler(high, 1.0, model_low_noise=low)
    assert [(patch.name, patch.model) for patch in report.patches] == [("Temporal Mask", "high noise"), ("Temporal Mask", "low noise")]
    assert sorted(step for patch in report.patches for step in patch.steps) == list(range(STEPS))
    assert report.steps == [] and report.guidance_forwards == 0 and not report.skipped
    mask = temporal_mask(TIMELINE).masks(5, 16.0).tolist()
    for patch in GuidanceReport.from_json(report.to_json()).patches:
        assert patch in report.patches and patch.measured["mask"] == mask and len(patch.measured["bias"]) == len(patch.measured["phrases"])
    assert TimingReport.execute(report).args[0].shape[1] > 450  # a row for each phrase and expert, not a message


def ksampler_advanced(model):
    empty = {"samples": torch.zeros(1, 16, 5, 8, 6)}
    first = nodes.KSamplerAdvanced().sample(
        model, "enable", 7, STEPS, 3.0, "dpmpp_2m", "simple", prompt(TEXT), prompt("bad", seed=2), empty, 0, 10000, "disable"
    )
    return first[0]["samples"]


def test_it_changes_the_video_of_a_stock_sampler_and_gradient_mode_is_what_it_was(model):
    plain, led = ksampler_advanced(model), ksampler_advanced(mask_node(model, "bias")[0])
    assert not torch.allclose(led, plain, atol=1e-3)
    assert torch.equal(ksampler_advanced(mask_node(model, "gradient")[0]), ksampler_advanced(attach(model, temporal_mask(TIMELINE))))


def guided_run(model, budget):
    return guided_ksampler(attach(model, budget), 3.0)


def test_with_both_the_latent_is_edited_by_what_it_asks_for_itself_not_by_what_the_bias_adds(model):
    """The first evaluation of the first step is that of gradient mode; the second step starts from a latent that the bias has led."""
    budget = GuidanceBudget(end_percent=0.4, iterations=1, step_size=0.05, depth=1.0)
    gradient, both = (guided_run(mask_node(model, mode)[0], budget) for mode in ("gradient", "both"))
    first, second = ([step.loop.iterations[0].objectives[0].traces["attention"] for step in run.steps] for run in (gradient, both))
    assert first[0] == second[0]
    assert first[1] != second[1]
    assert [patch.name for patch in both.patches] == ["Temporal Mask"]


@pytest.mark.parametrize("events_first", [True, False])
def test_two_nodes_and_an_event_schedule_in_a_row_all_lead_the_video_in_any_order(model, events_first):
    """Each computes the attention of the words anew: none may undo what another asked for."""
    jumps_last, cat_first = bias("50% - end  jumps"), bias("0% - 50%  cat")
    events = EventSchedule(parse_timeline("red cat:\n  jumps"), blocks="all", erode="none", end_percent=1.0)
    chain = [events, jumps_last, cat_first] if events_first else [jumps_last, cat_first, events]

    def video(*patches):
        led = model
        for patch in patches:
            led = attach(led, patch)
        return sample(led, cfg=1.0)

    together = video(*chain)
    torch.testing.assert_close(together, video(*reversed(chain)), rtol=1e-4, atol=1e-4)
    for left_out in chain:
        assert (together - video(*(patch for patch in chain if patch is not left_out))).norm() > 1e-2 * together.norm()
