"""Several methods that bias the text attention of one call: all of them act, in whatever order they stand."""

import itertools

import pytest
import torch
from wan_conductor.guidance.events import EventSchedule
from wan_conductor.guidance.patch import AttentionCall, AttentionSite, ModelCall, PromptRows, VideoGrid
from wan_conductor.guidance.temporal_bias import TemporalBias
from wan_conductor.guidance.temporal_mask import TemporalMask
from wan_conductor.guidance.timeline import parse_timeline
from wan_conductor.tests.unit import event_reference
from wan_conductor.tests.unit.bias_reference import dense

GRID = VideoGrid(4, 3, 3)
PROMPT = {"cat": (1,), "jumps": (2, 3), "sleeps": (5,), "red": (6,)}  # words and their text rows; from row 8 on all rows are alike
CAT = [2.0, 2.0, -2.0, -2.0]


def temporal(text, strength):
    return TemporalBias(TemporalMask(parse_timeline(text), mask="binary"), strength, 1.0)


CAT_FIRST = temporal("0f - 5f cat", 2.0)  # latents 0 and 1 of 4
RED_LAST = temporal("9f - end red", 3.0)
EVENTS = EventSchedule(parse_timeline("cat:\n  0f - 5f  jumps\n  5f - end  sleeps"), blocks="all", erode="none", top_fraction=1.0)
SUBJECTS = [((1,), [((2, 3), [1.0, 1.0, 0.0, 0.0], 1.0), ((5,), [0.0, 0.0, 1.0, 1.0], 1.0)])]


def cat_and_red(frame, row):
    return {1: CAT[frame], 6: -3.0 if frame < 3 else 3.0}.get(row, 0.0)


@pytest.fixture
def inputs():
    """q, k, v "b n h d" of a positive and a negative row, and the plain output "b n (h d)"."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    q, text = torch.randn(2, GRID.token_count, 2, 4), torch.randn(2, 2, 9, 2, 4)
    k, v = torch.cat([text, text[:, :, -1:].expand(-1, -1, 5, -1, -1)], 2).unbind(0)
    p = torch.einsum("bnhd,bthd->bhnt", q, k).div(2).softmax(-1)
    return q, k, v, torch.einsum("bhnt,bthd->bnhd", p, v).flatten(2)


def through(patches, q, k, v, plain, records=None):
    """The call through the handlers of `patches`, the first outermost, as the one override chains them."""
    attention = lambda _: plain  # noqa: E731
    for patch, record in reversed([*zip(patches, records or [None] * len(patches), strict=True)]):
        rows = {place: PROMPT[ref.phrase] for place, ref in enumerate(patch.phrases)}
        told = PromptRows(torch.tensor([True, False]), rows, slice(8, None))
        call = ModelCall(GRID, (0, 1, 2, 3), 4, 1.0, 0.0, 2, (told,), slice(8, None), 16.0)
        handler = patch.handler(call, record)
        attention = lambda call, handler=handler, inner=attention: handler(AttentionSite(1, "text"), call, inner)  # noqa: E731
    return attention(AttentionCall(*(x.flatten(2) for x in (q, k, v)), heads=2))


@pytest.mark.parametrize("order", [*itertools.permutations([CAT_FIRST, RED_LAST])])
def test_two_temporal_masks_in_a_row_both_bias(inputs, order):
    q, k, v, plain = inputs
    out = through(order, *inputs)
    torch.testing.assert_close(out[:1].double(), dense(q[:1], k[:1], v[:1], 9, cat_and_red), rtol=1e-5, atol=1e-5)
    assert torch.equal(out[1], plain[1])


@pytest.mark.parametrize("order", [*itertools.permutations([CAT_FIRST, RED_LAST, EVENTS])])
def test_event_schedule_and_temporal_masks_act_together_in_any_order(inputs, order):
    q, k, v, plain = inputs
    out = through(order, *inputs)
    knobs = {"erode": "none", "top_fraction": 1.0}
    expected, masks = event_reference.rearranged_attention(q[:1], k[:1], v[:1], (4, 3, 3), SUBJECTS, also=cat_and_red, **knobs)
    assert 3 < sum(masks[0][0]) < GRID.token_count - 3
    torch.testing.assert_close(out[:1].double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(out[1], plain[1])


@pytest.mark.parametrize("order", [*itertools.permutations([RED_LAST, EVENTS])])
def test_the_report_of_an_event_schedule_sees_its_own_tokens_alone(inputs, order):
    alone, beside = EVENTS.new_record(), EVENTS.new_record()
    through([EVENTS], *inputs, records=[alone])
    through(order, *inputs, records=[beside if patch is EVENTS else None for patch in order])
    assert torch.equal(beside.trace.masks, alone.trace.masks) and torch.equal(beside.trace.tokens, alone.trace.tokens)
    before, after = beside.trace.event_attention()
    torch.testing.assert_close(before, alone.trace.event_attention()[0])
    assert not torch.equal(after, before)
