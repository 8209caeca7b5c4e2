"""Event Schedule inside real Wan models: the dense formulas on the right rows, blocks and frames, and stock bits everywhere else."""

import comfy.context_windows
import comfy.samplers
import pytest
import tiny_wan
import torch
from guided_prompts import prompt, temporal_mask
from observer import Seen, heads_apart, observed
from wan_conductor.guidance.budget import GuidanceBudget
from wan_conductor.guidance.events import EventSchedule
from wan_conductor.guidance.objective import PhraseRef
from wan_conductor.guidance.patch import AttentionSite
from wan_conductor.guidance.timeline import parse_timeline
from wan_conductor.host.attach import attach
from wan_conductor.tests.unit import event_reference

import nodes

STEPS = 5
TEXT = "a cat jumps then sits"
TIMELINE = "cat:\n  0% - 50%  jumps\n  50% - end  sits\n"
# 50 % of the 17 pixel frames of 5 latents is 8.5: latent 2 (frames 5 to 8) lies in the first half by 7/8
JUMPS, SITS = [1.0, 1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0, 1.0]
CAT, JUMPS_ROW, SITS_ROW = (1,), (2,), (4,)
SUBJECTS = [(CAT, [(JUMPS_ROW, JUMPS, 1.0), (SITS_ROW, SITS, 1.0)])]


def schedule(text=TIMELINE, **knobs):
    return EventSchedule(parse_timeline(text), **knobs)


def latent(channels=16, batch=1):
    return tiny_wan.latent_like(frames=5, height=8, width=6, channels=channels, batch=batch)


def sample(model, sampler="euler", cfg=3.0, positive=None, noise=None, negative=None, **kwargs):
    noise = latent() if noise is None else noise
    negative = negative or prompt("bad", seed=2)
    return tiny_wan.sample(model, positive or prompt(TEXT), negative, noise, steps=STEPS, cfg=cfg, sampler=sampler, **kwargs)


def dense(plain: Seen, rows, subjects=SUBJECTS, grid=(5, 4, 3), offset=0, **knobs):
    """The formulas of one call: (controlled output of the video tokens of `rows`, bool "b n" inside a mask)"""
    q, k, v = (heads_apart(x[rows]) for x in (plain.q, plain.k, plain.v))
    tokens = grid[0] * grid[1] * grid[2]
    out, masks = event_reference.rearranged_attention(q[:, offset : offset + tokens], k, v, grid, subjects, **knobs)
    return out, torch.tensor(masks).any(1)


def assert_controlled(after: Seen, plain: Seen, rows, **reference):
    """`rows` have the formulas' output on the video tokens in the mask; all else has its own bits."""
    expected, inside = dense(plain, rows, **reference)
    offset = reference.get("offset", 0)
    video = slice(offset, offset + expected.shape[1])
    torch.testing.assert_close(after.result[rows][:, video].double(), expected, rtol=1e-4, atol=1e-4)
    assert 0 < inside.sum() < inside.numel()
    changed = torch.zeros(after.result.shape[:2], dtype=torch.bool)
    for row, of_row in zip(rows, inside, strict=True):
        changed[row, video] = of_row
    assert torch.equal((after.result != plain.result).any(-1), changed)


@pytest.fixture(scope="module")
def model():
    return tiny_wan.load(layers=2)


KINDS = {"t2v": {}, "i2v": {}, "i2v_2.2": {}, "5B": {"channels": 48}, "vace": {}, "ref_conv": {}}


def positive_of(kind, noise):
    """The prompt with what this kind of model is given beside it."""
    (context, keys), = prompt(TEXT)
    if kind.startswith("i2v"):
        extras = tiny_wan.image_extras(noise)
        if kind == "i2v_2.2":
            extras.pop("clip_vision_output")
        keys = {**keys, **extras}
    if kind == "ref_conv":
        keys = {**keys, "reference_latents": [latent()[:, :, :1]]}
    return [[context, keys]]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_wan_gets_the_dense_formulas_in_odd_main_blocks_and_its_own_bits_elsewhere(kind):
    noise = latent(**KINDS[kind])
    guided, after, before = observed(tiny_wan.load(kind, layers=2), schedule())
    sample(guided, cfg=1.0, noise=noise, positive=positive_of(kind, noise))
    calls_per_step = 2 * {"i2v": 3, "vace": 4}.get(kind, 2)
    assert len(after) == len(before) == STEPS * calls_per_step
    for controlled, plain in zip(after[:calls_per_step], before[:calls_per_step], strict=True):
        assert controlled.site == plain.site
        if controlled.site == AttentionSite(1, "text"):
            assert_controlled(controlled, plain, [0], offset=12 if kind == "ref_conv" else 0)
        else:
            assert torch.equal(controlled.result, plain.result)
    assert sum(seen.site == AttentionSite(1, "text") for seen in after[:calls_per_step]) == 1


@pytest.mark.parametrize("rows, calls", [(24, STEPS), (23, 2 * STEPS)], ids=["CFG in one call", "CFG in two calls"])
def test_negative_rows_keep_their_bits_however_the_host_batches_them(model, rows, calls):
    guided, after, before = observed(model, schedule())
    sample(guided, negative=prompt("bad", rows=rows, seed=2), noise=latent(batch=2))
    assert len(after) == 4 * calls
    controlled = 0
    for done, plain in zip(after[: 4 * calls // STEPS], before):
        positive = [row for told in done.call.prompts for row in told.rows.nonzero().flatten().tolist()]
        assert len(done.q) == (4 if rows == 24 else 2)
        if done.site == AttentionSite(1, "text") and positive:
            assert_controlled(done, plain, positive)
            assert len(positive) == 2
            controlled += 1
        else:
            assert torch.equal(done.result, plain.result)
    assert controlled == 1


def test_padding_that_a_longer_negative_prompt_leaves_between_is_no_word(model):
    """The call's common padding begins where the longest prompt of the batch ends; `words` counts the words of its own."""
    guided, after, before = observed(model, schedule(statistics="words"))
    sample(guided, negative=prompt("a negative prompt of many more words than the other", seed=2))
    (found,) = [place for place, seen in enumerate(after[:4]) if seen.site == AttentionSite(1, "text")]
    (told,) = after[found].call.prompts
    assert (told.pad_rows, after[found].call.pad_rows) == (slice(6, 24), slice(11, 24))
    assert_controlled(after[found], before[found], [1], words=6)


def test_every_prompt_of_a_combine_is_led_by_its_own_words(model):
    """The second tells the words elsewhere and lacks the first subject's second event; the third has none of them."""
    two = "cat:\n  0% - 50%  jumps\n  50% - end  sits\nred dog:\n  always  barks\n"
    positive = prompt(TEXT) + prompt("the red dog barks and the cat jumps", seed=3) + prompt("only rain", seed=4)
    guided, after, before = observed(model, schedule(two, blocks=(0,)), phrases=(PhraseRef("cat"), PhraseRef("rain")))
    sample(guided, cfg=1.0, positive=positive)
    second = [((6,), [((7,), JUMPS, 1.0)]), ((1, 2), [((3,), [1.0] * 5, 1.0)])]
    found = 0
    for done, plain in list(zip(after, before))[:4]:
        if done.site != AttentionSite(0, "text"):
            continue
        changed = (done.result != plain.result).any(-1)
        for told in done.call.prompts:
            (row,) = told.rows.nonzero().flatten().tolist()
            if told.text_rows == {1: (1,)}:
                assert not changed[row].any()
                continue
            expected, inside = dense(plain, [row], SUBJECTS if told.text_rows[0] == (1,) else second)
            torch.testing.assert_close(done.result[[row]].double(), expected, rtol=1e-4, atol=1e-4)
            assert torch.equal(changed[row], inside[0])
            found += 1
    assert found == 2


@pytest.mark.parametrize("blocks, expected", [("odd", {1, 3}), ("all", {0, 1, 2, 3}), ((2,), {2})], ids=str)
def test_only_the_chosen_blocks_change(blocks, expected):
    guided, after, before = observed(tiny_wan.load(layers=4), schedule(blocks=blocks))
    sample(guided, cfg=1.0)
    changed = {done.site for done, plain in zip(after, before) if not torch.equal(done.result, plain.result)}
    assert changed == {AttentionSite(block, "text") for block in expected}


def changed_sigmas(after, before):
    changed = [seen.call.sigma for seen, plain in zip(after, before) if not torch.equal(seen.result, plain.result)]
    return sorted(set(changed), reverse=True)


def sigmas_of(model):
    return comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", STEPS).tolist()


@pytest.mark.parametrize("knobs, steps", [({}, 1), ({"end_percent": 0.4}, 2), ({"start_percent": 0.4, "end_percent": 0.8}, 2)])
def test_it_acts_in_its_part_of_the_schedule(model, knobs, steps):
    guided, after, before = observed(model, schedule(**knobs))
    sample(guided, cfg=1.0)
    first = 2 if "start_percent" in knobs else 0
    assert changed_sigmas(after, before) == pytest.approx(sigmas_of(model)[first : first + steps])


def test_a_sampler_that_asks_twice_a_step_is_led_both_times_within_the_span(model):
    guided, after, before = observed(model, schedule(end_percent=0.4))
    sample(guided, "heun", cfg=1.0)
    sigmas = sigmas_of(model)
    assert changed_sigmas(after, before) == pytest.approx(sigmas[:2])
    changed = [seen for seen, plain in zip(after, before) if not torch.equal(seen.result, plain.result)]
    assert len(changed) == 3  # at sigma 0, twice at sigma 1 (end of the first step, begin of the second); the next is outside


def test_four_steps_of_a_fast_lora_have_one_controlled_step(model):
    guided, after, before = observed(model, schedule())
    tiny_wan.sample(guided, prompt(TEXT), prompt("bad", seed=2), latent(), steps=4, cfg=1.0)
    assert len(changed_sigmas(after, before)) == 1


def ksampler_advanced(model, image, start=0, end=10000, add_noise="enable", leftover="disable"):
    negative = prompt("bad", seed=2)
    return nodes.KSamplerAdvanced().sample(
        model, add_noise, 7, STEPS, 3.0, "euler", "simple", prompt(TEXT), negative, image, start, end, leftover
    )[0]


def test_slices_of_the_schedule_together_are_the_whole_and_a_late_slice_alone_is_stock(model):
    guided = attach(model, schedule(end_percent=0.4))
    empty = {"samples": torch.zeros(1, 16, 5, 8, 6)}
    whole = ksampler_advanced(guided, empty)["samples"]
    first = ksampler_advanced(guided, empty, end=1, leftover="enable")
    second = ksampler_advanced(guided, first, start=1, add_noise="disable")["samples"]
    torch.testing.assert_close(second, whole, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(whole, ksampler_advanced(model, empty)["samples"], atol=1e-3)
    late = {"start": 2, "add_noise": "disable"}
    assert torch.equal(ksampler_advanced(guided, first, **late)["samples"], ksampler_advanced(model, first, **late)["samples"])


@pytest.mark.parametrize(
    "off", [schedule(strength=0.0), schedule(""), schedule("cat:\n always jumps x0"), schedule(end_percent=0.0)],
    ids=["strength 0", "empty", "x0", "no span"],
)
def test_off_is_the_stock_sampler_bit_for_bit(model, off):
    assert torch.equal(sample(attach(model, off)), sample(model))


def test_a_video_of_one_latent_frame_is_left_alone(model):
    noise = tiny_wan.latent_like(frames=1)
    assert torch.equal(sample(attach(model, schedule()), noise=noise), sample(model, noise=noise))


def test_it_stacks_with_temporal_mask_in_either_order(model):
    budget = GuidanceBudget(end_percent=0.4, iterations=1, step_size=0.05, depth=1.0)
    mask = attach(attach(model, temporal_mask("50% - end  jumps")), budget)
    both = sample(attach(mask, schedule()))
    swapped = sample(attach(attach(attach(model, schedule()), temporal_mask("50% - end  jumps")), budget))
    assert torch.equal(both, swapped)
    for one in (mask, attach(model, schedule())):
        assert not torch.allclose(both, sample(one), atol=1e-3)


def test_inside_context_windows_events_keep_their_place_in_the_video(model):
    guided, after, before = observed(model, schedule())
    window = comfy.context_windows.get_matching_context_schedule("standard_static")
    fuse = comfy.context_windows.get_matching_fuse_method("pyramid")
    guided.model_options["context_handler"] = comfy.context_windows.IndexListContextHandler(
        context_schedule=window, fuse_method=fuse, context_length=3, context_overlap=1, dim=2
    )
    sample(guided, cfg=1.0)
    checked = set()
    for done, plain in zip(after, before):
        if done.site == AttentionSite(1, "text") and done.call.progress < 0.1:
            frames = done.call.frames
            subjects = [(CAT, [(JUMPS_ROW, [JUMPS[f] for f in frames], 1.0), (SITS_ROW, [SITS[f] for f in frames], 1.0)])]
            assert_controlled(done, plain, [0], subjects=subjects, grid=(len(frames), 4, 3))
            checked |= set(frames)
    assert checked == {0, 1, 2, 3, 4}


def test_two_subjects_claiming_one_word_of_the_sampled_prompt_are_refused(model):
    two = schedule("cat:\n  always  jumps\ndog:\n  always  then jumps\n")
    with pytest.raises(ValueError, match="Event Schedule: input `timeline`: `jumps` of `cat`.*`then jumps` of `dog`"):
        sample(attach(model, two), positive=prompt("a cat and a dog then jumps"))


@pytest.mark.parametrize("weight_format", ["bf16", "fp8", "quant_fp8"])
def test_half_precision_weights_are_led_alike_and_nothing_else_changes(weight_format):
    guided, after, before = observed(tiny_wan.load(weight_format=weight_format, layers=2), schedule())
    out = sample(guided, cfg=1.0)
    assert out.isfinite().all()
    (done, plain), *_ = [pair for pair in zip(after, before) if pair[0].site == AttentionSite(1, "text")]
    assert done.result.dtype == plain.result.dtype
    expected, inside = dense(plain, [0])
    inside = inside[0]
    assert torch.equal(done.result[0][~inside], plain.result[0][~inside])
    moved = (expected[0] - plain.result[0].double())[inside].norm()
    assert (done.result[0].double() - expected[0])[inside].norm() < 0.02 * moved
