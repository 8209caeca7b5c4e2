"""Temporal Mask's gradient pass as TempoControl's official code computes it, for comparison alone: full maps, activations kept, all blocks,
and a pass of the negative prompt whose result nobody uses. Its weights are frozen as ours are, so the original costs more than this.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
from einops import rearrange
from torch import Tensor

from ..guidance.budget import PRESETS
from ..host import capture, latent_edit

NAIVE_BUDGET = replace(PRESETS["paper"], memory_mode="fast", depth=1.0)


def full_maps(q: Tensor, k: Tensor, heads: int, groups: Sequence[Sequence[int]], pad_rows: slice | None = None) -> Tensor:
    """What `phrase_attention` gives, by way of every head's attention to every text row, "b h n t", which autograd keeps."""
    q, k = (rearrange(x, "b n (h d) -> b h n d", h=heads).float() for x in (q, k))
    p = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
    return torch.stack([p[..., list(rows)].mean((1, -1)) for rows in groups], dim=1)


class NaiveCapture:
    """An AttentionCapture that first runs the model once more: the cost of the negative prompt's pass, here on the same text."""

    def __init__(self, attention_of: capture.AttentionCapture) -> None:
        self.attention_of = attention_of

    @property
    def passes(self) -> int:
        """Those that the loss uses."""
        return self.attention_of.passes // 2

    @property
    def agreements(self) -> list[Tensor]:
        return self.attention_of.agreements

    @property
    def held(self) -> Tensor | None:
        return self.attention_of.held

    def __call__(self, *asked: Any) -> Tensor:
        with torch.no_grad():
            self.attention_of(*asked)
        return self.attention_of(*asked)


@contextlib.contextmanager
def naive_guidance() -> Iterator[None]:
    """Within: guided steps compute so. Run them with NAIVE_BUDGET."""
    attention_capture = capture.attention_capture

    @contextlib.contextmanager
    def naive_capture(*args: Any) -> Iterator[NaiveCapture]:
        with attention_capture(*args) as attention_of:
            yield NaiveCapture(attention_of)

    with mock.patch.object(capture, "phrase_attention", full_maps), mock.patch.object(latent_edit, "attention_capture", naive_capture):
        yield
