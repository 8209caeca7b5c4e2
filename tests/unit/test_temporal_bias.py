"""Temporal Mask's bias mode: against the formula written over every token and text row, and by its properties."""

import math
import random

import pytest
import torch
from wan_conductor.guidance.objective import Objective
from wan_conductor.guidance.patch import AttentionCall, AttentionSite, ModelCall, Patch, PromptRows, VideoGrid
from wan_conductor.guidance.temporal_bias import TemporalBias, frame_biased_attention
from wan_conductor.guidance.temporal_mask import TemporalMask
from wan_conductor.guidance.timeline import parse_timeline
from wan_conductor.tests.unit.bias_reference import dense


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    torch.set_num_threads(1)  # the tensors are too small to share out


def bias_of(text, **knobs):
    mask = {name: knobs.pop(name) for name in ("mask", "fps") if name in knobs}
    return TemporalBias(TemporalMask(parse_timeline(text), **mask), **knobs)


def attention_inputs(frames=3, frame_tokens=4, heads=2, width=4, words=7, pads=6, batch=1, dtype=torch.float32):
    """q, k, v "b n h d" and the plain output "b n (h d)"; the last `pads` text rows are identical."""
    q = torch.randn(batch, frames * frame_tokens, heads, width).to(dtype)
    text = torch.randn(2, batch, words + (pads > 0), heads, width).to(dtype)
    k, v = torch.cat([text, text[:, :, -1:].expand(-1, -1, max(pads - 1, 0), -1, -1)], 2).unbind(0)
    p = torch.einsum("bnhd,bthd->bhnt", q.double(), k.double()).div(width**0.5).softmax(-1)
    return q, k, v, torch.einsum("bhnt,bthd->bnhd", p, v.double()).flatten(2).to(dtype)


@pytest.mark.parametrize("seed", range(8))
def test_equals_the_dense_formula_and_leaves_frames_without_bias_their_bits(seed):
    torch.manual_seed(seed)
    rng = random.Random(seed)
    frames, frame_tokens, words, pads = rng.randint(2, 4), rng.randint(1, 6), rng.randint(4, 8), rng.choice((0, 2, 9, 40))
    q, k, v, plain = attention_inputs(frames, frame_tokens, rng.randint(1, 3), rng.choice((2, 4, 6)), words, pads, rng.randint(1, 2))
    columns = sorted(rng.sample(range(words), rng.randint(1, 3)))
    table = 3 * torch.randn(frames, len(columns))
    table[rng.randrange(frames)] = 0
    got = frame_biased_attention(q, k, v, plain, table, columns, frame_tokens, slice(words, None) if pads else None)
    expected = dense(q, k, v, frame_tokens, lambda j, t: float(table[j, columns.index(t)]) if t in columns else 0.0)
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-5)
    free = (table == 0).all(-1).repeat_interleave(frame_tokens)
    assert torch.equal(got[:, free], plain[:, free])
    assert (got[:, ~free] != plain[:, ~free]).any(-1).all()


def test_no_bias_in_any_frame_gives_back_the_very_output():
    q, k, v, plain = attention_inputs()
    assert frame_biased_attention(q, k, v, plain, torch.zeros(3, 2), (1, 2), 4) is plain


def test_a_biased_word_among_the_equal_rows_keeps_its_own_column():
    q, k, v, plain = attention_inputs(words=6, pads=6)
    table = torch.tensor([[2.0], [0.0], [-2.0]])
    got = frame_biased_attention(q, k, v, plain, table, (8,), 4, slice(6, None))
    expected = dense(q, k, v, 4, lambda j, t: float(table[j, 0]) if t == 8 else 0.0)
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_agrees_with_the_formula_on_the_same_numbers(dtype):
    q, k, v, plain = attention_inputs(dtype=dtype)
    got = frame_biased_attention(q, k, v, plain, torch.tensor([[4.0], [0.0], [-4.0]]), (2,), 4, slice(7, None))
    assert got.dtype == dtype
    expected = dense(q, k, v, 4, lambda j, t: (4.0, 0.0, -4.0)[j] if t == 2 else 0.0)
    torch.testing.assert_close(got.double(), expected, rtol=2e-2, atol=2e-2)


def test_rows_and_tokens_that_do_not_fit_are_refused():
    q, k, v, plain = attention_inputs()
    with pytest.raises(ValueError, match="12 video tokens, but 2 frames of 4"):
        frame_biased_attention(q, k, v, plain, torch.ones(2, 1), (1,), 4)
    with pytest.raises(ValueError, match=r"text rows 1\.\.99"):
        frame_biased_attention(q, k, v, plain, torch.ones(3, 2), (1, 99), 4)
    with pytest.raises(ValueError, match="must be the tail"):
        frame_biased_attention(q, k, v, plain, torch.ones(3, 1), (1,), 4, slice(5, 9))


def test_the_odds_of_the_words_rise_by_e_to_the_strength_where_the_mask_is_1_and_fall_by_it_where_it_is_0():
    """One head whose values are unit vectors: the output is the attention itself."""
    bias = bias_of("0s - 0.5s cat", strength=2.0, mask="binary").bias(4, 16.0)
    assert bias.tolist() == [[2.0, 2.0, 2.0, -2.0]]  # 0.5 s are pixel frames 0 to 7: latents 0, 1, and 3 of 4 frames of latent 2
    q, k = torch.randn(1, 4, 1, 6), torch.randn(1, 6, 1, 6)
    plain = torch.einsum("bnhd,bthd->bnht", q, k).div(6**0.5).softmax(-1)[:, :, 0]
    got = frame_biased_attention(q, k, torch.eye(6)[None, :, None], plain, bias.T, (2,), 1)
    odds = lambda p: p[0, :, 2] / (1 - p[0, :, 2])  # noqa: E731
    torch.testing.assert_close(odds(got) / odds(plain), torch.tensor([2.0, 2.0, 2.0, -2.0]).exp(), rtol=1e-4, atol=0)


def test_soft_masks_bias_by_their_share_and_a_half_covered_frame_not_at_all():
    bias = bias_of("11f - end cat x1.5\nalways dog", strength=2.0).bias(5, 16.0)
    assert bias[0].tolist() == [-3.0, -3.0, -3.0, 0.0, 3.0]  # latent 3 is pixel frames 9 to 12: two of four
    assert bias[1].tolist() == [2.0] * 5


def told(rows, text_rows):
    return PromptRows(torch.tensor(rows), text_rows, None)


def call_of(*prompts, frames=(0, 1, 2, 3, 4), pad_rows=None, offset=0):
    return ModelCall(VideoGrid(len(frames), 1, 2, offset), frames, 5, 1.0, 0.0, 4, prompts, pad_rows, 16.0)


TEXT = AttentionSite(0, "text")


def led(bias, call, q, k, v, plain, site=TEXT):
    attention = AttentionCall(*(x.flatten(2) for x in (q, k, v)), heads=2)
    handler = bias.handler(call, None)
    return None if handler is None else handler(site, attention, lambda _: plain)


TIMELINE = "0% - 50%  cat\n50% - end  dog x0.5\n"  # of 17 pixel frames: latents 0, 1, 2 and 3, 4
CAT, DOG = [3.0, 3.0, 3.0, -3.0, -3.0], [-1.5, -1.5, -1.5, 1.5, 1.5]


def test_every_prompt_is_led_by_its_own_words_on_its_own_rows_and_the_others_keep_their_bits():
    q, k, v, plain = attention_inputs(frames=5, frame_tokens=2, batch=4)
    bias = bias_of(TIMELINE, strength=3.0, mask="binary")
    call = call_of(
        told([True, False, True, False], {0: (1, 2), 1: (4,)}), told([False, True, False, False], {1: (2,)}), pad_rows=slice(7, None)
    )
    out = led(bias, call, q, k, v, plain)
    first = dense(q[[0, 2]], k[[0, 2]], v[[0, 2]], 2, lambda j, t: CAT[j] if t in (1, 2) else DOG[j] if t == 4 else 0.0)
    second = dense(q[[1]], k[[1]], v[[1]], 2, lambda j, t: DOG[j] if t == 2 else 0.0)
    torch.testing.assert_close(out[[0, 2]].double(), first, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(out[[1]].double(), second, rtol=1e-5, atol=1e-5)
    assert torch.equal(out[3], plain[3])


def test_a_word_that_two_phrases_share_gets_both_biases():
    q, k, v, plain = attention_inputs(frames=5, frame_tokens=2)
    out = led(bias_of(TIMELINE, strength=3.0, mask="binary"), call_of(told([True], {0: (1, 2), 1: (2,)})), q, k, v, plain)
    expected = dense(q, k, v, 2, lambda j, t: CAT[j] if t == 1 else CAT[j] + DOG[j] if t == 2 else 0.0)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)


def test_a_window_of_the_video_has_the_bias_of_its_own_frames_and_other_tokens_keep_their_bits():
    q, k, v, _ = attention_inputs(frames=4, frame_tokens=2)
    plain = torch.randn(1, 8, 8)
    frames = (0, 3, 4)
    call = call_of(told([True], {0: (1,)}), frames=frames, offset=2)
    out = led(bias_of("0% - 50%  cat", strength=3.0, mask="binary"), call, q, k, v, plain)
    expected = dense(q[:, 2:], k, v, 2, lambda j, t: CAT[frames[j]] if t == 1 else 0.0)
    torch.testing.assert_close(out[:, 2:].double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(out[:, :2], plain[:, :2])


def test_only_text_attention_of_main_blocks_is_led_and_only_where_a_prompt_has_the_words():
    q, k, v, plain = attention_inputs(frames=5, frame_tokens=2)
    bias, call = bias_of(TIMELINE), call_of(told([True], {0: (1,)}))
    for site in (AttentionSite(0, "self"), AttentionSite(0, "image"), AttentionSite(0, "text", vace=True)):
        assert led(bias, call, q, k, v, plain, site) is None
    assert bias.handler(call_of(), None) is None
    assert bias.handler(call_of(told([True], {})), None) is None


def test_the_record_tells_mask_and_bias_of_every_phrase_in_the_whole_video_even_from_a_window():
    bias = bias_of(TIMELINE, strength=3.0, mask="binary")
    record = bias.new_record()
    bias.handler(call_of(frames=(0, 3, 4)), record)  # a call with negative rows alone
    assert record.to_dict() == {"phrases": ["cat", "dog"], "mask": [], "bias": []}
    bias.handler(call_of(told([True], {0: (1,)}), frames=(0, 3, 4)), record)
    assert record.to_dict() == {"phrases": ["cat", "dog"], "mask": [[1, 1, 1, 0, 0], [0, 0, 0, 1, 1]], "bias": [CAT, DOG]}


@pytest.mark.parametrize("depth, led_blocks", [(1.0, {0, 1, 2, 3}), (0.6, {0, 1, 2}), (0.5, {0, 1}), (0.01, {0})])
def test_only_the_first_blocks_of_its_depth_are_led(depth, led_blocks):
    q, k, v, plain = attention_inputs(frames=5, frame_tokens=2)
    bias, call = bias_of(TIMELINE, depth=depth), call_of(told([True], {0: (1,)}))  # of four blocks
    outputs = {block: led(bias, call, q, k, v, plain, AttentionSite(block, "text")) for block in range(4)}
    assert {block for block, out in outputs.items() if out is not None} == led_blocks


def test_nothing_is_left_to_do_at_strength_0_without_a_span_and_without_phrases():
    for off in (bias_of(TIMELINE, strength=0.0), bias_of(TIMELINE, end_percent=0.0), bias_of(""), bias_of("always cat x0")):
        assert off.phrases == ()
        assert off.skip_reason(5, 16.0)
    assert "one frame" in bias_of(TIMELINE).skip_reason(1, 16.0)
    assert bias_of(TIMELINE).skip_reason(5, 16.0) is None


def test_it_is_a_patch_and_no_objective_so_that_no_gradient_is_asked_for():
    assert isinstance(bias_of(TIMELINE), Patch)
    assert not isinstance(bias_of(TIMELINE), Objective)


@pytest.mark.parametrize(
    "knob, message",
    [
        ({"strength": -1.0}, "`bias_strength` = -1.0"),
        ({"strength": math.nan}, "`bias_strength` = nan"),
        ({"end_percent": 1.5}, "`bias_end` = 1.5"),
        ({"depth": 0.0}, "`bias_depth` = 0.0"),
        ({"start_percent": 0.5, "end_percent": 0.1}, "`bias_end` = 0.1: must not lie before `bias_start` = 0.5"),
    ],
)
def test_knobs_out_of_range_are_refused_by_name_and_value(knob, message):
    with pytest.raises(ValueError, match=f"Temporal Mask: {message}"):
        bias_of(TIMELINE, **knob)
