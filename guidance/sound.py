"""A sound as a mask: the phrase is to be seen on its onsets, or while it is loud."""

import re
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from . import onsets
from .latent_time import curve_mask, curve_weights, pixel_frames
from .ranges import check_choice, check_range
from .spans import Moment, Span
from .timeline import TimelineLine, line_mask, line_weights

Measure = Literal["onsets", "loudness"]
Shape = Literal["windows", "until the next", "until the end", "envelope"]


@dataclass(frozen=True, eq=False)
class Sound:
    """Masks from a sound: trimmed to the clip first, silent after its end.

    waveform: "c t", any number of channels; rate: samples per second.
    measure: onsets (where something strikes up) or loudness (while it is loud), in the band low_hz..high_hz (0: no limit).
    threshold: how far an onset must stand out, as a share of the strongest, or how loud it must be, as a share of the loudest. Higher:
        fewer, clearer ones.
    gap: seconds; onsets nearer than this count as the strongest of them, and shorter pauses of loudness are bridged.
    strongest: keep only this many; 0: all. beats: of those, in order of time, "all", "first", "last", or numbers such as "1, 3".
    offset: seconds by which everything is moved. Negative: the phrase is there before it is heard.
    shape: windows of `width` seconds from each onset (loudness: at least that long), until the next, until the end, or envelope: values
        of at least `keep` stay and the others are smoothed over `smoothing` seconds (TempoControl's audio masks; its 0.7 and 2 latents).
    """

    waveform: Tensor = field(repr=False)
    rate: int
    measure: Measure = "onsets"
    low_hz: float = 0.0
    high_hz: float = 0.0
    threshold: float = 0.3
    gap: float = 0.1
    strongest: int = 0
    beats: str = "all"
    offset: float = 0.0
    shape: Shape = "windows"
    width: float = 0.5
    keep: float = 0.7
    smoothing: float = 0.5

    def __post_init__(self) -> None:
        owner = "Audio to Timing"
        if self.waveform.ndim != 2 or not self.waveform.shape[0]:
            raise ValueError(f"{owner}: input `audio` of shape {tuple(self.waveform.shape)}: must be one sound, channels x samples")
        if not self.waveform.isfinite().all():
            raise ValueError(f"{owner}: input `audio` holds values that are not finite: load or make it again")
        if self.rate < 1:
            raise ValueError(f"{owner}: input `audio` has a sample rate of {self.rate}: must be at least 1")
        ranges = {"threshold": (0, 1), "gap": (0, 60), "strongest": (0, 1000), "offset": (-60, 60), "width": (0, 3600), "keep": (0, 1)}
        for name, (low, high) in {**ranges, "smoothing": (0, 60), "low_hz": (0, 1e6), "high_hz": (0, 1e6)}.items():
            check_range(owner, name, getattr(self, name), low, high)
        if self.high_hz and self.high_hz <= self.low_hz:
            raise ValueError(f"{owner}: `high_hz` = {self.high_hz:g}: must lie above `low_hz` = {self.low_hz:g}, or be 0 for no limit")
        for name, allowed in (("measure", get_args(Measure)), ("shape", get_args(Shape))):
            check_choice(owner, name, getattr(self, name), allowed)
        self.chosen(0)

    def measured(self, seconds: float) -> Tensor:
        """The measure of the first `seconds`, "n" in 0..1, one value per hop."""
        clip = self.waveform[:, : max(0, round(seconds * self.rate))].float()
        measure = onsets.onset_strength if self.measure == "onsets" else onsets.loudness
        return measure(clip, self.rate, self.low_hz, self.high_hz).clamp(0, 1)

    def found(self, frames: int, fps: float) -> list[tuple[int, int]]:
        """All events of the clip in order of time, [start, end) in pixel frames, before `beats` chooses among them."""
        step = onsets.hop_seconds(self.rate)
        values = self.measured(frames / fps)
        if self.measure == "onsets":
            events = [(hop, hop) for hop in onsets.pick_onsets(values, step, self.threshold, self.gap)]
        else:
            events = onsets.loud_stretches(values, step, self.threshold, self.gap)
        if self.strongest:
            loudest = sorted(events, key=lambda event: -values[event[0] : event[1] + 1].max().item())[: self.strongest]
            events = sorted(loudest)
        width = max(1, round(self.width * fps))
        starts = [round((start * step + self.offset) * fps) for start, _ in events]
        ends = [round((end * step + self.offset) * fps) for _, end in events]
        if self.shape == "until the end":
            ends = [frames] * len(starts)
        elif self.shape == "until the next":
            ends = [*starts[1:], frames][: len(starts)]
        else:
            ends = [max(end, start + width) for start, end in zip(starts, ends, strict=True)]
        return list(zip(starts, ends, strict=True))

    def chosen(self, count: int) -> list[int]:
        """The places of `beats` among `count` events; with 0 only its spelling is checked."""
        words = self.beats.strip().casefold()
        if words in ("", "all"):
            return list(range(count))
        if words in ("first", "last"):
            return [0 if words == "first" else count - 1] if count else []
        numbers = re.split(r"[\s,]+", words)
        if not all(number.isdecimal() and int(number) >= 1 for number in numbers):
            raise ValueError(f"Audio to Timing: `beats` = {self.beats!r}: must be all, first, last, or numbers from 1, such as 1, 3")
        return sorted({int(number) - 1 for number in numbers})

    def spans(self, frames: int, fps: float) -> tuple[Span, ...]:
        """The chosen events that lie in a video of `frames` pixel frames. ValueError: it has fewer than `beats` asks for."""
        found = self.found(frames, fps)
        chosen = self.chosen(len(found))
        if chosen and chosen[-1] >= len(found):
            raise ValueError(
                f"Audio to Timing: `beats` = {self.beats!r}, but {len(found)} found in the {frames / fps:.2f} s of the clip: lower "
                "`threshold`, `gap` or the number"
            )
        inside = [(max(start, 0), min(end, frames)) for start, end in (found[place] for place in chosen)]
        return tuple(Span(Moment(float(start), "f"), Moment(float(end), "f")) for start, end in inside if start < end)

    def mask(self, latent_frames: int, fps: float, binary: bool = False) -> Tensor:
        frames = pixel_frames(latent_frames)
        if self.shape == "envelope":
            envelope = self.envelope(frames, fps)
            return curve_mask(envelope) if binary else curve_weights(envelope, strongest=True)
        line = TimelineLine(None, "sound", self.spans(frames, fps))
        return (line_mask if binary else line_weights)(line, latent_frames, fps)

    def frames(self, frames: int, fps: float) -> Tensor:
        """The measure of each pixel frame, its strongest hop, scaled to 0..1."""
        values, step = self.measured(frames / fps), onsets.hop_seconds(self.rate)
        curve = torch.zeros(frames)
        for frame in range(frames):
            start = max(0, round((frame / fps - self.offset) / step))
            within = values[start : max(start + 1, round(((frame + 1) / fps - self.offset) / step))]
            if len(within) and (frame + 1) / fps > self.offset:
                curve[frame] = within.max()
        low, high = curve.min(), curve.max()
        return (curve - low) / (high - low) if high > low else torch.zeros(frames)

    def envelope(self, frames: int, fps: float) -> Tensor:
        """Peaks kept, the rest smoothed, "p": s where s >= keep, else a Gaussian mean of s."""
        s = self.frames(frames, fps)
        return torch.where(s >= self.keep, s, smoothed(s, self.smoothing * fps)) if s.any() else s

    def __str__(self) -> str:
        return f"{self.measure}, {self.shape}"


def smoothed(values: Tensor, sigma: float) -> Tensor:
    """Gaussian mean over `sigma` frames, "p" -> "p", the ends by what there is."""
    if sigma <= 0:
        return values
    apart = torch.arange(len(values))[:, None] - torch.arange(len(values))
    weights = torch.exp(-0.5 * (apart / sigma).square())
    return (weights @ values) / weights.sum(1)
