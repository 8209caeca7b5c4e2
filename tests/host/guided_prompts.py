"""Prompts whose words can be found, for a tiny Wan: random rows with the token pieces that the real encoder would attach."""

from typing import Any

import tiny_wan
from wan_conductor.guidance.phrases import TokenPieces
from wan_conductor.guidance.temporal_mask import TemporalMask
from wan_conductor.guidance.timeline import parse_timeline
from wan_conductor.host.tokens import CONDITIONING_KEY, PromptTokens, content_hash


def prompt(text: str = "a red cat jumps", rows: int = 24, seed: int = 1) -> list:
    """CONDITIONING of `text`, one row a word, then the rows of </s> and of padding (zeros)."""
    words = text.split()
    (context, extra), = tiny_wan.conditioning(real_rows=len(words) + 1, rows=rows, seed=seed)
    pieces = TokenPieces(
        text, tuple(f"▁{word}" for word in words), tuple(range(2, 2 + len(words))), (1.0,) * len(words), tuple(range(len(words))), rows
    )
    return [[context, {**extra, CONDITIONING_KEY: PromptTokens(pieces, *content_hash(context))}]]


def temporal_mask(timeline: str = "50% - end  cat", **knobs: Any) -> TemporalMask:
    return TemporalMask(parse_timeline(timeline), **knobs)
