"""Multi Prompt Blend in the host's sampling, against windows that are run one by one with the stock sampler and blended by hand."""

from dataclasses import replace

import comfy.context_windows
import comfy.model_management
import comfy.nested_tensor
import comfy.samplers
import pytest
import tiny_wan
import torch
from comfy.patcher_extension import WrappersMP
from guided_prompts import prompt, temporal_mask
from wan_conductor.guidance.blend import MultiPromptBlend
from wan_conductor.guidance.composition import Composition
from wan_conductor.guidance.events import EventSchedule
from wan_conductor.guidance.homeostasis import SpectralHomeostasis
from wan_conductor.guidance.kv_sharing import KVSharing
from wan_conductor.guidance.objective import PhraseRef
from wan_conductor.guidance.timeline import parse_timeline
from wan_conductor.host import blend_windows
from wan_conductor.host.attach import attach
from wan_conductor.host.blend_prompts import window_conditioning

STEPS, CFG = 4, 3.0
LAYERS = 3
TEXTS = ("a red cat jumps", "a red cat sits")
ALL = {"start_percent": 0.0, "end_percent": 1.0}
NO_SHARING = MultiPromptBlend(3, 1, (1, 1), sharing=None)  # three windows: 0-2, 2-4, 4-6
SHARING = replace(NO_SHARING, sharing=KVSharing(**ALL))
SWAP = replace(SHARING, mode="word swap")


@pytest.fixture(scope="module")
def model():
    return tiny_wan.load(layers=LAYERS)


@pytest.fixture
def runs(monkeypatch):
    """Every RunningBlend that is made."""
    made = []
    real = blend_windows.RunningBlend

    def watch(*args):
        made.append(real(*args))
        return made[-1]

    monkeypatch.setattr(blend_windows, "RunningBlend", watch)
    return made


def prompts(texts=TEXTS, rows=(24, 24)):
    return [prompt(text, rows=count, seed=3 + number) for number, (text, count) in enumerate(zip(texts, rows))]


def negative(rows=24):
    return prompt("bad", rows=rows, seed=2)


def noise_of(blend, batch=1):
    return tiny_wan.latent_like(blend.latent_frames, 4, 4, batch=len(blend.prompts) if blend.mode == "word swap" else batch)


def sample(model, blend, noise=None, conditionings=None, steps=STEPS, cfg=CFG, positive=None, bad=None, **kwargs):
    positive = positive or window_conditioning(conditionings or prompts(), blend)
    noise = noise_of(blend) if noise is None else noise
    return tiny_wan.sample(attach(model, blend), positive, bad or negative(), noise, steps=steps, cfg=cfg, **kwargs)


def calls_of(model, blend, **kwargs):
    """The model calls of a run, outermost first: transformer_options copies with what the model was shown."""
    seen = []
    watched = model.clone()

    def note(executor, x, timestep, context, clip_fea, time_dim_concat, transformer_options, **more):
        seen.append({**transformer_options, "x": x.clone(), "context": context.clone()})
        return executor(x, timestep, context, clip_fea, time_dim_concat, transformer_options, **more)

    watched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "note", note)
    sample(watched, blend, **kwargs)
    return seen


def test_one_window_is_the_stock_sampler_bit_for_bit(model):
    single = MultiPromptBlend(3, 1, (1,))
    noise = noise_of(single)
    for sampler in ("euler", "uni_pc", "dpmpp_2m_sde"):
        stock = tiny_wan.sample(model, prompts()[0], negative(), noise, steps=STEPS, cfg=CFG, sampler=sampler)
        assert torch.equal(sample(model, single, noise, prompts()[:1], sampler=sampler), stock)


def blended_by_hand(model, blend, noise, steps=STEPS, cfg=CFG):
    """Euler over the whole video; at every step each window's x0 with guidance from a stock one-step run, then blended: after CFG.

    From x at sigma the stock run to 0 in one Euler step ends at x0.
    """
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", steps)
    model_sampling = model.get_model_object("model_sampling")
    positive = window_conditioning(prompts(), blend)
    x = model_sampling.noise_scaling(sigmas[0], noise, torch.zeros_like(noise))
    for sigma, after in zip(sigmas[:-1], sigmas[1:]):
        total, weight = torch.zeros_like(x), torch.zeros(x.shape[2])
        for number, entry in enumerate(positive):
            frames = slice(number * 2, number * 2 + 3)
            guider = comfy.samplers.CFGGuider(model)
            guider.set_conds([entry], negative())
            guider.set_cfg(cfg)
            part = x[:, :, frames]
            x0 = guider.sample(
                (part - 0.0) / sigma, torch.zeros_like(part), comfy.samplers.sampler_object("euler"), torch.stack([sigma, sigma * 0]),
                disable_pbar=True,
            )
            x0 = model.model.process_latent_in(x0)
            w = torch.tensor([1.0, 3.0, 1.0]) / 3
            total[:, :, frames] += w[:, None, None] * x0
            weight[frames] += w
        x0 = total / weight[:, None, None]
        x = x + (x - x0) / sigma * (after - sigma)
    return model.model.process_latent_out(x)


@pytest.mark.parametrize("plan", ["fast", "faithful"])
def test_without_sharing_it_is_windows_run_one_by_one_and_blended_after_guidance(model, plan):
    blend = replace(NO_SHARING, plan=plan)
    noise = noise_of(blend)
    expected = blended_by_hand(model, blend, noise)
    assert torch.allclose(sample(model, blend, noise), expected, atol=2e-4 * expected.abs().max())


def test_every_window_has_its_prompt_and_its_frames_and_knows_them(model):
    calls = calls_of(model, NO_SHARING, steps=1)
    assert [call["context_window"].index_list for call in calls] == [[0, 1, 2], [2, 3, 4], [4, 5, 6]]
    first, last = (rows for ((rows, _),) in prompts())
    for call, rows in zip(calls, (first, (first + last) / 2, last)):
        (place,) = [chunk for chunk, side in enumerate(call["cond_or_uncond"]) if side == 0]
        encoded = model.model.diffusion_model.text_embedding(rows)
        assert torch.allclose(call["context"][place : place + 1], rows) or torch.allclose(call["context"][place : place + 1], encoded)
    x = torch.cat([calls[0]["x"][:1], calls[1]["x"][:1, :, 1:], calls[2]["x"][:1, :, 1:]], dim=2)
    for call, frames in zip(calls, (slice(0, 3), slice(2, 5), slice(4, 7))):
        assert torch.equal(call["x"][:1], x[:, :, frames])


def keys_of(model, blend, noise):
    """Per model call: self-attention's k of block 0, "n (h d)", of the positive row."""
    found = []
    watched = model.clone()

    def override(func, q, k, v, *args, **kwargs):
        options = kwargs["transformer_options"]
        if options["block_index"] == 0 and q.shape[1] == k.shape[1]:
            found.append(k[options["cond_or_uncond"].index(0)].clone())
        return func(q, k, v, *args, **kwargs)

    watched.model_options["transformer_options"]["optimized_attention_override"] = override
    sample(watched, blend, noise, steps=1)
    return found


def test_positions_begin_at_zero_in_every_window(model):
    """The same picture in every frame gives the same keys, past RoPE, in every window."""
    noise = noise_of(NO_SHARING)[:, :, :1].expand(-1, -1, NO_SHARING.latent_frames, -1, -1).contiguous()
    first, *others = keys_of(model, NO_SHARING, noise)
    assert len(others) == 2 and all(torch.equal(first, other) for other in others)
    tokens = first.reshape(3, 4, -1)
    assert not torch.allclose(tokens[0], tokens[1])  # RoPE is in them


def test_the_report_tells_how_unlike_neighbours_predict_their_overlap(model, runs):
    """In one step of one side the windows' videos, sampled one by one, are their predictions."""
    noise = noise_of(NO_SHARING)
    sample(model, NO_SHARING, noise, steps=1, cfg=1.0)
    alone = []
    for number, entry in enumerate(window_conditioning(prompts(), NO_SHARING)):
        part = noise[:, :, 2 * number : 2 * number + 3]
        alone.append(model.model.process_latent_in(tiny_wan.sample(model, [entry], negative(), part, steps=1, cfg=1.0)))
    expected = [float((a[:, :, 2] - b[:, :, 0]).norm() / ((a[:, :, 2].norm() ** 2 + b[:, :, 0].norm() ** 2) / 2) ** 0.5) for a, b in
                zip(alone, alone[1:])]  # fmt: skip
    assert runs[0].report.measured["unlike"] == [pytest.approx(expected, rel=1e-3)] and min(expected) > 0.1


@pytest.mark.parametrize("plan", ["fast", "faithful"])
@pytest.mark.parametrize("sampler", ["euler", "heun", "dpm_2"])
def test_every_step_of_the_report_has_all_seams_whatever_the_sampler_and_the_guidance(model, runs, sampler, plan):
    sample(attach(model, temporal_mask("50% - end  jumps")), replace(SHARING, plan=plan), sampler=sampler)
    measured = runs[0].report.measured
    assert [len(step) for step in measured["unlike"]] == [2] * STEPS and all(0 < seam < 2 for step in measured["unlike"] for seam in step)
    assert measured["windows"] == 3 and measured["words"] == list(TEXTS)


@pytest.mark.parametrize("sampler", ["heun", "uni_pc", "dpmpp_2m", "dpm_2", "euler_ancestral"])
def test_every_sampler_runs_and_leaves_nothing_behind(model, runs, sampler):
    out = sample(model, SHARING, sampler=sampler)
    assert out.isfinite().all() and out.shape[2] == SHARING.latent_frames
    assert not len(runs[0].store) and runs[0]._pass is None


def attention_by_window(model, blend, noise, cfg=CFG, bad=None):
    """(evaluation, block, side) -> q, k, v as the kernel gets them, "n (h d)", of the first step."""
    found, count = {}, []
    watched = model.clone()

    def override(func, q, k, v, *args, **kwargs):
        options = kwargs["transformer_options"]
        if q.shape[1] == 3 * 4:
            block = options["block_index"]
            for chunk, side in enumerate(options["cond_or_uncond"]):
                window = options["context_window"].index_list[0] // 2
                place = (window, block, side, sum(key[:3] == (window, block, side) for key in found))
                if k.shape[1] == q.shape[1]:
                    found[place] = tuple(x[chunk].clone() for x in (q, k, v))
        return func(q, k, v, *args, **kwargs)

    watched.model_options["transformer_options"]["optimized_attention_override"] = override
    watched.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "count", lambda executor, *args: (count.append(1), executor(*args))[1])
    sample(watched, blend, noise, steps=1, cfg=cfg, bad=bad)
    return found, len(count)


@pytest.mark.parametrize("bad_rows", [24, 30])  # of another length the host runs the two sides in calls of their own
@pytest.mark.parametrize("memory", ["gpu", "cpu"])
def test_the_last_block_reads_the_window_before_and_each_side_its_own(model, memory, bad_rows):
    blend = replace(SHARING, sharing=KVSharing(**ALL, memory=memory))
    noise = noise_of(blend)
    shared, calls = attention_by_window(model, blend, noise, bad=negative(bad_rows))
    plain, _ = attention_by_window(model, NO_SHARING, noise, bad=negative(bad_rows))
    assert calls == 3
    last = LAYERS - 1
    for side in (0, 1):
        for window in range(3):
            source = max(window - 1, 0)
            q, k, v = shared[window, last, side, 0]
            # up to the last block nothing is shared, so that the plain run has its queries and keys
            assert torch.equal(q, plain[window, last, side, 0][0])
            assert torch.equal(k, plain[source, last, side, 0][1]) and torch.equal(v, plain[source, last, side, 0][2])
            for block in range(last):
                assert all(map(torch.equal, shared[window, block, side, 0], plain[window, block, side, 0]))
    assert not torch.equal(shared[1, last, 0, 0][1], shared[1, last, 1, 0][1])


def test_the_faithful_plan_reads_a_source_that_reads_no_one(model):
    blend = replace(SHARING, plan="faithful", sharing=KVSharing(**ALL, last_blocks=0.67))
    noise = noise_of(blend)
    shared, calls = attention_by_window(model, blend, noise)
    plain, _ = attention_by_window(model, NO_SHARING, noise)
    assert calls == 4
    for side in (0, 1):
        for block in range(LAYERS):
            assert all(map(torch.equal, shared[1, block, side, 1], plain[1, block, side, 0]))  # its second run, being read
            if block >= 1:
                assert torch.equal(shared[2, block, side, 0][1], plain[1, block, side, 0][1])
    fast, _ = attention_by_window(model, replace(blend, plan="fast"), noise)
    assert not torch.equal(fast[2, 2, 0, 0][1], plain[1, 2, 0, 0][1])  # in the fast plan the source has read one itself


def test_the_faithful_plan_takes_the_mean_of_both_runs(model):
    noise = noise_of(SHARING)
    fast, faithful, plain = (
        sample(model, blend, noise, steps=1) for blend in (SHARING, replace(SHARING, plan="faithful"), NO_SHARING)
    )
    inside = slice(3, 4)  # the frame that the middle window has to itself
    assert torch.allclose(faithful[:, :, inside], (fast + plain)[:, :, inside] / 2, atol=1e-4 * plain.abs().max())
    assert not torch.allclose(fast[:, :, inside], plain[:, :, inside], atol=1e-3 * plain.abs().max())
    assert torch.equal(faithful[:, :, :2], fast[:, :, :2])


def test_sharing_among_equal_windows_changes_nothing(model):
    """One prompt, one picture in every frame: source and target are equal."""
    long = replace(SHARING, repeats=(3,))
    noise = noise_of(long)[:, :, :1].expand(-1, -1, long.latent_frames, -1, -1).contiguous()
    runs = [sample(model, one, noise, prompts()[:1], steps=1) for one in (long, replace(long, sharing=None))]
    assert torch.allclose(*runs, atol=1e-6 * runs[0].abs().max())


def test_sharing_acts_in_its_span_only(model):
    def reads(span):
        shared = replace(SHARING, sharing=KVSharing(start_percent=span[0], end_percent=span[1]))
        return sample(model, shared, noise)

    noise = noise_of(SHARING)
    plain = sample(model, NO_SHARING, noise)
    assert torch.equal(reads((0.5, 0.5)), plain)
    assert not torch.allclose(reads((0.0, 0.5)), plain)
    assert torch.equal(sample(model, replace(SHARING, sharing=KVSharing(last_blocks=0)), noise), plain)
    off = sample(model, SHARING, noise, last_step=4, start_step=2)
    late = replace(SHARING, sharing=KVSharing(0.0, 0.2))
    assert torch.equal(sample(model, late, noise, start_step=2), sample(model, NO_SHARING, noise, start_step=2))
    assert off.isfinite().all()


MASKED = replace(SHARING, sharing=KVSharing(**ALL, phrase=PhraseRef("cat")))


@pytest.mark.parametrize("bad_rows", [24, 30])
def test_masked_sharing_reads_part_of_the_source_and_finds_its_mask_however_the_host_batches(model, runs, bad_rows):
    noise = noise_of(MASKED)
    masked, plain, none = (sample(model, blend, noise, bad=negative(bad_rows)) for blend in (MASKED, SHARING, NO_SHARING))
    assert not torch.allclose(masked, plain) and not torch.allclose(masked, none)
    assert runs[0].phrase_rows == [(2,)] * 3
    assert not len(runs[0].store)
    parts = {0: [], 1: []}
    watched = model.clone()

    def override(func, q, k, v, *args, **kwargs):
        options = kwargs["transformer_options"]
        if options["block_index"] == LAYERS - 1 and k.shape[1] <= 12:
            assert len(options["cond_or_uncond"]) == 1
            parts[options["cond_or_uncond"][0]].append((options["context_window"].index_list[0], q.shape[1], k.shape[1]))
        return func(q, k, v, *args, **kwargs)

    watched.model_options["transformer_options"]["optimized_attention_override"] = override
    seen, unseen = (sample(one, MASKED, noise, steps=1, bad=negative(bad_rows)) for one in (watched, model))
    assert torch.equal(seen, unseen)
    assert parts[0] == parts[1]  # one mask for both sides
    assert parts[0][0] == (0, 12, 12)
    for start in (2, 4):  # the object reads the object, the rest the rest: two calls that share out queries and keys
        (_, *inside), (_, *outside) = [part for part in parts[0] if part[0] == start]
        assert [a + b for a, b in zip(inside, outside)] == [12, 12] and 0 not in (*inside, *outside)


@pytest.mark.parametrize("blend", [SHARING, MASKED])
def test_videos_of_a_batch_share_with_themselves_alone(model, blend):
    noise = noise_of(blend, batch=2)
    both = sample(model, blend, noise)
    for video in range(2):
        alone = sample(model, blend, noise[video : video + 1])
        assert torch.allclose(both[video : video + 1], alone, atol=1e-4 * alone.abs().max())
    assert not torch.allclose(both[:1], both[1:], atol=0.1)


def test_a_zeroed_negative_which_has_windows_too_leaves_the_mask_to_the_positive(model):
    zeros = [[torch.zeros_like(negative()[0][0]), {}]]
    zeroed = [[torch.zeros_like(rows), keys] for rows, keys in window_conditioning(prompts(), MASKED)]  # Conditioning (Zero Out)
    expected = sample(model, MASKED, bad=zeros)
    assert torch.allclose(sample(model, MASKED, bad=zeroed), expected, atol=1e-5 * expected.abs().max())


def test_the_rows_of_a_phrase_in_a_mixed_prompt_are_those_of_both(model, runs):
    texts = ("a red cat jumps", "the cat")
    for phrase, rows in (("cat", [(2,), (1, 2), (1,)]), ("red", [(1,), (1,), ()])):
        blend = replace(MASKED, sharing=KVSharing(**ALL, phrase=PhraseRef(phrase)))
        assert sample(model, blend, conditionings=prompts(texts)).isfinite().all()
        assert runs[-1].phrase_rows == rows


def test_a_run_without_guidance_has_no_negative_to_share(model, runs):
    for blend in (SHARING, MASKED):
        assert sample(model, blend, cfg=1.0).isfinite().all()
    assert [run.report.measured["passes"] for run in runs] == [3 * STEPS] * 2


def test_prompts_added_behind_the_node_are_every_window_s(model):
    style = prompt("grainy film", seed=9)
    positive = [*window_conditioning(prompts(), NO_SHARING), *style]
    calls = calls_of(model, SHARING, positive=positive, steps=1)
    assert all(call["cond_or_uncond"].count(0) == 2 for call in calls)
    assert not torch.allclose(sample(model, SHARING, positive=positive), sample(model, SHARING))


def test_a_mask_over_the_video_is_cut_to_each_window(model):
    """A style that is masked to the first frames: they have it, the last ones do not."""
    style, noise = prompt("grainy film", seed=9), noise_of(NO_SHARING)
    own = window_conditioning(prompts(), NO_SHARING)

    def styled(mask):
        keys = {"mask": mask, "mask_strength": 1.0}
        return sample(model, NO_SHARING, noise, steps=1, positive=[*own, [style[0][0], {**style[0][1], **keys}]])

    over = torch.ones(7, 32, 32)
    over[5:] = 0
    everywhere, early, nowhere = styled(torch.ones(1, 32, 32)), styled(over), sample(model, NO_SHARING, noise, steps=1)
    assert torch.equal(early[:, :, :4], everywhere[:, :, :4]) and torch.allclose(early[:, :, 5:], nowhere[:, :, 5:], atol=1e-6)
    assert not torch.allclose(everywhere[:, :, 5:], nowhere[:, :, 5:], atol=1e-3)


def test_a_mask_as_high_as_the_video_has_frames_stays_whole(model):
    """The host's windows take such a height for time."""
    blend = replace(NO_SHARING, window=4, overlap=2)
    noise = tiny_wan.latent_like(blend.latent_frames, 8, 8)
    masked = [[rows, {**keys, "mask": torch.ones(1, 64, 64), "mask_strength": 1.0}] for rows, keys in window_conditioning(prompts(), blend)]
    assert torch.equal(sample(model, blend, noise, positive=masked, steps=1), sample(model, blend, noise, steps=1))


def test_word_swap_shares_noise_and_reads_the_first_video(model):
    noise = noise_of(SWAP)
    swapped = sample(model, SWAP, noise)
    source = tiny_wan.sample(model, prompts()[0], negative(), noise[:1], steps=STEPS, cfg=CFG)
    assert swapped.shape[0] == 2 and torch.allclose(swapped[:1], source, atol=1e-5 * source.abs().max())
    alone = tiny_wan.sample(model, prompts()[1], negative(), noise[:1], steps=STEPS, cfg=CFG)
    off = sample(model, replace(SWAP, sharing=None), noise)
    assert torch.allclose(off[1:], alone, atol=1e-5 * alone.abs().max())
    assert not torch.allclose(swapped[1:], alone, atol=1e-3 * alone.abs().max())
    same = sample(model, SWAP, noise, [prompts()[0], prompts()[0]])
    assert torch.allclose(same[1:], same[:1], atol=1e-5 * same.abs().max())


class Stopped(Exception):
    pass


@pytest.mark.parametrize("how", ["error", "cancel"])
def test_the_store_is_empty_after_every_step_and_after_an_error_or_cancel(model, runs, how, monkeypatch):
    sizes, calls = [], []
    broken = model.clone()

    def fail(executor, *args, **kwargs):
        calls.append(len(runs[0].store))
        if len(calls) == 5:
            if how == "error":
                raise Stopped
            comfy.model_management.interrupt_current_processing()
        return executor(*args, **kwargs)

    broken.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "fail", fail)
    with pytest.raises((Stopped, comfy.model_management.InterruptProcessingException)):
        sample(broken, SHARING, callback=lambda *_: sizes.append(len(runs[0].store)))
    assert calls[:5] == [0, 2, 2, 0, 2]  # one block, two sides, from the second window on
    assert sizes and not any(sizes)
    assert not len(runs[0].store) and runs[0]._pass is None
    attached = attach(model, SHARING)
    assert "context_handler" not in attached.model_options and not attached.get_all_wrappers(WrappersMP.PREPARE_SAMPLING)


def test_room_is_made_for_one_window_and_its_waiting_keys(model, monkeypatch):
    """The host is asked for one window's frames, and with sharing for what the keys and values of one block take."""
    import comfy.sampler_helpers

    asked = []
    real = comfy.sampler_helpers._prepare_sampling

    def note(patcher, noise_shape, *args, **kwargs):
        asked.append(list(noise_shape))
        return real(patcher, noise_shape, *args, **kwargs)

    monkeypatch.setattr(comfy.sampler_helpers, "_prepare_sampling", note)
    for blend in (NO_SHARING, SHARING, replace(SHARING, sharing=KVSharing(memory="cpu")), SWAP):
        sample(model, blend, steps=1)
    plain, shared, cpu, swap = asked
    assert plain == cpu == [1, 16, 3, 4, 4] and swap[0] == 1
    extra = model.model.memory_required(shared) - model.model.memory_required(plain)
    assert extra >= 2 * 12 * tiny_wan.DIM * 4 and shared[:2] + shared[3:] == [1, 16, 4, 4]


def test_a_preview_shows_the_whole_video(model):
    shown = []
    sample(model, SHARING, callback=lambda step, x0, x, total: shown.append(x0.shape))
    assert shown == [noise_of(SHARING).shape] * STEPS


def with_windows(model):
    windowed = model.clone()
    windowed.model_options["context_handler"] = comfy.context_windows.IndexListContextHandler(
        comfy.context_windows.get_matching_context_schedule("standard_static"),
        comfy.context_windows.get_matching_fuse_method("pyramid"), context_length=3, context_overlap=1, dim=2,
    )
    return windowed


def with_audio(model):
    """As the host's WanInfiniteTalkToVideo leaves it: audio for the whole video, and patches that lay it over the model's frames."""
    speaking = model.clone()
    speaking.model_options["transformer_options"]["audio_embeds"] = torch.zeros(1, 7, 32, 768)
    return speaking


@pytest.mark.parametrize(
    "change, words",
    [
        ({"noise": tiny_wan.latent_like(5, 4, 4)}, r"5 latent frames \(17 frames\).*need 7 latent frames \(25 frames\)"),
        ({"positive": prompt()}, "positive.*0 windows.*has 3"),
        ({"positive": window_conditioning(prompts(), replace(SHARING, transitions=0))}, "positive.*2 windows.*has 3"),
        ({"bad": window_conditioning(prompts(), replace(SHARING, transitions=0))}, "negative.*2 windows.*has 3.*or one prompt"),
        ({"blend": SWAP, "noise": tiny_wan.latent_like(3, 4, 4, batch=3)}, "3 videos.*needs 2"),
        ({"windows": True}, "context windows"),
        ({"twice": True}, "2 of these nodes"),
        ({"bad": [[negative()[0][0], {"area": (2, 2, 0, 0)}]]}, "area"),
        ({"blend": replace(SHARING, sharing=KVSharing(phrase=PhraseRef("dog")))}, "object.*dog"),
        ({"audio": True}, "InfiniteTalk.*one window"),
    ],
)
def test_what_cannot_be_blended_is_refused_before_the_model_is_loaded(model, change, words, monkeypatch):
    import comfy.sampler_helpers

    def loaded(*args, **kwargs):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(comfy.sampler_helpers, "_prepare_sampling", loaded)
    change = dict(change)
    blend = change.pop("blend", SHARING)
    guided = with_windows(model) if change.pop("windows", False) else model
    guided = attach(guided, blend) if change.pop("twice", False) else guided
    guided = with_audio(guided) if change.pop("audio", False) else guided
    with pytest.raises(ValueError, match=f"Multi Prompt Blend: .*{words}"):
        sample(guided, blend, **change)


def test_audio_for_one_window_or_for_videos_of_one_window_is_not_refused(model):
    single = MultiPromptBlend(3, 1, (1,))
    for blend, texts in ((single, prompts()[:1]), (SWAP, prompts())):
        assert sample(with_audio(model), blend, noise_of(blend), texts, steps=1).isfinite().all()


@pytest.mark.parametrize("blend", [SHARING, SWAP])
def test_a_latent_of_picture_and_sound_is_refused(model, blend):
    guider = comfy.samplers.CFGGuider(attach(model, blend))
    guider.set_conds(window_conditioning(prompts(), blend), negative())
    both = comfy.nested_tensor.NestedTensor([noise_of(blend), torch.zeros(len(noise_of(blend)), 8, 16)])
    with pytest.raises(ValueError, match="Multi Prompt Blend: input `latent_image` of the sampler = several latents in one"):
        guider.sample(both, both, comfy.samplers.sampler_object("euler"), torch.tensor([1.0, 0.0]), disable_pbar=True)


def test_a_prompt_must_be_a_single_conditioning():
    with pytest.raises(ValueError, match="prompt 2 = 2 conditionings"):
        window_conditioning([prompt(), prompt() + prompt()], NO_SHARING)
    with pytest.raises(ValueError, match="prompt 1 = nothing"):
        window_conditioning([[], prompt()], NO_SHARING)


@pytest.mark.parametrize("kind", ["i2v", "i2v_2.2"])
@pytest.mark.parametrize("retain", [True, False])
def test_a_start_image_is_every_window_s_or_the_first_s(kind, retain):
    """What the model sees in its image channels."""
    model = tiny_wan.load(kind, layers=1)
    blend = replace(NO_SHARING, retain_first_frame=retain)
    extras = tiny_wan.image_extras(noise_of(blend))
    positive = [[rows, {**keys, **extras}] for rows, keys in window_conditioning(prompts(), blend)]
    bad = [[negative()[0][0], extras]]
    calls = calls_of(model, blend, positive=positive, bad=bad, steps=1)
    image = [call["x"][:1, 16:] for call in calls]
    assert len(image) == 3 and image[0].shape[1] == 20
    for later, start in ((image[1], 2), (image[2], 4)):
        assert torch.equal(later[:, :, 0], image[0][:, :, 0]) is retain
        if start == 2:
            assert retain or torch.equal(later[:, :, 0], image[0][:, :, 2])
            assert torch.equal(later[:, :, 2], image[2][:, :, 0]) is not retain


def test_an_event_schedule_keeps_the_times_of_the_video_and_its_prompts_words(model):
    """Events of both prompts, each found in its own windows, on frames counted through the whole video."""
    timeline = parse_timeline("cat:\n 0% - 50% jumps\n 50% - end sits")
    schedule = EventSchedule(timeline, end_percent=1.0, blocks="all")
    bound = []

    class Watch(EventSchedule):
        def bind(self, rows, latent_frames, fps, frames=None):
            subjects = super().bind(rows, latent_frames, fps, frames)
            if frames is not None:
                bound.append((frames, [subject.events for subject in subjects]))
            return subjects

    watched = Watch(timeline, end_percent=1.0, blocks="all")
    out = sample(attach(model, watched), SHARING, steps=1)
    assert bound == [((0, 1, 2), [((3,), ())]), ((2, 3, 4), [((3,), ())]), ((4, 5, 6), [((), (3,))])]
    assert torch.equal(out, sample(attach(model, schedule), SHARING, steps=1))
    assert not torch.allclose(out, sample(model, SHARING, steps=1))


def test_it_works_beside_homeostasis_which_sees_the_window_s_own_keys(model):
    steady = SpectralHomeostasis(tau=1.0)
    out = sample(attach(model, steady), MASKED)
    assert out.isfinite().all() and not torch.allclose(out, sample(model, MASKED))


def test_a_relation_is_measured_where_a_prompt_names_both_things_and_refused_where_none_does(model):
    def guided(texts, timeline, batch=1, cfg=CFG):
        both = attach(model, Composition(parse_timeline(timeline)))
        return sample(both, SHARING, noise_of(SHARING, batch), prompts(texts), cfg=cfg)

    texts = ("a cat near a dog", "a cat sits")
    with_dog = "0f - 13f  cat | left of | dog\n0f - 13f  cat | toward | dog"
    out = guided(texts, with_dog, batch=2)
    assert out.isfinite().all() and not torch.allclose(out, sample(model, SHARING, noise_of(SHARING, 2), prompts(texts)))
    assert guided(texts, with_dog, cfg=1.0).isfinite().all()
    for apart, timeline in ((texts, "90% - end  cat | left of | dog"), (("a cat jumps", "a dog sits"), "0f - 9f  cat | left of | dog")):
        with pytest.raises(ValueError, match="Composition Guide: input `timeline`: .*name cat and dog"):
            guided(apart, timeline)


@pytest.mark.parametrize("sharing", [None, KVSharing(**ALL), MASKED.sharing])
@pytest.mark.parametrize("plan", ["fast", "faithful"])
def test_a_temporal_mask_is_measured_in_each_window_by_its_prompt(model, sharing, plan, monkeypatch):
    """Maps of the gradient pass: window by window, as a stock capture of that window alone has them, blended by a plain mean."""
    from wan_conductor.host import latent_edit

    seen = []
    real = latent_edit.optimise_latent

    def watch(z, capture, *args):
        seen.append((z.clone(), capture(z).detach().clone()))
        return real(z, capture, *args)

    monkeypatch.setattr(latent_edit, "optimise_latent", watch)
    blend = replace(NO_SHARING, sharing=sharing, plan=plan)
    noise = noise_of(blend)
    mask = temporal_mask("50% - end  jumps")
    guided = sample(attach(model, mask), blend, noise)
    z, maps = seen[0]
    assert maps.shape[2] == blend.latent_frames and guided.isfinite().all()
    assert not torch.allclose(guided, sample(model, blend, noise))
    expected, count = torch.zeros_like(maps), torch.zeros(blend.latent_frames)
    for number, entry in enumerate(window_conditioning(prompts(), blend)[:2]):  # the third window's prompt has no jump
        frames = slice(2 * number, 2 * number + 3)
        seen.clear()
        short = tiny_wan.latent_like(3, 4, 4)

        def one_window(z, capture, *args, part=z[:, :, frames]):
            seen.append(capture(part.clone()).detach().clone())
            return real(z, capture, *args)

        monkeypatch.setattr(latent_edit, "optimise_latent", one_window)
        tiny_wan.sample(attach(model, mask), [entry], negative(), short, steps=STEPS, cfg=CFG)
        expected[:, :, frames] += seen[0]
        count[frames] += 1
    expected /= count.clamp(min=1)[:, None, None]
    assert not maps[:, :, 5:].any() and maps[:, :, :5].any()
    assert torch.allclose(maps, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("plan", ["fast", "faithful"])
def test_a_prompt_added_behind_the_node_is_measured_once_in_every_window(model, plan, monkeypatch):
    """Nothing is shared in gradient passes, so that the second run of a window would say the same again."""
    from wan_conductor.host import capture

    windows = []
    real = capture.AttentionCapture._measure

    def watch(self, conds, x, sigma, model_options):
        windows.append(model_options["transformer_options"]["context_window"].index_list[0])
        return real(self, conds, x, sigma, model_options)

    monkeypatch.setattr(capture.AttentionCapture, "_measure", watch)
    blend = replace(SHARING, plan=plan)
    positive = [*window_conditioning(prompts(), blend), *prompt("grainy film", seed=9)]
    sample(attach(model, temporal_mask("50% - end  film")), blend, positive=positive, steps=1)
    assert windows and windows == [0, 2, 4] * (len(windows) // 3)


def test_easycache_which_takes_one_window_for_another_is_left_out(model):
    from comfy_extras.nodes_easycache import EasyCacheNode

    cached = EasyCacheNode.execute(model, 10.0, 0.0, 1.0, False).result[0]
    noise = noise_of(SHARING)
    assert torch.equal(sample(cached, SHARING, noise), sample(model, SHARING, noise))
    whole = tiny_wan.sample(model, prompt(), negative(), noise, steps=STEPS, cfg=CFG)
    assert not torch.equal(tiny_wan.sample(cached, prompt(), negative(), noise, steps=STEPS, cfg=CFG), whole)  # else it does nothing here


def test_its_prompts_on_a_model_that_is_guided_but_not_blended_are_refused(model):
    positive = window_conditioning(prompts(), SHARING)
    with pytest.raises(ValueError, match="Multi Prompt Blend: input `positive`.*`model` is not the one"):
        tiny_wan.sample(attach(model, SpectralHomeostasis()), positive, negative(), noise_of(SHARING), steps=1)


def test_objectives_are_refused_in_word_swap(model):
    with pytest.raises(ValueError, match="Temporal Mask: .*word swap"):
        sample(attach(model, temporal_mask("50% - end  jumps")), SWAP)
