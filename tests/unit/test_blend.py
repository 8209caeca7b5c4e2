"""The maths of Multi Prompt Blend against the paper's tables, the official code's formulas written plainly, and their properties."""

import math

import pytest
import torch
from wan_conductor.guidance.blend import (
    Evaluation,
    MultiPromptBlend,
    WindowPrompt,
    between,
    blend_weights,
    latent_length,
    prompt_weights,
    repeats_for,
    triangle,
    window_prompts,
)
from wan_conductor.guidance.blend_timeline import read_prompts
from wan_conductor.guidance.kv_sharing import KVSharing
from wan_conductor.guidance.latent_time import pixel_frames
from wan_conductor.guidance.timeline import parse_timeline


@pytest.mark.parametrize(
    "window, overlap, transitions, prompts, windows, latents, frames, passes",
    [  # the official code's two configurations
        (13, 6, 1, 2, 3, 27, 105, 4), (13, 6, 1, 3, 5, 41, 161, 8), (13, 6, 1, 4, 7, 55, 217, 12),
        (13, 9, 2, 2, 4, 25, 97, 6), (13, 9, 2, 3, 7, 37, 145, 12), (13, 9, 2, 4, 10, 49, 193, 18),
    ],
)
def test_windows_lengths_and_passes_are_those_of_the_official_code(window, overlap, transitions, prompts, windows, latents, frames, passes):
    blend = MultiPromptBlend(window, overlap, (1,) * prompts, transitions, plan="faithful")
    assert (len(blend.prompts), blend.latent_frames, pixel_frames(blend.latent_frames)) == (windows, latents, frames)
    assert len(blend.evaluations(range(windows), shared=True)) == passes
    assert len(blend.evaluations(range(windows), shared=False)) == windows
    fast = MultiPromptBlend(window, overlap, (1,) * prompts, transitions)
    assert len(fast.evaluations(range(windows), shared=True)) == windows
    assert blend.frames_of(windows - 1)[-1] == latents - 1


def test_windows_between_two_prompts_have_shares_j_of_n_plus_1():
    assert window_prompts([1, 2], 2) == (WindowPrompt(0), WindowPrompt(0, 1 / 3), WindowPrompt(0, 2 / 3), WindowPrompt(1), WindowPrompt(1))
    assert [shown.nearer for shown in window_prompts([1, 1], 3)] == [0, 0, 0, 1, 1]
    assert window_prompts([1, 1, 1], 0) == (WindowPrompt(0), WindowPrompt(1), WindowPrompt(2))


def test_the_triangle_is_the_official_codes():
    assert torch.allclose(triangle(13) * 13, torch.tensor([1.0, 3, 5, 7, 9, 11, 13, 11, 9, 7, 5, 3, 1]))
    assert torch.allclose(triangle(4), torch.tensor([0.25, 0.75, 0.75, 0.25]))


@pytest.mark.parametrize("windows, window, overlap", [(1, 5, 2), (3, 13, 6), (7, 13, 9), (4, 6, 0), (5, 21, 20)])
def test_weights_of_every_frame_sum_to_one_and_lie_in_their_windows_alone(windows, window, overlap):
    weights = blend_weights(windows, window, overlap)
    assert weights.shape == (windows, latent_length(windows, window, overlap))
    assert torch.allclose(weights.sum(0), torch.ones(weights.shape[1]))
    for index, row in enumerate(weights):
        inside = torch.zeros_like(row, dtype=torch.bool)
        inside[index * (window - overlap) :][:window] = True
        assert (row[inside] > 0).all() and (row[~inside] == 0).all()
    assert torch.allclose(weights, weights.flip(0, 1), atol=1e-6)


def test_weights_are_a_weighted_mean_written_frame_by_frame():
    window, overlap, windows = 5, 3, 4
    weights = blend_weights(windows, window, overlap)
    for frame in range(weights.shape[1]):
        raw = {}
        for k in range(windows):
            i = frame - k * (window - overlap)
            if 0 <= i < window:
                u = 2 * (i + 0.5) / window
                raw[k] = min(u, 2 - u)
        for k in range(windows):
            assert weights[k, frame].item() == pytest.approx(raw.get(k, 0.0) / sum(raw.values()), abs=1e-6)


def test_mixed_prompts_have_the_prompts_as_their_ends_and_pad_the_shorter():
    earlier, later = torch.randn(1, 3, 4), torch.randn(1, 5, 4)
    assert torch.equal(between(earlier, later, 1.0), later)
    assert torch.equal(between(earlier, later, 0.0)[:, :3], earlier) and not between(earlier, later, 0.0)[:, 3:].any()
    quarter = between(earlier, later, 0.25)
    assert torch.allclose(quarter[:, :3], earlier + 0.25 * (later[:, :3] - earlier))
    assert torch.allclose(quarter[:, 3:], 0.25 * later[:, 3:])


def test_how_much_of_each_prompt_is_in_a_frame():
    blend = MultiPromptBlend(5, 2, (1, 1))
    weights, shares = blend_weights(3, 5, 2), prompt_weights(blend)
    assert torch.allclose(shares.sum(0), torch.ones(11))
    assert torch.allclose(shares[1], 0.5 * weights[1] + weights[2]) and torch.allclose(shares.flip(0, 1), shares, atol=1e-6)


def test_the_fast_plan_is_a_chain_and_the_faithful_one_pairs():
    fast = MultiPromptBlend(5, 2, (1, 1), 1)
    assert fast.evaluations(range(3), True) == [Evaluation(0, None, True), Evaluation(1, 0, True), Evaluation(2, 1, False)]
    faithful = MultiPromptBlend(5, 2, (1, 1), 1, plan="faithful")
    pairs = [Evaluation(0, None, True), Evaluation(1, 0, False), Evaluation(1, None, True), Evaluation(2, 1, False)]
    assert faithful.evaluations(range(3), True) == pairs
    swap = MultiPromptBlend(5, 2, (1, 1, 1), mode="word swap")
    assert swap.evaluations(range(3), True) == [Evaluation(0, None, True), Evaluation(1, 0), Evaluation(2, 0)]
    for blend in (fast, faithful, swap):
        assert blend.evaluations([1], True) == [Evaluation(1)]  # alone there is no one to share with
    assert fast.evaluations([0, 2], True) == [Evaluation(0), Evaluation(2)]  # no neighbours


def test_word_swap_has_a_video_for_each_prompt_and_the_length_of_one_window():
    swap = MultiPromptBlend(5, 2, (1, 1, 1), transitions=3, mode="word swap")
    assert swap.prompts == (WindowPrompt(0), WindowPrompt(1), WindowPrompt(2)) and swap.latent_frames == 5


@pytest.mark.parametrize("repeats, transitions", [((1, 1), 1), ((3, 1, 2), 1), ((2, 2), 0), ((4,), 1), ((1, 3), 2)])
def test_durations_become_the_windows_that_rule_that_long(repeats, transitions):
    """The frames in which a prompt is the strongest, counted in the weights, give its windows back."""
    blend = MultiPromptBlend(13, 6, repeats, transitions)
    strongest = prompt_weights(blend).argmax(0)
    durations = [float((strongest == prompt).sum()) for prompt in range(len(repeats))]
    assert sum(durations) == blend.latent_frames
    assert repeats_for(durations, 13, 6, transitions) == repeats
    assert repeats_for([None] * len(repeats), 13, 6, transitions) == (1,) * len(repeats)
    assert repeats_for([0.1] * len(repeats), 13, 6, transitions) == (1,) * len(repeats)


@pytest.mark.parametrize("text, durations", [
    ("a cat\na dog", (None, None)),
    ("0s - 4s a cat\n4s - 10s a dog", (16.0, 24.0)),
    ("0s - 4s a cat\n6s - 8s a dog", (20.0, 12.0)),  # half of the gap to each
    ("0s - 4s a cat\n3s - end a dog", (14.0, None)),
    ("0f - 40f a cat", (10.0,)), ("always a cat", (None,)), ("", ()),
])  # fmt: skip
def test_a_timeline_gives_durations_in_latent_frames(text, durations):
    prompts, found = read_prompts(parse_timeline(text), fps=16)
    assert found == durations and prompts == ("a cat", "a dog")[: len(durations)]


@pytest.mark.parametrize("text, words", [
    ("cat:\n sits", "line 2: .*header `cat:`"),
    ("a cat x2", "no strength"),
    ("0s - 1s, 2s - 3s a cat", "once for each"),
    ("0s - 50% a cat", "line 1.*use s or f"),
    ("0s - end a cat\n2s - 3s a dog", "only the last prompt"),
    ("2s - 4s a cat\n0s - 2s a dog", "in their order"),
    ("2s - 10f a cat", "empty or reversed"),
])  # fmt: skip
def test_timelines_that_mean_nothing_here_are_refused_with_their_line(text, words):
    with pytest.raises(ValueError, match=f"Multi Prompt Blend: input `timeline`: (.|\n)*{words}"):
        read_prompts(parse_timeline(text), fps=16)


@pytest.mark.parametrize("change, words", [
    ({"overlap": 5}, "overlap.*20.*17"), ({"window": 1, "overlap": 0}, "frames_per_window"), ({"repeats": ()}, "repeats"),
    ({"repeats": (1, 0)}, "repeats"), ({"transitions": -1}, "transitions"), ({"plan": "quick"}, "plan"),
    ({"mode": "word swap", "repeats": (1,)}, "two prompts"), ({"repeats": (600, 600)}, "1201 windows.*1000"),
])  # fmt: skip
def test_knobs_out_of_range_are_refused(change, words):
    with pytest.raises(ValueError, match=f"Multi Prompt Blend: .*{words}"):
        MultiPromptBlend(**{"window": 5, "overlap": 2, "repeats": (1, 1), **change})


@pytest.mark.parametrize("blocks, first", [(30, 25), (40, 33), (5, 4), (2, 1), (1, 0)])
@pytest.mark.parametrize("share", [1 / 6, 0.167])
def test_the_last_sixth_of_the_blocks_is_shared(blocks, first, share):
    assert KVSharing(last_blocks=share).blocks(blocks) == range(first, blocks)
    assert not KVSharing(last_blocks=0).blocks(blocks) and KVSharing(last_blocks=1).blocks(blocks) == range(blocks)


@pytest.mark.parametrize("change", [{"start_percent": 0.6}, {"threshold": 2}, {"last_blocks": math.nan}, {"memory": "disk"}])
def test_sharing_out_of_range_is_refused(change):
    with pytest.raises(ValueError, match="Multi Prompt Blend"):
        KVSharing(**change)
