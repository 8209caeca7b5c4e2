"""What the control of events did, measured while it runs: how much it saw of each subject and what each event's words got."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from einops import einsum, rearrange
from torch import Tensor
from torch.nn import functional

from .event_subjects import SubjectTokens, membership
from .report import Number, finite

if TYPE_CHECKING:
    from .events import EventSchedule

MOST_TOKENS = 32  # of a recorded motion mask, each way: finer than Event Report draws it


@dataclass
class EventTrace:
    """What the control did, summed over the calls it is given to, in main memory: its size does not grow with their number.

    `frames` of the whole video. Frames hold the mean over the calls that saw them; the batch entries of a call are the videos of a run.
    """

    frames: int
    masks: Tensor | None = field(default=None, repr=False)  # "b s f h w" share of motion mask, summed over calls
    mask_calls: Tensor | None = field(default=None, repr=False)  # "s f" calls whose prompt holds the subject
    seen: Tensor | None = field(default=None, repr=False)  # "f" calls
    partial: int = 0  # calls over a part of the picture (areas): where their masks belong is not known here
    attention: Tensor | None = field(default=None, repr=False)  # "2 b e f" before and after, summed over the tokens of the motion mask
    tokens: Tensor | None = field(default=None, repr=False)  # "b e f" how many these are; e runs over the events of all subjects

    def add(
        self, masks: Tensor, attention: Tensor, tokens: Tensor, acting: Sequence[bool], frames: Sequence[int] | None
    ) -> None:
        """One call: masks "b s f h w", attention "2 b e f", tokens "b e f"; `acting`: which subjects its prompt holds; `frames`: the call's
        place in the video, None: all of it."""
        masks, attention, tokens = masks.cpu(), attention.cpu(), tokens.cpu()
        if self.masks is None or self.mask_calls is None or self.seen is None or self.attention is None or self.tokens is None:
            b, s, _, h, w = masks.shape
            self.masks = attention.new_zeros(b, s, self.frames, h, w)
            self.mask_calls = attention.new_zeros(s, self.frames)
            self.seen = attention.new_zeros(self.frames)
            self.attention = attention.new_zeros(*attention.shape[:-1], self.frames)
            self.tokens = attention.new_zeros(*tokens.shape[:-1], self.frames)
        index = torch.tensor(range(self.frames) if frames is None else frames)
        self.seen.index_add_(0, index, torch.ones_like(index, dtype=attention.dtype))
        self.attention.index_add_(-1, index, attention)
        self.tokens.index_add_(-1, index, tokens)
        if masks.shape[-2:] != self.masks.shape[-2:]:
            self.partial += 1
            return
        self.masks.index_add_(2, index, masks.to(attention.dtype))
        self.mask_calls.index_add_(1, index, attention.new_tensor(acting)[:, None].expand(-1, len(index)))

    @property
    def calls(self) -> int:
        """Calls that saw the best-seen frame: blocks x steps x prompts."""
        return 0 if self.seen is None else int(self.seen.max())

    def motion(self) -> Tensor:
        """How often each token lay in each subject's motion mask: "b s f h w" in 0..1; a frame that no call saw is 0."""
        if self.masks is None or self.mask_calls is None:
            raise ValueError("EventTrace: nothing was recorded")
        return self.masks / self.mask_calls.clamp_min(1)[..., None, None]

    def event_attention(self) -> Tensor:
        """Share of attention that the motion mask's tokens give each event's words, before and after: "2 b e f", NaN where it is empty."""
        if self.attention is None or self.tokens is None:
            raise ValueError("EventTrace: nothing was recorded")
        return self.attention / self.tokens


class TracedShares:
    """For an EventTrace: share of attention on each event's words, mean over heads, summed over its subject's mask per latent frame."""

    def __init__(self, subjects: Sequence[SubjectTokens], masks: Tensor, text_rows: int, dtype: torch.dtype) -> None:
        words = [rows for subject in subjects for rows in subject.events]
        owners = [s for s, subject in enumerate(subjects) for _ in subject.events]
        self.owner = torch.tensor(owners, device=masks.device)
        self.words = membership(words, range(text_rows)).to(masks.device, dtype)
        self.found = self.words.amax(-1, keepdim=True)
        self.attention = self.words.new_zeros(2, masks.shape[0], len(words), masks.shape[2])
        self.tokens = self.words.new_zeros(self.attention.shape[1:])

    def add(self, b: int, frame: Tensor, in_mask: Tensor, before: Tensor, after: Tensor) -> None:
        """Rows r of video b: their frame "r", masks "s r", attention "h r t", whose last column stands for the text rows behind it."""
        of_owner = in_mask[self.owner] * self.found
        self.tokens[b].index_add_(-1, frame, of_owner)
        for when, p in enumerate((before, after)):
            self.attention[when, b].index_add_(-1, frame, einsum(p.mean(0), self.words[:, : p.shape[-1]], of_owner, "r t, e t, e r -> e r"))


@dataclass(frozen=True)
class SubjectRecord:
    """One subject of one video, as plain numbers; lists run over latent frames.

    Motion: share of calls that a token was in the mask; grids above MOST_TOKENS each way are averaged down to that.
    """

    subject: str
    motion: list[list[list[float]]]  # "f h w"
    events: list[str]
    spans: list[list[float]]  # "e f" when each event is current
    before: list[list[Number]]  # "e f" share of attention; None where the motion mask was empty
    after: list[list[Number]]


@dataclass(frozen=True)
class EventRecord:
    """What Event Report draws of one run: `samples[b]` lists the subjects of video b."""

    fps: float
    calls: int
    samples: list[list[SubjectRecord]]
    partial: int = 0  # calls over a part of the picture, whose motion is left out

    @classmethod
    def of(cls, schedule: "EventSchedule", trace: EventTrace, fps: float) -> "EventRecord":
        """The numbers of a finished run; without a controlled call it has no samples."""
        fps = schedule.fps or fps
        if not trace.calls:
            return cls(fps, 0, [])
        weights = schedule.weights(trace.frames, fps)
        motion, attention = pooled(trace.motion().float()), trace.event_attention().float()
        samples = []
        for b in range(motion.shape[0]):
            first, subjects = 0, []
            for s, subject in enumerate(schedule.subjects):
                before, after = (rounded(part[b, first : first + len(subject.events)]) for part in attention)
                first += len(subject.events)
                names = [event.body for event in subject.events]
                subjects.append(SubjectRecord(subject.phrase, rounded(motion[b, s]), names, rounded(weights[s]), before, after))
            samples.append(subjects)
        return cls(fps, trace.calls, samples, trace.partial)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "EventRecord":
        samples = [[SubjectRecord(**subject) for subject in sample] for sample in values["samples"]]
        return cls(values["fps"], values["calls"], samples, values["partial"])


@dataclass
class EventMeasurement:
    """What one run with a report fills; `fps` in which the record counts seconds, 0 before the first call."""

    schedule: "EventSchedule"
    trace: EventTrace | None = None
    fps: float = 0.0

    def trace_of(self, latent_frames: int, fps: float) -> EventTrace:
        """The trace of this run, on a video of `latent_frames` at the model's `fps`."""
        if self.trace is None:
            self.trace, self.fps = EventTrace(latent_frames), fps
        return self.trace

    def to_dict(self) -> dict[str, Any]:
        """An EventRecord as plain JSON; EventRecord.from_dict reads it."""
        return asdict(EventRecord.of(self.schedule, self.trace or EventTrace(0), self.fps))


def pooled(motion: Tensor) -> Tensor:
    """Motion "b s f h w", averaged down to MOST_TOKENS each way."""
    b, _, _, h, w = motion.shape
    small = functional.adaptive_avg_pool2d(motion.flatten(0, 2)[:, None], (min(h, MOST_TOKENS), min(w, MOST_TOKENS)))
    return rearrange(small, "(b s f) 1 h w -> b s f h w", b=b, f=motion.shape[2])


def rounded(values: Tensor) -> list:
    """Nested lists with four decimals, which is more than a picture shows; None for what is not finite."""
    return finite(rounded_list(values.tolist()))


def rounded_list(values: Any) -> Any:
    return [rounded_list(entry) for entry in values] if isinstance(values, list) else round(values, 4)
