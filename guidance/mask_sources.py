"""Where masks come from: whatever says when a phrase is to be seen, as one `Timing` that Temporal Mask follows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from .latent_time import curve_mask, curve_weights, latent_frames_of, pixel_frames
from .spans import END, START, Span
from .timeline import TimelineLine, line_mask, line_weights

Fit = Literal["exact", "stretch", "hold"]
TOLERANCE = 1e-3  # a mask that was blurred or resized leaves 0..1 by this little


class MaskSource(Protocol):
    """When a phrase is to be seen, in a video whose length is known only while sampling."""

    def mask(self, latent_frames: int, fps: float, binary: bool = False) -> Tensor:
        """m "f" in 0..1, fp32; `binary`: 0 and 1, each stretch of it at least one latent. ValueError: it does not fit this video."""
        ...

    def frames(self, frames: int, fps: float) -> Tensor | None:
        """What it was made from, a value for each pixel frame "p" in 0..1, for a picture; None: nothing but the mask."""
        ...

    def __str__(self) -> str:
        """For the node to show."""
        ...


@dataclass(frozen=True)
class TimedPhrase:
    """`phrase` is to be seen as `source` says; `strength` >= 0 weighs it among the others."""

    phrase: str
    source: MaskSource
    strength: float = 1.0

    def __post_init__(self) -> None:
        if not self.phrase.strip():
            raise ValueError("`phrase` is empty: write words of the prompt")
        if not math.isfinite(self.strength) or self.strength < 0:
            raise ValueError(f"`strength` = {self.strength}: must be finite, 0 or more")


@dataclass(frozen=True)
class Timing:
    """The value of a TEMPORAL_MASK socket: phrases, and when each is to be seen."""

    phrases: tuple[TimedPhrase, ...] = ()

    def __add__(self, other: "Timing") -> "Timing":
        return Timing(self.phrases + other.phrases)


@dataclass(frozen=True)
class WrittenSpans:
    """The spans of a timeline line; `check_timeline` has seen whether they lie in the video."""

    line: TimelineLine

    def mask(self, latent_frames: int, fps: float, binary: bool = False) -> Tensor:
        return (line_mask if binary else line_weights)(self.line, latent_frames, fps)

    def frames(self, frames: int, fps: float) -> None:
        return None

    def __str__(self) -> str:
        return ", ".join(map(str, self.line.spans))


@dataclass(frozen=True)
class FrameValues:
    """One value in 0..1 for each pixel frame, or for each latent frame where their number says so.

    fit: what becomes of another number of them. exact: refused; stretch: spread over the whole video (nearest); hold: as pixel frames
    from the start, cut at the end of the video or its last value held.
    name: of the node and input, for errors.
    """

    values: tuple[float, ...]
    fit: Fit = "exact"
    name: str = "FrameValues: `values`"

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError(f"{self.name}: empty: needs one value for each frame of the video")
        for index, value in enumerate(self.values):
            if not -TOLERANCE <= value <= 1 + TOLERANCE:
                raise ValueError(f"{self.name}: {value:g} at frame {index}: must lie in 0..1; choose `range` stretch")
        if self.fit not in get_args(Fit):
            raise ValueError(f"{self.name}: `fit` = {self.fit!r}: must be one of {', '.join(get_args(Fit))}")

    def mask(self, latent_frames: int, fps: float, binary: bool = False) -> Tensor:
        curve = self.frames(pixel_frames(latent_frames), fps)
        if curve is None:
            weights = torch.tensor(self.values).clamp(0, 1)
            return (weights >= 0.5).float() if binary else weights
        return curve_mask(curve) if binary else curve_weights(curve)

    def frames(self, frames: int, fps: float) -> Tensor | None:
        count, latent_frames = len(self.values), latent_frames_of(frames)
        if self.fit == "exact" and count != frames:
            if count == latent_frames:
                return None
            raise ValueError(
                f"{self.name}: {count} values, but the video has {frames} frames ({latent_frames} latent frames): give one for each of "
                "either, or set `fit` to stretch or hold"
            )
        at = torch.arange(frames)
        at = ((at + 0.5) * count / frames).long() if self.fit == "stretch" else at.clamp(max=count - 1)
        return torch.tensor(self.values)[at].clamp(0, 1)

    def __str__(self) -> str:
        return f"{len(self.values)} values, {self.fit}"


def full_range(values: Sequence[float]) -> tuple[float, ...]:
    """The values moved and scaled to 0..1; those that are all alike become 0."""
    low, high = min(values, default=0.0), max(values, default=0.0)
    return tuple((value - low) / (high - low) if high > low else 0.0 for value in values)


@dataclass(frozen=True)
class Together:
    """Several sources of one phrase: it is to be seen whenever one of them says so."""

    sources: tuple[MaskSource, ...]

    def mask(self, latent_frames: int, fps: float, binary: bool = False) -> Tensor:
        return torch.stack([source.mask(latent_frames, fps, binary) for source in self.sources]).amax(0)

    def frames(self, frames: int, fps: float) -> None:
        return None

    def __str__(self) -> str:
        return " and ".join(map(str, self.sources))


ALWAYS = WrittenSpans(TimelineLine(None, "always", (Span(START, END),)))
