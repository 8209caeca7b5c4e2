"""A patch for comparison alone: the nearest rival's idea, a fixed Gaussian of time on the text attention to each event's words."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from ..guidance.events import EventSchedule, batch_rows
from ..guidance.objective import PhraseRef
from ..guidance.patch import AttentionCall, AttentionSite, Handler, ModelCall, Proceed

PENALTY_WIDTH = 1.0  # latent frames


@dataclass(frozen=True)
class TimePenalty:
    """Adds -d^2 / 2 width^2 to the logits of an event's words, d the latent frames to its span; on all tokens of positive rows.

    In every block and step; `alike`: in those alone in which `schedule` acts, so that like is compared with like.
    """

    schedule: EventSchedule
    width: float = PENALTY_WIDTH
    alike: bool = False
    name: str = "Time Penalty"

    @property
    def start_percent(self) -> float:
        return self.schedule.start_percent if self.alike else 0.0

    @property
    def end_percent(self) -> float:
        return self.schedule.end_percent if self.alike else 1.0

    @cached_property
    def phrases(self) -> tuple[PhraseRef, ...]:
        return self.schedule.phrases

    def skip_reason(self, latent_frames: int, fps: float) -> str | None:
        return self.schedule.skip_reason(latent_frames, fps)

    def new_record(self) -> None:
        return None

    def penalty(self, rows: Sequence[Sequence[int]], call: ModelCall, text_rows: int) -> Tensor:
        """ "f t" of one prompt; a word of several spans counts to the nearest."""
        nearest: dict[tuple[int, ...], Tensor] = {}
        for subject in self.schedule.bind(rows, call.total_frames, call.fps, call.frames):
            for words, current in zip(subject.events, subject.weights):
                on = current.nonzero()[:, 0]
                distance = (torch.arange(len(current))[:, None] - on).abs().amin(1).float() if len(on) else torch.full_like(current, 99.0)
                nearest[words] = torch.minimum(nearest[words], distance) if words in nearest else distance
        penalty = torch.zeros(call.grid.frames, text_rows)
        for words, distance in nearest.items():
            penalty[:, list(words)] -= (distance**2 / (2 * self.width**2))[:, None]
        return penalty

    def handler(self, call: ModelCall, record: Any) -> Handler | None:
        prompts = [(batch_rows(p.rows), [p.text_rows.get(place, ()) for place in range(len(self.phrases))]) for p in call.prompts]
        if not prompts:
            return None
        blocks = self.schedule.controlled_blocks(call.blocks) if self.alike else range(call.blocks)

        def penalise(site: AttentionSite, attention: AttentionCall, proceed: Proceed) -> Tensor | None:
            if site.kind != "text" or site.vace or site.block not in blocks:
                return None
            out = proceed(attention).clone()
            video = call.grid.video_tokens
            for rows, words in prompts:
                q, k, v = (attention.q[rows, video], attention.k[rows], attention.v[rows])
                q, k, v = (rearrange(x, "b n (h d) -> b h n d", h=attention.heads) for x in (q, k, v))
                penalty = self.penalty(words, call, k.shape[2]).repeat_interleave(call.grid.height * call.grid.width, dim=0)
                p = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + penalty.to(q)).softmax(-1)
                out[rows, video] = rearrange(p @ v, "b h n d -> b n (h d)")
            return out

        return penalise
