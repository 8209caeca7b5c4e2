"""Temporal Mask without a gradient: its words get more or less attention as the timeline says. For few-step LoRAs and CFG 1."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

import torch
from einops import einsum
from torch import Tensor

from .biased_attention import LogitBias, Rows, biased_attention, indices, with_biases
from .event_subjects import membership
from .events import batch_rows
from .objective import PhraseRef
from .patch import AttentionCall, AttentionSite, Handler, ModelCall, Proceed
from .ranges import check_range
from .temporal_mask import TemporalMask

Mode = Literal["gradient", "bias", "both"]
# On the playground (few captions) longer in the first blocks is on time more often than shorter in all of them, and spoils fewer shapes;
# to lower words without raising them loses the object.
BIAS_STRENGTH, BIAS_END_PERCENT, BIAS_DEPTH = 2.0, 0.6, 0.6


@dataclass
class BiasRecord:
    """What a run in mode bias was asked for, for the report: the attention is set, none is measured."""

    phrases: list[str]
    mask: list[list[float]] = field(default_factory=list)  # "g f" of the whole video
    bias: list[list[float]] = field(default_factory=list)  # "g f", logits

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class TemporalBias:
    """softmax(q k^T / sqrt d + B) v with B = strength x_g (2 m_j - 1) on the text rows of phrase g, for all video tokens of latent frame j.

    In the text cross-attention of the positive prompts. Not the paper's: TempoControl edits the latent until attention follows; this sets
    the attention itself, which costs no gradient and works at CFG 1. x_g is the strength of the phrase's line. A word that several
    phrases share gets the sum of theirs.

    mask: when each phrase is to be seen; its losses play no part.
    strength: in logits: the odds of the words against all others are multiplied by e^strength where m is 1 and divided by it where m is
        0; m = 1/2 is left alone. Higher: clearer; too high: the words take over the frame. 0: off.
    depth: share of the model's blocks, from the first on, that are biased. Lower: looks suffer less, and timing is less strict.
    start_percent, end_percent: span of the schedule, 0..1. At least one step is biased. Longer: clearer, and details suffer.
    """

    mask: TemporalMask
    strength: float = BIAS_STRENGTH
    depth: float = BIAS_DEPTH
    start_percent: float = 0.0
    end_percent: float = BIAS_END_PERCENT

    def __post_init__(self) -> None:
        check_range(self.name, "bias_strength", self.strength, 0, 50)
        check_range(self.name, "bias_depth", self.depth, 0.01, 1)
        check_range(self.name, "bias_start", self.start_percent, 0, 1)
        check_range(self.name, "bias_end", self.end_percent, 0, 1)
        if self.end_percent < self.start_percent:
            raise ValueError(f"{self.name}: `bias_end` = {self.end_percent}: must not lie before `bias_start` = {self.start_percent}")

    @property
    def name(self) -> str:
        return self.mask.name

    @cached_property
    def phrases(self) -> tuple[PhraseRef, ...]:
        """Empty: nothing to do, install nothing."""
        return self.mask.phrases if self.strength > 0 and self.start_percent < self.end_percent else ()

    def skip_reason(self, latent_frames: int, fps: float) -> str | None:
        if self.mask.phrases and not self.phrases:
            return f"{self.name}: the strength or the span of its bias is 0"
        return self.mask.skip_reason(latent_frames, fps)

    def new_record(self) -> BiasRecord:
        return BiasRecord([ref.phrase for ref in self.phrases])

    def bias(self, latent_frames: int, fps: float) -> Tensor:
        """B of each phrase in each latent frame of the whole video, "g f"."""
        strengths = torch.tensor([timed.strength for timed in self.mask.timed])
        return self.strength * strengths[:, None] * (2 * self.mask.masks(latent_frames, fps) - 1)

    def handler(self, call: ModelCall, record: BiasRecord | None) -> Handler | None:
        """Biases the text attention of the first main blocks: each positive prompt by its own words, on its own rows."""
        if not call.prompts:
            return None
        of_video = self.bias(call.total_frames, call.fps)
        if record is not None and not record.bias:
            record.mask, record.bias = self.mask.masks(call.total_frames, call.fps).tolist(), of_video.tolist()
        bias = of_video[:, list(call.frames)]
        prompts: list[tuple[Rows, list[int], Tensor]] = []
        for prompt in call.prompts:
            columns = sorted({row for rows in prompt.text_rows.values() for row in rows})
            if columns:
                of_phrases = membership([prompt.text_rows.get(place, ()) for place in range(len(bias))], columns)
                prompts.append((batch_rows(prompt.rows), columns, einsum(bias, of_phrases, "g f, g c -> f c")))
        if not prompts:
            return None
        blocks = max(1, math.ceil(self.depth * call.blocks - 1e-6))
        frame_tokens = call.grid.height * call.grid.width

        def lead(site: AttentionSite, attention: AttentionCall, proceed: Proceed) -> Tensor | None:
            if site.kind != "text" or site.vace or site.block >= blocks:
                return None
            device = attention.q.device
            biases = [(rows, frame_bias(table, columns, frame_tokens, len(indices(rows)), device)) for rows, columns, table in prompts]
            return with_biases(attention, proceed, biases, call)

        return lead


def guidance_of(
    mode: Mode, mask: TemporalMask, bias_strength: float = BIAS_STRENGTH, bias_end: float = BIAS_END_PERCENT, bias_depth: float = BIAS_DEPTH
) -> tuple[TemporalMask | TemporalBias, ...]:
    """What to attach to a model for `mask` in this mode; empty: nothing to do. Raises ValueError for knobs that this mode uses."""
    if mode not in get_args(Mode):
        raise ValueError(f"{mask.name}: `mode` = {mode!r}: must be one of {', '.join(get_args(Mode))}")
    chosen: list[TemporalMask | TemporalBias] = [] if mode == "bias" else [mask]
    if mode != "gradient":
        chosen.append(TemporalBias(mask, bias_strength, bias_depth, end_percent=bias_end))
    return tuple(one for one in chosen if one.phrases)


def frame_biased_attention(
    q: Tensor, k: Tensor, v: Tensor, plain: Tensor, bias: Tensor, columns: Sequence[int], frame_tokens: int, pad_rows: slice | None = None
) -> Tensor:
    """softmax(q k^T / sqrt d + B) v with B on the text rows `columns`, one for each latent frame, "f c": -> "b n (h d)".

    q "b n h d": video tokens, `frame_tokens` of each of the f frames, frame by frame; k, v "b t h d": text rows; `plain` "b n (h d)" and
    `pad_rows`: see biased_attention. Tokens of frames without any bias keep the bits of `plain`.
    """
    if q.shape[1] != bias.shape[0] * frame_tokens:
        raise ValueError(f"frame_biased_attention: {q.shape[1]} video tokens, but {bias.shape[0]} frames of {frame_tokens}")
    return biased_attention(q, k, v, plain, [frame_bias(bias, columns, frame_tokens, len(q), q.device)], pad_rows)


def frame_bias(bias: Tensor, columns: Sequence[int], frame_tokens: int, batch: int, device: torch.device) -> LogitBias:
    """B on the text rows `columns`, one for each latent frame, "f c", alike in every one of `batch` entries."""
    tokens = (bias != 0).any(-1).repeat_interleave(frame_tokens).nonzero()[:, 0].to(device)
    table = bias.to(device)
    return LogitBias(columns, [tokens] * batch, lambda _, rows, logits, log_count: table.to(logits)[rows // frame_tokens])
