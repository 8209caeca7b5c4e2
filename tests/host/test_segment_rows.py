"""What the gate of word locality stands on: frames that see the text rows of their own event and of no other."""

import pytest
import torch
from wan_conductor.guidance.patch import AttentionCall, AttentionSite, ModelCall, PromptRows, VideoGrid
from wan_conductor.playground.segment_rows import SegmentRows

FRAMES, HEADS, WIDTH, TEXT = 5, 2, 8, 9
GRID = VideoGrid(FRAMES, 1, 2, token_offset=1)
ROWS = {0: (2, 3), 1: (5, 6)}  # of the first event told, and of the second
POSITIVE = torch.tensor([False, True])


def dense(call: AttentionCall, hidden: torch.Tensor) -> torch.Tensor:
    """Attention in which the text rows `hidden` "b n t" are out of sight."""
    q, k, v = (t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in (call.q, call.k, call.v))
    scores = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).masked_fill(hidden[:, None], -torch.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def plain(call: AttentionCall) -> torch.Tensor:
    return dense(call, torch.zeros(len(call.q), call.q.shape[1], call.k.shape[1], dtype=torch.bool))


@pytest.fixture
def attention() -> AttentionCall:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, count, HEADS * WIDTH, generator=generator) for count in (GRID.token_offset + GRID.token_count, TEXT, TEXT))
    return AttentionCall(q, k, v, HEADS)


def seen(attention: AttentionCall, exchanged: bool, kind: str = "text") -> torch.Tensor | None:
    call = ModelCall(GRID, tuple(range(FRAMES)), FRAMES, 1.0, 0.0, 5, (PromptRows(POSITIVE, ROWS, None),), None, 16.0)
    handler = SegmentRows(("moves up", "moves left"), exchanged).handler(call, None)
    assert handler is not None
    return handler(AttentionSite(0, kind), attention, plain)


def hidden_rows(first: tuple[int, ...], second: tuple[int, ...]) -> torch.Tensor:
    """`first` are out of sight of the positive row's first half (frames 0 to 2), `second` of the rest."""
    hidden = torch.zeros(2, GRID.token_offset + GRID.token_count, TEXT, dtype=torch.bool)
    for tokens, rows in ((range(1, 7), first), (range(7, 11), second)):
        for token in tokens:
            hidden[1, token, list(rows)] = True
    return hidden


@pytest.mark.parametrize("exchanged", [False, True])
def test_each_half_sees_its_own_events_rows_and_the_others_where_they_are_exchanged(attention, exchanged):
    hidden = hidden_rows(ROWS[0], ROWS[1]) if exchanged else hidden_rows(ROWS[1], ROWS[0])
    torch.testing.assert_close(seen(attention, exchanged), dense(attention, hidden))


def test_self_attention_is_left_alone(attention):
    assert seen(attention, False, "self") is None
