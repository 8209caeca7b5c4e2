"""Event Schedule: the events of one prompt happen in order, each in its span. TS-Attn (ICLR 2026); its equations are event_attention.py."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from typing import Literal, get_args

import torch
from einops import rearrange
from torch import Tensor

from .biased_attention import LogitBias, Rows, with_biases
from .event_attention import BiasTables, Erode, HoldBack, Statistics, bias_tables, schedule_bias
from .event_subjects import NAME, Subject, SubjectTokens, check_claims, check_room, check_subjects
from .event_trace import EventMeasurement
from .objective import PhraseRef, check_occurrence
from .patch import AttentionCall, AttentionSite, Handler, ModelCall, Proceed, PromptRows
from .phrases import fold
from .ranges import check_choice, check_fps, check_percents, check_range
from .spans import TimelineError
from .timeline import Timeline, check_timeline, line_mask

Ablation = Literal["motion mask", "reinforcement", "rearrangement"]
END_PERCENT, END_PERCENT_I2V = 0.2, 0.4  # section 4: the first 20 % of the steps, 40 % where an image is given


@dataclass(frozen=True)
class EventSchedule:
    """TS-Attn, section 3. Where paper and official code differ, the docstrings of event_attention.py say which is followed.

    timeline: headers are subjects, the lines under one are its events. Spans may overlap (both events are current) and leave gaps (none
    of that subject's events is current: all are suppressed). A line's strength multiplies its own bias.
    strength: factor on the whole bias. Higher: motion follows its words harder; too high: the subject itself changes. 0: off.
    erode: what the motion mask loses. isolated drops lone tokens, full shaves every edge by one token, none keeps all.
    blocks: which of the model's blocks are controlled: odd, all, or their indices from 0.
    r_min, r_max: range of the reinforcement factor. Higher r_max: words that the model neglects are raised harder.
    top_fraction: the mask's threshold is the mean of this share of the largest attentions. Lower: a smaller mask; 1: the plain mean.
    statistics: which text rows b+ and b- are measured over. all (code): padding too, which outnumbers the words and draws the mean to
        itself; where it lies as low as the least attended word, b- is nothing and b+ very large. words: those of the prompt alone.
    hold_back: where b- acts. mask (paper): in the subject's motion mask. everywhere, beyond the paper: in the whole of the frame, for an
        event whose time it is not is for nobody to do; b+ stays in the mask. Higher cost, for all tokens are computed anew.
    start_percent, end_percent: controlled span of the schedule, 0..1. Longer: more time for the events, and for the subject to change.
    END_PERCENT for text to video, END_PERCENT_I2V where an image is given. At least one step is controlled.
    fps: frames per second in which the timeline counts seconds; 0: the model's.
    raising: factor on b+, how hard the current event and its subject are raised. Lower: the subject keeps its looks; 0: the other events
        are held back, and that is all. 1: the paper's.
    without: parts left out to measure what they bring. Rearrangement: all events count as current in every frame.
    """

    timeline: Timeline
    strength: float = 1.0
    erode: Erode = "isolated"
    blocks: Literal["odd", "all"] | tuple[int, ...] = "odd"
    r_min: float = 1.0
    r_max: float = 1.5
    top_fraction: float = 0.5
    statistics: Statistics = "all"
    hold_back: HoldBack = "mask"
    raising: float = 1.0
    occurrence: str | int = "all"
    start_percent: float = 0.0
    end_percent: float = END_PERCENT
    fps: float = 0.0
    without: frozenset[Ablation] = frozenset()

    def __post_init__(self) -> None:
        check_range(NAME, "strength", self.strength, 0, 10)
        check_range(NAME, "raising", self.raising, 0, 10)
        check_range(NAME, "r_min", self.r_min, 0, 10)
        check_range(NAME, "r_max", self.r_max, self.r_min, 10)
        check_range(NAME, "top_fraction", self.top_fraction, 0.01, 1)
        check_fps(NAME, self.fps)
        check_percents(NAME, self.start_percent, self.end_percent)
        check_choice(NAME, "erode", self.erode, get_args(Erode))
        check_choice(NAME, "statistics", self.statistics, get_args(Statistics))
        check_choice(NAME, "hold_back", self.hold_back, get_args(HoldBack))
        listed = isinstance(self.blocks, tuple) and self.blocks and all(isinstance(b, int) and b >= 0 for b in self.blocks)
        if not listed and self.blocks not in ("odd", "all"):
            raise ValueError(f"{NAME}: `blocks` = {self.blocks!r}: must be odd, all, or indices of blocks from 0")
        check_occurrence(NAME, self.occurrence)
        if unknown := self.without - set(get_args(Ablation)):
            raise ValueError(f"{NAME}: `without` = {sorted(unknown)}: must be among {', '.join(get_args(Ablation))}")
        try:
            check_subjects(self.timeline)
        except TimelineError as error:
            raise error.named(NAME) from error

    @property
    def name(self) -> str:
        return NAME

    @cached_property
    def subjects(self) -> tuple[Subject, ...]:
        """Subjects in order of appearance, with those events whose strength is above 0; headers that say the same are one subject."""
        found: dict[str, Subject] = {}
        for line in self.timeline.lines:
            if line.strength > 0 and self.strength > 0 and line.subject:
                subject = found.get(key := fold(line.subject)[0], Subject(line.subject, ()))
                found[key] = replace(subject, events=(*subject.events, line))
        return tuple(found.values())

    @property
    def phrases(self) -> tuple[PhraseRef, ...]:
        """Each subject, followed by its events; a phrase that comes twice is listed twice. Empty: nothing to do, install nothing."""
        words = [phrase for subject in self.subjects for phrase in (subject.phrase, *(event.body for event in subject.events))]
        return tuple(PhraseRef(phrase, self.occurrence) for phrase in words)

    def controlled_blocks(self, count: int) -> frozenset[int]:
        """Which blocks of a model of `count` blocks are controlled. Raises ValueError for a listed block that it does not have."""
        if isinstance(self.blocks, str):
            return frozenset(range(1 if self.blocks == "odd" else 0, count, 2 if self.blocks == "odd" else 1))
        if missing := sorted(block for block in set(self.blocks) if block >= count):
            raise ValueError(f"{NAME}: `blocks` = {missing}: this model has {count} blocks; choose from 0..{count - 1}")
        return frozenset(self.blocks)

    def weights(self, latent_frames: int, fps: float) -> tuple[Tensor, ...]:
        """Per subject: which latent frames each of its events has, "e f" of 0 and 1; every span keeps at least one."""
        rate = self.fps or fps
        return tuple(torch.stack([line_mask(event, latent_frames, rate) for event in subject.events]) for subject in self.subjects)

    def skip_reason(self, latent_frames: int, fps: float) -> str | None:
        """Why there is nothing to do on a video of this length. Raises ValueError for spans that it cannot hold."""
        if not self.phrases:
            return f"{NAME}: the timeline is empty or every strength is 0"
        if latent_frames < 2:
            return f"{NAME}: the latent has one frame, and one frame has no order"
        try:
            check_timeline(self.timeline, latent_frames, self.fps or fps)
            for subject in self.subjects:
                check_room(self.timeline, subject, latent_frames)
        except TimelineError as error:
            raise error.named(NAME) from error
        return None

    def check_prompts(self, prompts: Sequence[Mapping[int, tuple[int, ...]]]) -> None:
        """Every subject must stand in one of the prompts together with an event of its own, and no word may be claimed twice; else as
        `ChecksPrompts` says."""
        bound = [self.bind([found.get(place, ()) for place in range(len(self.phrases))], 1, 1.0) for found in prompts]
        for subject, in_prompts in zip(self.subjects, zip(*bound)):
            if not any(tokens.acts for tokens in in_prompts):
                events = ", ".join(f"`{event.body}`" for event in subject.events)
                raise ValueError(f"{NAME}: `{subject.phrase}` and its events ({events}) are in different prompts: write both into one")

    def bind(
        self, rows: Sequence[Sequence[int]], latent_frames: int, fps: float, frames: Sequence[int] | None = None
    ) -> tuple[SubjectTokens, ...]:
        """What `schedule_bias` needs, from the text `rows` of `phrases`, in their order, in one prompt (empty: it lacks the phrase).

        `latent_frames` of the whole video; `frames`: those that a model call holds, if not all (context windows).
        Raises ValueError where two subjects claim one word: its time would be that of both.
        """
        if len(rows) != len(self.phrases):
            raise ValueError(f"rows = {len(rows)} entries: one for each of the {len(self.phrases)} phrases")
        remaining = iter(tuple(sorted(set(of_phrase))) for of_phrase in rows)
        bound = []
        for subject, weights in zip(self.subjects, self.weights(latent_frames, fps), strict=True):
            own = next(remaining)
            events = tuple(next(remaining) for _ in subject.events)
            held = weights if frames is None else weights[:, list(frames)]
            bound.append(SubjectTokens(own, events, held, tuple(event.strength for event in subject.events)))
        check_claims(self.subjects, bound)
        return tuple(bound)

    def new_record(self) -> EventMeasurement:
        return EventMeasurement(self)

    def handler(self, call: ModelCall, record: EventMeasurement | None) -> Handler | None:
        """Controls the text attention of the chosen main blocks: each positive prompt by its own words, on its own rows."""
        blocks = self.controlled_blocks(call.blocks)
        prompts: list[tuple[PromptRows, Rows, tuple[SubjectTokens, ...], Callable[[torch.device], BiasTables]]] = []
        for prompt in call.prompts:
            rows = [prompt.text_rows.get(place, ()) for place in range(len(self.phrases))]
            subjects = self.bind(rows, call.total_frames, call.fps, call.frames)
            if any(subject.acts for subject in subjects):
                prompts.append((prompt, batch_rows(prompt.rows), subjects, cache(partial(bias_tables, self, subjects))))
        if not blocks or not prompts:
            return None
        grid = (call.grid.frames, call.grid.height, call.grid.width)
        trace = record.trace_of(call.total_frames, call.fps) if record is not None else None

        def control(site: AttentionSite, attention: AttentionCall, proceed: Proceed) -> Tensor | None:
            if site.kind != "text" or site.vace or site.block not in blocks:
                return None
            biases: list[tuple[Rows, LogitBias]] = []
            for prompt, rows, subjects, tables in prompts:
                q, k = (
                    rearrange(x, "b n (h d) -> b n h d", h=attention.heads)
                    for x in (attention.q[rows, call.grid.video_tokens], attention.k[rows])
                )
                shared = tables(q.device)
                if bias := schedule_bias(self, q, k, grid, subjects, prompt.pad_rows, trace, call.frames, shared):
                    biases.append((rows, bias))
            return with_biases(attention, proceed, biases, call)

        return control


def batch_rows(rows: Tensor) -> Rows:
    """Rows of the batch, bool "b", as what indexes them: a slice, which copies nothing, where they lie side by side."""
    found = rows.nonzero()[:, 0]
    first, last = int(found[0]), int(found[-1])
    return slice(first, last + 1) if last - first + 1 == len(found) else found
