"""Event Schedule: against a dense reference written from the formulas, and by its properties; what a timeline may say."""

import json
import random
from dataclasses import asdict

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from wan_conductor.guidance import biased_attention, event_attention
from wan_conductor.guidance import events as event_schedules
from wan_conductor.guidance.event_attention import eroded, event_bias, motion_mask, rearranged_attention
from wan_conductor.guidance.event_pictures import event_figure
from wan_conductor.guidance.event_subjects import SubjectTokens
from wan_conductor.guidance.event_trace import EventRecord, EventTrace, SubjectRecord
from wan_conductor.guidance.events import END_PERCENT_I2V, EventSchedule
from wan_conductor.guidance.objective import PhraseRef
from wan_conductor.guidance.patch import AttentionCall, AttentionSite, ModelCall, PromptRows, VideoGrid
from wan_conductor.guidance.pictures import AFTER
from wan_conductor.guidance.timeline import parse_timeline
from wan_conductor.tests.unit import event_reference as reference

TWO = "cat:\n  0% - 50%  watches a bowl\n  50% - end  dips its paw x1.5\ndog:\n  always  sleeps\n"


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    torch.set_num_threads(1)  # the tensors are too small to share out


def schedule(text=TWO, **knobs):
    return EventSchedule(parse_timeline(text), **knobs)


def attention_inputs(grid=(3, 3, 4), heads=2, width=4, words=7, pads=6, batch=1, dtype=torch.float32):
    """q, k, v and the plain output in float64 rounded to `dtype`; the last `pads` text rows are identical."""
    q = torch.randn(batch, grid[0] * grid[1] * grid[2], heads, width).to(dtype)
    text = torch.randn(2, batch, words + (pads > 0), heads, width).to(dtype)
    k, v = torch.cat([text, text[:, :, -1:].expand(-1, -1, max(pads - 1, 0), -1, -1)], 2).unbind(0)
    p = torch.einsum("bnhd,bthd->bhnt", q.double(), k.double()).div(width**0.5).softmax(-1)
    return q, k, v, torch.einsum("bhnt,bthd->bnhd", p, v.double()).flatten(2).to(dtype)


def tokens_of(subjects):
    """(rows, [(rows, weights, strength)]) of each subject, as the reference takes it, in the pack's own form."""
    return [
        SubjectTokens(tuple(rows), tuple(tuple(e[0]) for e in events), torch.tensor([e[1] for e in events]), tuple(e[2] for e in events))
        for rows, events in subjects
    ]


ONE_SUBJECT = [((1,), [((2, 3), [1.0, 0.0, 0.0], 1.0), ((5,), [0.0, 1.0, 1.0], 1.0)])]


def random_subjects(rng, frames, words):
    """One to three subjects with one to three events: overlaps, gaps, events that share words, the same phrase twice."""
    subjects = []
    for _ in range(rng.randint(1, 3)):
        events = []
        for _ in range(rng.randint(1, 3)):
            rows = rng.sample(range(words), rng.randint(1, 3))
            events.append((sorted(rows), [float(rng.random() < 0.5) for _ in range(frames)], rng.choice((1.0, 1.0, 0.5, 2.0))))
        if rng.random() < 0.3:
            events.append((events[0][0], [float(rng.random() < 0.5) for _ in range(frames)], 1.0))
        subjects.append((sorted(rng.sample(range(words), rng.randint(1, 2))), events))
    return subjects


@pytest.mark.parametrize("seed", range(12))
def test_equals_the_dense_formulas(seed):
    torch.manual_seed(seed)
    rng = random.Random(seed)
    grid = (rng.randint(1, 4), rng.randint(2, 4), rng.randint(2, 4))
    words, pads, heads = rng.randint(4, 8), rng.choice((0, 2, 9, 40)), rng.randint(1, 3)
    q, k, v, plain = attention_inputs(grid, heads, rng.choice((2, 4, 6)), words, pads, rng.randint(1, 2))
    subjects = random_subjects(rng, grid[0], words)
    knobs = {"top_fraction": rng.choice((0.25, 0.5, 1.0)), "erode": rng.choice(("none", "isolated", "full"))}
    knobs |= {"r_max": rng.choice((1.5, 3.0)), "strength": rng.choice((0.3, 1.0))}
    pad_rows = slice(words, None) if pads else None
    counted = rng.choice(("all", "words"))
    knobs["raising"] = rng.choice((0.0, 0.5, 1.0))
    knobs["hold_back"] = rng.choice(("mask", "everywhere"))
    got = rearranged_attention(schedule(**knobs, statistics=counted), q, k, v, plain, grid, tokens_of(subjects), pad_rows)
    of_words = words if pads and counted == "words" else None
    expected, masks = reference.rearranged_attention(q, k, v, grid, subjects, **knobs, words=of_words)
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-5)
    outside = ~torch.tensor(masks).any(1)
    if knobs["hold_back"] == "everywhere":
        held = torch.tensor([any(min(1 - w[frame] for w in same) > 0 for same in by_words(subjects)) for frame in range(grid[0])])
        outside &= ~held.repeat_interleave(grid[1] * grid[2])
    assert torch.equal(got[outside], plain[outside])


def by_words(subjects):
    """The weights over the frames of each event, those of a subject with the same words together."""
    for _, events in subjects:
        for words in {tuple(rows) for rows, _, _ in events}:
            yield [weights for rows, weights, _ in events if tuple(rows) == words]


def test_held_back_everywhere_other_events_fall_outside_the_mask_too_and_nothing_rises_there():
    q, k, v, _ = attention_inputs(pads=0, dtype=torch.float64)
    v = torch.zeros_like(v)
    for place, row in enumerate((5, 1, 0, 2)):  # the output of each head is its attention to these rows
        v[:, row, :, place] = 1
    plain = torch.einsum("bnhd,bthd->bhnt", q, k).div(2).softmax(-1)[..., [5, 1, 0, 2]].transpose(1, 2).flatten(2)
    got = rearranged_attention(schedule(hold_back="everywhere"), q, k, v, plain, (3, 3, 4), tokens_of(ONE_SUBJECT))
    _, masks = reference.rearranged_attention(q, k, v, (3, 3, 4), ONE_SUBJECT)
    outside = ~torch.tensor(masks[0][0])
    first = torch.arange(36) < 12  # the frame whose event has the rows 2 and 3
    before, after = (x[0].unflatten(-1, (2, 4)) for x in (plain, got))
    fall = after - before
    assert (fall[outside & first][..., 0] < 0).all() and (fall[outside & ~first][..., 3] < 0).all()
    torch.testing.assert_close((after[..., 1] / after[..., 2])[outside], (before[..., 1] / before[..., 2])[outside])  # nor the subject
    assert (after[..., 3] / after[..., 2] > 1.01 * before[..., 3] / before[..., 2])[~outside & first].all()  # inside it is raised


def test_the_control_moves_rows_inside_the_mask_and_only_those():
    q, k, v, plain = attention_inputs()
    got = rearranged_attention(schedule(), q, k, v, plain, (3, 3, 4), tokens_of(ONE_SUBJECT), slice(7, None))
    _, masks = reference.rearranged_attention(q, k, v, (3, 3, 4), ONE_SUBJECT)
    inside = torch.tensor(masks[0][0])
    assert 3 < inside.sum() < 25
    assert torch.equal((got[0] != plain[0]).any(-1), inside)


def test_plain_output_itself_comes_back_when_nothing_is_in_the_mask_or_in_the_prompt():
    q, k, v, plain = attention_inputs()
    only = torch.zeros_like(q)
    only[0, 5] = 30 * k[0, 1]  # a single token looks at the subject, and a lone token is dropped
    assert rearranged_attention(schedule(), only, k, v, plain, (3, 3, 4), tokens_of(ONE_SUBJECT)) is plain
    for subject in ((), [((5,), [1.0, 0.0, 0.0], 1.0)]), ((1,), [((), [1.0, 0.0, 0.0], 1.0)]):
        assert rearranged_attention(schedule(), q, k, v, plain, (3, 3, 4), tokens_of([subject])) is plain


def test_a_subject_missing_from_the_prompt_leaves_the_others_as_if_it_were_not_named():
    q, k, v, plain = attention_inputs()
    missing = ((), [((6,), [1.0, 1.0, 1.0], 1.0)])
    with_it = rearranged_attention(schedule(), q, k, v, plain, (3, 3, 4), tokens_of([missing, *ONE_SUBJECT]))
    assert torch.equal(with_it, rearranged_attention(schedule(), q, k, v, plain, (3, 3, 4), tokens_of(ONE_SUBJECT)))
    assert not torch.equal(with_it, plain)


def test_neither_chunks_nor_collapsed_padding_change_the_result(monkeypatch):
    q, k, v, plain = attention_inputs(pads=30, dtype=torch.float64)
    call = (schedule(), q, k, v, plain, (3, 3, 4), tokens_of(ONE_SUBJECT))
    whole = rearranged_attention(*call)
    torch.testing.assert_close(rearranged_attention(*call, slice(7, None)), whole, rtol=1e-12, atol=1e-12)
    monkeypatch.setattr(biased_attention, "CHUNK_ELEMENTS", 80)
    torch.testing.assert_close(rearranged_attention(*call), whole, rtol=1e-12, atol=1e-12)


def test_blocks_share_their_tables_and_a_call_without_negative_rows_gives_the_same_bits(monkeypatch):
    q, k, v, plain = (x.flatten(2) for x in attention_inputs(batch=2))
    given, made = plain.clone(), []
    monkeypatch.setattr(event_schedules, "bias_tables", lambda *args: made.append(args) or event_attention.bias_tables(*args))
    cat = {0: (1,), 1: (2, 3), 2: (5,)}  # the dog is not in this prompt
    control = schedule(blocks="all")

    def handler(rows):
        grid, positive = VideoGrid(3, 3, 4), PromptRows(torch.tensor(rows), cat, slice(7, None))
        return control.handler(ModelCall(grid, (0, 1, 2), 3, 1.0, 0.0, 4, (positive,), slice(7, None), 16.0), None)

    with_negative, alone = handler([True, False]), handler([True])
    first, third = (with_negative(AttentionSite(block, "text"), AttentionCall(q, k, v, 2), lambda _: plain) for block in (1, 3))
    assert len(made) == 1
    without = alone(AttentionSite(1, "text"), AttentionCall(q[:1], k[:1], v[:1], 2), lambda _: plain[:1])
    subjects = control.bind([cat.get(place, ()) for place in range(5)], 3, 16.0)
    heads = (x[:1].unflatten(-1, (2, 4)) for x in (q, k, v))
    expected = rearranged_attention(control, *heads, plain[:1], (3, 3, 4), subjects, slice(7, None))
    assert all(torch.equal(controlled[:1], expected) for controlled in (first, third, without))
    assert torch.equal(first[1], plain[1]) and not torch.equal(expected, plain[:1])
    assert torch.equal(plain, given)  # others may hold what attention returned


def test_a_word_that_equals_the_padding_keeps_its_own_column():
    q, k, v, plain = attention_inputs(words=6, pads=6)
    subjects = [((1,), [((7,), [1.0, 0.0, 0.0], 1.0)])]
    got = rearranged_attention(schedule(), q, k, v, plain, (3, 3, 4), tokens_of(subjects), slice(6, None))
    expected, _ = reference.rearranged_attention(q, k, v, (3, 3, 4), subjects)
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_agrees_with_the_reference_on_the_same_numbers(dtype):
    q, k, v, plain = attention_inputs(width=8, dtype=dtype)
    got = rearranged_attention(schedule(), q, k, v, plain, (3, 3, 4), tokens_of(ONE_SUBJECT), slice(7, None))
    assert got.dtype == dtype
    expected, _ = reference.rearranged_attention(q, k, v, (3, 3, 4), ONE_SUBJECT)
    torch.testing.assert_close(got.double(), expected, rtol=1e-2, atol=1e-2)


def test_gradients_pass_through_as_finite_differences_say():
    q, k, v, plain = attention_inputs((2, 2, 3), pads=3, dtype=torch.float64)
    leaves = [x.clone().requires_grad_() for x in (q, k[:, :7], v[:, :7], plain)]
    trace = EventTrace(2)

    def run(q, k, v, plain):
        k, v = (torch.cat([x, torch.ones(1, 3, 2, 4).double()], 1) for x in (k, v))
        subjects = tokens_of([((1,), [((2, 3), [1.0, 0.0], 1.0), ((5,), [0.0, 1.0], 1.0)])])
        return rearranged_attention(schedule(), q, k, v, plain, (2, 2, 3), subjects, slice(7, None), trace)

    assert torch.autograd.gradcheck(run, leaves, eps=1e-7, atol=1e-5)
    assert not trace.event_attention().requires_grad  # a record must not keep the graphs of a run alive


def test_two_videos_of_a_batch_do_not_see_each_other():
    q, k, v, plain = attention_inputs(batch=2)
    q[1] *= 3  # a common threshold would take most of the mask from the first
    both = rearranged_attention(schedule(), q, k, v, plain, (3, 3, 4), tokens_of(ONE_SUBJECT))
    for b in (slice(0, 1), slice(1, 2)):
        alone = rearranged_attention(schedule(), q[b], k[b], v[b], plain[b], (3, 3, 4), tokens_of(ONE_SUBJECT))
        torch.testing.assert_close(both[b], alone, rtol=1e-6, atol=1e-6)


def test_nothing_of_the_size_of_all_heads_tokens_and_text_rows_is_allocated(monkeypatch):
    grid, heads, rows = (4, 16, 16), 8, 512
    q, k, v, plain = attention_inputs(grid, heads, 4, 12, rows - 12)
    monkeypatch.setattr(biased_attention, "CHUNK_ELEMENTS", 2**14)
    largest = 0

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            fresh = [t for t in tree_flatten(result)[0] if isinstance(t, torch.Tensor)]
            largest = max([largest, *(t.numel() for t in fresh)])
            return result

    subjects = tokens_of([((1,), [((2, 3), [1.0, 1.0, 0.0, 0.0], 1.0), ((5,), [0.0, 0.0, 1.0, 1.0], 1.0)])])
    with Sizes():
        got = rearranged_attention(schedule(), q, k, v, plain, grid, subjects, slice(12, None))
    assert not torch.equal(got, plain)
    assert largest <= 13 * heads * 1024  # the probe's one chunk over 12 words and their collapsed padding; dense: 512 heads n
    assert largest < heads * 1024 * rows / 30


def current_and_other(subject, frame, columns):
    """Bias on a random row of two heads, from the pack: "2 c"."""
    raised, lowered = event_attention.rearrangement(tokens_of([subject]), columns)
    logits = torch.randn(2, 1, 9)
    return event_bias(logits, torch.zeros(9), torch.tensor(columns), raised[0, frame][None], lowered[0, frame][None])[:, 0]


def test_current_events_and_their_subject_are_raised_and_other_events_lowered():
    bias = current_and_other(ONE_SUBJECT[0], 0, [1, 2, 3, 5])
    assert (bias[:, :3] > 0).all()
    assert (bias[:, 3] < 0).all()
    bias = current_and_other(ONE_SUBJECT[0], 2, [1, 2, 3, 5])
    assert (bias[:, [0, 3]] > 0).all()
    assert (bias[:, [1, 2]] < 0).all()


def test_in_a_gap_every_event_is_lowered_and_the_subject_left_alone():
    bias = current_and_other(((1,), [((2,), [0.0, 1.0], 1.0), ((5,), [0.0, 0.0], 1.0)]), 0, [1, 2, 5])
    assert (bias[:, 0] == 0).all()
    assert (bias[:, 1:] < 0).all()


def test_a_phrase_listed_twice_is_raised_at_both_times_and_never_suppresses_itself():
    twice = ((1,), [((2,), [1.0, 0.0, 0.0], 1.0), ((5,), [0.0, 1.0, 0.0], 1.0), ((2,), [0.0, 0.0, 1.0], 1.0)])
    once = ((1,), [((2,), [1.0, 0.0, 1.0], 1.0), ((5,), [0.0, 1.0, 0.0], 1.0)])
    for frame, sign in ((0, 1), (1, -1), (2, 1)):
        torch.manual_seed(7)
        bias = current_and_other(twice, frame, [1, 2, 5])
        torch.manual_seed(7)
        assert torch.equal(bias, current_and_other(once, frame, [1, 2, 5]))
        assert (bias[:, 1].sign() == sign).all()


def test_reinforcement_lies_between_r_min_and_r_max_and_follows_the_attention():
    logits = torch.tensor([[[3.0, 1.0, -2.0, 0.0]]])
    columns = torch.tensor([0, 1, 2])
    mean = 0.5
    raised = event_bias(logits, torch.zeros(4), columns, torch.ones(1, 3), torch.zeros(1, 3), 1.0, 1.5)[0, 0] / (3 - mean)
    # the strongest column gets r_min, the weakest r_max (section 3); for suppression it is the other way round
    assert raised[0] == pytest.approx(1.0)
    assert raised[2] == pytest.approx(1.5)
    assert 1 < raised[1] < 1.5
    lowered = event_bias(logits, torch.zeros(4), columns, torch.zeros(1, 3), torch.ones(1, 3), 1.0, 1.5)[0, 0] / (-2 - mean)
    assert lowered[0] == pytest.approx(1.5)
    assert lowered[2] == pytest.approx(1.0)


def test_statistics_of_the_words_alone_lower_other_events_where_padding_lies_lowest():
    logits, log_count = torch.tensor([[[2.0, 0.5, 0.0, -2.0]]]), torch.tensor([0.0, 0.0, 0.0, 488.0]).log1p().where(torch.arange(4) == 3, 0)
    columns = torch.tensor([1, 2])

    def both(words):
        return [event_bias(logits, log_count, columns, up, 1 - up, 1.0, 1.0, words)[0, 0] for up in (torch.ones(1, 2), torch.zeros(1, 2))]

    (raised, lowered), (raised_words, lowered_words) = both(None), both(3)
    assert (raised > 3.9).all() and (lowered > -0.1).all()  # the mean is the padding's
    mean = 2.5 / 3
    torch.testing.assert_close(raised_words, torch.full((2,), 2 - mean))
    torch.testing.assert_close(lowered_words, torch.full((2,), -mean))


def test_two_subjects_add_their_biases_where_their_masks_meet():
    q, k, v, plain = attention_inputs()
    two = [ONE_SUBJECT[0], ((4,), [((6,), [0.0, 1.0, 1.0], 1.0)])]
    everywhere = schedule(without=frozenset({"motion mask"}))
    got = rearranged_attention(everywhere, q, k, v, plain, (3, 3, 4), tokens_of(two))
    n, head = 20, 1
    p, logits = reference.probabilities(q[0, n].double(), k[0].double(), head)
    for subject in two:
        added = reference.bias_of_row(p, reference.probabilities(q[0, n].double(), k[0].double(), head)[1], subject, n // 12, 1.0, 1.5)
        logits = [a + b for a, b in zip(logits, added)]
    expected = torch.tensor(logits).double().softmax(0) @ v[0, :, head].double()
    torch.testing.assert_close(got[0, n, 4:].double(), expected, rtol=1e-5, atol=1e-5)


def test_ablations_take_out_what_they_name():
    q, k, v, plain = attention_inputs()

    def run(*without, **knobs):
        return rearranged_attention(schedule(without=frozenset(without), **knobs), q, k, v, plain, (3, 3, 4), tokens_of(ONE_SUBJECT))

    no_mask, _ = reference.rearranged_attention(q, k, v, (3, 3, 4), ONE_SUBJECT, top_fraction=1.0)
    assert (run("motion mask") != plain).any(-1).all()
    assert not torch.allclose(run("motion mask").double(), no_mask)
    no_reinforcement, _ = reference.rearranged_attention(q, k, v, (3, 3, 4), ONE_SUBJECT, r_max=1.0)
    torch.testing.assert_close(run("reinforcement", r_min=1.2, r_max=3.0).double(), no_reinforcement, rtol=1e-5, atol=1e-5)
    held_back, _ = reference.rearranged_attention(q, k, v, (3, 3, 4), ONE_SUBJECT, raising=0.0)
    torch.testing.assert_close(run(raising=0.0).double(), held_back, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(run(raising=0.0), run()) and not torch.allclose(run(raising=0.0), plain)
    always = [((1,), [((2, 3), [1.0] * 3, 1.0), ((5,), [1.0] * 3, 1.0)])]
    no_order, _ = reference.rearranged_attention(q, k, v, (3, 3, 4), always)
    torch.testing.assert_close(run("rearrangement").double(), no_order, rtol=1e-5, atol=1e-5)


def test_isolated_drops_lone_tokens_and_full_shaves_an_edge_off_hand_made_masks():
    frame = """
        #...##
        ....##
        .###..
        .###.#
        .###..
    """.split()
    mask = torch.tensor([[cell == "#" for cell in row] for row in frame])
    mask = torch.stack([mask, torch.zeros_like(mask)])[None, None]  # the second frame lends no neighbours
    drawn = ["".join(".#"[int(on)] for on in row) for row in eroded(mask, "isolated")[0, 0, 0]]
    assert drawn == ["....##", "....##", ".###..", ".###..", ".###.."]
    drawn = ["".join(".#"[int(on)] for on in row) for row in eroded(mask, "full")[0, 0, 0]]
    assert drawn == [".....#", "......", "......", "..#...", "..#..."]  # the frame's edge is not an edge of the region
    assert not eroded(mask, "isolated")[0, 0, 1].any()


def test_the_threshold_is_the_mean_of_the_largest_share_over_all_frames():
    attention = torch.tensor([0.0, 1, 2, 3, 4, 5, 6, 7]).reshape(1, 1, 2, 2, 2)
    # largest half: 4 5 6 7, mean 5.5; all: 3.5; the second frame has it all, as one threshold serves all frames
    assert motion_mask(attention, 0.5, "none").flatten().tolist() == [False] * 6 + [True] * 2
    assert motion_mask(attention, 1.0, "none").flatten().tolist() == [False] * 4 + [True] * 4


def test_subjects_own_their_events_in_order_and_strength_zero_leaves_them_out():
    events = schedule("Cat:\n  jumps\n  sits x0\ndog:\n  sleeps\ncat :\n  jumps\n")
    assert [(s.phrase, [e.body for e in s.events]) for s in events.subjects] == [("Cat", ["jumps", "jumps"]), ("dog", ["sleeps"])]
    assert events.phrases == tuple(map(PhraseRef, ("Cat", "jumps", "jumps", "dog", "sleeps")))
    assert schedule(occurrence=2).phrases[0] == PhraseRef("cat", 2)
    assert schedule(strength=0.0).phrases == ()
    assert schedule("").skip_reason(13, 16) is not None
    assert schedule().skip_reason(1, 16) is not None
    assert schedule().skip_reason(13, 16) is None


def test_spans_become_whole_latent_frames_and_no_times_are_equal_shares():
    # 13 latents, 49 pixel frames: latent j is 4j-3 .. 4j; half of the video is 24.5, in the middle of nothing: latents 0..6 end at 25
    first, second = schedule().weights(13, 16)[0]
    assert first.tolist() == [1.0] * 7 + [0.0] * 6
    assert second.tolist() == [0.0] * 7 + [1.0] * 6
    shared = schedule("cat:\n  runs\n  sits\n  naps\n").weights(13, 16)[0]
    assert shared.sum(0).tolist() == [1.0] * 13
    assert [row.tolist().index(1) for row in shared] == [0, 5, 9]  # 49/3 = 16.3: latent 4 is 13..16, latent 9 begins at 33 of 32.7
    at_8_fps = schedule("cat:\n  0s - 1s  runs\n  1s - end  sits\n", fps=8).weights(5, 16)[0]
    assert at_8_fps[0].tolist() == [1.0, 1.0, 1.0, 0.0, 0.0]


def test_binding_keeps_the_frames_of_a_window_and_the_order_of_the_phrases():
    bound = schedule().bind([(4, 3), (5,), (6, 7), (9,), ()], 13, 16, frames=(0, 6, 7, 12))
    assert [(tokens.rows, tokens.events) for tokens in bound] == [((3, 4), ((5,), (6, 7))), ((9,), ((),))]
    assert bound[0].weights.tolist() == [[1, 1, 0, 0], [0, 0, 1, 1]]
    assert bound[0].strengths == (1.0, 1.5)
    assert [tokens.acts for tokens in bound] == [True, False]
    with pytest.raises(ValueError, match="rows = 2 entries: one for each of the 5 phrases"):
        schedule().bind([(1,), (2,)], 13, 16)


def test_two_subjects_may_not_claim_one_phrase():
    message = r"(?s)Event Schedule: input `timeline`.*line 4: `JUMPS` already belongs to `cat` \(line 2\).*`dog JUMPS`"
    with pytest.raises(ValueError, match=message):
        schedule("cat:\n  jumps\ndog:\n  JUMPS\n")
    assert len(schedule("cat:\n  jumps\ndog:\n  JUMPS x0\n").phrases) == 2  # a line that is off claims nothing
    events = schedule("cat:\n  jumps\ndog:\n  jumps high\n")
    with pytest.raises(ValueError, match=r"`jumps` of `cat` \(line 2\) and `jumps high` of `dog` \(line 4\) are the same word .*row 5"):
        events.bind([(1,), (2, 5), (4,), (5, 6)], 13, 16)
    assert len(events.bind([(1,), (2,), (4,), (5, 6)], 13, 16)) == 2


def test_an_event_needs_a_subject():
    with pytest.raises(ValueError, match=r"(?s)line 1: an event without a subject: write a line such as `cat:` above it.*\^"):
        schedule("jumps\ncat:\n  sits\n")


def test_more_spans_than_latent_frames_are_refused():
    five = "cat:\n" + "".join(f"  event {i}\n" for i in range(5))
    assert schedule(five).skip_reason(5, 16) is None
    with pytest.raises(ValueError, match=r"(?s)line 6: `cat` has 5 spans, and the video only 4 latent frames.*fewer events"):
        schedule(five).skip_reason(4, 16)
    one_line = schedule("cat:\n  0f - 1f, 2f - 3f, 4f - 5f  blinks\n")
    with pytest.raises(ValueError, match="3 spans, and the video only 2 latent frames"):
        one_line.skip_reason(2, 16)
    assert schedule("cat:\n  a\n  b\ndog:\n  c\n  d\n").skip_reason(2, 16) is None  # each subject has the whole video
    with pytest.raises(ValueError, match="starts after the end"):
        schedule("cat:\n  9s - 10s  runs\n").skip_reason(13, 16)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("strength", -1.0), ("strength", float("nan")), ("r_min", -0.1), ("r_max", 0.5), ("top_fraction", 0.0), ("top_fraction", 1.1),
        ("start_percent", 1.2), ("end_percent", -0.1), ("fps", -1), ("erode", "much"), ("statistics", "pads"),
        ("hold_back", "nowhere"), ("raising", -0.1), ("blocks", "even"),
        ("blocks", ()), ("blocks", (-1,)), ("occurrence", "second"), ("occurrence", 0), ("without", frozenset({"mask"})),
    ],
)
def test_each_bad_knob_is_refused_by_name(field, value):
    with pytest.raises(ValueError, match=f"Event Schedule: `{field}` = "):
        schedule(**{field: value})


def test_the_controlled_span_is_the_papers_and_may_not_end_before_it_starts():
    assert (schedule().start_percent, schedule().end_percent, END_PERCENT_I2V) == (0.0, 0.2, 0.4)
    with pytest.raises(ValueError, match="`end_percent` = 0.2: must not lie before `start_percent` = 0.3"):
        schedule(start_percent=0.3)


def test_blocks_are_odd_all_or_listed():
    assert schedule().controlled_blocks(6) == {1, 3, 5}
    assert schedule(blocks="all").controlled_blocks(3) == {0, 1, 2}
    assert schedule(blocks=(0, 4)).controlled_blocks(5) == {0, 4}
    with pytest.raises(ValueError, match=r"`blocks` = \[5\]: this model has 5 blocks; choose from 0..4"):
        schedule(blocks=(0, 5)).controlled_blocks(5)


def test_bad_calls_say_what_is_wrong():
    q, k, v, plain = attention_inputs()
    with pytest.raises(ValueError, match=r"text rows 1..40: must lie in 0..12"):
        rearranged_attention(schedule(), q, k, v, plain, (3, 3, 4), tokens_of([((1,), [((40,), [1.0] * 3, 1.0)])]))
    with pytest.raises(ValueError, match=r"grid = \(3, 3, 5\): q has 36 tokens"):
        rearranged_attention(schedule(), q, k, v, plain, (3, 3, 5), tokens_of(ONE_SUBJECT))
    with pytest.raises(ValueError, match=r"grid = \(4, 3, 3\): .* the schedule \[3\] latent frames"):
        rearranged_attention(schedule(), q, k, v, plain, (4, 3, 3), tokens_of(ONE_SUBJECT))
    with pytest.raises(ValueError, match="must be the tail of the 13 text rows"):
        rearranged_attention(schedule(), q, k, v, plain, (3, 3, 4), tokens_of(ONE_SUBJECT), slice(7, 11))


def recorded_run(events=None):
    """Two calls on two videos of three frames, four by four tokens; the trace and, per call, the reference's masks."""
    events = events or schedule("cat:\n  0% - 20%  watches\n  20% - end  dips\n")
    trace, seen = EventTrace(3), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        q, k, v, plain = attention_inputs((3, 4, 4), batch=2)
        bound = tokens_of(ONE_SUBJECT)
        traced = rearranged_attention(events, q, k, v, plain, (3, 4, 4), bound, slice(7, None), trace)
        assert torch.equal(traced, rearranged_attention(events, q, k, v, plain, (3, 4, 4), bound, slice(7, None)))
        seen.append((q, k, reference.rearranged_attention(q, k, v, (3, 4, 4), ONE_SUBJECT)[1]))
    return events, trace, seen


def test_the_trace_holds_masks_and_event_attention_before_and_after():
    _, trace, seen = recorded_run()
    assert trace.calls == 2
    masks = torch.tensor([masks for _, _, masks in seen]).float().mean(0)  # "b s n"
    torch.testing.assert_close(trace.motion(), masks.reshape(2, 1, 3, 4, 4))
    before, after = trace.event_attention()
    for frame in range(3):
        shares = [
            sum(sum(reference.probabilities(q[1, n].double(), k[1].double(), head)[0][t] for t in (2, 3)) for head in range(2)) / 2
            for q, k, mask in seen
            for n in range(frame * 16, frame * 16 + 16)
            if mask[1][0][n]
        ]
        assert float(before[1, 0, frame]) == pytest.approx(sum(shares) / len(shares), rel=1e-5)
    assert (after[:, 0, 0] > before[:, 0, 0]).all()  # the first event is current in the first frame only
    assert (after[:, 0, 1:] < before[:, 0, 1:]).all()
    assert (after[:, 1, 1:] > before[:, 1, 1:]).all()


def test_the_trace_puts_windows_where_they_lie_in_the_video():
    q, k, v, plain = attention_inputs((2, 3, 4))
    subjects = tokens_of([((1,), [((2,), [1.0, 0.0], 1.0)])])
    trace = EventTrace(5)
    for frames in ((0, 1), (1, 4)):
        rearranged_attention(schedule(without=frozenset({"motion mask"})), q, k, v, plain, (2, 3, 4), subjects, trace=trace, frames=frames)
    assert trace.motion()[0, 0].mean((-1, -2)).tolist() == [1, 1, 0, 0, 1]
    before, _ = trace.event_attention()
    assert before.isnan()[0, 0].tolist() == [False, False, True, True, False]
    assert trace.calls == 2


def test_an_event_that_the_prompt_lacks_has_no_attention_rather_than_none_of_it():
    q, k, v, plain = attention_inputs()
    trace = EventTrace(3)
    subjects = tokens_of([((1,), [((2,), [1.0, 1.0, 1.0], 1.0), ((), [1.0, 1.0, 1.0], 1.0)])])
    rearranged_attention(schedule(without=frozenset({"motion mask"})), q, k, v, plain, (3, 3, 4), subjects, trace=trace)
    assert trace.event_attention()[:, 0, 1].isnan().all()
    assert not trace.event_attention()[:, 0, 0].isnan().any()


def test_a_call_with_an_empty_mask_counts_in_the_trace():
    q, k, v, plain = attention_inputs()
    trace = EventTrace(3)
    assert rearranged_attention(schedule(), q * 0, k, v, plain, (3, 3, 4), tokens_of(ONE_SUBJECT), trace=trace) is plain
    assert trace.calls == 1
    assert not trace.motion().any()


def test_the_record_survives_json_and_an_uncontrolled_run_has_none():
    events, trace, _ = recorded_run()
    record = EventRecord.of(events, trace, 16.0)
    subject = record.samples[1][0]
    assert (subject.subject, subject.events, np.shape(subject.motion)) == ("cat", ["watches", "dips"], (3, 4, 4))
    assert subject.spans == [[1, 0, 0], [0, 1, 1]]
    assert subject.after[0][0] > subject.before[0][0]
    assert subject.after[0][2] < subject.before[0][2]
    text = json.dumps(asdict(record), allow_nan=False)
    assert EventRecord.from_dict(json.loads(text)) == record
    assert EventRecord.of(events, EventTrace(3), 16.0).samples == []


def painted(picture, colour):
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return np.argwhere(np.abs(picture.astype(int) - rgb).max(-1) <= 4)


def test_the_picture_shows_each_subjects_motion_and_its_events_over_the_frames():
    events, trace, _ = recorded_run()
    record = EventRecord.of(events, trace, 16.0)
    picture = event_figure(record)
    assert picture.dtype == np.uint8
    assert picture.shape[1:] == (700, 3)
    assert len(painted(picture, AFTER)) > 300
    assert not np.array_equal(picture, event_figure(record, sample=1))
    subject = record.samples[0][0]
    still = [[[0.0] * 4] * 4] * 3
    blank = EventRecord(16.0, 2, [[SubjectRecord(subject.subject, still, subject.events, subject.spans, subject.before, subject.after)]])
    assert not np.array_equal(picture, event_figure(blank))


def test_the_line_after_follows_its_numbers_and_gaps_are_left_out():
    def shown(after):
        subject = SubjectRecord("cat", [[[1.0]]] * 6, ["jumps"], [[0.0] * 3 + [1.0] * 3], [[0.2] * 6], [after])
        return painted(event_figure(EventRecord(16.0, 1, [[subject]])), AFTER)

    rising = shown([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    lines = rising[rising[:, 0] < rising[:, 0].max() - 40]  # the legend lies below
    left, right = lines[lines[:, 1] < 300], lines[lines[:, 1] > 550]
    assert left[:, 0].mean() > right[:, 0].mean() + 20
    assert len(shown([None, None, None, 0.3, 0.4, 0.5])) < len(rising)


def test_more_events_make_the_picture_taller_and_any_script_is_drawn():
    def record(count, name="cat"):
        numbers = [[0.1] * 4] * count
        return EventRecord(16.0, 1, [[SubjectRecord(name, [[[1.0, 0.0]]] * 4, [name] * count, numbers, numbers, numbers)]])

    assert event_figure(record(6)).shape[0] > event_figure(record(2)).shape[0] + 200
    for name in ("红色的圆形慢慢地出现在画面的右边", "x" * 80, "costs $5 and $^_$ more"):
        assert event_figure(record(1, name)).shape[1] == 700
    assert event_figure(EventRecord(16.0, 0, [])).shape == (450, 700, 3)
