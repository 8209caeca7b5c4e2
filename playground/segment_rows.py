"""A patch for measurement alone: every segment of a clip sees the text rows of one event and not of the others."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..guidance.objective import PhraseRef
from ..guidance.patch import AttentionCall, AttentionSite, Handler, ModelCall, Proceed
from . import world


@dataclass(frozen=True)
class SegmentRows:
    """Hides from the tokens of each of n equal segments the rows of all `events` (n phrases of the prompt) but its own.

    What attention methods that order events stand on: rows mean what their own words say, and frames do what the rows they see say.
    exchanged: the first event's rows stand where the last one's were, and the reverse; both have as many tokens.
    """

    events: tuple[str, ...]
    exchanged: bool = False
    name: str = "Segment rows"
    start_percent: float = 0.0
    end_percent: float = 1.0

    @property
    def phrases(self) -> tuple[PhraseRef, ...]:
        return tuple(PhraseRef(event) for event in self.events)

    def skip_reason(self, latent_frames: int, fps: float) -> str | None:
        return None

    def new_record(self) -> None:
        return None

    def handler(self, call: ModelCall, record: Any) -> Handler | None:
        segment = torch.as_tensor(world.segment_of_frame(len(self.events), call.grid.frames))
        segment = segment.repeat_interleave(call.grid.height * call.grid.width)

        def hide_others(site: AttentionSite, attention: AttentionCall, proceed: Proceed) -> Tensor | None:
            if site.kind != "text":
                return None
            result = proceed(attention).clone()
            for prompt in call.prompts:
                batch = prompt.rows.nonzero().flatten()
                columns = self.columns(prompt.text_rows, attention.k.shape[1])
                for own in range(len(self.events)):
                    hidden = {row for place, rows in prompt.text_rows.items() if place != own for row in rows}
                    seen = [column for row, column in enumerate(columns) if row not in hidden]
                    tokens = (segment == own).nonzero().flatten() + call.grid.token_offset
                    q, k, v = (t[batch] for t in (attention.q, attention.k, attention.v))
                    here = proceed(replace(attention, q=q[:, tokens], k=k[:, seen], v=v[:, seen]))
                    result[batch[:, None], tokens] = here
            return result

        return hide_others

    def columns(self, text_rows: dict[int, tuple[int, ...]], count: int) -> list[int]:
        """Which of the `count` text rows stands in each place."""
        columns = list(range(count))
        if self.exchanged:
            first, last = text_rows[0], text_rows[len(self.events) - 1]
            for one, other in zip(first, last, strict=True):
                columns[one], columns[other] = other, one
        return columns
